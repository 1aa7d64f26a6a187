"""A figure over time as lines of a picture. Pure: points in, coordinates out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from internlm2_operator.cli.ui.timeline import LEFT, RIGHT
from internlm2_operator.cluster.history import Points

HEIGHT: Final = 110.0
EDGE: Final = 12.0  # above the highest point and below the lowest
GAP: Final = 2.5  # steps without a point: nothing was measured there


@dataclass(frozen=True, slots=True)
class Curve:
    """What is drawn, and the sentence that stands for it.

    `lines` are the corners of each part without a gap as SVG writes them; `high` and `low` are the words at the edges.
    """

    name: str
    title: str
    lines: tuple[str, ...]
    high: str
    low: str


def curve(name: str, form: str, points: Points, since: float, until: float, step: float) -> Curve:
    """Return points (one at least) from `since` to `until` in seconds, `step` apart, with values written as `form`."""
    values = [value for _, value in points]
    low, high = min(values), max(values)
    wide, tall = (RIGHT - LEFT) / max(until - since, 0.001), (HEIGHT - 2 * EDGE) / ((high - low) or 1.0)

    def corner(at: float, value: float) -> str:
        return f"{LEFT + (at - since) * wide:.1f},{HEIGHT - EDGE - (value - low) * tall:.1f}"

    lines = tuple(" ".join(corner(*point) for point in part) for part in _parts(points, GAP * step))
    first, last, least, most = (format(value, form) for value in (values[0], values[-1], low, high))
    return Curve(name, f"{name}: {first} at first, {last} last, between {least} and {most}", lines, most, least)


def _parts(points: Points, gap: float) -> Iterator[Points]:
    """Yield the parts between gaps; a point alone is twice there, so that a line has two ends."""
    first = 0
    for number in range(1, len(points) + 1):
        if number == len(points) or points[number][0] - points[number - 1][0] > gap:
            part = points[first:number]
            yield part if len(part) > 1 else part * 2
            first = number
