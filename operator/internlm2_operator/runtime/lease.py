"""One operator at a time: a Lease, taken before the first worker starts.

The chart runs one replica with the Recreate strategy; the Lease is for the day when a node is cut
off and Kubernetes starts a second pod while the first one still runs.

An operator that cannot renew does not exit, as client-go's do: while the API server is away nobody
else can take the lease either, and a restart would only add the kubelet's back-off to the outage.
It stops deciding until it knows again, and exits when it sees that somebody else has the lease.
"""

import asyncio
import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from internlm2_operator.api.base import rfc3339
from internlm2_operator.cluster import errors
from internlm2_operator.cluster.gateway import Gateway, Object

NAME: Final = "internlm2-operator"
log = logging.getLogger(__name__)


class LeaseLost(RuntimeError):
    """Somebody else holds the lease: this process must end."""


class Held(enum.Enum):
    OURS = enum.auto()
    THEIRS = enum.auto()
    UNKNOWN = enum.auto()  # the API server did not say


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: how long a lease lasts unrenewed, how long its holder is sure of it, how often both look."""

    duration: int = 8
    deadline: float = 5.0
    retry: float = 1.0


class Lease:
    """The Lease `internlm2-operator` of one namespace, held under `identity`.

    `sure` is set while nobody else can have it. `answered` is told of every try whether the API server answered.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        namespace: str,
        identity: str,
        pace: Pace,
        answered: Callable[[bool], None],
    ) -> None:
        self.sure = asyncio.Event()
        self._gateway = gateway
        self._namespace = namespace
        self._identity = identity
        self._pace = pace
        self._answered = answered
        self._observed: tuple[str, float] = ("", 0.0)
        self._said = Held.OURS

    async def acquire(self) -> None:
        """Wait until the lease is ours."""
        while True:
            if await self._try() is Held.OURS:
                self.sure.set()
                return
            await asyncio.sleep(self._pace.retry)

    async def hold(self) -> None:
        """Renew for ever.

        Raises:
            LeaseLost: somebody else has it.
        """
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while True:
            await asyncio.sleep(self._pace.retry)
            began = loop.time()
            held = await self._try()
            if held is Held.THEIRS:
                raise LeaseLost(f"another operator holds the lease {self._namespace}/{NAME}")
            if held is Held.OURS:
                renewed = began
                self.sure.set()
            elif loop.time() - renewed > self._pace.deadline:
                self.sure.clear()

    async def release(self) -> None:
        """Let a successor start at once."""
        try:
            current = await self._gateway.lease(self._namespace, NAME)
            if current["spec"].get("holderIdentity") == self._identity:
                current["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._gateway.update_lease(current)
        except errors.ClusterError as error:
            log.info("lease not released: %s", error)

    async def _try(self) -> Held:
        try:
            async with asyncio.timeout(self._pace.deadline / 2):
                held = await self._take()
            away = False
        except (errors.ClusterError, TimeoutError) as error:
            held = Held.UNKNOWN
            away = isinstance(error, (errors.Retry, TimeoutError))
            if self._said is not held:
                log.warning("lease %s/%s: %s %s", self._namespace, NAME, type(error).__name__, error)
        self._answered(not away)
        if held is not self._said:
            log.info("lease %s/%s: %s", self._namespace, NAME, held.name.lower())
        self._said = held
        return held

    async def _take(self) -> Held:
        try:
            current = await self._gateway.lease(self._namespace, NAME)
        except errors.NotFound:
            await self._gateway.create_lease(self._body({}))
            return Held.OURS
        spec = current.get("spec", {})
        if spec.get("holderIdentity") not in ("", None, self._identity) and not self._expired(spec):
            return Held.THEIRS
        await self._gateway.update_lease(current | self._body(current))
        return Held.OURS

    def _expired(self, spec: Object) -> bool:
        """By our own clock from when we first saw this renewal: clocks of two machines are not compared."""
        seen, now = str(spec.get("renewTime")), asyncio.get_running_loop().time()
        if self._observed[0] != seen:
            self._observed = (seen, now)
        return now - self._observed[1] > float(spec.get("leaseDurationSeconds", self._pace.duration))

    def _body(self, current: Object) -> dict[str, Any]:
        spec = current.get("spec", {})
        ours = spec.get("holderIdentity") == self._identity
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": current.get("metadata", {"namespace": self._namespace, "name": NAME}),
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": self._pace.duration,
                "acquireTime": spec.get("acquireTime") if ours else _now(),
                "renewTime": _now(),
                "leaseTransitions": spec.get("leaseTransitions", 0) + (0 if ours else 1),
            },
        }


def _now() -> str:
    return rfc3339(datetime.now(UTC))
