"""Forms of an answer, and figures as people read them."""

import json
from datetime import timedelta

import pytest
import yaml

from internlm2_operator.cli.answer import Answer, Form, ago, columns, printed, size, span
from tests.unit.plan.world import T0, after

ANSWER = Answer(lines=("a",), wide=("a", "b"), data={"x": [1]}, names=("kind/a", "kind/b"))


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("text", "a"),
        ("wide", "a\nb"),
        ("name", "kind/a\nkind/b"),
        ("yaml", "x:\n- 1"),
        ("json", '{\n  "x": [\n    1\n  ]\n}'),
    ],
)
def test_each_form(form: Form, text: str) -> None:
    assert printed(ANSWER, form) == text


def test_wide_is_the_text_where_there_is_no_more() -> None:
    assert printed(Answer(lines=("a",), data=1), "wide") == "a"


def test_documents_are_yaml_documents_and_json_is_the_data() -> None:
    answer = Answer(lines=(), data={"x": 1}, documents=({"a": 1}, {"b": 2}))
    assert list(yaml.safe_load_all(printed(answer, "yaml"))) == [{"a": 1}, {"b": 2}]
    assert json.loads(printed(answer, "json")) == {"x": 1}


def test_columns_are_as_wide_as_their_widest_cell_and_end_without_spaces() -> None:
    assert list(columns([("A", "B"), ("long", "x")])) == ["A      B", "long   x"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (12000, "3h20m"), (172800, "2d"),
     (176400, "2d1h"), (864000 + 3600, "10d"), (-5, "0s")],
)  # fmt: skip
def test_a_duration_has_two_units_at_most(seconds: int, text: str) -> None:
    assert span(timedelta(seconds=seconds)) == text


def test_what_never_happened_is_a_dash() -> None:
    assert (ago(None, T0), ago(T0, after(180))) == ("-", "3m")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 2**30, "3.0 GiB"), (2**41, "2.00 TiB")]
)
def test_bytes_are_told_in_binary_units(count: int, text: str) -> None:
    assert size(count) == text
