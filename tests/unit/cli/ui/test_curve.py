"""Where the corners of a curve stand, and what is said of it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.cli.ui.curve import EDGE, HEIGHT, curve
from internlm2_operator.cli.ui.timeline import LEFT, RIGHT

LOSS = ((100.0, 8.0), (110.0, 4.0), (120.0, 6.0))


def corners(line: str) -> list[tuple[float, ...]]:
    return [tuple(map(float, corner.split(","))) for corner in line.split()]


def test_a_curve_goes_from_edge_to_edge_and_says_so() -> None:
    drawn = curve("Loss", ".1f", LOSS, 100, 120, 10)
    middle = (LEFT + RIGHT) / 2
    assert [corners(line) for line in drawn.lines] == [
        [(LEFT, EDGE), (middle, HEIGHT - EDGE), (RIGHT, HEIGHT / 2)]
    ]  # fmt: skip
    assert drawn.title == "Loss: 8.0 at first, 6.0 last, between 4.0 and 8.0"
    assert (drawn.high, drawn.low) == ("8.0", "4.0")


@pytest.mark.parametrize(("step", "lengths"), [(10, [3]), (3, [2, 2, 2])], ids=["whole", "each point alone"])
def test_where_nothing_was_measured_there_is_no_line(step: float, lengths: list[int]) -> None:
    drawn = curve("Loss", ".1f", LOSS, 100, 120, step)
    assert [len(corners(line)) for line in drawn.lines] == lengths


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.lists(st.integers(1, 100), min_size=50, max_size=50))
def test_all_of_it_is_in_the_picture(values: list[float], gaps: list[int]) -> None:
    times = [float(at) for at in itertools.accumulate(gaps[: len(values)])]
    drawn = curve("MFU", ".1%", tuple(zip(times, values, strict=True)), 0.0, times[-1], 20)
    for x, y in itertools.chain.from_iterable(map(corners, drawn.lines)):
        assert LEFT <= x <= RIGHT
        assert EDGE <= y <= HEIGHT - EDGE
