"""What the figures suggest: how often to save, and how many nodes to hold back."""

import math
from dataclasses import dataclass
from typing import Final

from internlm2_operator.simulate.result import Result
from internlm2_operator.simulate.simulation import Setup

ENOUGH: Final = 0.99
MOST_SPARES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Advice:
    """Steps from one save, and one copy in memory, to the next; spares that suffice ENOUGH of the time."""

    every_steps: int
    memory_every_steps: int
    spares: int
    out_mean: float  # nodes in repair, on average


def interval(cost: float, between: float) -> float:
    """Return the seconds from one copy to the next that lose least, for a copy's `cost` and a mean time between losses.

    First order: sqrt(2 x cost x mean time), J. W. Young, CACM 17 (1974); valid while the cost is small against it.
    """
    return math.sqrt(2 * cost * between)


def poisson_quantile(mean: float, part: float) -> int:
    """Return the least number that a Poisson variable does not exceed in `part` of all cases."""
    if mean <= 0:
        return 0
    reached = 0.0
    for count in range(MOST_SPARES):
        reached += math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))
        if reached >= part:
            return count
    return MOST_SPARES


def advise(setup: Setup, result: Result) -> Advice:
    """Derive from what happened.

    Copies in memory are lost to every interruption, saves in the store only to those that fall back on it. A save is
    not begun before the last one is complete. Nodes go out as a Poisson process and stay for the mean repair time, so
    how many are out at once is Poisson too, whatever the repair times' distribution (M/G/infinity).
    """
    pace, seconds = setup.pace, setup.seconds
    fallbacks = result.stored_resumes if pace.memory_every_steps else result.interruptions
    every = max(interval(pace.save_stall, seconds / max(1, fallbacks)), pace.save_seconds)
    memory = interval(pace.copy_stall, seconds / max(1, result.interruptions))
    mean = result.outs / seconds * setup.times.repair_hours * 3600
    return Advice(
        every_steps=max(1, round(every / pace.step_seconds)),
        memory_every_steps=max(1, round(memory / pace.step_seconds)) if pace.memory_every_steps else 0,
        spares=poisson_quantile(mean, ENOUGH),
        out_mean=mean,
    )


def estimate(interruptions: float, recovery: float, redo: float, seconds: float) -> float:
    """Return the ETTR of a job that loses `recovery` and `redo` seconds to each interruption, none in another's."""
    return 1 - interruptions * (recovery + redo) / seconds
