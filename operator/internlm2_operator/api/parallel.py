"""spec.stages[].parallel: how the ranks of a stage divide the work."""

from typing import ClassVar, Final, Literal

from pydantic import Field

from internlm2_operator.api.base import ApiModel, Rule
from internlm2_spec import config
from internlm2_spec.pipeline import ZERO_BUBBLE

_WHOLE_BACKWARD: Final = f"!(self.schedule in {sorted(ZERO_BUBBLE)})"


class ZeroSpec(ApiModel):
    """zero says what is sharded over the data ranks."""

    stage: Literal[1, 2, 3] = Field(
        default=1, description="stage is what is sharded: 1 optimizer state, 2 also gradients, 3 also parameters."
    )
    shard: int = Field(
        default=1, ge=1, le=4096, description="shard is the number of data ranks that share one copy of the state."
    )


class ParallelSpec(ApiModel):
    """parallel gives the degrees of the mesh; the data degree is what remains of the ranks."""

    tensor: int = Field(
        default=1,
        ge=1,
        le=64,
        description="tensor is the degree of tensor and sequence parallelism. It divides the model's kvHeads, or is a"
        " multiple of them that divides its heads: then ranks share a KV head.",
    )
    pipeline: int = Field(
        default=1,
        ge=1,
        le=64,
        description="pipeline is the degree of pipeline parallelism. Layers are shared out so that the slowest stage"
        " is as fast as can be, embedding and head counted.",
    )
    schedule: config.Schedule = Field(
        default="1F1B",
        description="schedule is the order of a pipeline's micro-batches, by the name that torch gives it. GPipe and"
        " 1F1B make one stage of each rank, the others two. Zero-bubble schedules need zero.stage 1 and no compile.",
    )
    context: int = Field(
        default=1,
        ge=1,
        le=64,
        description="context is the degree of context parallelism: the number of ranks that share each sequence.",
    )
    ulysses: int = Field(
        default=1,
        ge=1,
        le=64,
        description="ulysses is how many of the context ranks exchange heads (neighbours, so best inside a node);"
        " groups of them form a ring. It divides context and the KV heads of a tensor rank.",
    )
    zero: ZeroSpec = Field(default=ZeroSpec(), description="zero says what is sharded over the data ranks.")
    micro_batch: int = Field(
        default=1, ge=1, le=1024, description="microBatch is the number of sequences in one forward pass of a rank."
    )
    recompute: config.Recompute = Field(
        default="None",
        description="recompute says which activations are computed again in the backward pass: Selective the ones"
        " between w1, w3 and w2, a third of the bytes for almost nothing; Full all of them but a layer's input.",
    )
    recompute_fraction: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="recomputeFraction is the part of the layers that recompute holds for, evenly spread.",
    )
    compile: bool = Field(default=False, description="compile compiles each layer: minutes at the start, then faster.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.context % self.ulysses == 0",
            "parallel.ulysses {self.ulysses} does not divide parallel.context {self.context};"
            " use 1 or another divisor of {self.context}",
            at=".ulysses",
        ),
        Rule(
            "self.pipeline == 1 || self.zero.stage != 2",
            "parallel.zero.stage 2 reduces gradients after each micro-batch, and pipeline schedules"
            " (pipeline {self.pipeline}) only after the last; use 1 or 3",
            at=".zero.stage",
        ),
        Rule(
            f"self.pipeline == 1 || self.zero.stage != 3 || {_WHOLE_BACKWARD}",
            "parallel.zero.stage 3 drops weights that {self.schedule} still needs;"
            " use 1, or schedule 1F1B or Interleaved1F1B",
            at=".zero.stage",
        ),
        Rule(
            f"self.pipeline == 1 || !self.compile || {_WHOLE_BACKWARD}",
            "parallel.compile true makes graphs whose backward {self.schedule} cannot split;"
            " use false, or schedule 1F1B or Interleaved1F1B",
            at=".compile",
        ),
        Rule(
            "!self.compile || self.recompute != 'Selective'",
            "parallel.recompute Selective is what compile does by itself; use None or Full, or compile false",
            at=".recompute",
        ),
    )
