"""Vectors of Prometheus become one sample by node."""

from datetime import UTC, datetime
from typing import Any

import pytest

from internlm2_operator.cluster.prometheus import Series, sample_of, vector

AT = datetime(2026, 11, 25, tzinfo=UTC)
TARGET = {"job": "dcgm", "instance": "10.0.0.1:9400"}
GPU = TARGET | {"Hostname": "n1", "UUID": "GPU-1"}
EMPTY: dict[str, list[Series]] = {name: [] for name in ("gpus", "recent", "xids", "counts", "up", "scraped")}


def test_a_healthy_exporter() -> None:
    answers = EMPTY | {
        "gpus": [(GPU, 1.0)],
        "recent": [(GPU, 1.0)],
        "xids": [(GPU, 79.0)],
        "counts": [(GPU | {"xid": "79"}, 1.0)],
        "up": [(TARGET, 1.0)],
        "scraped": [(TARGET, 1234.5)],
    }
    sample = sample_of(answers, AT)
    assert sample.gpus == {("n1", "GPU-1")}
    assert sample.xids == {("n1", "GPU-1"): 79}
    assert sample.counts == {("n1", "GPU-1", 79): 1.0}
    assert (sample.scraped, sample.down) == ({"n1": 1234.5}, frozenset())


def test_a_silent_exporter_is_known_by_what_it_said_before() -> None:
    sample = sample_of(EMPTY | {"recent": [(GPU, 1.0)], "up": [(TARGET, 0.0)], "scraped": [(TARGET, 1.0)]}, AT)
    assert (sample.scraped, sample.down) == ({}, frozenset({"n1"}))


def test_series_without_a_node_are_left_out() -> None:
    assert sample_of(EMPTY | {"xids": [({"UUID": "GPU-1"}, 79.0)]}, AT).xids == {}


REFUSED: dict[str, dict[str, Any]] = {
    "an error": {"status": "error", "errorType": "bad_data", "error": "parse error"},
    "a matrix": {"status": "success", "data": {"resultType": "matrix", "result": []}},
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_answers_that_are_no_vector_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"bad_data|not a vector"):
        list(vector(body))
