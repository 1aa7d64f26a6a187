"""One node's side of a node check, and on rank 0 the side that decides who meets whom.

Nodes talk through one TCP store on rank 0. It lies in a process that touches no device, so what hangs there hangs
nobody else. Keys: `here/RANK`, `local/RANK`, `again`, `again/RANK`, `round/N`, `round/N/RANK`, `report`, `read/RANK`.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch
from torch._C._distributed_c10d import TCPStore
from torch.distributed import DistError

from internlm2_spec import nodecheck
from internlm2_spec.nodecheck import Check, Ended, Failure, Local, Meeting, Part, Report
from internlm2_trainer.check.crew import Crew
from internlm2_trainer.check.device import MakeWork, become
from internlm2_trainer.check.work import Work
from internlm2_trainer.pod import forks

LOCAL_SECONDS: Final = {"quick": 60.0, "full": 600.0}
# How long after a deadline a node's word of it may be under way.
SLACK_SECONDS: Final = 3.0
LINGER_SECONDS: Final = 3.0
STORE_SECONDS: Final = 30.0
# So that a thousand nodes ask a store a thousand times a second, and four are as quick as can be.
POLL_SECONDS: Final = 0.05
NODES_PER_POLL_SECOND: Final = 1000


@dataclass(frozen=True, slots=True)
class Times:
    """How long nodes may take: to come, to measure themselves, and to meet."""

    join: float
    local: float
    pair: float = nodecheck.PAIR_SECONDS


class StoreLost(Exception):
    """Rank 0 is gone, or never came: there is no check without it."""


@dataclass(frozen=True, slots=True)
class Member:
    """This node in the check: its rank of `nodes`, its name, and the switch it is on where that is known."""

    rank: int
    nodes: int
    name: str
    domain: str
    store: str
    times: Times


def take_part(member: Member, *, depth: str, devices: int | None = None, make_work: MakeWork = Work) -> Report:
    """Measure this node's devices, alone and with others, and return what was found, the same on every node.

    Without `devices` all GPUs take part, or one process where there are none. Call this before the process has a
    second thread. `make_work` is what a device does; a test gives one with a fault.

    Raises:
        StoreLost: rank 0 is gone, or never came.
    """
    with (
        forks.server(become(make_work), shared=(), further=()) as server,
        tempfile.TemporaryDirectory(prefix="internlm2-check-") as folder,
    ):
        crew = Crew(server, Path(folder), devices or torch.cuda.device_count() or 1, depth)
        try:
            return _run(member, crew, _open_store(member))
        except (DistError, TimeoutError) as error:
            raise StoreLost(f"{member.store}: {str(error).splitlines()[0]}") from error


def _run(member: Member, crew: Crew, store: TCPStore) -> Report:
    store.set(f"here/{member.rank}", json.dumps([member.name, member.domain]))
    store.set(f"local/{member.rank}", crew.alone(member.name, member.times.local).to_json())
    leader = Leader(member, store) if member.rank == 0 else None
    if leader:
        leader.gather()
    if member.rank in _told(member, store, "again"):
        store.set(f"again/{member.rank}", crew.alone(member.name, member.times.local).to_json())
    if leader:
        leader.gather_again()
    number = 0
    while (groups := _next(member, store, leader, number)) is not None:
        _take_part(member, crew, store, number, groups)
        if leader:
            leader.collect(number, groups)
        number += 1
    told = store.get("report").decode()
    store.set(f"read/{member.rank}", "")
    if leader:
        leader.linger()
    return Report.from_json(told)


def _next(member: Member, store: TCPStore, leader: "Leader | None", number: int) -> list[list[int]] | None:
    """Return the ranks that meet in this round, None once there is a report instead."""
    if leader:
        leader.decide(number)
    key = f"round/{number}"
    while not store.check([key]):
        if store.check(["report"]):
            return None
        time.sleep(_poll_seconds(member.nodes))
    groups: list[list[int]] = _told(member, store, key)
    return groups


def _told(member: Member, store: TCPStore, key: str) -> Any:
    """Return what rank 0 publishes under a key. The wait is not the store's own, in which a signal is not heard."""
    while not store.check([key]):
        time.sleep(_poll_seconds(member.nodes))
    return json.loads(store.get(key))


def _take_part(member: Member, crew: Crew, store: TCPStore, number: int, groups: Sequence[Sequence[int]]) -> None:
    for place, group in enumerate(groups):
        if member.rank in group:
            outcome = crew.meet(
                member.store, f"meeting/{number}/{place}", place=group.index(member.rank), members=len(group),
                seconds=member.times.pair,
            )  # fmt: skip
            store.set(f"round/{number}/{member.rank}", json.dumps([outcome.ended, outcome.bus, outcome.why]))


class Leader:
    """Rank 0's other half: collects what nodes tell, and lets `nodecheck` decide what is next."""

    def __init__(self, member: Member, store: TCPStore) -> None:
        self.member = member
        self.store = store
        self.names: dict[int, str] = {}
        self.check = Check(())
        self.slow: list[int] = []
        self.deadline = 0.0  # of what runs on the other nodes

    def gather(self) -> None:
        """Wait for all nodes and their measurements; who comes late stays out, who came and says nothing has hung."""
        domains, came = dict[str, str](), dict[int, float]()
        started = time.monotonic()
        while self._waits(came, started):
            for rank in range(self.member.nodes):
                if rank not in came and self.store.check([f"here/{rank}"]):
                    name, domain = json.loads(self.store.get(f"here/{rank}"))
                    came[rank] = time.monotonic()
                    # Verdicts go by name, and two nodes may have been given one.
                    name = self.names[rank] = name if name not in self.names.values() else f"{name} (rank {rank})"
                    domains |= {name: domain} if domain else {}
                    _say(f"{name} is here, {len(came)} of {self.member.nodes}")
            time.sleep(_poll_seconds(self.member.nodes))
        missing = {rank: f"rank {rank}" for rank in range(self.member.nodes) if rank not in came}
        names = self.names | missing
        measured = tuple(self._measured(f"local/{rank}", rank) for rank in sorted(came))
        self.check = Check(tuple(names[rank] for rank in sorted(names)), measured, domains=domains)
        again = nodecheck.to_repeat(measured)
        self.slow = [rank for rank in sorted(came) if self.names[rank] in again]
        self.deadline = time.monotonic() + self._alone_seconds
        self.store.set("again", json.dumps(self.slow))
        _say(f"{len(measured)} of {self.member.nodes} nodes have measured themselves" + _and_again(again))

    def gather_again(self) -> None:
        """Wait for those who were slow, and keep the better of their two measurements."""
        keys = [f"again/{rank}" for rank in self.slow]
        while time.monotonic() < self.deadline and keys and not self.store.check(keys):
            time.sleep(_poll_seconds(self.member.nodes))
        second = {self.names[rank]: self._measured(key, rank) for rank, key in zip(self.slow, keys, strict=True)}
        measured = (
            local.with_second(second[local.node]) if local.node in second else local for local in self.check.locals
        )
        self.check = replace(self.check, locals=tuple(measured))

    def _waits(self, came: dict[int, float], started: float) -> bool:
        now, times = time.monotonic(), self.member.times
        if len(came) < self.member.nodes and now < started + times.join:
            return True
        return any(
            now < at + self._alone_seconds and not self.store.check([f"local/{rank}"]) for rank, at in came.items()
        )

    @property
    def _alone_seconds(self) -> float:
        """Two measurements at most: of the devices alone, and among themselves."""
        return 2 * self.member.times.local + SLACK_SECONDS

    def _measured(self, key: str, rank: int) -> Local:
        if self.store.check([key]):
            return replace(Local.from_json(self.store.get(key).decode()), node=self.names[rank])
        why = f"it came, and said nothing within {self._alone_seconds:g} s"
        return Local(self.names[rank], failures=(Failure(Part.COMPUTE, Ended.HUNG, why),))

    def decide(self, number: int) -> None:
        """Publish who meets next, or the report."""
        groups = nodecheck.next_round(self.check)
        if not groups:
            self.store.set("report", nodecheck.report(self.check).to_json())
            return
        ranks = {name: rank for rank, name in self.names.items()}
        _say(f"round {number + 1}: {len(groups)} groups, {' '.join('+'.join(group) for group in groups[:8])}")
        self.deadline = time.monotonic() + self.member.times.pair + SLACK_SECONDS
        self.store.set(f"round/{number}", json.dumps([[ranks[name] for name in group] for group in groups]))

    def collect(self, number: int, groups: Sequence[Sequence[int]]) -> None:
        """Wait for what the nodes of a round tell, no longer than a hang lasts."""
        waiting = {rank for group in groups for rank in group}
        while waiting and time.monotonic() < self.deadline:
            waiting -= {rank for rank in waiting if self.store.check([f"round/{number}/{rank}"])}
            time.sleep(_poll_seconds(self.member.nodes))
        self.check = self.check.after(self._meeting(number, group, waiting) for group in groups)

    def _meeting(self, number: int, group: Sequence[int], silent: set[int]) -> Meeting:
        members = tuple(self.names[rank] for rank in group)
        if silent.intersection(group):  # who it was does not decide: silence may be the network's
            return Meeting(members, Ended.HUNG, why="a node said nothing")
        told = [json.loads(self.store.get(f"round/{number}/{rank}")) for rank in group]
        return meeting(members, told)

    def linger(self) -> None:
        """Keep the store until all have read the report, a few seconds at most."""
        deadline = time.monotonic() + LINGER_SECONDS
        keys = [f"read/{rank}" for rank in self.names]
        while time.monotonic() < deadline and not self.store.check(keys):
            time.sleep(_poll_seconds(self.member.nodes))


def meeting(members: tuple[str, ...], told: Iterable[Sequence[Any]]) -> Meeting:
    """Return what a meeting was by what each member told of it: how it ended, the bandwidth it saw, and why."""
    ends = [(Ended(ended), bus, str(why)) for ended, bus, why in told]
    # The cause first: an error, the wait of who stood across, and that the others were gone.
    for kind in (Ended.FAILED, Ended.HUNG, Ended.LOST):
        if whys := [why for ended, _, why in ends if ended is kind]:
            return Meeting(members, kind, why=whys[0])
    return Meeting(members, bus=min(float(bus) for _, bus, _ in ends))


def _open_store(member: Member) -> TCPStore:
    host, _, port = member.store.rpartition(":")
    seconds = STORE_SECONDS if member.rank == 0 else member.times.join
    return TCPStore(
        host, int(port), is_master=member.rank == 0, wait_for_workers=False, timeout=timedelta(seconds=seconds)
    )


def _poll_seconds(nodes: int) -> float:
    return max(POLL_SECONDS, nodes / NODES_PER_POLL_SECOND)


def _and_again(slow: Sequence[str]) -> str:
    return f"; once more, because they were slow: {' '.join(slow[:8])}" if slow else ""


def _say(line: str) -> None:
    print(f"check: {line}", file=sys.stderr, flush=True)
