"""Only what changed between two samples is a signal."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from internlm2_operator.health.edges import COUNTERS, HEALTH, LOST_KEPT, Memory, Sample, baseline, edges
from internlm2_operator.health.signals import Kind

T0 = datetime(2026, 11, 25, tzinfo=UTC)
GPU = ("n1", "GPU-1")
# Each node shows another one, so that its exporter sees some.
BESIDE = frozenset({("n1", "GPU-10"), ("n2", "GPU-20")})
QUIET = Sample(at=T0, scraped={"n1": 100.0}, gpus=frozenset({GPU, *BESIDE}), xids={(*GPU, "a"): 0})
BLIND = Sample(at=T0, down=frozenset({"n1"}))
Fact = tuple[Kind, int | None]


def xid(code: int, other: int | None = None) -> Sample:
    """Return a sample in which the node's exporter shows a code, and another one, where there is one, another."""
    shown = {(*GPU, "a"): code} | ({(*GPU, "b"): other} if other is not None else {})
    return replace(QUIET, xids=shown)


def count(amount: float, code: int = 31) -> Sample:
    return replace(QUIET, counts={(*GPU, code): amount})


def gone(scrape: float) -> Sample:
    return replace(QUIET, scraped={"n1": scrape}, gpus=BESIDE, xids={})


def moved(scrape: float) -> Sample:
    return replace(gone(scrape), scraped={"n1": scrape, "n2": scrape}, gpus=frozenset({("n2", GPU[1]), *BESIDE}))


def lost(scrape: float) -> Sample:
    return replace(moved(scrape), gpus=BESIDE)


def shows(scrape: float, *uuids: int) -> Sample:
    """Return a scrape of node n1 with these GPUs, the first of which is GPU-1."""
    return replace(gone(scrape), gpus=frozenset(("n1", f"GPU-{uuid}") for uuid in uuids))


def partial(sample: Sample) -> Sample:
    return replace(sample, complete=False)


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
    "an exporter that shows no GPU at all sees none": (
        [shows(100.0, 1, 2), *(shows(100.0 + n) for n in range(2, 8)), shows(110.0, 1, 2), shows(112.0, 1, 2)],
        [],
    ),
    "one that sees some of them again is believed": (
        [shows(100.0, 1, 2), shows(102.0), shows(104.0), shows(106.0, 1), shows(108.0, 1)],
        [(Kind.GPU_MISSING, None)],
    ),
    "a GPU that came back starts anew": ([QUIET, gone(102.0), QUIET, gone(106.0)], []),
    "silence of the exporter is blindness, not a lost GPU": ([QUIET, BLIND, BLIND], [(Kind.EXPORTER_DOWN, None)] * 2),
    "a node that Prometheus no longer knows is no fault": ([QUIET, Sample(at=T0), Sample(at=T0)], []),
    "a GPU that is seen on another node was carried there": ([QUIET, moved(102.0), moved(104.0), moved(106.0)], []),
    "a GPU that is gone from both nodes is told of the last": (
        [QUIET, moved(102.0), lost(104.0), lost(106.0)],
        [(Kind.GPU_MISSING, None)],
    ),
    "what a second exporter shows at first is its baseline": ([xid(0), xid(0, 79), xid(0, 79)], []),
    "an exporter that leaves makes no other's code news": ([xid(0, 31), xid(0), xid(0)], []),
    "two exporters that tell one XID are one signal": ([xid(0, 0), xid(79, 0), xid(79, 79)], [(Kind.XID, 79)]),
    "a second exporter tells what the first one does not": ([xid(0, 0), xid(0, 79), xid(0, 79)], [(Kind.XID, 79)]),
    "a GPU in whose place another came was exchanged": (
        [shows(100.0, 1, 2), shows(102.0, 1, 3), shows(104.0, 1, 3), shows(106.0, 1, 3)],
        [],
    ),
    "of one that comes a scrape later the same is true": (
        [shows(100.0, 1, 2), shows(102.0, 1), shows(104.0, 1, 3), shows(106.0, 1, 3)],
        [],
    ),
    "of two that are gone and one that came, both are told": (
        [shows(100.0, 1, 2, 3), shows(102.0, 1, 4), shows(104.0, 1, 4), shows(106.0, 1, 4)],
        [(Kind.GPU_MISSING, None)] * 2,
    ),
    "a node with none of its GPUs and others is another machine, however few they are": (
        [shows(100.0, 1, 2, 3), shows(102.0, 4), shows(104.0, 4), shows(106.0, 4)],
        [],
    ),
    "a GPU that is told as missing and came back stands for no other": (
        [shows(100.0, 1, 2, 3), shows(102.0, 1, 2), shows(104.0, 1, 2), shows(106.0, 1, 3), shows(108.0, 1, 3)],
        [(Kind.GPU_MISSING, None)] * 2,
    ),
    "nor does one that came back in a partial answer": (
        [
            shows(100.0, 1, 2, 3),
            shows(102.0, 1, 2),
            shows(104.0, 1, 2),
            partial(shows(106.0, 1, 3)),
            shows(108.0, 1, 3),
            shows(110.0, 1, 3),
        ],
        [(Kind.GPU_MISSING, None)] * 2,
    ),
    "after a partial answer at the start nothing is known to be new": (
        [partial(shows(100.0, 1, 2)), shows(102.0, 1, 3, 4), shows(104.0, 1, 3, 4)],
        [(Kind.GPU_MISSING, None)],
    ),
    "after the first whole answer it is known again": (
        [partial(shows(100.0, 1, 2)), shows(102.0, 1, 2), shows(104.0, 1, 3), shows(106.0, 1, 3)],
        [],
    ),
    "what a partial answer shows first may stand for what it does not show": (
        [shows(100.0, 1, 2), partial(shows(102.0, 3)), shows(104.0, 1, 3), shows(106.0, 1, 3)],
        [],
    ),
    "in a partial answer nothing is missing": ([QUIET, *(partial(gone(100.0 + n)) for n in range(5))], []),
    "a partial answer tells what it holds": ([QUIET, partial(xid(79)), xid(79)], [(Kind.XID, 79)]),
    "a count that a partial answer lacks does not rise when it is back": ([count(1), partial(QUIET), count(1)], []),
}


@pytest.mark.parametrize(("samples", "want"), CASES.values(), ids=CASES)
def test_edges(samples: list[Sample], want: list[Fact]) -> None:
    assert run(samples) == want


def counted(at: float, **values: float) -> Sample:
    """Return a scrape of one GPU with counters by the end of their names."""
    names = {key: next(name for name in (*COUNTERS, HEALTH) if key in name) for key in values}
    found = {("n1", "GPU-0", names[key]): value for key, value in values.items()}
    return Sample(T0 + timedelta(seconds=at), scraped={"n1": at}, gpus=frozenset({("n1", "GPU-0")}), counters=found)


COUNTED = {
    "a double bit error": ({"DBE_VOL": 0}, {"DBE_VOL": 1}, ["DoubleBitError"]),
    "a row that cannot be remapped": ({"REMAP_FAILURE": 0}, {"REMAP_FAILURE": 1}, ["RowRemapFailure"]),
    "a counter that stands": ({"DBE_VOL": 3}, {"DBE_VOL": 3}, []),
    "a counter that fell with its driver": ({"DBE_VOL": 3}, {"DBE_VOL": 0}, []),
    "a counter that was not there before": ({}, {"DBE_VOL": 7}, []),
    "replays above NVIDIA's limit": ({"PCIE": 0}, {"PCIE": 9}, ["PcieReplays"]),
    "replays below it": ({"PCIE": 0}, {"PCIE": 8}, []),
    "a health watch that fails": ({"HEALTH": 10}, {"HEALTH": 20}, ["GpuHealthFailed"]),
    "a health watch that only warns": ({"HEALTH": 0}, {"HEALTH": 10}, []),
}


@pytest.mark.parametrize(("before", "after", "expected"), COUNTED.values(), ids=COUNTED.keys())
def test_counters(before: dict[str, float], after: dict[str, float], expected: list[str]) -> None:
    signals, memory = edges(baseline(counted(0, **before)), counted(60, **after))
    assert [s.cause for s in signals] == expected
    again, _ = edges(memory, counted(60, **after))
    assert again == (), "the same scrape is no second rise"


def test_what_a_cluster_had_a_day_ago_is_forgotten() -> None:
    """Nodes and GPUs come and go: only those of a day are remembered, and a node of an hour ago is."""
    memory = baseline(replace(QUIET, counters={(*GPU, "C"): 1.0}, counts={(*GPU, 31): 1.0}))
    for hour in range(1, 200):
        node = f"n{hour + 1}"
        new = Sample(
            T0 + timedelta(hours=hour), scraped={node: 1.0}, gpus=frozenset({(node, f"GPU-{hour}")}),
            counts={(node, f"GPU-{hour}", 31): 1.0}, counters={(node, f"GPU-{hour}", "C"): 1.0},
        )  # fmt: skip
        _, memory = edges(memory, new)
    assert ("n199", "GPU-198") in memory.known
    assert max(map(len, (memory.known, memory.lost, memory.counts, memory.counters, memory.heard))) <= 25


def test_uuids_that_come_and_go_do_not_fill_the_memory() -> None:
    memory = baseline(QUIET)
    for scrape in range(300):
        ten = frozenset(("n1", f"GPU-{scrape}-{n}") for n in range(10 * (scrape % 3 == 0)))
        new = Sample(T0 + timedelta(seconds=scrape), scraped={"n1": float(scrape)}, gpus=frozenset({GPU}) | ten)
        _, memory = edges(memory, new)
    last = max(int(uuid.split("-")[1]) for _, uuid in memory.lost)
    assert len(memory.lost) == LOST_KEPT
    assert {uuid for _, uuid in memory.lost} >= {f"GPU-{last}-{n}" for n in range(10)}, "the newest are kept"
    assert len(memory.known) <= 11


def test_uuids_that_change_with_every_scrape_do_not_fill_the_memory() -> None:
    memory = baseline(QUIET)
    for scrape in range(300):
        gpu = ("n1", f"GPU-{scrape}")
        new = Sample(
            T0 + timedelta(seconds=scrape), scraped={"n1": float(scrape)}, gpus=frozenset({gpu}),
            counters={(*gpu, "C"): 1.0},
        )  # fmt: skip
        _, memory = edges(memory, new)
    assert max(len(memory.known), len(memory.lost), len(memory.missing), len(memory.counters)) <= 4
