"""One look at one node: signals, verdict, cordon or its end."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from internlm2_operator.cluster import errors, records
from internlm2_operator.cluster.gateway import Gateway
from internlm2_operator.health.contact import LATE, lives
from internlm2_operator.health.cordon import Cordon, Hold, HoldReason, decide_cordon, observed_drain
from internlm2_operator.health.diagnose import diagnose, wavers
from internlm2_operator.health.lemon import DOUBTED_FOR, doubted, lemons, on_probation
from internlm2_operator.health.node import SUSPECTED, HeldNote, NodeRecord
from internlm2_operator.health.signals import Signal
from internlm2_operator.health.uncordon import decide_uncordon, settled_until
from internlm2_operator.health.verdict import Blame, Confidence, Verdict
from internlm2_operator.manifests import event
from internlm2_operator.manifests.node import cordon_patch, held_patch, reset_patch, uncordon_patch
from internlm2_operator.plan.actions import Announce
from internlm2_operator.plan.topology import RACK
from internlm2_operator.runtime.evidence import Evidence
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.stakes import jobs_on, limits, stakes
from internlm2_operator.runtime.world import World

HOLD_SECONDS: Final = 15.0
# Its lease is asked for so long before a silent node is believed to be lost: jobs go by the same moment.
AHEAD: Final = timedelta(seconds=2)
# What is held against a node is written down when it changes, at most so often, and again after so long.
NOTE_AT_MOST: Final = timedelta(minutes=1)
NOTE_AGAIN: Final = timedelta(hours=1)
LEASES: Final = "kube-node-lease"  # the namespace where kubelets renew theirs, each 10 s by default
LEMONS: Final = 10  # series of the metric
log = logging.getLogger(__name__)


class NodeReconciler:
    """Cordons nodes that the evidence convicts, lifts that after a passed check, and tells the jobs on them.

    `silence` says how long ago a trainer on a node answered, None where none ever did. `label` is that of the nodes
    whose value names the domain of the breaker, where no job on the node names one.
    """

    def __init__(
        self,
        *,
        gateway: Gateway,
        world: World,
        evidence: Evidence,
        metrics: Metrics,
        wake: Callable[[str], None],
        silence: Callable[[str], timedelta | None],
        label: str = RACK,
    ) -> None:
        self._gateway = gateway
        self._world = world
        self._evidence = evidence
        self._metrics = metrics
        self._wake = wake
        self._silence = silence
        self._label = label
        # Cordons on their way: the breaker counts them as made, so that two at once do not share the room for one.
        self._coming: dict[str, Cordon] = {}
        self._held: dict[str, Hold] = {}
        self._suspected: dict[str, str] = {}
        self._renewed: dict[str, str] = {}  # by node whose silence is doubted: when its lease said it was renewed
        self._noted: dict[str, datetime] = {}  # by node: when the cordon was made whose note it has, or had last
        self._count_holds()

    async def reconcile(self, name: str) -> float | None:
        """Judge a node and act; returns the seconds after which to look again.

        Raises:
            ClusterError: the node could not be patched.
        """
        try:
            return await self._judge(name, datetime.now(UTC))
        finally:
            # Jobs hear of a node only now: one that moved first would take away the pods the verdict rests on.
            self._wake(name)

    async def rank(self) -> None:
        """Tell Prometheus the worst nodes: the scores of all decay with every minute."""
        self._metrics.lemons.clear()
        for name, score in lemons(self._world.plain_nodes(), LEMONS, datetime.now(UTC)):
            self._metrics.lemons.labels(name).set(score)

    async def _judge(self, name: str, now: datetime) -> float | None:
        node = self._world.node(name)
        if node is None or node.fault is not None:
            self._forget_hold(name)
        if node is None:
            self._renewed.pop(name, None)
            self._noted.pop(name, None)
            return None
        await self._doubt(node, now)
        if node.fault is not None:
            self._noted[name] = node.fault.cordoned_at
        elif (until := settled_until(node, self._noted.get(name), now)) is not None:
            node = await self._settle(node, until)
        signals = self._evidence.signals(self._world, name, now)
        if node.fault is not None:
            await self._lift(node, signals, now)
            return None
        verdict = diagnose(signals, name, now, probation=on_probation(node, now))
        if verdict.cordon:
            counted = stakes(self._world, name, counted=not verdict.certain)
            breaker = limits(self._world, name, self._label)
            for decision in decide_cordon([verdict], self._nodes(), {name: counted}, breaker, now):
                if isinstance(decision, Hold):
                    return await self._hold(node, decision, now)
                await self._cordon(decision, verdict)
        if going := observed_drain(node, stakes(self._world, name, counted=False), now):
            return await self._hold(node, going, now)
        self._forget_hold(name)
        await self._suspect(node, verdict, now)
        if waiting := [s.doubted - now for s in signals if s.node == name and s.doubted and wavers(s, now)]:
            soon = min(waiting)
            return (soon - AHEAD if soon > AHEAD else soon).total_seconds()
        node = self._world.node(name) or node
        return (node.held.at + DOUBTED_FOR - now).total_seconds() if node.held and doubted(node, now) else None

    async def _doubt(self, node: NodeRecord, now: datetime) -> None:
        """Doubt the silence of a node for longer: its trainers answer, or its kubelet has renewed the lease meanwhile.

        A kubelet corrects the condition when it sees the wrong one, in a copy of its Node for which it waits up to a
        minute once the API server is back (client-go doubles the pause to 30 s, and draws up to as much on top). The
        lease it renews directly. Its clock may be wrong, so only that the time has changed counts.
        """
        if not node.ready and not node.says_no and (ago := self._silence(node.name)) is not None:
            until = lives(node.ready_since, now - ago)
            if until > max(now, node.excused or now):
                self._world.excuse(node, until)
                return
        if node.excused is None:
            self._renewed.pop(node.name, None)
            return
        before = self._renewed.get(node.name)
        if before is not None and now < node.excused - AHEAD:
            return
        self._renewed[node.name] = renewed = await self._lease(node.name)
        if before is not None and renewed != before:
            self._world.excuse(node, now + LATE)
            log.info("not ready, but renews its lease", extra={"node": node.name})

    async def _lease(self, name: str) -> str:
        """Return when a node's lease was renewed by the node's own clock; empty where nobody can know."""
        try:
            return str((await self._gateway.lease(LEASES, name))["spec"].get("renewTime", ""))
        except errors.NotFound:
            return ""
        except errors.Forbidden as error:
            log.warning("a silent node is believed without its lease: %s", error, extra={"node": name})
            return ""

    async def _cordon(self, cordon: Cordon, verdict: Verdict) -> None:
        self._coming[cordon.node] = cordon
        try:
            raw = await self._gateway.node(cordon.node)
            self._world.put_node(await self._gateway.patch_node(cordon.node, cordon_patch(cordon, raw)))
        finally:
            del self._coming[cordon.node]
        self._noted[cordon.node] = cordon.note.cordoned_at
        self._metrics.cordons.labels(verdict.cause).inc()
        log.warning("cordoned: %s", "; ".join(verdict.evidence), extra={"node": cordon.node, "cause": verdict.cause})

    async def _settle(self, node: NodeRecord, until: datetime) -> NodeRecord:
        """Write down that a person took a node back, for the agent and for operators to come; return it as it is then.

        Raises:
            ClusterError: it could not be written; the node must not be judged without it.
        """
        self._world.put_node(await self._gateway.patch_node(node.name, reset_patch(until)))
        log.info("taken back by a person: what was said until %s is over", until, extra={"node": node.name})
        return self._world.node(node.name) or node

    async def _lift(self, node: NodeRecord, signals: tuple[Signal, ...], now: datetime) -> None:
        """Take our cordon off, if the node is still as it was: whoever changed it a moment ago may have made it theirs.

        Raises:
            Conflict: somebody did while we decided; the next look decides anew.
        """
        if decide_uncordon(node, signals, now) is None:
            return
        with contextlib.suppress(errors.NotFound):
            raw = await self._gateway.node(node.name)
            made = decide_uncordon(records.node(raw).record, signals, now)
            if made is None or node.fault is None:
                return
            # Known when the watch tells it: that wakes whoever waits for nodes, too.
            await self._gateway.patch_node(made.node, uncordon_patch(made, raw))
            self._metrics.uncordons.labels(node.fault.cause).inc()
            log.warning("uncordoned after a passed check", extra={"node": made.node, "cause": node.fault.cause})

    async def _hold(self, node: NodeRecord, hold: Hold, now: datetime) -> float:
        """Say what would have been done, once, and look again later: the breaker closes by itself."""
        before = self._held.get(hold.node)
        self._held[hold.node] = hold
        if before is None or before.reason is not hold.reason:
            self._count_holds()
        if before is None or before.message != hold.message:
            told = Announce(hold.reason, f"node {hold.node}: {hold.message}", warning=True)
            for job in jobs_on(self._world, hold.node):
                await self._gateway.record_event(event.event(job, told, now))
            self._metrics.holds.labels(hold.reason, hold.cause, hold.note.action).inc()
            log.warning("%s", hold.message, extra={"node": hold.node, "cause": hold.cause, "reason": hold.reason})
        await self._note(node, hold.note, now)
        return HOLD_SECONDS

    def _forget_hold(self, name: str) -> None:
        if self._held.pop(name, None) is not None:
            self._count_holds()

    def _count_holds(self) -> None:
        """Tell Prometheus how many cordons are held back now; the reasons that hold none say 0."""
        for reason in HoldReason:
            self._metrics.nodes_held.labels(reason).set(sum(hold.reason is reason for hold in self._held.values()))

    async def _suspect(self, node: NodeRecord, verdict: Verdict, now: datetime) -> None:
        """Count and note a suspicion of somebody who can be trusted; what users can write is only logged.

        A note that is old, or that a passed check has cleared up, is taken off.
        """
        if verdict.blame is Blame.NONE or verdict.cordon:
            self._suspected.pop(node.name, None)
            if node.held is not None and not verdict.cordon and not doubted(node, now):
                self._world.put_node(await self._gateway.patch_node(node.name, held_patch(None)))
            return
        log.info("%s: blame %s, no cordon: %s", verdict.cause, verdict.blame, verdict.rule, extra={"node": node.name})
        if verdict.confidence is not Confidence.SUSPECTED:
            return
        if self._suspected.get(node.name) != verdict.cause:
            self._suspected[node.name] = verdict.cause
            self._metrics.suspicions.labels(verdict.cause).inc()
        note = HeldNote(SUSPECTED, verdict.cause, now, verdict.action, verdict.rule, verdict.evidence)
        await self._note(node, note, now)

    async def _note(self, node: NodeRecord, note: HeldNote, now: datetime) -> None:
        """Leave on the node what was found against it: `internlm2 nodes` shows it, and jobs prefer others."""
        held = node.held
        if held is not None:
            same = (held.reason, held.cause) == (note.reason, note.cause)
            if now - held.at < (NOTE_AGAIN if same else NOTE_AT_MOST):
                return
        self._world.put_node(await self._gateway.patch_node(node.name, held_patch(note)))

    def _nodes(self) -> tuple[NodeRecord, ...]:
        nodes = self._world.plain_nodes()
        if not self._coming:
            return nodes
        return tuple(replace(n, fault=self._coming[n.name].note) if n.name in self._coming else n for n in nodes)
