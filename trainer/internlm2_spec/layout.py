"""Which layouts are legal: how ranks factor into mesh degrees, and what a batch divides into."""

from dataclasses import dataclass

from internlm2_spec.config import Model, Parallel, Refused, Stage
from internlm2_spec.context import check_context


@dataclass(frozen=True, slots=True)
class Degrees:
    """Mesh degrees of one run; data = replicate * shard, and `ulysses` is a part of `context`."""

    pipeline: int
    replicate: int
    shard: int
    context: int
    tensor: int
    ulysses: int = 1

    @property
    def data(self) -> int:
        return self.replicate * self.shard

    @property
    def world(self) -> int:
        return self.pipeline * self.data * self.context * self.tensor


def degrees(parallel: Parallel, world: int) -> Degrees:
    """Factor `world` ranks into the mesh.

    Raises:
        Refused: the ranks do not divide.
    """
    fixed = parallel.tensor * parallel.pipeline * parallel.context * parallel.zero.shard
    if world < fixed or world % fixed:
        raise Refused(
            "parallel",
            wrong=f"{world} ranks are not divisible by tensor {parallel.tensor} x pipeline {parallel.pipeline}"
            f" x context {parallel.context} x zero.shard {parallel.zero.shard} = {fixed}",
            right=f"use a multiple of {fixed} ranks or smaller degrees",
        )
    return Degrees(
        pipeline=parallel.pipeline,
        replicate=world // fixed,
        shard=parallel.zero.shard,
        context=parallel.context,
        tensor=parallel.tensor,
        ulysses=parallel.ulysses,
    )


def accumulation(stage: Stage, world: int) -> int:
    """Return the micro-steps of one optimizer step, so that the global batch is the same at any size.

    Raises:
        Refused: the global batch does not divide at this size.
    """
    mesh = degrees(stage.parallel, world)
    one = stage.sequence_length * stage.parallel.micro_batch * mesh.data
    if stage.global_batch_tokens % one:
        raise Refused(
            "globalBatchTokens",
            wrong=f"{stage.global_batch_tokens} is not divisible by sequenceLength {stage.sequence_length}"
            f" x microBatch {stage.parallel.micro_batch} x data {mesh.data} = {one} at {world} ranks",
            right=f"use a multiple of {one}",
        )
    return stage.global_batch_tokens // one


def check_model(model: Model, parallel: Parallel, sequence_length: int) -> None:
    """Refuse a layout that the model's own sizes rule out.

    Raises:
        Refused: heads, matrices or the sequence do not divide.
    """
    head = model.hidden / model.heads
    tensor = parallel.tensor
    rules = (
        ("model.heads", head % 2 == 0, f"hidden {model.hidden} / heads {model.heads} is {head:g}", "make it even"),
        ("model.kvHeads", model.heads % model.kv_heads == 0, f"{model.kv_heads} does not divide heads {model.heads}",
         "each KV head serves a whole group of query heads"),
        ("model.ffn", model.ffn % tensor == 0, f"{model.ffn} is not divisible by tensor {tensor}",
         f"use a multiple of {tensor}"),
        ("model.vocab", model.vocab % tensor == 0, f"{model.vocab} is not divisible by tensor {tensor}",
         f"use a multiple of {tensor}"),
        ("parallel.pipeline", parallel.pipeline <= model.layers,
         f"{parallel.pipeline} stages for {model.layers} layers", f"use at most {model.layers}"),
    )  # fmt: skip
    for path, holds, wrong, right in rules:
        if not holds:
            raise Refused(path, wrong=wrong, right=right)
    check_context(model, parallel, sequence_length)


def legal_sizes(stages: tuple[Stage, ...], nodes: range, gpus_per_node: int) -> list[int]:
    """Return the node counts at which every stage has a legal layout, ascending."""
    return [n for n in nodes if all(_fits(stage, n * gpus_per_node) for stage in stages)]


def _fits(stage: Stage, world: int) -> bool:
    try:
        accumulation(stage, world)
    except Refused:
        return False
    return True
