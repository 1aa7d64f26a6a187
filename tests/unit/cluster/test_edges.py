"""Only what changed between two samples is a signal."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from internlm2_operator.cluster.edges import Memory, Sample, baseline, edges
from internlm2_operator.health.signals import Kind

T0 = datetime(2026, 11, 25, tzinfo=UTC)
GPU = ("n1", "GPU-1")
QUIET = Sample(at=T0, scraped={"n1": 100.0}, gpus=frozenset({GPU}), xids={GPU: 0})
BLIND = Sample(at=T0, down=frozenset({"n1"}))
Fact = tuple[Kind, int | None]


def xid(code: int) -> Sample:
    return replace(QUIET, xids={GPU: code})


def count(amount: float, code: int = 31) -> Sample:
    return replace(QUIET, counts={(*GPU, code): amount})


def gone(scrape: float) -> Sample:
    return replace(QUIET, scraped={"n1": scrape}, gpus=frozenset(), xids={})


def run(samples: Sequence[Sample]) -> list[Fact]:
    """Feed samples 5 s apart; the first one is what was known before."""
    memory: Memory = baseline(samples[0])
    found: list[Fact] = []
    for i, sample in enumerate(samples[1:], 1):
        signals, memory = edges(memory, replace(sample, at=T0 + timedelta(seconds=5 * i)))
        found += [(s.kind, s.xid) for s in signals]
    return found


CASES: dict[str, tuple[list[Sample], list[Fact]]] = {
    "a new XID is one signal, however long the gauge sticks": ([QUIET, xid(79), xid(79), xid(79)], [(Kind.XID, 79)]),
    "a value in the first sample is history": ([xid(79), xid(79)], []),
    "a change to another XID is news": ([xid(31), xid(79)], [(Kind.XID, 79)]),
    "a gauge that returns to 0 says nothing": ([xid(31), QUIET], []),
    "the same XID again shows in the count": ([count(1), count(2), count(2)], [(Kind.XID, 31)]),
    "a count that leaves its window is no edge": ([count(2), count(1), QUIET], []),
    "gauge and count of one XID are one signal": (
        [QUIET, replace(xid(79), counts={(*GPU, 79): 1.0})],
        [(Kind.XID, 79)],
    ),
    "a gauge that is read one sample after its count is no second signal": (
        [QUIET, replace(QUIET, counts={(*GPU, 79): 1.0}), replace(xid(79), counts={(*GPU, 79): 1.0})],
        [(Kind.XID, 79)],
    ),
    "the first value after the exporter was away is a baseline": (
        [QUIET, BLIND, xid(79)],
        [(Kind.EXPORTER_DOWN, None)],
    ),
    "a fresh count after the exporter was away is news": (
        [QUIET, BLIND, replace(xid(79), counts={(*GPU, 79): 1.0})],
        [(Kind.EXPORTER_DOWN, None), (Kind.XID, 79)],
    ),
    "an old count after the exporter was away is not": (
        [count(1), BLIND, count(1)],
        [(Kind.EXPORTER_DOWN, None)],
    ),
    "a GPU missing in one scrape is not missing yet": ([QUIET, gone(102.0), gone(102.0), QUIET], []),
    "a GPU missing in two scrapes is, and is told once": (
        [QUIET, gone(102.0), gone(104.0), gone(106.0)],
        [(Kind.GPU_MISSING, None)],
    ),
    "a GPU that came back starts anew": ([QUIET, gone(102.0), QUIET, gone(106.0)], []),
    "silence of the exporter is blindness, not a lost GPU": ([QUIET, BLIND, BLIND], [(Kind.EXPORTER_DOWN, None)] * 2),
    "a node that Prometheus no longer knows is no fault": ([QUIET, Sample(at=T0), Sample(at=T0)], []),
}


@pytest.mark.parametrize(("samples", "want"), CASES.values(), ids=CASES)
def test_edges(samples: list[Sample], want: list[Fact]) -> None:
    assert run(samples) == want
