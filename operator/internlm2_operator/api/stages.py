"""spec.stages[]: the parts of a run, in order."""

from typing import ClassVar, Final, Literal

from pydantic import Field

from internlm2_operator.api.base import ATOMIC, ApiModel, Rule
from internlm2_operator.api.checkpoint import MAX_URL, known_url
from internlm2_operator.api.parallel import ParallelSpec
from internlm2_spec import config

MAX_SOURCES: Final = 32
MAX_TOKENS: Final = 2**40  # of a document

_CORPUS_URL: Final = "url is the folder that `internlm2_trainer tokenize` wrote: s3://BUCKET/PATH or file:///PATH."
_SHARES: Final = "(self.parallel.tensor * self.parallel.context)"  # parts that every sequence is cut into
_RING: Final = "(self.parallel.context / self.parallel.ulysses)"


class DataSourceSpec(ApiModel):
    """One corpus of a mixture."""

    url: str = Field(
        min_length=1,
        max_length=MAX_URL,
        description=_CORPUS_URL,
    )
    weight: int = Field(
        default=1,
        ge=1,
        le=config.MAX_WEIGHT,
        description="weight is the source's share of the samples: its part of the sum of all weights, kept to less"
        " than one sample at every place of the run.",
    )
    min_document_tokens: int = Field(
        default=1,
        ge=1,
        le=MAX_TOKENS,
        description="minDocumentTokens is the length of the shortest documents that are read.",
    )
    max_document_tokens: int | None = Field(
        default=None,
        ge=1,
        le=MAX_TOKENS,
        description="maxDocumentTokens is the length of the longest documents that are read; none is without limit."
        " Two sources of one corpus with bounds that meet keep a share of short documents in long samples.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        known_url("data.sources url"),
        Rule(
            "!has(self.maxDocumentTokens) || self.minDocumentTokens <= self.maxDocumentTokens",
            "maxDocumentTokens {self.maxDocumentTokens} is below minDocumentTokens {self.minDocumentTokens};"
            " use {self.minDocumentTokens} or more",
            at=".maxDocumentTokens",
        ),
    )


class DataSpec(ApiModel):
    """data says where the packed token shards are: one corpus, or several by weight."""

    url: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_URL,
        description=_CORPUS_URL,
    )
    sources: tuple[DataSourceSpec, ...] = Field(
        default=(),
        max_length=MAX_SOURCES,
        description="sources are the corpora of a mixture, instead of url. Each starts over, in another order, when"
        " its samples are used up. All have the ids of one tokenizer.",
        json_schema_extra=ATOMIC,
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("has(self.url) || self.sources.size() > 0", "data has neither url nor sources; set exactly one of them"),
        Rule(
            "!has(self.url) || self.sources.size() == 0",
            "data has both url {self.url} and sources; set exactly one of them",
        ),
        known_url("data.url", unless="!has(self.url) || "),
    )

    @property
    def urls(self) -> tuple[str, ...]:
        """Return every folder that the stage reads."""
        return tuple(source.url for source in self.resolved().mixture)

    def resolved(self) -> config.Data:
        """Return where the trainer reads."""
        return config.Data(self.url, tuple(config.DataSource(**source.model_dump()) for source in self.sources))


class OptimizerSpec(ApiModel):
    """optimizer is AdamW with a linear warm-up and a schedule; the defaults are those of the InternLM2 report."""

    lr: float = Field(default=3.0e-4, gt=0, le=1, description="lr is the highest learning rate.")
    min_lr: float = Field(default=3.0e-5, ge=0, le=1, description="minLr is the rate that a schedule ends at.")
    warmup_steps: int = Field(
        default=0, ge=0, le=99999999, description="warmupSteps is the number of steps in which the rate rises to lr."
    )
    schedule: Literal["Cosine", "WSD", "Constant"] = Field(
        default="Cosine",
        description="schedule is what follows the warm-up: Cosine falls to minLr at the end of the stage, WSD stays at"
        " lr and falls to minLr in the last decaySteps, Constant stays at lr.",
    )
    decay_steps: int = Field(
        default=0, ge=0, le=99999999, description="decaySteps is the number of steps in which WSD falls to minLr."
    )
    decay: Literal["OneMinusSqrt", "Linear"] = Field(
        default="OneMinusSqrt",
        description="decay is the way WSD falls: as 1 minus the square root of the part of decaySteps done, or as a"
        " line.",
    )
    moments: Literal["Carry", "Reset"] = Field(
        default="Carry",
        description="moments Carry goes on with AdamW's moments of the stage before, as one run of pre-training does;"
        " Reset starts them from zero.",
    )
    weight_decay: float = Field(default=0.1, ge=0, le=1, description="weightDecay applies to matrices, not to norms.")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="beta1 is the decay of the first moment.")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="beta2 is the decay of the second moment.")
    grad_clip: float = Field(
        default=1.0, ge=0, le=1000, description="gradClip is the global norm that gradients are clipped to; 0 is none."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.schedule == 'Constant' || self.minLr <= self.lr",
            "optimizer.minLr {self.minLr} is above optimizer.lr {self.lr}; lower minLr or raise lr",
            at=".minLr",
        ),
        Rule(
            "(self.schedule == 'WSD') == (self.decaySteps > 0)",
            "optimizer.decaySteps is {self.decaySteps} with schedule {self.schedule};"
            " use 1 or more with WSD, about a tenth of steps, and 0 with the others",
            at=".decaySteps",
        ),
    )


class GuardSpec(ApiModel):
    """guard says what happens when training goes wrong by itself."""

    non_finite: Literal["Skip", "Stop"] = Field(
        default="Skip",
        description="nonFinite is the answer to a gradient that is NaN or infinite: Skip changes nothing and counts the"
        " step, Stop ends the job.",
    )
    spike: Literal["RollBack", "Report", "Off"] = Field(
        default="RollBack",
        description="spike is the answer to a loss that stays too high: RollBack loads the newest checkpoint from"
        " before and leaves the batches since then out, Report only says so, Off does not look.",
    )
    window: int = Field(
        default=128, ge=8, le=10000, description="window is the number of healthy losses that a loss is judged by."
    )
    threshold: float = Field(
        default=10.0,
        ge=1,
        le=1000,
        description="threshold is how far above the window's median a loss is too high, in standard deviations"
        " estimated from the median absolute deviation; 5 % above the median never is.",
    )
    patience: int = Field(
        default=3, ge=1, le=1000, description="patience is how many steps in a row the loss must be too high."
    )
    max_rollbacks: int = Field(
        default=10,
        ge=0,
        le=1000,
        description="maxRollbacks is the number of rollbacks in a stage after which one more spike ends the job.",
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
        default=OptimizerSpec(), description="optimizer is AdamW with a linear warm-up and a schedule."
    )
    parallel: ParallelSpec = Field(
        default=ParallelSpec(),
        description="parallel gives the degrees of the mesh; the data degree is what remains of the ranks.",
    )
    guard: GuardSpec = Field(
        default=GuardSpec(), description="guard says what happens when training goes wrong by itself."
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
        Rule(
            "self.optimizer.warmupSteps > self.steps"
            " || self.optimizer.warmupSteps + self.optimizer.decaySteps <= self.steps",
            "optimizer.decaySteps {self.optimizer.decaySteps} with warmupSteps {self.optimizer.warmupSteps} is more"
            " than steps {self.steps}; use at most {self.steps - self.optimizer.warmupSteps}, or raise steps",
            at=".optimizer.decaySteps",
        ),
    )
