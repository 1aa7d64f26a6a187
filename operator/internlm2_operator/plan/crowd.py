"""Which member of an attempt fell first, picked out of what all that have ended left behind.

What is read is the trainer's termination message, or the end of the log that the kubelet keeps in its place. Users
write both: what is found explains a fault, and chooses which of several ends is recorded; it speaks against no node.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from internlm2_operator.health.rootcause import RankLine, pick
from internlm2_operator.health.rulebook import Rulebook
from internlm2_operator.plan.exits import End, exit_of, left_by
from internlm2_operator.plan.snapshot import PodRecord

# A thousand members that follow one down say the same; each costs 0.3 ms.
MAX_PODS: Final = 64
# An agent waits some seconds for its other ranks to end, and then goes.
SETTLES_WITHIN: Final = timedelta(minutes=1)
_FOLLOWS: Final = '"reason": "PeerLost"'
_TOLD_TO_END: Final = (End.DONE, End.STOPPED)


@dataclass(frozen=True, slots=True)
class First:
    """`uid` is the pod's that fell first, empty where nobody can be named."""

    uid: str
    evidence: tuple[str, ...]


def first_of(pods: Iterable[PodRecord], rulebook: Rulebook) -> First | None:
    """Return who fell first of the pods that ended by themselves; None where nobody left a word about it."""
    ends = [(e.end is End.PEER, pod) for pod in pods if (e := exit_of(pod)) and e.end not in _TOLD_TO_END]
    order = sorted(ends, key=lambda end: (end[0], _fell(end[1]), end[1].slot))
    return _picked(tuple(order[:MAX_PODS]), rulebook) if order else None


@functools.lru_cache(maxsize=64)  # asked for again at every look at an attempt that has fallen
def _picked(ends: tuple[tuple[bool, PodRecord], ...], rulebook: Rulebook) -> First | None:
    lines = [line for number, (follows, pod) in enumerate(ends) for line in _lines(number, pod, follows=follows)]
    root = pick(lines, rulebook, world=len(ends), called=lambda number: _called(ends[number][1]))
    if root is None:
        return None
    return First("" if root.rank is None else ends[root.rank][1].uid, root.evidence)


def _lines(number: int, pod: PodRecord, *, follows: bool) -> list[RankLine]:
    """Return a pod's last words, as if one rank had said all of them when it fell."""
    at = _fell(pod)
    # A traceback of one that lost its peers may look like anything; its trainer knows that it is a symptom.
    words = _FOLLOWS if follows else left_by(pod)
    return [RankLine(at, pod.node or "", number, line) for line in words.splitlines() or [""]]


def _fell(pod: PodRecord) -> datetime:
    """Return when the rank fell that the trainer blames, by its own clock where that can be true, else the pod."""
    ended, said = pod.finished or pod.created, pod.termination.time if pod.termination else None
    if said is None or not 0 <= ended.timestamp() + 1 - said <= SETTLES_WITHIN.total_seconds():
        return ended  # whole seconds, of the kubelet's clock
    return datetime.fromtimestamp(said, UTC)


def _called(pod: PodRecord) -> str:
    rank = pod.termination.rank if pod.termination else None
    return f"pod {pod.name}" if rank is None else f"rank {rank} of pod {pod.name}"
