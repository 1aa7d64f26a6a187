"""status: what the operator says about a job. Conditions carry the truth; `phase` is for the column."""

import enum
import itertools
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from internlm2_operator.api.base import ATOMIC, BY_TYPE, ApiModel, Time

MAX_FAULTS: Final = 20


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
    infrastructure: int = Field(default=0, ge=0, description="infrastructure is the number of all other failures.")
    recent: tuple[UserFailure, ...] = Field(
        default=(),
        max_length=1001,
        description="recent holds the failures within failurePolicy.windowSeconds.",
        json_schema_extra=ATOMIC,
    )


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
        description="seconds from each of times to the next, and in all.",
        json_schema_extra={"type": "object", "maxProperties": 16, "additionalProperties": {"type": "number"}},
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
    faults: tuple[Fault, ...] = Field(
        default=(),
        max_length=MAX_FAULTS,
        description="faults are the newest faults, oldest first.",
        json_schema_extra=ATOMIC,
    )
    observed_generation: int = Field(
        default=0, ge=0, description="observedGeneration is the generation of the spec that was acted on."
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


def arrow_seconds(times: FaultTimes) -> dict[str, float]:
    """Return the seconds from each known time to the next known one, by the later's name, and `total` once closed."""
    known = [(name, moment) for name in FaultTimes.model_fields if (moment := getattr(times, name)) is not None]
    arrows = {later: round((end - start).total_seconds(), 6) for (_, start), (later, end) in itertools.pairwise(known)}
    if times.closed and times.signal:
        arrows["total"] = round((times.closed - times.signal).total_seconds(), 6)
    return arrows
