"""What a panel shows of an answer: words, colours, stretches of time."""

import math
from typing import Any

import pytest

from dashboards import shown
from dashboards.ask import Series, Window
from dashboards.shown import Segment

WORDS = {
    "a ratio": (0.9746, "percentunit", 1, "97.5%"),
    "seconds": (42.04, "s", None, "42 s"),
    "minutes": (600.0, "s", None, "10 min"),
    "hours": (5400.0, "s", 1, "1.5 h"),
    "less than a second": (0.0042, "s", None, "4.2 ms"),
    "no time": (0.0, "s", 0, "0 s"),
    "bytes": (3.5 * 2**30, "bytes", None, "3.5 GiB"),
    "a large number": (52_000.0, "short", None, "52 K"),
    "a number as it is": (52_000.0, "none", None, "52000"),
    "a rate": (0.25, "reqps", None, "0.25 req/s"),
    "not a number": (math.nan, "s", 1, "NaN"),
    "below nothing": (-90.0, "s", 1, "-1.5 min"),
}


@pytest.mark.parametrize(("value", "unit", "decimals", "said"), WORDS.values(), ids=WORDS)
def test_a_value_in_its_unit(value: float, unit: str, decimals: int | None, said: str) -> None:
    assert shown.words(value, unit, decimals) == said


FIELD: dict[str, Any] = {
    "unit": "none",
    "thresholds": {"steps": [{"value": None, "color": "green"}, {"value": 5, "color": "orange"},
                             {"value": 9, "color": "red"}]},
    "mappings": [{"options": {"4": {"text": "Running", "color": "blue"}}}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text", "color"),
    [(1, "1", "green"), (4, "Running", "blue"), (5, "5", "orange"), (8.9, "8.9", "orange"), (9, "9", "red")],
)
def test_a_value_has_the_word_and_the_colour_of_its_mapping_or_threshold(value: float, text: str, color: str) -> None:
    assert (shown.text_of(value, FIELD), shown.color_of(value, FIELD)) == (text, color)


def test_a_series_is_named_by_its_legend() -> None:
    series = Series({"a": "x", "b": ""}, ())
    assert shown.name_of(series, "of {{ a }} {{b}} {{c}}") == "of x"
    assert shown.name_of(series, "") == "a=x, b="
    assert shown.name_of(Series({}, ()), "") == "value"


def test_stretches_of_one_value_are_one_and_gaps_stay() -> None:
    points = ((0.0, 1.0), (10.0, 1.0), (20.0, 2.0), (60.0, 2.0))
    assert shown.segments(Series({}, points), 10.0) == [
        Segment(0.0, 20.0, 1.0),
        Segment(20.0, 30.0, 2.0),
        Segment(60.0, 70.0, 2.0),
    ]


def test_a_line_is_cut_where_values_are_missing() -> None:
    points = ((0.0, 1.0), (10.0, 1.0), (30.0, 2.0))
    assert shown.parts(Series({}, points), 10.0) == [points[:2], points[2:]]
    assert shown.parts(Series({}, ()), 10.0) == []


@pytest.mark.parametrize(("seconds", "apart"), [(60, 10), (1200, 300), (3600, 600), (86400, 14400), (9e6, 86400)])
def test_ticks_are_round_and_few(seconds: float, apart: float) -> None:
    ticks = shown.ticks(Window(1001.0, 1001.0 + seconds, 1, 1))
    assert 3 <= len(ticks) <= 7
    assert {tick % apart for tick in ticks} == {0}
    assert ticks[0] >= 1001
    assert ticks[-1] <= 1001 + seconds
