"""Which rank holds the others up, from the time that each worked by itself."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from internlm2_spec import straggler
from internlm2_spec.metrics import Part
from internlm2_spec.straggler import Slow, Slowness, Suspicion
from internlm2_trainer.observe.stopwatch import Window

# What a rank tells the others of a step, in this order, in nanoseconds: integers, so that a sum rounds nothing.
TOLD: Final = (Slowness.DATA, Slowness.COMPUTE, Slowness.COMMUNICATION)


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


def told(window: Window) -> tuple[int, ...]:
    """Return what a rank tells of a step, in the order of TOLD."""
    data = window.parts[Part.DATA]
    return tuple(round(1e9 * seconds) for seconds in (data, window.own_seconds - data, window.link_seconds))


class Comparison:
    """What all ranks told, step by step, and whom it names.

    `groups` are ranks that do the same work, the stages of a pipeline; a node has `ranks_of_node`.
    """

    def __init__(self, groups: Sequence[int], *, ranks_of_node: int) -> None:
        self._groups = groups
        self._ranks_of_node = ranks_of_node
        self._steps: list[Mapping[Slowness, Sequence[float]]] = []
        self._seconds: list[float] = []
        self._suspicion = Suspicion()

    @property
    def slow(self) -> Slow | None:
        """The rank that has stood out for several windows."""
        return self._suspicion.named

    def note(self, nanoseconds: Sequence[Sequence[int]], step_seconds: float) -> dict[Slowness, Spread]:
        """Take in a step, of each rank what it told; return the spread of each thing over the ranks."""
        columns = [[each / 1e9 for each in column] for column in zip(*nanoseconds, strict=True)]
        seconds = {what: column for what, column in zip(TOLD, columns, strict=True) if any(column)}
        if Slowness.COMMUNICATION in seconds:
            links = straggler.links(seconds[Slowness.COMMUNICATION], self._ranks_of_node)
            seconds[Slowness.COMMUNICATION] = links
        self._steps.append(seconds)
        self._seconds.append(step_seconds)
        if len(self._steps) == straggler.WINDOW:
            seen = straggler.look(self._steps, self._seconds)
            self._suspicion = straggler.judge(self._suspicion, seen, self._groups)
            self._steps, self._seconds = [], []
        return {what: spread(each) for what, each in seconds.items()}
