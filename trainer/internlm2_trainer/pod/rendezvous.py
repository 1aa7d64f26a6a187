"""Joining the other nodes: torch's dynamic rendezvous over one TCP store, set up to wait and to notice."""

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from torch._C._distributed_c10d import TCPStore
from torch.distributed import DistError
from torch.distributed.elastic.rendezvous import RendezvousInfo
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import (
    DynamicRendezvousHandler,
    RendezvousTimeout,
    _RendezvousExitOp,
)

# The store's pod may be pulling its image still.
CONNECT_SECONDS: Final = 900.0
CONNECT_PIECE_SECONDS: Final = 20

# A member whose heartbeat is this old is gone, and a waiting spare takes its place. Each heartbeat
# rewrites one key, so many nodes beat more slowly.
HEARTBEAT_SECONDS: Final = 1.0
NODES_PER_HEARTBEAT_SECOND: Final = 16
MISSED_HEARTBEATS: Final = 6

# The store may be gone, and with it everybody who could care.
LEAVE: Final = timedelta(seconds=5)

# Spares wait as long as the job runs.
JOIN: Final = timedelta(days=3650)

# How long a spare lets the members meet first: images are pulled at different speeds on different nodes.
YIELD_SECONDS: Final = 60.0

# So that a spare, which looks once a second, finds the store still there and reads how it ended.
LINGER_SECONDS: Final = 3.0

_ENDED_KEY: Final = "internlm2/ended"


class FixedSize(DynamicRendezvousHandler):
    """torch's handler for a fixed number of members, beside whom spares may wait.

    torch takes anybody who waits for a member to be added, and its agents restart their ranks. A rank
    that was killed then starts a race for its place between its own agent and a spare, and whoever
    lost it made all restart again: five rounds were seen for one process. Here a waiting node counts
    only when a member is missing.

    torch also takes whoever comes first. A spare yields to the members until they have met once, so that
    ranks are the slots in their order and the store's own node trains.
    """

    yields_until: float = 0.0  # by time.monotonic

    def next_rendezvous(self) -> RendezvousInfo:
        while time.monotonic() < self.yields_until and not self._met():
            time.sleep(HEARTBEAT_SECONDS)
        self.yields_until = 0.0
        while (met := super().next_rendezvous()).world_size < self.settings.min_nodes:
            # torch dates heartbeats by wall clocks: one that jumped ahead takes all others for dead, after they met.
            self.leave()
            time.sleep(HEARTBEAT_SECONDS)
        return met

    def leave(self) -> None:
        """Give up this node's place at once: nobody has to miss its heartbeats first."""
        self._stop_heartbeats()
        self._op_executor.run(_RendezvousExitOp(), self._get_deadline(LEAVE))

    def _met(self) -> bool:
        self._state_holder.sync()
        state = self._state_holder.state
        return bool(state.complete or state.round > 0 or state.closed)

    def num_nodes_waiting(self) -> int:
        waiting: int = super().num_nodes_waiting()
        complete = len(self._state_holder.state.participants) >= self.settings.max_nodes
        return 0 if complete else waiting


@dataclass(slots=True)
class Rendezvous:
    """The meeting of one attempt. `handler` is what torch's agents take."""

    store: TCPStore
    handler: FixedSize
    is_host: bool

    @classmethod
    def connect(
        cls, host: str, port: int, *, name: str, nodes: int, local_addr: str | None, is_host: bool, spare: bool
    ) -> "Rendezvous":
        """Reach the store, for as long as it takes a pod to start.

        Raises:
            DistError: nobody answers.
        """
        store = _connect(host, port, is_host=is_host, deadline=time.monotonic() + CONNECT_SECONDS)
        handler = FixedSize.from_backend(
            name, store, C10dRendezvousBackend(store, name), nodes, nodes, local_addr,
            RendezvousTimeout(join=JOIN, close=timedelta(seconds=10)),
            keep_alive_interval=heartbeat_seconds(nodes),  # type: ignore[arg-type]  # only ever made a timedelta
            keep_alive_max_attempt=MISSED_HEARTBEATS,
        )  # fmt: skip
        if spare:
            handler.yields_until = time.monotonic() + YIELD_SECONDS
        return cls(store, handler, is_host)

    def close(self, exit_code: int) -> None:
        """End the rendezvous for everybody: who still waits in it leaves with `exit_code`."""
        self.store.set(_ENDED_KEY, str(exit_code))
        self.handler.shutdown()
        if self.is_host:
            time.sleep(LINGER_SECONDS)

    def ended_with(self) -> int | None:
        """Return the exit code that the closing member left; None when it left none."""
        return int(self.store.get(_ENDED_KEY)) if self.store.check([_ENDED_KEY]) else None


def heartbeat_seconds(nodes: int) -> float:
    return max(HEARTBEAT_SECONDS, nodes / NODES_PER_HEARTBEAT_SECOND)


def _connect(host: str, port: int, *, is_host: bool, deadline: float) -> TCPStore:
    while True:
        try:
            piece = timedelta(seconds=CONNECT_PIECE_SECONDS)
            return TCPStore(host, port, is_master=is_host, multi_tenant=True, timeout=piece)
        except (DistError, ValueError, RuntimeError, TimeoutError):
            if is_host or time.monotonic() > deadline:
                raise
            time.sleep(1.0)
