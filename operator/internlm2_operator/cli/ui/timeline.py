"""Where the parts of a picture stand on a line of time. Pure: moments in, coordinates out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from internlm2_operator.api.status import Fault, arrow_seconds, arrows
from internlm2_operator.cli.answer import span

WIDTH: Final = 720.0
LEFT: Final = 110.0  # of the line: before it stand the names
RIGHT: Final = 620.0  # after it stand the times
ROW: Final = 26.0
LEAST: Final = 2.0  # wide, so that a moment can be seen

Tone = Literal["run", "open", "closed", "mark"]


@dataclass(frozen=True, slots=True)
class Bar:
    """One row: a name, a bar, and how long it is in words. `y` is its upper edge."""

    name: str
    x: float
    y: float
    width: float
    said: str
    tone: Tone


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn, and the sentence that stands for it."""

    title: str
    bars: tuple[Bar, ...]

    @property
    def height(self) -> float:
        return ROW * len(self.bars) + 8


Part = tuple[str, datetime, datetime, str, Tone]


def picture(title: str, parts: Sequence[Part]) -> Picture:
    """Return parts (name, from, to, words, tone) as bars, each on a row of its own."""
    if not parts:
        return Picture(title, ())
    start, end = min(min(p[1:3]) for p in parts), max(max(p[1:3]) for p in parts)
    scale = (RIGHT - LEFT) / max((end - start).total_seconds(), 0.001)
    bars = []
    for row, (name, since, until, said, tone) in enumerate(parts):
        first, last = sorted((since, until))
        width = max((last - first).total_seconds() * scale, LEAST)
        x = min(LEFT + (first - start).total_seconds() * scale, RIGHT - LEAST)
        bars.append(Bar(name, round(x, 1), round(4 + row * ROW, 1), round(width, 1), said, tone))
    return Picture(title, tuple(bars))


def recovery(fault: Fault) -> Picture:
    """Return the arrows of a fault, one that took no time of its own as a mark."""
    seconds = arrow_seconds(fault.times)
    tone: Tone = "closed" if fault.times.closed else "open"
    parts: list[Part] = [(name, since, at, f"{seconds[name]:.1f} s", tone) for name, since, at in arrows(fault.times)]
    told = (
        f"; {seconds['total']:.1f} s from signal to the first step after it" if "total" in seconds else "; still open"
    )
    return picture(f"Recovery from {fault.cause}{told}", parts)


def life(
    created: datetime, started: datetime | None, faults: Sequence[Fault], ended: datetime | None, now: datetime
) -> Picture:
    """Return the life of a job: waiting, running, and each fault by its number."""
    until = ended or now
    parts: list[Part] = [("waiting", created, started or until, span((started or until) - created), "mark")]
    if started is not None:
        parts.append(("running", started, until, span(until - started), "run"))
    for number, fault in enumerate(faults, start=1):
        since = fault.times.signal or fault.times.verdict or fault.times.last_step
        if since is None:
            continue
        closed = fault.times.closed
        lasted = (closed or until) - since
        said = (span(lasted) if lasted >= timedelta(0) else span(-lasted)) + ("" if closed else ", open")
        parts.append((f"fault {number}", since, closed or until, said, "closed" if closed else "open"))
    return picture(f"Life of the job: {span(until - created)}, {len(faults)} faults", parts)
