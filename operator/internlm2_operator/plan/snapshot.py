"""What a decision about one job may know: plain values, gathered by `cluster` and `runtime`."""

import enum
from dataclasses import dataclass
from datetime import datetime

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.health.node import FaultNote as FaultNote
from internlm2_operator.health.node import NodeRecord as NodeRecord
from internlm2_spec.contract import Progress, Termination


class PodPhase(enum.StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class PodRecord:
    """One pod of a job, reduced to what decisions read. `uid` tells a pod from its namesake."""

    name: str
    namespace: str
    job: str
    uid: str
    stage: int
    attempt: int
    slot: int
    replacement: int
    node: str | None
    phase: PodPhase
    created: datetime
    gpus: int = 0
    ip: str = ""
    deleting: bool = False
    exit_code: int | None = None
    reason: str = ""  # kubelet's or scheduler's reason: OOMKilled, UnexpectedAdmissionError, ...
    waiting: str = ""  # reason of a container that cannot start: ImagePullBackOff, CreateContainerConfigError
    message: str = ""
    finished: datetime | None = None
    termination: Termination | None = None


@dataclass(frozen=True, slots=True)
class CheckpointView:
    """What the checkpoint store holds for the current stage of a job.

    `verified` is the newest step whose manifest exists and whose objects are all there in the
    listed sizes. `problem` says why nothing is known (no Secret, no bucket, store unreachable).
    """

    verified: int | None = None
    time: datetime | None = None
    corrupt: tuple[tuple[int, str], ...] = ()  # newer steps that were passed over, and why
    problem: str = ""  # CamelCase reason, empty when the store answered
    message: str = ""
    stage: str = ""  # name of the stage that was looked at; a view of another stage is not believed


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything `plan` may read about one job.

    `progress` keeps the last answer of a pod for as long as the pod object exists, also when the pod
    no longer answers: a silent member is still a member. `highest_step` is the highest step of the
    current stage that was ever heard of; without it the status (at most 30 s old) is used.
    `status_written` is when this process last wrote the status; None allows the next write at once.
    """

    job: InternLM2Job
    pods: tuple[PodRecord, ...]
    nodes: tuple[NodeRecord, ...]
    checkpoint: CheckpointView | None = None  # None: not looked at yet
    progress: tuple[tuple[str, Progress], ...] = ()  # by pod name
    missing: tuple[str, ...] = ()  # required objects that do not exist, e.g. "secret/s3"
    highest_step: int | None = None
    status_written: datetime | None = None
