"""Which verdicts become cordons now, and which are held back and why."""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.health.node import FaultNote, NodeRecord
from internlm2_operator.health.verdict import Verdict

OPERATOR: Final = "internlm2-operator"


class Mode(enum.StrEnum):
    """Whether a job lets its nodes be cordoned, or only wants to be told (`health.mode`)."""

    ENFORCE = "Enforce"
    OBSERVE = "Observe"


@dataclass(frozen=True, slots=True)
class Limits:
    """The breaker: within `window` at most max(`absolute`, `percent` of the nodes) new cordons."""

    absolute: int = 2
    percent: int = 10
    window: timedelta = timedelta(minutes=5)

    def budget(self, nodes: int) -> int:
        return max(self.absolute, nodes * self.percent // 100)


@dataclass(frozen=True, slots=True)
class Cordon:
    """Make a node unschedulable, taint it with the cause, and leave the note on it."""

    node: str
    note: FaultNote


class HoldReason(enum.StrEnum):
    OBSERVE = "ObserveMode"
    BREAKER = "BreakerOpen"


@dataclass(frozen=True, slots=True)
class Hold:
    """A cordon that was deserved but not made. `cause` is the verdict's."""

    node: str
    cause: str
    reason: HoldReason
    message: str


def decide_cordon(
    verdicts: Iterable[Verdict],
    nodes: Sequence[NodeRecord],
    modes: Mapping[str, Sequence[Mode]],
    limits: Limits,
    now: datetime,
) -> tuple[Cordon | Hold, ...]:
    """Return one decision per node whose verdict asks for a cordon and that has none of ours yet.

    `modes` holds, by node, the mode of every job with a pod on it; a node without jobs is enforced.
    The breaker counts the notes that lie on the nodes, so an operator restart forgets nothing, and
    it blocks new cordons only. Hard verdicts go first, then the oldest signal.
    """
    known = {node.name: node for node in nodes}
    left = limits.budget(len(nodes)) - _recent(nodes, limits.window, now)
    decisions: list[Cordon | Hold] = []
    for verdict in _most_urgent_first(verdicts, now):
        node = known.get(verdict.node)
        if node is None or node.fault is not None:
            continue
        if _observed(modes.get(node.name, ())):
            decisions.append(_hold(verdict, HoldReason.OBSERVE, "every job on the node has health.mode Observe"))
        elif left <= 0:
            decisions.append(_hold(verdict, HoldReason.BREAKER, _breaker_words(limits, len(nodes))))
        else:
            left -= 1
            decisions.append(Cordon(node=node.name, note=_note(verdict, node, now)))
    return tuple(decisions)


def _most_urgent_first(verdicts: Iterable[Verdict], now: datetime) -> list[Verdict]:
    """One verdict per node, those that ask for a cordon only."""
    asked = sorted((v for v in verdicts if v.cordon), key=lambda v: (not v.hard, v.signal_at or now, v.node, v.cause))
    return list({v.node: v for v in reversed(asked)}.values())[::-1]


def _recent(nodes: Sequence[NodeRecord], window: timedelta, now: datetime) -> int:
    return sum(node.fault is not None and now - node.fault.cordoned_at < window for node in nodes)


def _observed(modes: Sequence[Mode]) -> bool:
    return bool(modes) and all(mode is Mode.OBSERVE for mode in modes)


def _hold(verdict: Verdict, reason: HoldReason, why: str) -> Hold:
    return Hold(node=verdict.node, cause=verdict.cause, reason=reason, message=f"{verdict.cause}: not cordoned, {why}")


def _breaker_words(limits: Limits, nodes: int) -> str:
    return f"{limits.budget(nodes)} cordons in {limits.window.total_seconds():.0f} s are the limit for {nodes} nodes"


def _note(verdict: Verdict, node: NodeRecord, now: datetime) -> FaultNote:
    # A dead node carries the taints of the node controller: that is not somebody's cordon.
    before = node.ready and not node.schedulable
    return FaultNote(
        cause=verdict.cause,
        evidence=verdict.evidence,
        signal_at=verdict.signal_at or now,
        verdict_at=now,
        cordoned_at=now,
        gpu=verdict.gpu,
        by=OPERATOR,
        before=before,
    )
