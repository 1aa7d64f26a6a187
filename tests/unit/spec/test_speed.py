"""The predicted step against published runs, and what each setting does to it."""

import dataclasses
from typing import Any

import pytest

from internlm2_spec import gpus, speed
from internlm2_spec.cluster import Cluster
from internlm2_spec.config import Checkpoint, Data, Model, Parallel, Stage, Zero
from internlm2_spec.presets import PRESETS

INTERNLM_7B = Model(layers=32, hidden=4096, heads=32, kv_heads=32, ffn=11008, vocab=103168)
LLAMA_8B = Model(layers=32, hidden=4096, heads=32, kv_heads=8, ffn=14336, vocab=128256)


def stage(model: Model, sequence: int, batch: int, *, zero: int = 1, shard: int = 1, **parallel: Any) -> Stage:
    return Stage(
        name="test",
        model=model,
        data=Data("file:///nowhere"),
        checkpoint=Checkpoint("file:///nowhere"),
        sequence_length=sequence,
        global_batch_tokens=batch,
        steps=1,
        parallel=Parallel(zero=Zero(zero, shard), **parallel),  # type: ignore[arg-type]
    )


def cluster(name: str, ranks: int, network_gbit: float | None = None) -> Cluster:
    gpu = gpus.by_name(name)
    assert gpu
    return Cluster.of(gpu, ranks // 8, 8, network_gbit)


def per_gpu(stage: Stage, place: Cluster) -> float:
    """Return predicted tokens per second and GPU."""
    return speed.utilisation(stage, place, speed.predict(stage, place)).tokens_per_second / place.world


# InternEvo, doc/en/train_performance.md: InternLM-7B, 2,048 tokens, recompute off, A100 with 4 x 100 Gbit/s.
# Its runs with ZeRO over all ranks are left out: it broadcasts every rank's parameters, FSDP gathers layers.
INTERNEVO = {
    (1, 8): {8: 4078, 16: 3939, 32: 3919, 64: 3944, 128: 3928, 256: 3920, 512: 3835, 1024: 3625},
    (2, 4): {8: 3761, 16: 3658, 32: 3655, 64: 3650, 128: 3651, 256: 3653, 512: 3589, 1024: 3486},
}


@pytest.mark.parametrize(
    ("tensor", "shard", "ranks", "measured"),
    [(*layout, ranks, speed) for layout, row in INTERNEVO.items() for ranks, speed in row.items()],
)
def test_predictions_are_within_a_fifth_of_internevo_s_runs(tensor: int, shard: int, ranks: int, measured: int) -> None:
    run = stage(INTERNLM_7B, 2048, 4 * 2 * 2048 * ranks, tensor=tensor, shard=shard, micro_batch=2 * tensor)
    assert per_gpu(run, cluster("A100-80GB", ranks, network_gbit=400)) == pytest.approx(measured, rel=0.2)


# torchtitan, docs/performance.md: Llama 3.1 8B, 8,192 tokens, FSDP and compile, H100 at 500 W.
@pytest.mark.parametrize(("ranks", "measured"), [(8, 6667), (128, 6514)])
def test_predictions_are_within_a_fifth_of_torchtitan_s_runs(ranks: int, measured: int) -> None:
    run = stage(LLAMA_8B, 8192, 8192 * ranks, zero=3, shard=ranks)
    assert per_gpu(run, cluster("H100-80GB", ranks)) == pytest.approx(measured, rel=0.2)


SEVEN = stage(PRESETS["internlm2-7b"], 4096, 4 * 2**20, shard=8)
SIXTEEN = cluster("A100-80GB", 16)


def predicted(**parallel: Any) -> speed.Step:
    return speed.predict(dataclasses.replace(SEVEN, parallel=dataclasses.replace(SEVEN.parallel, **parallel)), SIXTEEN)


def test_full_recomputation_costs_a_forward_pass() -> None:
    assert predicted(recompute="Full").recompute == pytest.approx(predicted().compute / 3)
    assert predicted(recompute="Full", recompute_fraction=0.5).recompute == pytest.approx(predicted().compute / 6)
    assert 0 < predicted(recompute="Selective").recompute < 0.03 * predicted().compute


def test_tensor_messages_across_nodes_cost_more_than_within() -> None:
    within = predicted(tensor=8, zero=Zero(1, 1))
    across = speed.predict(
        dataclasses.replace(SEVEN, parallel=Parallel(tensor=8, zero=Zero(1, 1))),
        Cluster.of(SIXTEEN.gpu, 4, 4),
    )
    assert across.tensor > 2 * within.tensor > 0


def test_schedules_are_ordered_by_their_bubbles() -> None:
    bubbles = [
        predicted(pipeline=2, zero=Zero(1, 8), schedule=schedule).pipeline
        for schedule in ("GPipe", "1F1B", "Interleaved1F1B", "InterleavedZeroBubble", "ZBVZeroBubble")
    ]
    assert bubbles[0] == bubbles[1]
    assert sorted(bubbles[1:], reverse=True) == bubbles[1:]
    assert len(set(bubbles)) == 4
    assert predicted().pipeline == 0


def test_a_ring_hides_what_an_exchange_waits_for() -> None:
    """At 256K tokens a step of the ring computes for longer than its keys take, on a network of a tenth no longer."""
    long = stage(PRESETS["internlm2-7b"], 256 * 1024, 4 * 256 * 1024, context=8)
    nodes = Cluster.of(SIXTEEN.gpu, 2, 4)
    ring = speed.predict(long, nodes).context
    exchange = speed.predict(
        dataclasses.replace(long, parallel=dataclasses.replace(long.parallel, ulysses=8)), nodes
    ).context
    assert 0 == ring < exchange
    assert speed.predict(long, Cluster.of(SIXTEEN.gpu, 2, 4, network_gbit=1)).context > exchange


def test_zero_stages_pay_for_their_messages() -> None:
    """On a network of a tenth, what no compute hides shows: 2 reduces in each micro-step, 3 gathers too."""
    slow = Cluster.of(SIXTEEN.gpu, 2, 8, network_gbit=20)
    waits = []
    for zero in (1, 2, 3):
        step = speed.predict(dataclasses.replace(SEVEN, parallel=Parallel(zero=Zero(zero, 16))), slow)
        waits.append(step.weights + step.gradients)
    assert 0 < waits[0] < waits[1] < waits[2]


def test_both_conventions_of_mfu_differ_by_their_attention() -> None:
    use = speed.utilisation(SEVEN, SIXTEEN, predicted())
    assert 0 < use.causal < use.full < 1
