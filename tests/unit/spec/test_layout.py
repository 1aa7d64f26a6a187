"""Illegal layouts are refused with field, value and cure; legal ones are not."""

import dataclasses
from typing import Any

import pytest

from internlm2_spec import layout
from internlm2_spec.config import Checkpoint, Data, Parallel, Refused, Schedule, Stage, Zero
from internlm2_spec.presets import PRESETS

# 24 layers, 16 heads, 8 KV heads; 64 samples of 4,096 tokens
VALID = Stage(
    name="a",
    model=PRESETS["internlm2-1.8b"],
    data=Data("file:///data"),
    checkpoint=Checkpoint("file:///run"),
    sequence_length=4096,
    global_batch_tokens=64 * 4096,
    steps=10,
)


def changed(*, zero: Zero | None = None, **settings: Any) -> Stage:
    """Return the valid stage with fields of its own, of its model or of its layout replaced."""
    own = {name: value for name, value in settings.items() if name in {f.name for f in dataclasses.fields(Stage)}}
    sizes = {name: settings[name] for name in settings if name in {f.name for f in dataclasses.fields(VALID.model)}}
    parallel = {name: value for name, value in settings.items() if name not in own | sizes}
    model = dataclasses.replace(VALID.model, **sizes)
    return dataclasses.replace(VALID, model=model, parallel=Parallel(zero=zero or Zero(), **parallel), **own)


# name -> (stage, ranks, what the message must hold: the field, the value, the cure)
REFUSED: dict[str, tuple[Stage, int, tuple[str, str, str]]] = {
    "no layers": (changed(layers=0), 1, ("model.layers: ", "0 is", "use 1 or more")),
    "no sequence": (changed(sequence_length=0), 1, ("sequenceLength: ", "0 is", "use 1 or more")),
    "no batch": (changed(global_batch_tokens=0), 1, ("globalBatchTokens: ", "0 is", "use 1 or more")),
    "no micro-batch": (changed(micro_batch=0), 1, ("parallel.microBatch: ", "0 is", "use 1 or more")),
    "no tensor": (changed(tensor=0), 1, ("parallel.tensor: ", "0 is", "use 1 or more")),
    "no pipeline": (changed(pipeline=0), 1, ("parallel.pipeline: ", "0 is", "use 1 or more")),
    "no context": (changed(context=-1), 1, ("parallel.context: ", "-1 is", "use 1 or more")),
    "no shard": (changed(zero=Zero(shard=0)), 1, ("parallel.zero.shard: ", "0 is", "use 1 or more")),
    "an odd head size": (changed(hidden=16 * 5), 1, ("model.heads: ", "hidden 80 / heads 16 is 5", "make it even")),
    "KV heads that do not divide": (
        changed(kv_heads=5), 1, ("model.kvHeads: ", "5 does not divide heads 16", "whole group")
    ),
    "tensor that KV heads do not divide into": (
        changed(tensor=3, ffn=8190), 3, ("parallel.tensor: ", "3 does not divide kvHeads 8", "use 1, 2, 4, 8")
    ),
    "a width that tensor does not divide": (
        changed(tensor=8, ffn=8190), 8, ("model.ffn: ", "8190 is not divisible by tensor 8", "multiple of 8")
    ),
    "a vocabulary that tensor does not divide": (
        changed(tensor=8, vocab=92545), 8, ("model.vocab: ", "92545 is not divisible", "multiple of 8")
    ),
    "a sequence that tensor does not divide": (
        changed(tensor=8, sequence_length=4092), 8, ("sequenceLength: ", "4092 is not divisible", "multiple of 8")
    ),
    "ranks that do not divide": (
        changed(tensor=4, pipeline=2), 12, ("parallel: ", "12 ranks are not divisible by tensor 4", "multiple of 8")
    ),
    "too few ranks": (
        changed(tensor=4, zero=Zero(shard=4)), 8, ("parallel: ", "8 ranks are not", "multiple of 16 ranks")
    ),
    "a batch that does not divide": (
        changed(micro_batch=3), 1, ("globalBatchTokens: ", "262144 is not divisible", "multiple of 12288")
    ),
    "a negative fraction": (
        changed(recompute_fraction=-0.5), 1, ("parallel.recomputeFraction: ", "-0.5 is no fraction", "use 0 to 1")
    ),
    "more than all layers": (
        changed(recompute_fraction=1.5), 1, ("parallel.recomputeFraction: ", "1.5 is no fraction", "use 0 to 1")
    ),
    "selective recompute of what is compiled": (
        changed(recompute="Selective", compile=True), 1,
        ("parallel.recompute: ", "Selective is what compile does", "use None or Full"),
    ),
    "more stages than layers": (
        changed(pipeline=32, global_batch_tokens=2**22), 32,
        ("parallel.pipeline: ", "32 with 1F1B makes 32 stages", "use pipeline 24 or less"),
    ),
    "more stages than layers by two a rank": (
        changed(pipeline=16, schedule="ZBVZeroBubble"), 16,
        ("parallel.pipeline: ", "makes 32 stages", "use pipeline 12 or less"),
    ),
    "ZeRO 2 under a pipeline": (
        changed(pipeline=2, zero=Zero(2, 2)), 4, ("parallel.zero.stage: ", "2 reduces gradients", "use 1 or 3")
    ),
    "ZeRO 3 under a V": (
        changed(pipeline=2, zero=Zero(3, 2), schedule="ZBVZeroBubble"), 4,
        ("parallel.zero.stage: ", "3 drops weights that ZBVZeroBubble", "use 1, or schedule 1F1B"),
    ),
    "ZeRO 3 under an interleaved zero bubble": (
        changed(pipeline=2, zero=Zero(3, 2), schedule="InterleavedZeroBubble"), 4,
        ("parallel.zero.stage: ", "3 drops weights that InterleavedZeroBubble", "use 1, or schedule 1F1B"),
    ),
    "compile under a V": (
        changed(pipeline=2, schedule="ZBVZeroBubble", compile=True), 2,
        ("parallel.compile: ", "backward ZBVZeroBubble cannot split", "use false, or schedule 1F1B"),
    ),
    "fewer micro-batches than pipeline ranks": (
        changed(pipeline=4, micro_batch=32), 4,
        ("parallel.pipeline: ", "2 micro-batches a step", "pipeline 2 or less"),
    ),
    "rounds of different lengths": (
        changed(pipeline=4, schedule="Interleaved1F1B", global_batch_tokens=4096 * 9), 4,
        ("parallel.schedule: ", "pipeline 4 with 9 micro-batches", "multiple of 4 micro-batches, or 1F1B"),
    ),
}  # fmt: skip

PIPELINES: tuple[Schedule, ...] = ("GPipe", "1F1B", "Interleaved1F1B", "InterleavedZeroBubble", "ZBVZeroBubble")

LEGAL = {
    "one rank": (changed(), 1),
    "ZeRO 3 with 1F1B": (changed(pipeline=2, zero=Zero(3, 2)), 4),
    "compile with an interleaved pipeline": (changed(pipeline=2, schedule="Interleaved1F1B", compile=True), 2),
    "what a pipeline of one would not do": (changed(zero=Zero(3), schedule="ZBVZeroBubble", compile=True), 1),
    "rounds of one length, not of the pipeline's": (
        changed(pipeline=4, schedule="Interleaved1F1B", global_batch_tokens=4096 * 10), 4
    ),
    "all at once": (changed(tensor=2, pipeline=2, zero=Zero(1, 2), recompute="Full", recompute_fraction=0.5), 16),
    **{f"{schedule} of two": (changed(pipeline=2, schedule=schedule), 2) for schedule in PIPELINES},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_field_value_and_cure(name: str) -> None:
    stage, world, (path, wrong, right) = REFUSED[name]
    with pytest.raises(Refused) as refused:
        layout.check(stage, world)
    said = str(refused.value)
    assert said.startswith(path)
    assert wrong in said.split("; ")[0]
    assert right in said.split("; ", 1)[1]


@pytest.mark.parametrize("name", LEGAL)
def test_accepted(name: str) -> None:
    layout.check(*LEGAL[name])


def test_a_size_that_leaves_a_pipeline_idle_is_not_legal() -> None:
    stage = changed(pipeline=4, micro_batch=2)  # 32 micro-batches on one data rank
    assert layout.legal_sizes((stage,), range(1, 17), gpus_per_node=4) == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("layers", "fraction", "chosen"),
    [(4, 0.0, []), (4, 1.0, [0, 1, 2, 3]), (4, 0.5, [1, 3]), (6, 0.34, [2, 5]), (3, 0.5, [1, 2]), (8, 0.1, [7])],
)
def test_recomputed_layers_are_evenly_spread(layers: int, fraction: float, chosen: list[int]) -> None:
    assert sorted(layout.recomputed(layers, fraction)) == chosen
