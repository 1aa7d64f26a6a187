"""The layouts that a search finds, and the reasons it gives."""

import dataclasses

import pytest

from internlm2_spec import gpus, layout, memory, search
from internlm2_spec.cluster import Cluster
from internlm2_spec.config import Parallel, Stage, Zero
from internlm2_spec.presets import PRESETS
from tests.unit.spec.test_speed import cluster, stage

SEVEN = stage(PRESETS["internlm2-7b"], 4096, 4 * 2**20)
SMALL_BATCH = stage(PRESETS["internlm2-7b"], 4096, 16 * 4096)
TWENTY = stage(PRESETS["internlm2-20b"], 4096, 2**20)
EIGHT = cluster("A100-80GB", 8)


@pytest.fixture(scope="module")
def found() -> list[search.Candidate]:
    return search.search(TWENTY, cluster("A100-80GB", 16))


def test_all_that_is_found_is_legal_and_fits(found: list[search.Candidate]) -> None:
    assert len(found) > 10
    for one in found:
        layout.check(one.stage, 16)
        assert one.memory.total <= one.room < one.cluster.gpu.memory


def test_the_first_is_as_fast_as_any(found: list[search.Candidate]) -> None:
    fastest = min(one.step.seconds for one in found)
    assert found[0].step.seconds <= (1 + search.TOLERANCE) * fastest
    assert found[-1].step.seconds > 1.1 * fastest


def test_a_7b_model_on_one_node_needs_no_tensor_or_pipeline_parallelism() -> None:
    best = search.search(SEVEN, EIGHT)[0].stage.parallel
    assert (best.tensor, best.pipeline, best.context) == (1, 1, 1)
    assert best.zero.shard > 1


def test_a_long_sequence_is_split() -> None:
    long = stage(PRESETS["internlm2-7b"], 256 * 1024, 4 * 256 * 1024)
    best = search.search(long, cluster("A100-80GB", 64))[0].stage.parallel
    assert best.context * best.tensor >= 8


def test_nothing_fits_on_too_few_gpus() -> None:
    four = Cluster.of(EIGHT.gpu, 1, 4)
    assert search.search(TWENTY, four) == []
    smallest = search.smallest(TWENTY, four)
    assert smallest
    assert not smallest.fits
    assert search.reason(smallest).startswith("does not fit: ")


def with_parallel(of: Stage, **parallel: object) -> Stage:
    return dataclasses.replace(of, parallel=dataclasses.replace(of.parallel, **parallel))  # type: ignore[arg-type]


REASONS = {
    "tensor across nodes": (Cluster.of(EIGHT.gpu, 2, 4), {"tensor": 8}, "tensor 8 messages across 2 nodes"),
    "a bubble": (EIGHT, {"tensor": 2, "pipeline": 4}, "bubble of pipeline 4 at 16 micro-batches 1"),
    "recomputation": (EIGHT, {"zero": Zero(3, 8), "recompute": "Full"}, "recomputing 25%"),
    "memory": (EIGHT, {"zero": Zero(1, 1)}, "does not fit: "),
    "slow gradients": (
        Cluster.of(EIGHT.gpu, 4, 2, network_gbit=10), {"zero": Zero(3, 8)}, "reducing gradients across 4 nodes",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("place", "parallel", "text"), REASONS.values(), ids=REASONS)
def test_the_reason_names_what_dominates(place: Cluster, parallel: dict[str, object], text: str) -> None:
    assert search.reason(search.evaluate(with_parallel(SMALL_BATCH, **parallel), place)).startswith(text)


def test_relief_is_legal_lowers_memory_and_the_greatest_is_first() -> None:
    heavy = with_parallel(SEVEN, micro_batch=8, zero=Zero(1, 4))
    now = memory.of_stage(heavy, 8, memory.CUDA).total
    changes = search.relief(heavy, 8, memory.CUDA)
    assert {"recompute Full", "microBatch 4", "zero.stage 3", "zero.shard 8"} <= {text for text, _ in changes}
    assert [size for _, size in changes] == sorted(size for _, size in changes)
    assert all(size < now for _, size in changes)


def test_relief_does_not_ask_for_other_ranks() -> None:
    tight = stage(PRESETS["internlm2-7b"], 4096, 4096)
    changes = {text.split()[0] for text, _ in search.relief(tight, 1, memory.CUDA)}
    assert "recompute" in changes
    assert not changes & {"tensor", "pipeline", "context", "zero.shard", "microBatch"}


def test_gpus_leave_room_for_the_driver() -> None:
    assert all(0.8 * gpu.memory < search.room(gpu) < gpu.memory for gpu in gpus.GPUS)


def test_a_search_looks_at_degrees_only() -> None:
    kept = with_parallel(SEVEN, compile=True)
    assert all(one.stage.parallel.compile for one in search.search(kept, EIGHT))
    assert dataclasses.replace(search.search(kept, EIGHT)[0].stage, parallel=Parallel()) == SEVEN
