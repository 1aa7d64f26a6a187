"""Advice against values computed by hand."""

import pytest

from internlm2_operator.simulate.advice import estimate, interval, poisson_quantile


def test_interval_is_youngs() -> None:
    assert interval(cost=2, between=10_000) == pytest.approx(200)


@pytest.mark.parametrize(("mean", "part", "count"), [(0, 0.99, 0), (1, 0.36, 0), (1, 0.99, 4), (5.7, 0.99, 12)])
def test_quantile_is_the_least_number_that_suffices(mean: float, part: float, count: int) -> None:
    assert poisson_quantile(mean, part) == count


def test_estimate_loses_each_interruption_whole() -> None:
    assert estimate(interruptions=10, recovery=60, redo=30, seconds=9000) == pytest.approx(0.9)
