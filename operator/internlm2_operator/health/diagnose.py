"""From signals about one node to a verdict. Pure: the same signals, in any order, mean the same."""

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.health.node import NODE_NOT_READY
from internlm2_operator.health.signals import Kind, Signal
from internlm2_operator.health.verdict import Blame, Verdict
from internlm2_operator.health.xid import DOUBLE_BIT, REMAPPED, Act, rule_of

# Two sources agree when they speak within this window; older signals are history, never replayed
# into a new cordon (NVSentinel#450: days-old events were).
AGREEMENT: Final = timedelta(minutes=5)
# The same code on this many nodes of one job at the same time is the application or the fabric.
COMMON_NODES: Final = 3
COMMON_WITHIN: Final = timedelta(seconds=60)


# The note travels in an annotation of the node: the cause comes first, the rest is cut.
MAX_EVIDENCE: Final = 8


class Weight(enum.IntEnum):
    """What one signal proves about its node: nothing, a suspicion, or enough."""

    NOTHING = 0
    SUSPECT = 1
    HARD = 2


@dataclass(frozen=True, slots=True)
class Seen:
    """What a rule of blame may read: the node's own signals in time order, and everybody's."""

    node: str
    mine: list[Signal]
    recent: list[Signal]


def diagnose(signals: Sequence[Signal], node: str, now: datetime) -> Verdict:
    """Judge `node` from the signals about all nodes (the others tell what is common to a job).

    A cordon needs one hard signal, or suspicions from two independent sources within AGREEMENT. A
    node that is not ready counts however long ago that began, because it is a level and not an edge.
    """
    recent = [s for s in signals if s.kind is Kind.NODE_NOT_READY or now - s.at <= AGREEMENT]
    mine = sorted((s for s in recent if s.node == node), key=_order)
    seen = Seen(node=node, mine=mine, recent=recent)
    return next(v for rule in RULES if (v := rule(seen)) is not None)


def _hard(seen: Seen) -> Verdict | None:
    """One signal that cannot be anybody's but the node's."""
    proof = [s for s in seen.mine if _weight(s, seen.mine) is Weight.HARD]
    if not proof:
        return None
    # A dead kubelet explains the rest; otherwise the first signal in time is the cause.
    first = min(proof, key=lambda s: (s.kind is not Kind.NODE_NOT_READY, *_order(s)))
    return _verdict(Blame.NODE, first, seen.mine, cordon=True, hard=True)


def _common(seen: Seen) -> Verdict | None:
    """The same XID on many nodes of one job at once: not this node's fault."""
    for one in seen.mine:
        nodes = {s.node for s in seen.recent if _same_xid(s, one)}
        if len(nodes) >= COMMON_NODES:
            blame = Blame.USER if rule_of(one.xid or 0).act is Act.RESTART else Blame.FABRIC
            return _verdict(blame, one, seen.mine)
    return None


def _agreed(seen: Seen) -> Verdict | None:
    """Two independent sources that suspect the same node."""
    suspicions = [s for s in seen.mine if _weight(s, seen.mine) is Weight.SUSPECT]
    for first in suspicions:
        if any(s.source is not first.source and abs(s.at - first.at) <= AGREEMENT for s in suspicions):
            return _verdict(Blame.NODE, first, seen.mine, cordon=True)
    return None


def _suspect(seen: Seen) -> Verdict | None:
    """A suspicion of one source only, or blindness: unknown."""
    weak = [
        s
        for s in seen.mine
        if _weight(s, seen.mine) is Weight.SUSPECT or s.kind in (Kind.EXPORTER_DOWN, Kind.GPU_MISSING)
    ]
    return _verdict(Blame.UNKNOWN, weak[0], seen.mine) if weak else None


def _application(seen: Seen) -> Verdict | None:
    """XIDs that a program causes: the process restarts, the node stays."""
    caused = [s for s in seen.mine if s.xid is not None and rule_of(s.xid).act is Act.RESTART]
    return _verdict(Blame.USER, caused[0], seen.mine) if caused else None


def _healthy(seen: Seen) -> Verdict | None:
    evidence = tuple(_say(s) for s in seen.mine)[:MAX_EVIDENCE]
    return Verdict(blame=Blame.NONE, cause="Healthy", node=seen.node, evidence=evidence, cordon=False)


Rule = Callable[[Seen], Verdict | None]
RULES: Final[tuple[Rule, ...]] = (_hard, _common, _agreed, _suspect, _application, _healthy)


def _weight(signal: Signal, mine: Iterable[Signal]) -> Weight:
    match signal.kind:
        case Kind.NODE_NOT_READY:
            return Weight.HARD
        case Kind.GPU_MISSING:  # while the exporter is down, a missing series says nothing
            return Weight.NOTHING if any(s.kind is Kind.EXPORTER_DOWN for s in mine) else Weight.HARD
        case Kind.POD_EXIT:
            return Weight.SUSPECT
        case Kind.XID:
            return _xid_weight(signal, mine)
        case _:
            return Weight.NOTHING


def _xid_weight(signal: Signal, mine: Iterable[Signal]) -> Weight:
    act = rule_of(signal.xid or 0).act
    if act is Act.CORDON:
        return Weight.HARD
    if signal.xid == DOUBLE_BIT and any(s.xid in REMAPPED and s.gpu == signal.gpu for s in mine):
        return Weight.HARD
    return Weight.SUSPECT if act is Act.SUSPECT else Weight.NOTHING


def _same_xid(signal: Signal, seen: Signal) -> bool:
    if signal.kind is not Kind.XID or seen.kind is not Kind.XID or not seen.job:
        return False
    return (signal.xid, signal.job) == (seen.xid, seen.job) and abs(signal.at - seen.at) <= COMMON_WITHIN


def _verdict(blame: Blame, first: Signal, mine: list[Signal], *, cordon: bool = False, hard: bool = False) -> Verdict:
    return Verdict(
        blame=blame,
        cause=cause_of(first),
        node=first.node,
        evidence=tuple(dict.fromkeys(_say(s) for s in (first, *mine)))[:MAX_EVIDENCE],
        cordon=cordon,
        hard=hard,
        gpu=first.gpu,
        signal_at=first.at,
    )


def cause_of(signal: Signal) -> str:
    """Return the CamelCase reason of a signal: Xid79, NodeNotReady, GpuMissing, PodExit, ExporterDown."""
    if signal.kind is Kind.XID:
        return f"Xid{signal.xid}"
    if signal.kind is Kind.NODE_NOT_READY:
        return NODE_NOT_READY
    return "".join(word.capitalize() for word in signal.kind.value.split("-"))


def _say(signal: Signal) -> str:
    where = f" on {signal.gpu}" if signal.gpu else ""
    return f"{cause_of(signal)}{where} at {signal.at.isoformat()} from {signal.source}: {signal.detail}"


def _order(signal: Signal) -> tuple[datetime, str, str, int, str]:
    return (signal.at, signal.kind, signal.gpu, signal.xid or 0, signal.detail)
