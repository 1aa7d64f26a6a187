"""Where the wall time of a step goes: marks at the boundaries of its parts, read when a step is past.

On a GPU a mark is an event in the stream, whose time is known only when the device has come by. So a step's
marks are read one step later, after the wait for its loss that every step has: nothing waits for a mark.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from internlm2_spec.metrics import Part

M = TypeVar("M")


class Clock(Protocol[M]):
    """Marks of moments, and the seconds between two that are past."""

    def mark(self) -> M: ...
    def seconds(self, start: M, end: M) -> float: ...


@dataclass(frozen=True, slots=True)
class Window:
    """A step from its start to the start of the next; the parts add up to its wall time.

    `own_seconds` is what the rank worked without waiting for any other: its data, and its layers' first forward pass.
    `link_seconds` is how long the message of the rank before it took, 0 where none was sent.
    """

    parts: dict[Part, float]
    own_seconds: float
    link_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())


class Stopwatch(Generic[M]):
    """Splits the time of one rank into parts: from each mark to the next it does one thing."""

    def __init__(self, clock: Clock[M]) -> None:
        self._clock = clock
        self._marks: list[tuple[Part, M]] = []
        self._layers: dict[int, list[M]] = {}
        self._link: list[M] = []
        self._past: tuple[list[tuple[Part, M]], dict[int, list[M]], list[M]] | None = None

    def begin(self) -> None:
        """Begin a step, and with it end the one before."""
        now = self._clock.mark()
        self._end(now)
        self._marks = [(Part.DATA, now)]

    def end(self) -> None:
        """End a step after which none begins."""
        self._end(self._clock.mark())

    def _end(self, now: M) -> None:
        if self._marks:
            self._past = [*self._marks, (Part.OTHER, now)], self._layers, self._link
        self._marks, self._layers, self._link = [], {}, []

    def enter(self, part: Part) -> None:
        """Say what the rank does from now on; outside of a step nothing is kept."""
        if self._marks:
            self._marks.append((part, self._clock.mark()))

    def layer(self, layer: int) -> None:
        """Mark the start, then the end, of a layer's forward pass; only its first in a step counts."""
        marks = self._layers.setdefault(layer, [])
        if self._marks and len(marks) < 2:
            marks.append(self._clock.mark())

    def link(self) -> None:
        """Mark the start, then the end, of a message from the rank before this one."""
        if self._marks:
            self._link.append(self._clock.mark())

    def settle(self) -> Window | None:
        """Return the newest step that has ended, once; None where there is none. All its marks must be past."""
        if self._past is None:
            return None
        (marks, layers, link), self._past = self._past, None
        parts = self._split(marks)
        passes = sum(self._clock.seconds(*pair) for pair in layers.values() if len(pair) == 2)
        return Window(parts, parts[Part.DATA] + passes, self._clock.seconds(*link) if len(link) == 2 else 0.0)

    def _split(self, marks: Sequence[tuple[Part, M]]) -> dict[Part, float]:
        parts = dict.fromkeys(Part, 0.0)
        for (part, start), (_, end) in itertools.pairwise(marks):
            parts[part] += self._clock.seconds(start, end)
        return parts
