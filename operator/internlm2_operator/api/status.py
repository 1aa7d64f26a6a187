"""status: what the operator says about a job. Conditions carry the truth; `phase` is for the column."""

import enum
import itertools
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from internlm2_operator.api.base import ATOMIC, BY_TYPE, ApiModel, Time

MAX_FAULTS: Final = 20
MAX_STRAGGLERS: Final = 8
MAX_ROOM: Final = 128


CONDITIONS: Final = {
    "Validated": "the operator finds a legal size in the spec",
    "Scheduled": "the current attempt has its nodes; if not, what is missing",
    "NodesChecked": "the nodes of the next attempt were checked before it; if not, why",
    "Progressing": "steps are done; if not, why, and how far a start is",
    "FullSize": "the job has nodes.max nodes; if not, why, and when it grows",
    "CheckpointFresh": "the newest checkpoint is whole and not old; what was passed over, and why",
    "Straggling": "one rank holds up the others for long: which, on which node, in what, and by how much",
    "Recovering": "a fault is open: where, since when, what was done, what is waited for; else the last one",
    "Complete": "every stage has its final checkpoint",
    "Failed": "the job has ended without; the traceback",
}
"""Types of conditions, by what it means that one is true."""


def _figure(value: Any) -> Any:
    """Keep what a person reads in a column: five digits, and nothing for NaN, which JSON lacks.

    The exact value is in the trainer's log and metrics.
    """
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _clip(limit: int) -> BeforeValidator:
    """Cut text that came from outside (a traceback, a kernel log line) to what the schema holds."""
    return BeforeValidator(lambda value: value[:limit] if isinstance(value, str) else value)


Message = Annotated[str, _clip(1024), Field(max_length=1024)]
NodeName = Annotated[str, Field(max_length=253)]
Number = Annotated[float | None, BeforeValidator(_figure)]


class Phase(enum.StrEnum):
    """Summary of the conditions, for the column; no code reads it."""

    PENDING = "Pending"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    RECOVERING = "Recovering"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Condition(ApiModel):
    """One aspect of the job's state, in the shape of the Kubernetes API."""

    type: str = Field(min_length=1, max_length=64, description="type of the condition, in CamelCase.")
    status: Literal["True", "False", "Unknown"] = Field(description="status says whether the condition holds.")
    reason: str = Field(min_length=1, max_length=64, description="reason in CamelCase.")
    message: Message = Field(default="", description="message for a person.")
    observed_generation: int = Field(
        default=0, ge=0, description="observedGeneration is the generation of the spec that this is about."
    )
    last_transition_time: Time = Field(description="lastTransitionTime is when status changed last.")


class CheckpointStatus(ApiModel):
    """The newest verified checkpoint."""

    step: int = Field(ge=0, description="step of the checkpoint.")
    time: Time | None = Field(default=None, description="time at which its manifest was written.")
    url: str = Field(default="", max_length=640, description="url of its folder.")


class NodesStatus(ApiModel):
    """Pods of the current attempt, one on each node."""

    active: int = Field(default=0, ge=0, description="active is the number of nodes that train.")
    ready: int = Field(default=0, ge=0, description="ready is the number of pods that run.")
    spare: int = Field(default=0, ge=0, description="spare is the number of running pods that wait to take over.")


class UserFailure(ApiModel):
    """One failure of the user's code, for the sliding window and for telling a repeated one."""

    time: Time = Field(description="time of the failure.")
    step: int | None = Field(default=None, ge=0, description="step at which it happened.")
    fingerprint: str = Field(default="", max_length=128, description="fingerprint of its traceback.")


class Restarts(ApiModel):
    """How often the job was restarted, and why."""

    counted: int = Field(default=0, ge=0, description="counted is the number of failures of the user's code.")
    infrastructure: int = Field(
        default=0,
        ge=0,
        description="infrastructure is the number of its failures. What somebody asked for, or what is waited for, is"
        " none.",
    )
    total: int = Field(default=0, ge=0, description="total is the sum of both, for the column.")
    recent: tuple[UserFailure, ...] = Field(
        default=(),
        max_length=1001,
        description="recent holds the failures within failurePolicy.windowSeconds.",
        json_schema_extra=ATOMIC,
    )

    def summed(self) -> "Restarts":
        """Return the same with its total."""
        return self.model_copy(update={"total": self.counted + self.infrastructure})


class Replacement(ApiModel):
    """How many pods a slot of the current attempt has used up, so that pod names never repeat."""

    slot: int = Field(ge=0, description="slot whose pods are counted.")
    count: int = Field(ge=0, description="count of pods after the first; the number in the newest pod's name.")


class FaultTimes(ApiModel):
    """When each part of a recovery happened; unset until it has."""

    last_step: Time | None = Field(default=None, description="lastStep is when the lost member last finished a step.")
    signal: Time | None = Field(default=None, description="signal is when the source saw it.")
    verdict: Time | None = Field(default=None, description="verdict is when the operator knew who is to blame.")
    cordon: Time | None = Field(default=None, description="cordon is when the node was taken out.")
    replacement: Time | None = Field(default=None, description="replacement is when another pod ran in its place.")
    resume: Time | None = Field(default=None, description="resume is when the trainer had loaded the checkpoint.")
    closed: Time | None = Field(default=None, description="closed is when the first step after the fault was done.")


class Fault(ApiModel):
    """One fault from the signal to the first step after it."""

    id: str = Field(min_length=1, max_length=64, description="id is the same for the same fault, whoever computes it.")
    cause: str = Field(min_length=1, max_length=64, description="cause in CamelCase, such as NodeNotReady or Xid79.")
    count: int = Field(
        default=1, ge=1, description="count is how often in a row: more than 1 for what is waited for again and again."
    )
    node: str = Field(default="", max_length=253, description="node at fault, where one is known.")
    gpu: str = Field(default="", max_length=128, description="gpu at fault by UUID, where one is known.")
    evidence: tuple[Message, ...] = Field(
        default=(), max_length=16, description="evidence is what was seen.", json_schema_extra=ATOMIC
    )
    verdict: str = Field(default="", max_length=64, description="verdict says who is to blame.")
    action: Message = Field(default="", description="action is what the operator did.")
    cordoned: bool = Field(default=False, description="cordoned says whether the operator took the node out.")
    times: FaultTimes = Field(default=FaultTimes(), description="times of each part of the recovery.")
    steps_lost: int | None = Field(default=None, ge=0, description="stepsLost is the number of steps done twice.")
    seconds: dict[str, float] = Field(
        default_factory=dict,
        description="seconds that each of times came after all before it, and in all.",
        json_schema_extra={"type": "object", "maxProperties": 16, "additionalProperties": {"type": "number"}},
    )


class Room(ApiModel):
    """A size above that of the attempt for which there are healthy free nodes."""

    size: int = Field(ge=1, description="size in nodes.")
    since: Time = Field(description="since when nodes for it have been free without a break.")


class Stopping(ApiModel):
    """A change of size that is being made: pods write a checkpoint and stop, then the next attempt starts."""

    target: int = Field(ge=0, description="target is the size that was to be had then; 0 is none.")
    since: Time = Field(description="since when pods have been asked to stop.")


class ElasticStatus(ApiModel):
    """What the operator remembers to decide on the size of the job."""

    size: int = Field(default=0, ge=0, description="size of the newest attempt that was placed; 0 is none yet.")
    limit: int = Field(default=0, ge=0, description="limit is what nodes.max was then.")
    placed_time: Time | None = Field(default=None, description="placedTime is when it was placed.")
    short_since: Time | None = Field(
        default=None, description="shortSince is since when nodes for that size have been missing."
    )
    room: tuple[Room, ...] = Field(
        default=(),
        max_length=MAX_ROOM,
        description="room holds the larger sizes that are possible, ascending.",
        json_schema_extra=ATOMIC,
    )
    stopping: Stopping | None = Field(default=None, description="stopping is set while pods stop for another size.")


class Straggling(ApiModel):
    """A node whose rank held up the others, by the word of the trainer."""

    node: NodeName = Field(description="node of the rank.")
    slow_in: Literal["compute", "communication"] = Field(description="slowIn is what it was slow in.")
    since: Time = Field(description="since when it was known.")
    until: Time | None = Field(default=None, description="until when it was; unset while it is.")


class NodeCheckStatus(ApiModel):
    """The check of a job's nodes that its start waits for, or the last one."""

    why: Literal["FirstStart", "Hang"] = Field(
        description="why it is made: before the first start, or after a second hang without a culprit."
    )
    depth: Literal["quick", "full"] = Field(description="depth of the check.")
    since: Time = Field(description="since when it is waited for.")
    ended: Time | None = Field(default=None, description="ended is when the wait was over.")
    nodes: tuple[NodeName, ...] = Field(
        default=(),
        max_length=5064,
        description="nodes that are to be checked; none once it is over.",
        json_schema_extra=ATOMIC,
    )
    passed: int = Field(default=0, ge=0, description="passed is how many nodes passed.")
    failed: tuple[NodeName, ...] = Field(
        default=(), max_length=64, description="failed are nodes that did not.", json_schema_extra=ATOMIC
    )
    silent: tuple[NodeName, ...] = Field(
        default=(),
        max_length=64,
        description="silent are nodes that did not answer in time; the job takes others where it can.",
        json_schema_extra=ATOMIC,
    )


class JobStatus(ApiModel):
    """status is written by the operator alone, once after each decision."""

    phase: Phase = Field(default=Phase.PENDING, description="phase is a summary of the conditions.")
    conditions: tuple[Condition, ...] = Field(
        default=(), max_length=16, description="conditions tell the state of the job.", json_schema_extra=BY_TYPE
    )
    stage: str = Field(default="", max_length=32, description="stage is the name of the current stage.")
    stage_index: int = Field(default=0, ge=0, le=15, description="stageIndex is its place in spec.stages.")
    attempt: int = Field(default=0, ge=0, description="attempt counts the sets of pods that were made; 0 is none yet.")
    size: int = Field(default=0, ge=0, description="size is the number of nodes that the current attempt trains on.")
    step: int | None = Field(default=None, ge=0, description="step is the newest finished optimizer step.")
    loss: Number = Field(default=None, description="loss of that step.")
    tokens_per_second: Number = Field(default=None, description="tokensPerSecond over all ranks.")
    mfu: Number = Field(
        default=None,
        description="mfu is the model FLOPs utilisation with causal attention, 1 is the peak of the GPUs.",
    )
    checkpoint: CheckpointStatus | None = Field(
        default=None, description="checkpoint is the newest verified checkpoint of the stage."
    )
    nodes: NodesStatus = Field(default=NodesStatus(), description="nodes of the current attempt.")
    restarts: Restarts = Field(default=Restarts(), description="restarts of the job by cause.")
    # A list and not a map: a merge patch replaces a list whole, but keeps the keys of a map that are gone.
    replacements: tuple[Replacement, ...] = Field(
        default=(),
        max_length=5064,
        description="replacements counts the pods that slots of the current attempt have used up.",
        json_schema_extra=ATOMIC,
    )
    elastic: ElasticStatus = Field(
        default=ElasticStatus(), description="elastic is what the size of the next attempt depends on."
    )
    node_check: NodeCheckStatus | None = Field(
        default=None, description="nodeCheck is the check of the job's nodes that its start waits for, or the last one."
    )
    stragglers: tuple[Straggling, ...] = Field(
        default=(),
        max_length=MAX_STRAGGLERS,
        description="stragglers are the newest nodes that held up the others by being slow themselves, oldest first.",
        json_schema_extra=ATOMIC,
    )
    faults: tuple[Fault, ...] = Field(
        default=(),
        max_length=MAX_FAULTS,
        description="faults are the newest faults, oldest first.",
        json_schema_extra=ATOMIC,
    )
    observed_generation: int = Field(
        default=0, ge=0, description="observedGeneration is the generation of the spec that was acted on."
    )
    queued_time: Time | None = Field(
        default=None,
        description="queuedTime is since when the job waits for nodes; unset while it lacks none, or not only those.",
    )
    preempted_by: str = Field(
        default="",
        max_length=317,
        description="preemptedBy is the namespace/name of the job that this one stopped for; unset once it runs again.",
    )
    start_time: Time | None = Field(default=None, description="startTime is when the first pods were made.")
    completion_time: Time | None = Field(default=None, description="completionTime is when the job ended.")

    @classmethod
    def from_object(cls, body: Mapping[str, Any] | None) -> "JobStatus":
        """Read the status of an object of the API server; nothing there is a new job's status."""
        return cls.model_validate(body or {})

    def condition(self, kind: str) -> Condition | None:
        """Return the condition of this type."""
        return next((known for known in self.conditions if known.type == kind), None)

    def replacement_of(self, slot: int) -> int:
        """Return the number of the newest replacement of a slot, 0 for its first pod."""
        return next((known.count for known in self.replacements if known.slot == slot), 0)

    def to_object(self) -> dict[str, Any]:
        """Leave out empty lists, too: the definition of the version before takes what uses no newer field."""
        return {key: value for key, value in super().to_object().items() if value != []}


def set_condition(
    conditions: tuple[Condition, ...],
    kind: str,
    *,
    status: Literal["True", "False", "Unknown"],
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> tuple[Condition, ...]:
    """Return the conditions with one of them set, in its place; the transition time moves only with `status`."""
    old = next((known for known in conditions if known.type == kind), None)
    new = Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message,
        observed_generation=generation,
        last_transition_time=old.last_transition_time if old and old.status == status else now,
    )
    if old is None:
        return (*conditions, new)
    return tuple(new if known is old else known for known in conditions)


def arrows(times: FaultTimes) -> Iterator[tuple[str, datetime, datetime]]:
    """Yield the name of each known time but the first, from when its arrow goes, and the time itself.

    An arrow goes from the latest of all earlier times. What was reached before one of them took no time of its own:
    ranks may train again before the verdict.
    """
    known = [(name, moment) for name in FaultTimes.model_fields if (moment := getattr(times, name)) is not None]
    latest = itertools.accumulate((moment for _, moment in known), max)
    for before, (name, at) in zip(latest, known[1:], strict=False):
        yield name, min(before, at), at


def arrow_seconds(times: FaultTimes) -> dict[str, float]:
    """Return the length of each arrow by its name, and `total` once closed."""
    seconds = {name: round((at - since).total_seconds(), 6) for name, since, at in arrows(times)}
    if times.closed and times.signal:
        seconds["total"] = round((times.closed - times.signal).total_seconds(), 6)
    return seconds
