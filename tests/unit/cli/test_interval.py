"""The best interval between checkpoints, against what can be worked out otherwise."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.cli import interval
from tests.examples import few


def expected(pause: float, mttf: float, work: float) -> float:
    """Return wall time over useful work by Daly's exact model with no time to restart (his equation 20)."""
    return mttf / work * math.expm1((work + pause) / mttf)


def test_the_rate_of_llama_3_is_its_paper_s() -> None:
    """419 in 54 days on 2,048 nodes of 8: one of the 16,384 GPUs stops the job every 3.1 h."""
    assert interval.job_mttf(interval.LLAMA3_GPU_HOURS / 8, 2048) / 3600 == pytest.approx(54 * 24 / 419)


def test_a_short_pause_gives_young_s_square_root() -> None:
    assert interval.best(1.0, 1e6) == pytest.approx(math.sqrt(2e6), rel=2e-3)


@few
@given(pause=st.floats(0.1, 600), mttf=st.floats(2000, 1e7))
def test_neither_shorter_nor_longer_loses_noticeably_less(pause: float, mttf: float) -> None:
    best = interval.best(pause, mttf)
    here = expected(pause, mttf, best)
    for other in (best * 0.7, best * 1.4):
        assert here <= expected(pause, mttf, other) * (1 + 1e-9)


def test_a_pause_that_is_longer_than_the_time_between_failures_leaves_nothing_to_choose() -> None:
    assert interval.best(300, 100) == 100


@pytest.mark.parametrize(("every", "loss"), [(100, 0.0105), (10, 0.10005)])
def test_what_is_lost_is_the_pause_and_half_an_interval(every: float, loss: float) -> None:
    assert interval.lost(1.0, 1e5, every) == pytest.approx(loss)
