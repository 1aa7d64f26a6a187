"""spec.stages[]: the parts of a run, in order."""

from typing import ClassVar, Final, Literal

from pydantic import Field

from internlm2_operator.api.base import ApiModel, Rule
from internlm2_operator.api.checkpoint import KNOWN_URL, MAX_URL
from internlm2_operator.api.parallel import ParallelSpec

_SHARES: Final = "(self.parallel.tensor * self.parallel.context)"  # parts that every sequence is cut into
_RING: Final = "(self.parallel.context / self.parallel.ulysses)"


class DataSpec(ApiModel):
    """data says where the packed token shards are."""

    url: str = Field(
        min_length=1,
        max_length=MAX_URL,
        description="url is the folder that `internlm2_trainer tokenize` wrote: s3://BUCKET/PATH or file:///PATH.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.url.matches('{KNOWN_URL}')",
            "data.url {self.url} has no known scheme or no path; write s3://BUCKET/PATH or file:///PATH",
            at=".url",
        ),
    )


class OptimizerSpec(ApiModel):
    """optimizer is AdamW with a linear warm-up and a cosine; the defaults are those of the InternLM2 report."""

    lr: float = Field(default=3.0e-4, gt=0, le=1, description="lr is the highest learning rate.")
    min_lr: float = Field(default=3.0e-5, ge=0, le=1, description="minLr is the learning rate at the last step.")
    warmup_steps: int = Field(
        default=0, ge=0, le=99999999, description="warmupSteps is the number of steps in which the rate rises to lr."
    )
    weight_decay: float = Field(default=0.1, ge=0, le=1, description="weightDecay applies to matrices, not to norms.")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="beta1 is the decay of the first moment.")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="beta2 is the decay of the second moment.")
    grad_clip: float = Field(
        default=1.0, ge=0, le=1000, description="gradClip is the global norm that gradients are clipped to; 0 is none."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.minLr <= self.lr",
            "optimizer.minLr {self.minLr} is above optimizer.lr {self.lr}; lower minLr or raise lr",
            at=".minLr",
        ),
    )


class StageSpec(ApiModel):
    """One stage; it starts from the final checkpoint of the stage before."""

    name: str = Field(
        min_length=1,
        max_length=32,
        pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        description="name of the stage, unique in the job; its checkpoints lie in the folder of this name.",
    )
    kind: Literal["Pretrain"] = Field(default="Pretrain", description="kind is what the stage does.")
    data: DataSpec = Field(description="data says where the packed token shards are.")
    sequence_length: int = Field(
        ge=2, le=1048576, description="sequenceLength is the number of tokens in one packed sample."
    )
    global_batch_tokens: int = Field(
        ge=2,
        le=1073741824,
        description="globalBatchTokens is the number of tokens in one optimizer step over all ranks. It stays the same"
        " at every number of nodes: the accumulation is derived.",
    )
    steps: int = Field(ge=1, le=99999999, description="steps is the number of optimizer steps.")
    rope_base: float = Field(
        default=50000.0, ge=1, le=1.0e9, description="ropeBase is the base of the rotary position embedding."
    )
    seed: int = Field(
        default=1024, ge=0, le=2147483647, description="seed decides the initial weights and the order of the samples."
    )
    optimizer: OptimizerSpec = Field(
        default=OptimizerSpec(), description="optimizer is AdamW with a linear warm-up and a cosine."
    )
    parallel: ParallelSpec = Field(
        default=ParallelSpec(),
        description="parallel gives the degrees of the mesh; the data degree is what remains of the ranks.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.sequenceLength % {_SHARES} == 0",
            "sequenceLength {self.sequenceLength} is not divisible by parallel.tensor {self.parallel.tensor}"
            f" x context {{self.parallel.context}}; use a multiple of {{{_SHARES}}}",
            at=".sequenceLength",
        ),
        Rule(
            # A ring of one needs no chunks, and what the ranks do not divide is the rule above.
            f"{_RING} < 2 || self.sequenceLength % {_SHARES} != 0 || self.sequenceLength % (2 * {_RING}) == 0",
            f"sequenceLength {{self.sequenceLength}} has no two equal chunks for each member of a ring of {{{_RING}}}"
            " (context {self.parallel.context} / ulysses {self.parallel.ulysses});"
            f" use a multiple of {{2 * {_SHARES}}}",
            at=".sequenceLength",
        ),
        Rule(
            "self.optimizer.warmupSteps <= self.steps",
            "optimizer.warmupSteps {self.optimizer.warmupSteps} is above steps {self.steps};"
            " lower optimizer.warmupSteps or raise steps",
            at=".optimizer.warmupSteps",
        ),
    )
