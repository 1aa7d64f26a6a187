"""One operator at a time: a Lease, taken before the first worker starts.

The chart runs one replica with the Recreate strategy; the Lease is for the day when a node is cut
off and Kubernetes starts a second pod while the first one still runs. Times are client-go's.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from internlm2_operator.cluster import errors
from internlm2_operator.cluster.gateway import Gateway, Object

NAME: Final = "internlm2-operator"
log = logging.getLogger(__name__)


class LeaseLost(RuntimeError):
    """Somebody else holds the lease, or it could not be renewed in time: this process must end."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: how long a lease lasts unrenewed, when its holder gives up, and how often both sides look."""

    duration: int = 15
    deadline: float = 10.0
    retry: float = 2.0


class Lease:
    """The Lease `internlm2-operator` of one namespace, held under `identity`."""

    def __init__(self, gateway: Gateway, *, namespace: str, identity: str, pace: Pace) -> None:
        self._gateway = gateway
        self._namespace = namespace
        self._identity = identity
        self._pace = pace
        self._observed: tuple[str, float] = ("", 0.0)

    async def acquire(self) -> None:
        """Wait until the lease is ours."""
        waiting = False
        while not await self._try():
            if not waiting:
                log.info("another operator holds the lease %s/%s; waiting", self._namespace, NAME)
            waiting = True
            await asyncio.sleep(self._pace.retry)

    async def hold(self) -> None:
        """Renew for ever.

        Raises:
            LeaseLost: it was not renewed within the deadline.
        """
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while loop.time() - renewed < self._pace.deadline:
            await asyncio.sleep(self._pace.retry)
            if await self._try():
                renewed = loop.time()
        raise LeaseLost(f"lease {self._namespace}/{NAME} was not renewed for {self._pace.deadline:.0f} s")

    async def release(self) -> None:
        """Let a successor start at once."""
        try:
            current = await self._gateway.lease(self._namespace, NAME)
            if current["spec"].get("holderIdentity") == self._identity:
                current["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._gateway.update_lease(current)
        except errors.ClusterError as error:
            log.info("lease not released: %s", error)

    async def _try(self) -> bool:
        try:
            async with asyncio.timeout(self._pace.deadline / 2):
                return await self._take()
        except (errors.ClusterError, TimeoutError) as error:
            log.warning("lease %s/%s: %s", self._namespace, NAME, error)
            return False

    async def _take(self) -> bool:
        try:
            current = await self._gateway.lease(self._namespace, NAME)
        except errors.NotFound:
            await self._gateway.create_lease(self._body({}, _now))
            return True
        spec = current.get("spec", {})
        if spec.get("holderIdentity") not in ("", None, self._identity) and not self._expired(spec):
            return False
        await self._gateway.update_lease(current | self._body(current, _now))
        return True

    def _expired(self, spec: Object) -> bool:
        """By our own clock from when we first saw this renewal: clocks of two machines are not compared."""
        seen, now = str(spec.get("renewTime")), asyncio.get_running_loop().time()
        if self._observed[0] != seen:
            self._observed = (seen, now)
        return now - self._observed[1] > float(spec.get("leaseDurationSeconds", self._pace.duration))

    def _body(self, current: Object, now: Callable[[], str]) -> dict[str, Any]:
        spec = current.get("spec", {})
        ours = spec.get("holderIdentity") == self._identity
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": current.get("metadata", {"namespace": self._namespace, "name": NAME}),
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": self._pace.duration,
                "acquireTime": spec.get("acquireTime") if ours else now(),
                "renewTime": now(),
                "leaseTransitions": spec.get("leaseTransitions", 0) + (0 if ours else 1),
            },
        }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
