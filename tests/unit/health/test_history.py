"""A node's past is bounded, survives its annotation, and counts less every day."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.health.history import HALF_LIFE, KEPT, History, Past
from tests.examples import few

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)


def cordoned(*days: float) -> History:
    history = History()
    for day in sorted(days):
        history = history.cordoned("Xid79", "cordon-reboot", T0 + timedelta(days=day))
    return history


SCORES = {
    "no cordon": ((), 0, 0.0),
    "one, now": ((0,), 0, 1.0),
    "one, a week ago": ((0,), 7, 0.5),
    "two, a week apart, now": ((0, 7), 7, 1.5),
    "two on one day, four weeks ago": ((0, 0), 28, 0.125),
    "a clock that went back does not make it worse": ((7,), 0, 1.0),
}


@pytest.mark.parametrize(("days", "now", "want"), SCORES.values(), ids=SCORES)
def test_score(days: tuple[float, ...], now: float, want: float) -> None:
    assert cordoned(*days).score(T0 + timedelta(days=now)) == pytest.approx(want)


def test_the_end_of_a_cordon_changes_no_score_and_closes_the_last_one() -> None:
    history = cordoned(0, 1).lifted(T0 + timedelta(days=2))
    assert [f.lifted for f in history.faults] == [None, T0 + timedelta(days=2)]
    assert history.score(T0 + timedelta(days=3)) == cordoned(0, 1).score(T0 + timedelta(days=3))
    assert History().lifted(T0) == History()


def test_it_survives_its_annotation() -> None:
    history = cordoned(0, 1).lifted(T0 + timedelta(days=2))
    read = History.from_json(history.to_json())
    assert (read.faults, read.scored) == (history.faults, history.scored)
    assert read.score(T0 + timedelta(days=9)) == pytest.approx(history.score(T0 + timedelta(days=9)), abs=1e-3)


GOOD = json.loads(cordoned(0).to_json())
FOREIGN = {
    "nothing": "",
    "no JSON": "bad node",
    "a list": "[]",
    "a score that is no number": json.dumps(GOOD | {"score": "NaN"}),
    "an endless score": json.dumps(GOOD | {"score": float("inf")}),
    "a negative score": json.dumps(GOOD | {"score": -1}),
    "a score beyond all floats": '{"score": 1' + "0" * 400 + ', "scored": null, "faults": []}',
    "a time of an unknown zone": json.dumps(GOOD | {"scored": "2026-03-01T12:00:00"}),
    "faults that are none": json.dumps(GOOD | {"faults": ["Xid79"]}),
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_anything_else_is_no_past(text: str) -> None:
    assert History.from_json(text) == History()


def test_a_hundred_cordons_fit_an_annotation_and_all_count() -> None:
    history = cordoned(*range(100))
    assert len(history.faults) == KEPT
    assert history.faults[-1] == Past("Xid79", T0 + timedelta(days=99), "cordon-reboot")
    assert len(history.to_json()) < 4096
    # A cordon a day adds up to 1 / (1 - 2^(-1/7)).
    assert history.score(T0 + timedelta(days=99)) == pytest.approx(1 / (1 - 0.5 ** (1 / 7)), rel=1e-3)


@few
@given(
    st.lists(st.floats(0, 60), min_size=1, max_size=30),
    st.lists(st.floats(0, 400), min_size=2, max_size=8),
)
def test_score_only_falls_while_nothing_happens(days: list[float], later: list[float]) -> None:
    history, start = cordoned(*days), T0 + timedelta(days=max(days))
    scores = [history.score(start + timedelta(days=day)) for day in sorted(later)]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= len(days) for score in scores)
    half = history.score(start + HALF_LIFE)
    assert half == pytest.approx(history.score(start) / 2)
