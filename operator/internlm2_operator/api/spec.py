"""spec: everything the user says, and the rules that need more than one section."""

from typing import ClassVar, Final

from pydantic import Field

from internlm2_operator.api import model
from internlm2_operator.api.base import BY_NAME, ApiModel, Rule, formatted
from internlm2_operator.api.checkpoint import CheckpointSpec
from internlm2_operator.api.edits import MAX_STAGES
from internlm2_operator.api.health import FailurePolicySpec, HealthSpec
from internlm2_operator.api.model import ModelSpec
from internlm2_operator.api.nodes import NodesSpec
from internlm2_operator.api.stages import StageSpec
from internlm2_operator.api.template import TemplateSpec
from internlm2_operator.api.topology import TopologySpec
from internlm2_spec import config

MANAGER: Final = "training.internlm.io/operator"

_FIXED: Final = "(s.parallel.tensor * s.parallel.pipeline * s.parallel.context * s.parallel.zero.shard)"
_LAYERS: Final = model.size_in_cel("layers")
_PER_RANK: Final = "(s.parallel.schedule in ['GPipe', '1F1B'] ? 1 : 2)"
_STAGES: Final = f"(s.parallel.pipeline * {_PER_RANK})"
_S3_DATA: Final = "(has(s.data.url) ? [s.data.url] : s.data.sources.map(d, d.url)).filter(u, u.startsWith('s3://'))"


class StageRule(Rule):
    """A rule that every stage `s` must pass, told for the first one that fails.

    `map` with a condition finds it: of what `filter` returns the API server takes all sizes as unbounded, and it
    refuses a message that looks into them for its cost.
    """

    def to_schema(self) -> dict[str, str]:
        """Return the rule as the API server takes it."""
        told = formatted("stage {s.name}: " + self.message)
        return {
            "rule": f"self.stages.all(s, {self.check})",
            "messageExpression": f"self.stages.map(s, !({self.check}), {told})[0]",
            "fieldPath": ".stages",
        }


def _size_rules(bound: str) -> tuple[StageRule, ...]:
    """Return the rules about ranks and batch at one end of the node range: `min` or `max`."""
    nodes = f"self.nodes.{bound}"
    ranks = f"({nodes} * self.nodes.gpusPerNode)"
    data = f"({ranks} / (s.parallel.tensor * s.parallel.pipeline * s.parallel.context))"
    tokens = f"(s.sequenceLength * s.parallel.microBatch * {data})"
    micro_batches = f"(s.globalBatchTokens / {tokens})"
    # What does not divide is a rule of its own; elsewhere it would only be a second error.
    uneven = f"{ranks} % {_FIXED} != 0 || s.globalBatchTokens % {tokens} != 0"
    return (
        StageRule(
            f"{ranks} % {_FIXED} == 0",
            f"nodes.{bound} {{{nodes}}} x {{self.nodes.gpusPerNode}} GPUs = {{{ranks}}} ranks is not divisible by"
            " tensor {s.parallel.tensor} x pipeline {s.parallel.pipeline} x context {s.parallel.context}"
            f" x zero.shard {{s.parallel.zero.shard}}; use a multiple of {{{_FIXED}}} ranks or smaller degrees",
        ),
        StageRule(
            # Ranks that do not divide are the rule above; here they would only be a second error.
            f"{ranks} % {_FIXED} != 0 || s.globalBatchTokens % {tokens} == 0",
            "globalBatchTokens {s.globalBatchTokens} is not divisible by sequenceLength {s.sequenceLength}"
            f" x microBatch {{s.parallel.microBatch}} x data {{{data}}} = {{{tokens}}} at nodes.{bound} {{{nodes}}};"
            f" use a multiple of {{{tokens}}}",
        ),
        StageRule(
            f"s.parallel.pipeline == 1 || {uneven} || {micro_batches} >= s.parallel.pipeline",
            f"parallel.pipeline {{s.parallel.pipeline}} has only {{{micro_batches}}} micro-batches a step at"
            f" nodes.{bound} {{{nodes}}}; use a globalBatchTokens of {{{tokens} * s.parallel.pipeline}} or more,"
            " or a smaller microBatch or pipeline",
        ),
        StageRule(
            f"s.parallel.pipeline == 1 || {uneven} || {micro_batches} < s.parallel.pipeline"
            " || !s.parallel.schedule.startsWith('Interleaved')"
            f" || {micro_batches} % ({micro_batches} / s.parallel.pipeline) == 0",
            "parallel.schedule {s.parallel.schedule} cannot go round pipeline {s.parallel.pipeline} with"
            f" {{{micro_batches}}} micro-batches a step at nodes.{bound} {{{nodes}}};"
            f" use a globalBatchTokens that is a multiple of {{{tokens} * s.parallel.pipeline}}, or schedule 1F1B",
        ),
    )


def _model_rule(name: str) -> StageRule:
    """Return the rule that `tensor` divides one size of the model."""
    size = model.size_in_cel(name)
    return StageRule(
        f"{size} % s.parallel.tensor == 0",
        f"parallel.tensor {{s.parallel.tensor}} does not divide the model's {config.camel(name)} {{{size}}};"
        f" use 1 or another divisor of {{{size}}}",
    )


def _head_rules() -> tuple[StageRule, ...]:
    """Return the rules that tensor and Ulysses ranks get whole heads."""
    kv, heads = model.size_in_cel("kv_heads"), model.size_in_cel("heads")
    per_rank = f"(s.parallel.tensor > {kv} ? 1 : {kv} / s.parallel.tensor)"
    return (
        StageRule(
            f"{kv} % s.parallel.tensor == 0 || {kv} > 0 && s.parallel.tensor % {kv} == 0"
            f" && {heads} % s.parallel.tensor == 0",
            f"parallel.tensor {{s.parallel.tensor}} does not divide the model's kvHeads {{{kv}}}, nor do its heads"
            f" {{{heads}}} divide by both; use 1 or another divisor of {{{kv}}},"
            f" or a multiple of it that divides {{{heads}}}",
        ),
        StageRule(
            f"{kv} == 0 || {per_rank} % s.parallel.ulysses == 0",
            "parallel.ulysses {s.parallel.ulysses} does not divide the KV heads of a rank,"
            f" {{{per_rank}}} of {{{kv}}} at tensor {{s.parallel.tensor}}; use 1 or another divisor of {{{per_rank}}},"
            " and the rest of context is a ring",
        ),
    )


class Spec(ApiModel):
    """spec is what to train, on what, and how."""

    model: ModelSpec = Field(description="model names the InternLM2 that is trained. It cannot change.")
    checkpoint: CheckpointSpec = Field(description="checkpoint says where checkpoints go and how often.")
    nodes: NodesSpec = Field(description="nodes bounds how many nodes an attempt may hold.")
    stages: tuple[StageSpec, ...] = Field(
        min_length=1,
        max_length=MAX_STAGES,
        description="stages run in order, each from the final checkpoint of the one before.",
        json_schema_extra=BY_NAME,
    )
    health: HealthSpec = Field(
        default=HealthSpec(), description="health says what the operator may do when it finds a node at fault."
    )
    failure_policy: FailurePolicySpec = Field(
        default=FailurePolicySpec(),
        description="failurePolicy bounds how often the job is restarted after failures of its own code.",
    )
    priority: int = Field(
        default=0,
        ge=-1_000_000,
        le=1_000_000,
        description="priority is the job's place in the queue: a higher one comes first, and where nodes are lacking"
        " jobs of a lower one stop for it after a checkpoint. Among equals the older job comes first."
        " template.priorityClassName is another matter: scheduler and kubelet read it.",
    )
    topology: TopologySpec | None = Field(
        default=None, description="topology says how an attempt lies on racks; without it nodes are taken by name."
    )
    template: TemplateSpec = Field(default=TemplateSpec(), description="template is the user's part of the pods.")
    suspend: bool = Field(
        default=False, description="suspend stops the job after a checkpoint; false again lets it go on from there."
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=31536000,
        description="ttlSecondsAfterFinished is the time after which a job that has ended is deleted, its pods with it"
        " and its checkpoints not. Without it the job stays.",
    )
    managed_by: str = Field(
        default=MANAGER,
        min_length=3,
        max_length=63,
        description="managedBy names the controller that runs the job, as in a batch/v1 Job. With another value this"
        " operator leaves the job alone: no pods, no status. It cannot change.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        StageRule(
            "self.stages.exists_one(t, t.name == s.name)",
            "stages has the name {s.name} more than once; give each stage its own name",
        ),
        StageRule(
            f"has(self.checkpoint.secretName) || {_S3_DATA}.size() == 0",
            f"data at {{{_S3_DATA}[0]}} needs credentials and checkpoint.secretName is missing;"
            " name the Secret that holds AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        Rule(
            "!has(self.model.initFrom) || !self.stages.exists(t, t.name == self.model.initFrom)",
            "model.initFrom {self.model.initFrom} is a stage of this job; name a stage of other weights, as"
            " `internlm2_trainer checkpoint import --stage` made it",
            at=".model.initFrom",
        ),
        Rule(
            "self.managedBy.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9._/]*[A-Za-z0-9])?$')",
            f"managedBy {{self.managedBy}} is not DOMAIN/NAME; leave it out, or write it like {MANAGER}",
            at=".managedBy",
        ),
        Rule(
            "self.managedBy == oldSelf.managedBy",
            "managedBy {self.managedBy} differs from what the job was made with, {oldSelf.managedBy};"
            " restore it, or make a new job",
            at=".managedBy",
        ),
        *_head_rules(),
        *(_model_rule(name) for name in ("ffn", "vocab")),
        StageRule(
            f"s.parallel.pipeline == 1 || {_STAGES} <= {_LAYERS}",
            f"parallel.pipeline {{s.parallel.pipeline}} with {{s.parallel.schedule}} makes {{{_STAGES}}} stages, and"
            f" the model has {{{_LAYERS}}} layers; use pipeline {{{_LAYERS} / {_PER_RANK}}} or less",
        ),
        *_size_rules("min"),
        *_size_rules("max"),
        *(
            Rule(
                f"!has(self.template.resources.{field})"
                f" || !(self.nodes.resourceName in self.template.resources.{field})",
                f"template.resources.{field} sets {{self.nodes.resourceName}}, which is taken from nodes.gpusPerNode;"
                " remove it and set nodes.gpusPerNode",
                at=f".template.resources.{field}",
            )
            for field in ("limits", "requests")
        ),
    )

    def resolved_model(self) -> config.Model:
        """Return the sizes of the model."""
        return self.model.resolved()

    def stage_config(self, index: int) -> config.Stage:
        """Return stage `index` as the trainer reads it.

        The first starts from `model.initFrom`, if that is set, and every other one from the stage before.
        """
        stage = self.stages[index]
        shared = self.checkpoint
        parallel = stage.parallel.model_dump(exclude={"zero"})
        return config.Stage(
            name=stage.name,
            kind=stage.kind,
            model=self.resolved_model(),
            data=stage.data.resolved(),
            checkpoint=config.Checkpoint(**shared.model_dump(exclude={"secret_name"})),
            sequence_length=stage.sequence_length,
            global_batch_tokens=stage.global_batch_tokens,
            steps=stage.steps,
            rope_base=stage.rope_base,
            seed=stage.seed,
            optimizer=config.Optimizer(**stage.optimizer.model_dump()),
            parallel=config.Parallel(**parallel, zero=config.Zero(**stage.parallel.zero.model_dump())),
            guard=config.Guard(**stage.guard.model_dump()),
            hang=config.Hang(self.health.hang.multiple, float(self.health.hang.floor_seconds)),
            init_from=self.stages[index - 1].name if index else self.model.init_from,
        )
