"""spec.stages[].parallel: how the ranks of a stage divide the work."""

from typing import ClassVar, Literal

from pydantic import Field

from internlm2_operator.api.base import ApiModel, Rule


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
        default=1, ge=1, le=64, description="pipeline is the degree of pipeline parallelism; only 1 in this version."
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
    recompute: Literal["None", "Full"] = Field(
        default="None", description="recompute says which activations are computed again in the backward pass."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.pipeline == 1",
            "parallel.pipeline {self.pipeline} is not available in this version; use pipeline 1",
            at=".pipeline",
        ),
        Rule(
            "self.context % self.ulysses == 0",
            "parallel.ulysses {self.ulysses} does not divide parallel.context {self.context};"
            " use 1 or another divisor of {self.context}",
            at=".ulysses",
        ),
    )
