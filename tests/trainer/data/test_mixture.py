"""Shares of sources are kept at every place, and each source's own stream is gone through in order."""

from fractions import Fraction

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from internlm2_trainer.data.mixture import Mixture
from tests.examples import few

WEIGHTS = st.lists(st.integers(1, 60), min_size=1, max_size=6)


def largest_error(sources: npt.NDArray[np.int64], weights: list[int]) -> Fraction:
    """Return how far, in samples, a source is from its exact share at the worst place."""
    places, total = np.arange(1, len(sources) + 1), sum(weights)
    worst = max(
        int(np.abs(np.cumsum(sources == source) * total - places * weight).max())
        for source, weight in enumerate(weights)
    )
    return Fraction(worst, total)


@few
@given(weights=WEIGHTS)
def test_at_every_place_a_source_is_less_than_one_sample_from_its_share(weights: list[int]) -> None:
    sources, _ = Mixture(weights).places(np.arange(2 * sum(weights)))
    assert largest_error(sources, weights) < 1


def test_the_control_sees_sources_in_blocks() -> None:
    assert largest_error(np.array([0, 0, 0, 1, 1, 1]), [3, 3]) > 1


@few
@given(weights=WEIGHTS, periods=st.integers(0, 10**6))
def test_every_period_has_the_exact_shares(weights: list[int], periods: int) -> None:
    total = sum(weights)
    sources, _ = Mixture(weights).places(np.arange(total) + periods * total)
    assert np.bincount(sources, minlength=len(weights)).tolist() == weights


@few
@given(weights=WEIGHTS, first=st.integers(0, 10**9))
def test_a_source_is_gone_through_in_order_without_gap(weights: list[int], first: int) -> None:
    sources, places = Mixture(weights).places(np.arange(first, first + 3 * sum(weights)))
    for source in range(len(weights)):
        own = places[sources == source]
        assert (np.diff(own) == 1).all()
        assert abs(Fraction(first * weights[source], sum(weights)) - int(own[0])) < 1


@few
@given(weights=WEIGHTS, position=st.integers(0, 10**12))
def test_a_place_depends_on_its_position_alone(weights: list[int], position: int) -> None:
    mixture = Mixture(weights)
    alone, among = (mixture.places(np.arange(position, position + count)) for count in (1, 5))
    assert (alone[0][0], alone[1][0]) == (among[0][0], among[1][0])


def test_the_shares_of_the_report_s_corpus_are_kept() -> None:
    weights = [6751, 1895, 494, 427, 271, 163]  # report, table 1, in hundredths of a per cent
    sources, _ = Mixture(weights).places(np.arange(sum(weights)))
    assert np.bincount(sources).tolist() == weights
    assert largest_error(sources[:1000], weights) < 1
