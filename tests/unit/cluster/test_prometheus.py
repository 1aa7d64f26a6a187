"""Vectors of Prometheus become one sample by node."""

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.cluster import errors
from internlm2_operator.cluster.prometheus import MAX_BYTES, Labelled, Prometheus, queries, sample_of, vector
from internlm2_operator.health.edges import Sample, baseline, edges
from tests.examples import few

AT = datetime(2026, 11, 25, tzinfo=UTC)
TARGET = {"job": "dcgm", "instance": "10.0.0.1:9400"}
GPU = TARGET | {"Hostname": "n1", "UUID": "GPU-1"}
EMPTY: dict[str, list[Labelled]] = {name: [] for name in queries()}
GAUGE = GPU | {"__name__": "DCGM_FI_DEV_XID_ERRORS"}
COUNT = {"__name__": "DCGM_EXP_XID_ERRORS_COUNT"}


def test_a_healthy_exporter() -> None:
    answers = EMPTY | {
        "gpus": [(GPU, 1.0)],
        "recent": [(GPU, 1.0)],
        "xids": [(GAUGE, 79.0)],
        "counts": [(GPU | COUNT | {"xid": "79"}, 1.0)],
        "up": [(TARGET, 1.0)],
        "scraped": [(TARGET, 1234.5)],
    }
    sample = sample_of(answers, AT)
    assert sample.gpus == {("n1", "GPU-1")}
    assert sample.xids == {("n1", "GPU-1", "dcgm 10.0.0.1:9400"): 79}
    assert sample.counts == {("n1", "GPU-1", 79): 1.0}
    assert (sample.scraped, sample.down) == ({"n1": 1234.5}, frozenset())


def test_a_silent_exporter_is_known_by_what_it_said_before() -> None:
    sample = sample_of(EMPTY | {"recent": [(GPU, 1.0)], "up": [(TARGET, 0.0)], "scraped": [(TARGET, 1.0)]}, AT)
    assert (sample.scraped, sample.down) == ({}, frozenset({"n1"}))


def test_series_without_a_node_are_left_out() -> None:
    assert sample_of(EMPTY | {"xids": [(GAUGE | {"Hostname": ""}, 79.0)]}, AT).xids == {}


REFUSED: dict[str, dict[str, Any]] = {
    "an error": {"status": "error", "errorType": "bad_data", "error": "parse error"},
    "a matrix": {"status": "success", "data": {"resultType": "matrix", "result": []}},
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_answers_that_are_no_vector_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"bad_data|not a vector"):
        list(vector(body))


def test_a_number_that_is_no_code_and_no_count_is_nothing() -> None:
    counted = [
        (GPU | COUNT | {"xid": code}, value)
        for code, value in (("79", 0.5), ("79", math.nan), ("٧٩", 1.0), ("-79", 1.0))
    ]
    answers = EMPTY | {
        "xids": [(GAUGE, value) for value in (39.5, -79.0, math.nan, math.inf)],
        "counts": [*counted, (COUNT | {"node": "n1", "xid": "119"}, 2.0)],
        "counters": [
            (GPU | {"__name__": "C"}, 1.0),
            (GPU | {"__name__": "C"}, 3.0),
            (GPU | {"__name__": "D"}, math.nan),
        ],
    }
    sample = sample_of(answers, AT)
    assert sample.xids == {}
    assert sample.counts == {("n1", "", 119): 2.0}, "which GPU is not known, but the node is"
    assert sample.counters == {("n1", "GPU-1", "C"): 3.0}, "of several links the worst"


OLD, NEW = TARGET, {"job": "dcgm", "instance": "10.0.0.2:9400"}


def two_exporters(old: float, new: float) -> Sample:
    """Return a sample while one exporter of a node replaces the other; 0 is one that does not answer."""
    recent = [({"Hostname": "n1"} | target, 1.0) for target in (OLD, NEW)]
    up, scraped = [(OLD, old), (NEW, new)], [(OLD, 100.0), (NEW, 90.0)]
    return sample_of(EMPTY | {"recent": recent, "up": up, "scraped": scraped}, AT)


EXPORTERS: dict[str, tuple[Sample, dict[str, float], set[str]]] = {
    "both answer": (two_exporters(1, 1), {"n1": 100.0}, set()),
    "the old one is gone": (two_exporters(0, 1), {"n1": 90.0}, set()),
    "the new one has not come": (two_exporters(1, 0), {"n1": 100.0}, set()),
    "neither answers": (two_exporters(0, 0), {}, {"n1"}),
}


@pytest.mark.parametrize(("sample", "scraped", "down"), EXPORTERS.values(), ids=EXPORTERS)
def test_a_node_is_down_when_none_of_its_exporters_answers(
    sample: Sample, scraped: dict[str, float], down: set[str]
) -> None:
    assert (dict(sample.scraped), set(sample.down)) == (scraped, down)


def test_two_exporters_of_a_node_show_both_their_codes_whatever_their_order() -> None:
    shown: list[Labelled] = [(GAUGE | OLD, 31.0), (GAUGE | NEW, 0.0)]
    samples = [sample_of(EMPTY | {"xids": order}, AT) for order in (shown, shown[::-1])]
    assert samples[0] == samples[1]
    assert {key[:2] for key in samples[0].xids} == {("n1", "GPU-1")}
    assert sorted(samples[0].xids.values()) == [0, 31]


@pytest.mark.parametrize("uuid", ["", " ", "GPU 1", "GPU-1\n", "GPU-é", "G" * 101, "x" * 10**6])
def test_a_uuid_that_none_is_names_no_gpu(uuid: str) -> None:
    labels = GAUGE | {"UUID": uuid}
    sample = sample_of(EMPTY | {"gpus": [(labels, 1.0)], "xids": [(labels, 79.0)], "counters": [(labels, 1.0)]}, AT)
    assert (sample.gpus, sample.xids, sample.counters) == (frozenset(), {}, {})


LABELS = st.dictionaries(
    st.sampled_from(["__name__", "Hostname", "node", "UUID", "xid", "job", "instance"]),
    st.one_of(
        st.text(max_size=8), st.sampled_from(["DCGM_FI_DEV_XID_ERRORS", "DCGM_EXP_XID_ERRORS_COUNT", "n1", "79"])
    ),
)


@few
@given(st.lists(st.tuples(st.sampled_from(list(EMPTY)), LABELS, st.floats()), max_size=20))
def test_any_labels_and_numbers_make_a_sample(drawn: list[tuple[str, dict[str, str], float]]) -> None:
    answers = {name: [(labels, value) for kind, labels, value in drawn if kind == name] for name in EMPTY}
    sample = sample_of(answers, AT)
    signals, _ = edges(baseline(Sample(AT)), sample)
    told = {labels.get("Hostname") or labels.get("node") for _, labels, _ in drawn}
    assert {signal.node for signal in signals} <= told
    assert all(math.isfinite(value) for value in (*sample.counts.values(), *sample.counters.values()))


def answered(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]], timeout: float = 30.0
) -> Sample | errors.ClusterError:
    """Return what is made of a server that answers each query like this."""

    async def ask() -> Sample:
        app = web.Application()
        app.router.add_post("/api/v1/query", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            async with aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{runner.addresses[0][1]}"
                return await Prometheus(url, session, timeout=aiohttp.ClientTimeout(total=timeout)).sample()
        finally:
            await runner.cleanup()

    try:
        return asyncio.run(ask())
    except errors.ClusterError as error:
        return error


def says(body: object, *, status: int = 200, kind: str = "application/json") -> Callable[[web.Request], Any]:
    async def answer(_: web.Request) -> web.Response:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(text=text, status=status, content_type=kind)

    return answer


def holding(result: Sequence[object], **more: object) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": "vector", "result": list(result)}} | more


async def hangs(_: web.Request) -> web.Response:
    await asyncio.sleep(60)
    raise AssertionError


async def cut_off(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(b'{"status": "success", "data": {"resul')
    assert request.transport is not None
    request.transport.close()
    return answer


async def endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    for _ in range(2 * MAX_BYTES // 2**20):
        await answer.write(b" " * 2**20)
    return answer


UNKNOWN: dict[str, Callable[[web.Request], Any]] = {
    "an error of its own": says({"status": "error", "errorType": "timeout", "error": "query timed out"}, status=503),
    "the page of a proxy": says("<html>502 Bad Gateway</html>", status=502, kind="text/html"),
    "a page that says 200": says("<html>log in</html>", kind="text/html"),
    "a list": says([]),
    "brackets without end": says("[" * 10_000),
    "nothing where the data should be": says({"status": "success", "data": None}),
    "a result that is a word": says({"status": "success", "data": {"resultType": "vector", "result": "none"}}),
    "a series without a value": says(holding([{"metric": {}, "value": []}])),
    "a value that is no number": says(holding([{"metric": {}, "value": [0, "many"]}])),
    "labels that are no texts": says(holding([{"metric": {"Hostname": "n1", "UUID": 7}, "value": [0, "1"]}])),
    "an answer that breaks off": cut_off,
    "more than all GPUs could tell": endless,
}


@pytest.mark.parametrize("answer", UNKNOWN.values(), ids=UNKNOWN)
def test_nothing_is_known_from(answer: Callable[[web.Request], Any]) -> None:
    found = answered(answer)
    assert isinstance(found, errors.Retry)
    assert str(found).startswith("prometheus: ")
    assert len(str(found)) < 300


def test_nothing_is_known_from_an_answer_that_does_not_come_in_time() -> None:
    assert isinstance(answered(hangs, timeout=0.2), errors.Retry)


def test_an_answer_that_says_that_something_was_left_out_is_not_complete() -> None:
    result = [{"metric": GAUGE, "value": [0, "79"]}]
    whole, part = answered(says(holding(result))), answered(says(holding(result, warnings=["store is away"])))
    assert isinstance(whole, Sample)
    assert isinstance(part, Sample)
    assert (whole.complete, part.complete) == (True, False)
    assert whole.xids == part.xids == {("n1", "GPU-1", "dcgm 10.0.0.1:9400"): 79}


def test_what_counts_is_bounded_by_label_matchers() -> None:
    """No series of DCGM's names is asked for without them: a pod of a user may serve any."""
    match = 'namespace="gpu-operator"'
    asked = queries(match)
    selectors = [found for text in asked.values() for found in re.findall(r"(?:DCGM_\w+)?\{[^}]*\}", text)]
    assert len(selectors) == len(asked)
    assert [selector for selector in selectors if match not in selector] == []
    assert not any(match in text for text in queries().values())
