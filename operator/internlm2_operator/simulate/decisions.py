"""One round of the operator over a cluster: signals to verdicts to cordons, then plans until one has no more to say.

The same calls in the same order as `runtime/nodes.py` and `runtime/jobs.py`, without the API server between them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from internlm2_operator.health.cordon import Cordon, Limits, Mode, Stake, decide_cordon
from internlm2_operator.health.diagnose import AGREEMENT, diagnose
from internlm2_operator.health.node import not_ready
from internlm2_operator.health.signals import Signal
from internlm2_operator.plan import plan
from internlm2_operator.plan.actions import Action
from internlm2_operator.plan.exits import signal_of
from internlm2_operator.plan.snapshot import PodPhase, Snapshot
from internlm2_operator.simulate.cluster import Cluster, moment

MOST_PLANS: Final = 30


@dataclass(frozen=True, slots=True)
class Round:
    """How many plans it took, whether they changed anything, and when the last one wants to be asked again."""

    plans: int
    changed: bool
    requeue_seconds: float | None


class Evidence:
    """Signals that are edges, kept while they may still mean something."""

    def __init__(self) -> None:
        self._edges: list[Signal] = []

    def add(self, signal: Signal) -> None:
        self._edges.append(signal)

    def signals(self, cluster: Cluster, now: float) -> list[Signal]:
        """Return the edges, and what stands in the cluster's objects, of nodes that hold pods of ours."""
        at = moment(now)
        self._edges = [s for s in self._edges if at - s.at <= AGREEMENT]
        silent = [s for n in cluster.nodes.values() if not n.ready and cluster.pod_on(n.name) and (s := not_ready(n))]
        ended = (p for p in cluster.pods.values() if p.phase is PodPhase.FAILED and not p.deleting)
        ends = [s for p in ended if (s := signal_of(p))]
        return [*self._edges, *silent, *ends]

    def spend(self, node: str) -> None:
        self._edges = [s for s in self._edges if s.node != node]


def cordon(cluster: Cluster, evidence: Evidence, now: float) -> bool:
    """Judge every node that something speaks against; say whether a cordon was held back."""
    signals, at, held = evidence.signals(cluster, now), moment(now), False
    health = cluster.job.spec.health
    for name in dict.fromkeys(s.node for s in signals):
        if cluster.nodes[name].fault is not None:
            continue
        stakes = {name: [Stake(Mode(health.mode))] if cluster.pod_on(name) else []}
        limits = replace(Limits(), percent=health.max_cordon_percent)
        verdict = diagnose(signals, name, at)
        for decision in decide_cordon([verdict], list(cluster.nodes.values()), stakes, limits, at):
            if isinstance(decision, Cordon):
                cluster.cordon(decision)
                evidence.spend(name)
            else:
                held = True
    return held


def settle(
    cluster: Cluster, seen: Callable[[], Snapshot], apply: Callable[[Iterable[Action]], None], now: float
) -> Round:
    """Plan and apply until a plan does not ask to be called again at once.

    Raises:
        RuntimeError: plans do not come to an end, which would be a bug of the operator.
    """
    changed = False
    for count in range(1, MOST_PLANS + 1):
        made = plan(seen(), moment(now))
        changed = changed or bool(made.actions) or made.status != cluster.job.status
        apply(made.actions)
        cluster.write_status(made.status, now)
        if made.requeue_seconds != 0:
            return Round(count, changed, made.requeue_seconds)
    raise RuntimeError(f"{MOST_PLANS} plans at one moment, the last: {'; '.join(made.trail)}")
