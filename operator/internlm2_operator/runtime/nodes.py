"""One look at one node: signals, verdict, cordon."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from internlm2_operator.cluster.gateway import Gateway
from internlm2_operator.health.cordon import Cordon, Hold, Limits, Mode, decide_cordon
from internlm2_operator.health.diagnose import diagnose
from internlm2_operator.health.verdict import Blame, Verdict
from internlm2_operator.manifests import event
from internlm2_operator.manifests.node import cordon_patch
from internlm2_operator.plan.actions import Announce
from internlm2_operator.runtime.evidence import Evidence
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.world import World

HOLD_SECONDS: Final = 15.0
log = logging.getLogger(__name__)


class NodeReconciler:
    """Cordons nodes that the evidence convicts, and tells the jobs on them."""

    def __init__(
        self, *, gateway: Gateway, world: World, evidence: Evidence, metrics: Metrics, wake: Callable[[str], None]
    ) -> None:
        self._gateway = gateway
        self._world = world
        self._evidence = evidence
        self._metrics = metrics
        self._wake = wake
        # The breaker counts cordons that are made: two decisions at once would each see room for one.
        self._deciding = asyncio.Lock()
        self._held: dict[str, str] = {}

    async def reconcile(self, name: str) -> float | None:
        """Judge a node and act; returns the seconds after which to look again.

        Raises:
            ClusterError: the node could not be patched.
        """
        try:
            async with self._deciding:
                return await self._judge(name, datetime.now(UTC))
        finally:
            # Jobs hear of a node only now: one that moved first would take away the pods the verdict rests on.
            self._wake(name)

    async def _judge(self, name: str, now: datetime) -> float | None:
        verdict = diagnose(self._evidence.signals(self._world, now), name, now)
        decisions = decide_cordon([verdict], self._world.plain_nodes(), self._modes(name), self._limits(name), now)
        for decision in decisions:
            if isinstance(decision, Hold):
                return await self._hold(decision, now)
            await self._cordon(decision, verdict)
        self._held.pop(name, None)
        if verdict.blame is not Blame.NONE and not verdict.cordon:
            log.info("%s: blame %s, no cordon", verdict.cause, verdict.blame, extra={"node": name})
        return None

    async def _cordon(self, cordon: Cordon, verdict: Verdict) -> None:
        self._world.put_node(await self._gateway.patch_node(cordon.node, cordon_patch(cordon)))
        self._evidence.spend(cordon.node)
        self._metrics.cordons.labels(verdict.cause).inc()
        log.warning("cordoned: %s", "; ".join(verdict.evidence), extra={"node": cordon.node, "cause": verdict.cause})

    async def _hold(self, hold: Hold, now: datetime) -> float:
        """Say what would have been done, once, and look again later: the breaker closes by itself."""
        if self._held.get(hold.node) != hold.message:
            self._held[hold.node] = hold.message
            told = Announce(hold.reason, f"node {hold.node}: {hold.message}", warning=True)
            for key in self._jobs(hold.node):
                await self._gateway.create_event(event.event(self._world.jobs[key], told, now))
            self._metrics.holds.labels(hold.reason).inc()
            log.warning("%s", hold.message, extra={"node": hold.node, "cause": hold.cause, "reason": hold.reason})
        return HOLD_SECONDS

    def _modes(self, name: str) -> dict[str, list[Mode]]:
        return {name: [Mode(self._world.jobs[key].spec.health.mode) for key in self._jobs(name)]}

    def _limits(self, name: str) -> Limits:
        """The most careful job on the node sets the breaker."""
        percents = [self._world.jobs[key].spec.health.max_cordon_percent for key in self._jobs(name)]
        return Limits(percent=min(percents)) if percents else Limits()

    def _jobs(self, name: str) -> list[str]:
        return sorted(key for key in self._world.jobs_of_node(name) if key in self._world.jobs)
