"""A case through the operator's own decisions: who is to blame at the end, and which nodes were cordoned on the way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.health.cordon import Cordon, Limits, Stake, decide_cordon, goes
from internlm2_operator.health.diagnose import diagnose
from internlm2_operator.health.incident import STALLED, Words, judge
from internlm2_operator.health.node import FaultNote, NodeRecord
from internlm2_operator.health.rootcause import UNKNOWN_CAUSE, pick
from internlm2_operator.health.signals import Kind, Signal
from internlm2_operator.health.verdict import Blame, Verdict
from internlm2_operator.plan.exits import exit_of, fingerprint
from internlm2_operator.plan.snapshot import PodRecord
from internlm2_operator.replay.case import START, Case, Observation
from internlm2_operator.replay.timeline import Heard, moments

SETTLE: Final = timedelta(minutes=1)
DOMAIN: Final = "domain"
POD_EXIT: Final = "PodExit"  # the row of a pod that ended in a way that nobody explains


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case, and in which points it is not what was expected."""

    case: Case
    verdict: Verdict
    cordoned: tuple[str, ...]
    wrong: tuple[str, ...]
    action_differs: bool

    @property
    def false_cordons(self) -> tuple[str, ...]:
        return tuple(node for node in self.cordoned if node not in self.case.expected.cordoned)

    @property
    def missed_cordons(self) -> tuple[str, ...]:
        return tuple(sorted(self.case.expected.cordoned - set(self.cordoned)))


def replay(case: Case) -> Outcome:
    """Play a case from its first signal to its last."""
    heard, notes, first = Heard(case), dict[str, FaultNote](), None
    verdict: Verdict | None = None
    told = START
    for now, seen in (*moments(case), *_settling(case)):
        heard.hear(now, seen)
        signals = heard.standing()
        verdicts = [diagnose([*signals, *heard.risen(node, now)], node, now) for node in case.nodes]
        for convicted in _cordons(heard, verdicts, notes, now):
            first = first or next(v for v in verdicts if v.node == convicted)
        excused = [_excused(v, heard.notice(v.node), signals, now) for v in verdicts]
        found = judge(excused, _words(heard, now), now)
        first = first or (found if found.cordon else None)
        if seen and not (verdict is not None and heard.stands_since(told) and _follows(found, verdict)):
            verdict, told = found, now
    found = first or verdict or judge((), Words(), START)
    cordoned = tuple(sorted(notes))
    return Outcome(case, found, cordoned, tuple(_wrong(case, found, cordoned)), found.action != case.expected.action)


def _settling(case: Case) -> Iterator[tuple[datetime, list[Observation]]]:
    """Yield one more moment without news, in which what stands is cordoned that was only waited for."""
    if case.seen:
        yield case.seen[-1].at + SETTLE, []


def _follows(found: Verdict, before: Verdict) -> bool:
    """Say whether a verdict rests on what came of the one before, while no step was done.

    NCCL gives up ten minutes after what stopped the job, and pods end of what they share.
    """
    if found.blame is not Blame.UNKNOWN or before.blame is Blame.NONE:
        return False
    names_nobody = not found.node and found.cause in (UNKNOWN_CAUSE, STALLED)
    return names_nobody or (found.cause == POD_EXIT and before.blame is Blame.FABRIC)


def _excused(verdict: Verdict, notice: str, signals: Sequence[Signal], now: datetime) -> Verdict:
    """Return what else is said of a node that fell silent as was announced, of any other its verdict."""
    if not goes(verdict, notice):
        return verdict
    return diagnose([s for s in signals if s.kind is not Kind.NODE_NOT_READY], verdict.node, now)


def _cordons(heard: Heard, verdicts: Sequence[Verdict], notes: dict[str, FaultNote], now: datetime) -> list[str]:
    """Decide as the operator does, and note what it would have made."""
    case = heard.case
    nodes = [
        NodeRecord(n, True, START, 0, labels=_labels(case, n), fault=notes.get(n), unschedulable=n in notes,
                   notice=heard.notice(n))
        for n in case.nodes
    ]  # fmt: skip
    stakes = {n: [Stake(case.mode, case.smallest or 0, frozenset(case.nodes))] for n in case.nodes}
    made = [d for d in decide_cordon(verdicts, nodes, stakes, Limits(label=DOMAIN), now) if isinstance(d, Cordon)]
    notes |= {cordon.node: cordon.note for cordon in made}
    return [cordon.node for cordon in made]


def _labels(case: Case, node: str) -> tuple[tuple[str, str], ...]:
    return ((DOMAIN, case.domains[node]),) if node in case.domains else ()


def _words(heard: Heard, now: datetime) -> Words:
    ends = heard.user_ends()
    behind = heard.behind(now)
    if heard.stalled(now) and behind is None and not any(abs((now - at).total_seconds()) < 60 for at in heard.stalls):
        heard.stalls.append(now)
    root = pick(heard.fresh_lines())
    return Words(
        root=root,
        user=tuple(e.evidence for pod in ends if (e := exit_of(pod)) and not heard.waits()),
        again=_again(ends),
        waits=heard.waits(),
        stopped=heard.stopped(),
        taken=heard.taken(),
        ended=frozenset(pod.node for pod in heard.ends if pod.node),
        lost=heard.lost(),
        stalled=heard.stalled(now),
        hung_before=len(heard.stalls) > 1,
        behind=behind[0] if behind else "",
        blind=heard.blind,
    )


def _again(ends: Sequence[PodRecord]) -> bool:
    """Say whether one slot ended twice in the same way at the same step."""
    marks = [(pod.slot, pod.termination.step if pod.termination else None, fingerprint(pod)) for pod in ends]
    return len(set(marks)) < len(marks)


def _wrong(case: Case, found: Verdict, cordoned: Sequence[str]) -> list[str]:
    expected = case.expected
    wrong = [f"class {found.blame}, expected {expected.blame}"] if found.blame is not expected.blame else []
    if set(cordoned) != expected.cordoned:
        wrong.append(f"cordoned {list(cordoned)}, expected {sorted(expected.cordoned)}")
    if expected.cordoned and found.node not in (expected.node, *expected.cordoned):
        wrong.append(f"node {found.node}, expected {expected.node}")
    return wrong
