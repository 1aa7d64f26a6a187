"""From signals about one node to a verdict. Pure: the same signals, in any order, mean the same."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.health.rules import MEMORY_LIMIT, Weight, signal_rule
from internlm2_operator.health.signals import Kind, Signal
from internlm2_operator.health.verdict import Action, Blame, Confidence, Verdict
from internlm2_operator.health.xid import (
    CONTAINED,
    DOUBLE_BIT,
    GRAPHICS_EXCEPTION,
    NVLINK5,
    RECOVERY_CHANGED,
    REMAPPED,
    REPEATING,
    WORDED,
    Act,
    XidRule,
    lost_its_link,
    recovery,
    rule_of,
    tells,
)

# Two sources agree when they speak within this window; older signals are history, never replayed
# into a new cordon (NVSentinel#450: days-old events were).
AGREEMENT: Final = timedelta(minutes=5)
# What proves a fault alone goes on to do so while the breaker holds the cordon back.
CERTAIN_FOR: Final = timedelta(minutes=30)
# The same code on this many nodes of one job at the same time is the application or the fabric.
COMMON_NODES: Final = 3
# So many nodes of one rack or switch, of several jobs, that go at the same time: what they share has failed.
OUTAGE_NODES: Final = 3
COMMON_WITHIN: Final = timedelta(seconds=60)
# Repeats count within a day; what comes within three minutes is one event (NVSentinel's health events analyzer).
HISTORY: Final = timedelta(hours=24)
BURST: Final = timedelta(minutes=3)
REPEATS: Final = 2
FATAL_REPEATS: Final = 5
_CORES: Final = re.compile(r"GPC (\d+),? (?:and )?TPC (\d+)", re.I)

LINK_DOWN: Final = "LinkDown"
# What an agent sees and a user can bring about.
BY_USERS: Final = frozenset({"DiskFull"})
SYMPTOM: Final = "a symptom without a cause"

# The note travels in an annotation of the node: the cause comes first, the rest is cut.
MAX_EVIDENCE: Final = 8


@dataclass(frozen=True, slots=True)
class Seen:
    """What a rule of blame may read: the node's own signals in time order, everybody's, and the node's of a day.

    `probation` says that the node was uncordoned a short while ago.
    """

    node: str
    mine: list[Signal]
    recent: list[Signal]
    history: list[Signal]
    probation: bool = False

    def weighing(self, *weights: Weight) -> list[Signal]:
        return [s for s in self.mine if weight(s, self.mine) in weights]


def diagnose(signals: Sequence[Signal], node: str, now: datetime, *, probation: bool = False) -> Verdict:
    """Judge `node` from the signals about all nodes (the others tell what is common to a job or a rack).

    A cordon needs one hard signal, or a suspicion of a trusted source and a word of another source within
    AGREEMENT. A node that is not ready counts however long ago that began, because it is a level and not an edge.
    While a node is on `probation` a suspicion of a trusted source is enough, and its hardware is to be exchanged.
    """
    recent = [s for s in signals if _counts(s, now)]
    history = sorted((s for s in signals if s.node == node and now - s.at <= HISTORY), key=_order)
    mine = sorted((_worded(s, history) for s in recent if s.node == node), key=_order)
    verdict = _judged(Seen(node=node, mine=mine, recent=recent, history=history, probation=probation))
    if probation and verdict.cordon:
        return replace(verdict, action=Action.CORDON_REPLACE, rule=f"{verdict.rule}, on probation")
    return verdict


def _judged(seen: Seen) -> Verdict:
    return next(v for rule in RULES if (v := rule(seen)) is not None)


def _worded(signal: Signal, history: Iterable[Signal]) -> Signal:
    """Return the metric of an XID with what the driver's lines say of it, and any other signal as it is."""
    code = signal.xid
    if code is None or code not in WORDED or tells(code, signal.detail):
        return signal
    lines = (s.detail for s in history if s.xid == code and abs(s.at - signal.at) <= BURST and tells(code, s.detail))
    return replace(signal, detail="; ".join((signal.detail, *lines)))


def wavers(signal: Signal, now: datetime) -> bool:
    """Say whether a node is not ready, and its kubelet may be restarting, or was cut off with all others."""
    return signal.doubted is not None and now < signal.doubted


def _counts(signal: Signal, now: datetime) -> bool:
    if wavers(signal, now):
        return False
    if signal.kind in (Kind.NODE_NOT_READY, Kind.CONDITION):
        return True
    return now - signal.at <= (CERTAIN_FOR if weight(signal, ()) is Weight.HARD else AGREEMENT)


def _outage(seen: Seen) -> Verdict | None:
    """Nodes of several jobs behind one switch or in one rack that go silent together: what they share is at fault.

    A node that is no job's, or several jobs', counts as another one: the first that recovers leaves its nodes idle.
    """
    for one in seen.mine:
        if not one.domain or one.kind is not Kind.NODE_NOT_READY:  # what an agent notes, users can bring about
            continue
        with_it = [s for s in seen.recent if (s.cause, s.domain) == (one.cause, one.domain) and _together(s, one)]
        parties = {s.job or s.node for s in with_it}
        if len({s.node for s in with_it}) >= OUTAGE_NODES and len(parties) > 1:
            return _verdict(Blame.FABRIC, one, seen.mine, Action.WAIT, f"nodes of several jobs in {one.domain} at once")
    return None


def _linked(seen: Seen) -> Verdict | None:
    """Links of two nodes of one job, or behind one switch, that went down at once: what both hang on, named or not.

    They stay down for days, perhaps: all else that speaks against the node is judged without them, but for a silence
    that they brought about.
    """
    shared = [s for s in seen.mine if s.cause == LINK_DOWN and s.source.trusted and _has_an_end_elsewhere(s, seen)]
    if not shared:
        return None
    rest = _judged(replace(seen, mine=[s for s in seen.mine if s not in shared and not _cut_off(s, shared)]))
    words = "links of several nodes down within 60 s"
    return rest if rest.blame is Blame.NODE else _verdict(Blame.FABRIC, shared[0], seen.mine, Action.CHECK, words)


def _cut_off(signal: Signal, links: Iterable[Signal]) -> bool:
    """Say whether a node fell silent because one of these links went."""
    silent = signal.kind is Kind.NODE_NOT_READY
    return silent and any(timedelta(0) <= signal.at - link.at <= AGREEMENT for link in links)


def _has_an_end_elsewhere(link: Signal, seen: Seen) -> bool:
    down = (s for s in seen.recent if s.cause == LINK_DOWN and s.node != link.node and _together(s, link))
    return any((link.job and s.job == link.job) or (link.domain and s.domain == link.domain) for s in down)


def _common(seen: Seen) -> Verdict | None:
    """The same XID on many nodes of one job, or of several jobs behind one switch, at once: not this node's fault."""
    for one in seen.mine:
        if one.kind is not Kind.XID or _rule(one).act in (Act.SYMPTOM, Act.RECORD):
            continue
        same = [s for s in seen.recent if s.kind is Kind.XID and s.xid == one.xid and _together(s, one)]
        job = {s.node for s in same if one.job and s.job == one.job}
        domain = [s for s in same if one.domain and s.domain == one.domain]
        shared = len({s.node for s in domain}) >= OUTAGE_NODES and len({s.job for s in domain if s.job}) > 1
        if len(job) < COMMON_NODES and not shared:
            continue
        words = f"the same code on {max(len(job), len({s.node for s in domain}))} nodes within 60 s"
        if _rule(one).act is Act.RESTART:
            return _verdict(Blame.USER, one, seen.mine, Action.RESTART, words)
        return _verdict(Blame.FABRIC, one, seen.mine, Action.CHECK, words)
    return None


def _certain(seen: Seen) -> Verdict | None:
    """One signal that cannot be anybody's but the node's."""
    proof = seen.weighing(Weight.HARD)
    if not proof:
        return None
    first = min(proof, key=_order)
    return _verdict(
        Blame.NODE, first, seen.mine, _remedy(first), "one signal that proves it", confidence=Confidence.CERTAIN
    )


def _agreed(seen: Seen) -> Verdict | None:
    """A suspicion that no user can write, and a word of another source about the same node."""
    words = seen.weighing(Weight.SUSPECT, Weight.HINT)
    for first in seen.weighing(Weight.SUSPECT):
        second = next((s for s in words if _agrees(first, s)), None)
        if second is not None and first.source.trusted:
            rule = f"{first.source} and {second.source} agree"
            return _verdict(Blame.NODE, first, seen.mine, _remedy(first), rule, confidence=Confidence.AGREED)
    return None


def _fatal_again(seen: Seen) -> Verdict | None:
    """A fatal code that comes back to one GPU all day long."""
    fatal = [s for s in seen.history if s.xid not in NVLINK5 or lost_its_link(s.detail)]
    for one in seen.weighing(Weight.SUSPECT):
        if one.kind is Kind.XID and (times := _bursts(fatal, one)) >= FATAL_REPEATS:
            rule = f"{times} times on one GPU within a day"
            remedy = Action.CORDON_REPLACE
            return _verdict(Blame.NODE, one, seen.mine, remedy, rule, confidence=Confidence.CERTAIN)
    return None


def _again(seen: Seen) -> Verdict | None:
    """A suspicion of one trusted source, about a node that is on probation: its last fault is the second word."""
    found = [s for s in seen.weighing(Weight.SUSPECT) if s.source.trusted] if seen.probation else []
    if not found:
        return None
    rule = "a suspicion so soon after the last fault"
    return _verdict(Blame.NODE, found[0], seen.mine, _remedy(found[0]), rule, confidence=Confidence.AGREED)


def _suspected(seen: Seen) -> Verdict | None:
    """A suspicion of one source only: the node is checked, not cordoned."""
    found = seen.weighing(Weight.SUSPECT)
    if not found:
        return None
    rule = "one source alone"
    return _verdict(Blame.NODE, found[0], seen.mine, Action.CHECK, rule, confidence=Confidence.SUSPECTED)


def _repeated(seen: Seen) -> Verdict | None:
    """A program's code that stays with one GPU of the job: perhaps not the program's after all."""
    for one in seen.mine:
        if one.kind is not Kind.XID or one.xid not in REPEATING or _elsewhere(seen.recent, one):
            continue
        if (times := _bursts(seen.history, one)) >= REPEATS:
            rule = f"{times} times on the same GPU and on no other"
            return _verdict(Blame.NODE, one, seen.mine, Action.CHECK, rule, confidence=Confidence.HINTED)
    return None


def _application(seen: Seen) -> Verdict | None:
    """What takes a process and no more: an error that the GPU contained, a program's code, a limit of memory."""
    caused = [s for s in seen.mine if s.kind is Kind.XID and _rule(s).act is Act.RESTART]
    if contained := [s for s in caused if s.xid == CONTAINED]:  # the memory is the GPU's, whoever's process it took
        return _verdict(Blame.NODE, contained[0], seen.mine, Action.RESTART, "the GPU contained its error")
    if caused:
        return _verdict(Blame.USER, caused[0], seen.mine, Action.RESTART, "a program's code")
    ends = [s for s in seen.mine if s.kind is Kind.POD_EXIT]  # without one some other container was killed
    limits = (s for s in seen.mine if s.cause == MEMORY_LIMIT and s.source.trusted)
    met = [s for s in limits if any(_together(s, end) for end in ends)]
    return _verdict(Blame.USER, met[0], seen.mine, Action.RESTART, "a limit of memory") if met else None


def _hinted(seen: Seen) -> Verdict | None:
    """Hints, symptoms without a cause, or blindness: unknown, unless the hint can be nobody's but the node's."""
    hints = seen.weighing(Weight.HINT)
    if own := [s for s in hints if s.source.trusted and s.cause not in BY_USERS]:
        return _verdict(Blame.NODE, own[0], seen.mine, Action.CHECK, "hints only", confidence=Confidence.HINTED)
    if hints:
        return _verdict(Blame.UNKNOWN, hints[0], seen.mine, Action.CHECK, "hints only", confidence=Confidence.HINTED)
    blind = [s for s in seen.mine if s.kind in (Kind.EXPORTER_DOWN, Kind.GPU_MISSING)]
    if blind:
        return _verdict(Blame.UNKNOWN, blind[0], seen.mine, Action.WAIT, "nothing can be seen")
    if any(_asks_to_go(s) for s in seen.mine):
        return None  # what is torn down then shows symptoms
    left = [s for s in seen.mine if s.kind is Kind.XID and _rule(s).act is Act.SYMPTOM]
    return _verdict(Blame.UNKNOWN, left[0], seen.mine, Action.RESTART, SYMPTOM) if left else None


def _healthy(seen: Seen) -> Verdict | None:
    evidence = tuple(map(say, seen.mine))[:MAX_EVIDENCE]
    drained = any(_asks_to_go(s) for s in seen.mine)
    return Verdict(
        blame=Blame.NONE,
        cause="Maintenance" if drained else "Healthy",
        node=seen.node,
        evidence=evidence,
        action=Action.DRAIN if drained else Action.NONE,
        rule="somebody will work on the node" if drained else "nothing speaks against the node",
    )


def _asks_to_go(signal: Signal) -> bool:
    return signal_rule(signal.cause).action is Action.DRAIN


Rule = Callable[[Seen], Verdict | None]
RULES: Final[tuple[Rule, ...]] = (
    _linked, _outage, _common, _certain, _agreed, _fatal_again,
    _again, _suspected, _repeated, _application, _hinted, _healthy,
)  # fmt: skip


def weight(signal: Signal, mine: Iterable[Signal]) -> Weight:
    """Return what a signal proves about its node beside the others about it: a hint at most where a user wrote it."""
    found = _weight(signal, mine)
    return found if signal.source.trusted else min(found, Weight.HINT)


def _weight(signal: Signal, mine: Iterable[Signal]) -> Weight:
    match signal.kind:
        case Kind.XID:
            return _xid_weight(signal, mine)
        case Kind.SXID:
            return signal_rule(signal.reason).weight
        case Kind.GPU_MISSING if any(s.kind is Kind.EXPORTER_DOWN for s in mine):
            return Weight.NOTHING  # while the exporter is down, a missing series says nothing
        case Kind.COUNTER if signal.reason == "DoubleBitError" and _contained(signal, mine):
            return Weight.NOTHING
        case _:
            return signal_rule(signal.cause).weight


def _xid_weight(signal: Signal, mine: Iterable[Signal]) -> Weight:
    if signal.xid == RECOVERY_CHANGED and (asked := recovery(signal.detail)) is not None:
        return Weight.NOTHING if asked is Action.NONE else Weight.HARD
    if signal.xid == DOUBLE_BIT and any(s.xid in REMAPPED and s.gpu == signal.gpu for s in mine):
        return Weight.HARD
    return _rule(signal).weight


def _rule(signal: Signal) -> XidRule:
    return rule_of(signal.xid or 0, signal.detail)


def _contained(signal: Signal, mine: Iterable[Signal]) -> bool:
    """Say whether a contained error explains the count; of a GPU that the kernel names otherwise it may be."""
    alike = (s for s in mine if s.gpu == signal.gpu or (":" in s.gpu) != (":" in signal.gpu))
    codes = {s.xid for s in alike if s.kind is Kind.XID}
    return CONTAINED in codes and DOUBLE_BIT not in codes


def _remedy(signal: Signal) -> Action:
    if signal.kind is Kind.XID:
        asked = recovery(signal.detail) if signal.xid == RECOVERY_CHANGED else None
        return asked or _rule(signal).action
    return signal_rule(signal.reason if signal.kind is Kind.SXID else signal.cause).action


def _agrees(one: Signal, other: Signal) -> bool:
    return other.source is not one.source and abs(other.at - one.at) <= AGREEMENT


def _together(signal: Signal, seen: Signal) -> bool:
    return abs(signal.at - seen.at) <= COMMON_WITHIN


def _bursts(history: Iterable[Signal], one: Signal) -> int:
    """Count the events of a code on a GPU; sightings within BURST of the one before are the same event."""
    where = _place(one)
    if where is None:
        return 1
    times = [s.at for s in history if (s.kind, s.xid) == (one.kind, one.xid) and _place(s) == where]
    return sum(index == 0 or at - times[index - 1] > BURST for index, at in enumerate(times))


def _elsewhere(recent: Iterable[Signal], one: Signal) -> bool:
    """Say whether another GPU shows the same code. One GPU has two names: the kernel's and the exporter's."""
    same = (s for s in recent if s.kind is Kind.XID and s.xid == one.xid and (":" in s.gpu) == (":" in one.gpu))
    return any((s.node, s.gpu) != (one.node, one.gpu) for s in same)


def _place(signal: Signal) -> tuple[str, str] | None:
    """Return where a code repeats: on its GPU, with XID 13 on its cluster of cores; None when the text does not say."""
    if signal.xid != GRAPHICS_EXCEPTION:
        return signal.gpu, ""
    found = _CORES.search(signal.detail)
    return (signal.gpu, f"{found[1]} {found[2]}") if found else None


def _verdict(
    blame: Blame,
    first: Signal,
    mine: list[Signal],
    action: Action,
    rule: str,
    *,
    confidence: Confidence = Confidence.NONE,
) -> Verdict:
    return Verdict(
        blame=blame,
        cause=first.cause,
        node=first.node,
        evidence=tuple(dict.fromkeys(say(s) for s in (first, *mine)))[:MAX_EVIDENCE],
        action=action,
        rule=rule,
        confidence=confidence,
        gpu=first.gpu,
        signal_at=first.at,
    )


def say(signal: Signal) -> str:
    """Return one line of evidence."""
    where = f" on {signal.gpu}" if signal.gpu else ""
    return f"{signal.cause}{where} at {signal.at.isoformat()} from {signal.source}: {signal.detail}"


def _order(signal: Signal) -> tuple[datetime, str, str, str, int, str]:
    return (signal.at, signal.kind, signal.source, signal.gpu, signal.xid or 0, signal.reason + signal.detail)
