"""Which rank holds the others up, in what, and by how much, from what each does without the others.

In a step every rank waits for the slowest, so wall times are alike on all: compared are times in which a rank waits for
nobody. A rank is named when it stands out from the others by a robust measure (their median and median absolute
deviation, which a few wild ones do not move), for several windows in a row, and for as long as it stands out at all.
"""

import enum
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

WINDOW: Final = 8  # steps whose median is one look
HOLDS: Final = 3  # looks in a row until a rank is named, and until it no longer is
LEAVE: Final = 0.5  # of the bars: below that a named rank no longer stands out
MAX_RATIO: Final = 1000.0  # of a time whose median is next to nothing
SIGMA: Final = 1.4826  # of a normal distribution, in median absolute deviations


class Slowness(enum.StrEnum):
    """What a rank is slow in."""

    COMPUTE = "compute"
    DATA = "data"
    COMMUNICATION = "communication"


@dataclass(frozen=True, slots=True)
class Bar:
    """What a time must reach to stand out: a multiple of the others' median, and an excess over it.

    The excess is at least `share` of a step, and `sigmas` of the others' spread.
    """

    ratio: float
    share: float
    sigmas: float


# The computation compared is a part of a step's (one forward pass of several passes), and so is what it is late by.
# Reading is hidden mostly: only what a step waits for counts. What a step sends is thousands of times that message.
BARS: Final = {
    Slowness.COMPUTE: Bar(ratio=1.2, share=0.005, sigmas=6.0),
    Slowness.DATA: Bar(ratio=1.5, share=0.1, sigmas=6.0),
    Slowness.COMMUNICATION: Bar(ratio=2.0, share=0.0, sigmas=8.0),
}


@dataclass(frozen=True, slots=True)
class Slow:
    """A rank that is slow in one thing: its time over the others' median, and the seconds of a step above that."""

    rank: int
    what: Slowness
    ratio: float
    seconds: float

    @property
    def who(self) -> tuple[int, Slowness]:
        return self.rank, self.what


@dataclass(frozen=True, slots=True)
class Look:
    """One window: median seconds of each rank by what it did, and of a whole step. Not everything is always known."""

    seconds: Mapping[Slowness, Sequence[float]]
    step_seconds: float


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What was seen so far: who stood out last, for how many looks in a row, and whom that has named.

    `calm` counts the looks in a row at which the named one did not stand out.
    """

    candidate: tuple[int, Slowness] | None = None
    looks: int = 0
    calm: int = 0
    named: Slow | None = None


def look(steps: Sequence[Mapping[Slowness, Sequence[float]]], step_seconds: Sequence[float]) -> Look:
    """Return what a window of steps amounts to: the median of each rank's times, by what they were spent on."""
    seconds = {}
    for what in Slowness:
        if known := [step[what] for step in steps if what in step]:
            seconds[what] = [statistics.median(of_rank) for of_rank in zip(*known, strict=True)]
    return Look(seconds, statistics.median(step_seconds))


def judge(before: Suspicion, seen: Look, groups: Sequence[int]) -> Suspicion:
    """Return the suspicion after one more look. Ranks of one of `groups` do the same work; only these are compared."""
    found = standing_out(seen, groups)
    named, calm = before.named, before.calm
    if named is not None:
        still = _excess(named.what, named.rank, seen, groups, leaving=True)
        named, calm = (still, 0) if still else (named, calm + 1)
        if calm >= HOLDS:
            named, calm = None, 0
    if found is None:
        return Suspicion(None, 0, calm, named)
    looks = before.looks + 1 if found.who == before.candidate else 1
    if looks >= HOLDS and (named is None or calm):
        named, calm = found, 0
    return Suspicion(found.who, looks, calm, named)


def standing_out(seen: Look, groups: Sequence[int]) -> Slow | None:
    """Return the rank that stands out by most in this look, None where nobody does."""
    found = [
        slow
        for what, seconds in seen.seconds.items()
        for rank in _slowest(seconds, groups)
        if (slow := _excess(what, rank, seen, groups, leaving=False))
    ]
    return max(found, key=lambda slow: (slow.seconds, slow.ratio, -slow.rank), default=None)


def _slowest(seconds: Sequence[float], groups: Sequence[int]) -> Iterable[int]:
    """Return the slowest rank of each group, of equals the lowest."""
    slowest: dict[int, int] = {}
    for rank, (group, each) in enumerate(zip(groups, seconds, strict=True)):
        if group not in slowest or each > seconds[slowest[group]]:
            slowest[group] = rank
    return slowest.values()


def _excess(what: Slowness, rank: int, seen: Look, groups: Sequence[int], *, leaving: bool) -> Slow | None:
    """Return by how much a rank is above the others of its group, None where that is not much."""
    seconds = seen.seconds.get(what, ())
    if rank >= len(seconds):
        return None
    others = [each for other, each in enumerate(seconds) if other != rank and groups[other] == groups[rank]]
    if not others:
        return None
    middle, bar = statistics.median(others), BARS[what]
    spread = SIGMA * statistics.median(abs(each - middle) for each in others)
    least = max((bar.ratio - 1) * middle, bar.share * seen.step_seconds, bar.sigmas * spread)
    above = seconds[rank] - middle
    if above <= 0 or above < least * (LEAVE if leaving else 1.0):
        return None
    return Slow(rank, what, min(MAX_RATIO, seconds[rank] / middle) if middle else MAX_RATIO, above)


def links(exchanged: Sequence[float], ranks_of_node: int) -> list[float]:
    """Return how long the link of each rank's node took, from how long ranks took to exchange a message in a ring.

    Each sends to the next and receives from the one before, so a slow link is slow for both of its ends. A node's link
    is slow when all that it takes part in is: one way alone could be either node's. The first rank of a node stands for
    it; where all ranks are on one node, each stands for itself.
    """
    size = ranks_of_node if ranks_of_node < len(exchanged) else 1
    heads = exchanged[::size]
    # Where a node has several ranks, the first only receives from elsewhere.
    ends = (0, 1) if size > 1 else (-1, 0, 1)
    ways = [min(heads[(node + end) % len(heads)] for end in ends) for node in range(len(heads))]
    usual = statistics.median(ways)
    return [usual if rank % size else ways[rank // size] for rank in range(len(exchanged))]
