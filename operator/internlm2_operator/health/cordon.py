"""Which verdicts become cordons now, and which are held back and why."""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.health.history import History
from internlm2_operator.health.node import NODE_NOT_READY, FaultNote, HeldNote, NodeRecord, domain
from internlm2_operator.health.verdict import Action, Verdict

OPERATOR: Final = "internlm2-operator"
_OBSERVES: Final = "every job on the node has health.mode Observe"


class Mode(enum.StrEnum):
    """Whether a job lets its nodes be cordoned, or only wants to be told (`health.mode`)."""

    ENFORCE = "Enforce"
    OBSERVE = "Observe"


@dataclass(frozen=True, slots=True)
class Limits:
    """The breaker: within `window` at most max(`absolute`, `percent` of the nodes) new cordons.

    It holds for the cluster, and again for the nodes that share one value of `label`, such as a rack.
    """

    absolute: int = 2
    percent: int = 10
    window: timedelta = timedelta(minutes=5)
    label: str = ""

    def budget(self, nodes: int) -> int:
        return max(self.absolute, nodes * self.percent // 100)


@dataclass(frozen=True, slots=True)
class Stake:
    """What a job with a pod on a node has at stake there.

    `needs` is nodes.min and the spares; `reach` are the nodes that it holds or could take now.
    """

    mode: Mode
    needs: int = 0
    reach: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Cordon:
    """Make a node unschedulable, taint it with the cause, and leave note and history on it."""

    node: str
    note: FaultNote
    history: History


class HoldReason(enum.StrEnum):
    OBSERVE = "ObserveMode"
    BREAKER = "BreakerOpen"
    NEEDED = "NodeNeeded"


@dataclass(frozen=True, slots=True)
class Hold:
    """A cordon that was deserved but not made."""

    node: str
    reason: HoldReason
    message: str
    note: HeldNote

    @property
    def cause(self) -> str:
        return self.note.cause


def decide_cordon(
    verdicts: Iterable[Verdict],
    nodes: Sequence[NodeRecord],
    stakes: Mapping[str, Sequence[Stake]],
    limits: Limits,
    now: datetime,
) -> tuple[Cordon | Hold, ...]:
    """Return one decision per node whose verdict asks for a cordon and that has none of ours yet.

    `stakes` holds, by node, what every job with a pod on it has at stake; a node without jobs is enforced.
    The breaker counts the notes that lie on the nodes, so an operator restart forgets nothing, and
    it blocks new cordons only. Certain verdicts go first, then the oldest signal. One that is not certain
    takes from no job what it needs to run.
    """
    known = {node.name: node for node in nodes}
    breaker, taken = _Breaker(nodes, limits, now), {n.name for n in nodes if n.fault is not None}
    decisions: list[Cordon | Hold] = []
    for verdict in _most_urgent_first(verdicts, now):
        node = known.get(verdict.node)
        if node is None or node.fault is not None or goes(verdict, node.notice):
            continue
        jobs = stakes.get(node.name, ())
        if _observed(jobs):
            decisions.append(_hold(verdict, HoldReason.OBSERVE, _OBSERVES, now))
        elif not verdict.certain and (needs := _needed(node.name, jobs, taken)):
            why = f"a job on the node needs {needs} nodes and would have fewer"
            decisions.append(_hold(verdict, HoldReason.NEEDED, why, now))
        elif full := breaker.full(node):
            decisions.append(_hold(verdict, HoldReason.BREAKER, full, now))
        else:
            breaker.take(node)
            taken.add(node.name)
            decisions.append(_cordon(verdict, node, now))
    return tuple(decisions)


def observed_drain(node: NodeRecord, jobs: Sequence[Stake], now: datetime) -> Hold | None:
    """Return that a node which is announced to go is not left, because every job on it only observes."""
    if not node.notice or not _observed(jobs):
        return None
    note = HeldNote(HoldReason.OBSERVE.value, "Maintenance", now, Action.DRAIN, "announced", (node.notice,))
    return Hold(node.name, HoldReason.OBSERVE, f"Maintenance: not left, {_OBSERVES}", note)


def _hold(verdict: Verdict, reason: HoldReason, why: str, now: datetime) -> Hold:
    """Return that a verdict is not acted on, and what acting on it would have been."""
    note = HeldNote(reason.value, verdict.cause, now, verdict.action, verdict.rule, verdict.evidence)
    return Hold(verdict.node, reason, f"{verdict.cause}: not cordoned, {why}", note)


def goes(verdict: Verdict, notice: str) -> bool:
    """Say whether the node only does what its `notice` announced, if it has one: its silence is no fault."""
    return verdict.cause == NODE_NOT_READY and notice != ""


class _Breaker:
    """How many more cordons the cluster and each domain bear within the window."""

    def __init__(self, nodes: Sequence[NodeRecord], limits: Limits, now: datetime) -> None:
        self._limits = limits
        self._nodes = nodes
        since = now - limits.window
        self._recent = [n for n in nodes if (n.fault is not None or n.history.faults) and _fresh(n, since)]

    def full(self, node: NodeRecord) -> str:
        """Return why no further node like this one may be cordoned now, empty when it may."""
        if len(self._recent) >= (budget := self._limits.budget(len(self._nodes))):
            return self._words(budget, len(self._nodes), "")
        if not (where := self._domain(node)):
            return ""
        recent = sum(self._domain(n) == where for n in self._recent)
        if recent < self._limits.absolute:
            return ""  # whatever the domain's size
        size = sum(self._domain(n) == where for n in self._nodes)
        budget = self._limits.budget(size)
        return self._words(budget, size, f" of {where}") if recent >= budget else ""

    def take(self, node: NodeRecord) -> None:
        self._recent.append(node)

    def _domain(self, node: NodeRecord) -> str:
        return domain(node, self._limits.label)

    def _words(self, budget: int, nodes: int, where: str) -> str:
        window = self._limits.window.total_seconds()
        return f"{budget} cordons in {window:.0f} s are the limit for {nodes} nodes{where}"


def _fresh(node: NodeRecord, since: datetime) -> bool:
    """Say whether the node was cordoned by us after `since`, whether it still is or not."""
    if node.fault is not None:
        return node.fault.cordoned_at > since
    return node.history.last is not None and node.history.last.at > since


def _most_urgent_first(verdicts: Iterable[Verdict], now: datetime) -> list[Verdict]:
    """One verdict per node, those that ask for a cordon only."""
    asked = sorted(
        (v for v in verdicts if v.cordon), key=lambda v: (not v.certain, v.signal_at or now, v.node, v.cause)
    )
    return list({v.node: v for v in reversed(asked)}.values())[::-1]


def _observed(jobs: Sequence[Stake]) -> bool:
    return bool(jobs) and all(job.mode is Mode.OBSERVE for job in jobs)


def _needed(name: str, jobs: Iterable[Stake], taken: set[str]) -> int:
    """Return how many nodes a job needs that would be left with fewer, 0 when there is none."""
    return max((job.needs for job in jobs if len(job.reach - taken - {name}) < job.needs), default=0)


def _cordon(verdict: Verdict, node: NodeRecord, now: datetime) -> Cordon:
    note = FaultNote(
        cause=verdict.cause,
        evidence=verdict.evidence,
        signal_at=verdict.signal_at or now,
        verdict_at=now,
        cordoned_at=now,
        gpu=verdict.gpu,
        by=OPERATOR,
        before=node.unschedulable,
        rule=verdict.rule,
        action=verdict.action,
    )
    return Cordon(node=node.name, note=note, history=node.history.cordoned(verdict.cause, verdict.action, now))
