"""Which rank holds the others up, from the time that each worked by itself."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds of work of all ranks in a step, and the rank that took longest."""

    least: float
    median: float
    greatest: float
    slowest_rank: int


def spread(seconds: Sequence[float]) -> Spread:
    """Return the spread of `seconds`, one of each rank; of equals the lowest rank counts as slowest."""
    greatest = max(seconds)
    return Spread(min(seconds), statistics.median(seconds), greatest, seconds.index(greatest))
