"""What a decision about one job may know: plain values, gathered by `cluster` and `runtime`."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.health.node import FaultNote as FaultNote
from internlm2_operator.health.node import NodeRecord as NodeRecord
from internlm2_operator.health.rulebook import Rulebook
from internlm2_operator.plan.queue import QueueView
from internlm2_spec.contract import Progress, Termination


class PodPhase(enum.StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


ENDED: Final = (PodPhase.SUCCEEDED, PodPhase.FAILED)


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
    owner: str = ""  # uid of the job that made it, which may be a namesake that is gone
    ip: str = ""
    deleting: bool = False
    gone_by: datetime | None = None  # end of the grace of a pod that is being deleted
    grace: int | None = None  # seconds of that grace; 0: nothing but a finalizer still holds the object
    exit_code: int | None = None
    reason: str = ""  # kubelet's or scheduler's reason: OOMKilled, UnexpectedAdmissionError, ...
    disruption: str = ""  # reason of condition DisruptionTarget: EvictionByEvictionAPI, PreemptionByScheduler, ...
    prepared: bool = True  # False while the kubelet has not mounted the volumes and joined the network
    waiting: str = ""  # reason of a container that cannot start: ImagePullBackOff, CreateContainerConfigError
    message: str = ""
    finished: datetime | None = None
    termination: Termination | None = None


class Outcome(enum.StrEnum):
    """What a node's part of a check says of it."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"  # it proves nothing


@dataclass(frozen=True, slots=True)
class CheckPod:
    """One node's part of a check: a pod that the operator made in its own namespace. `outcome` is None until it ends.

    `members` is the annotation of rank 0 that says who takes part; `said` is what the check found out.
    """

    name: str
    uid: str
    id: str  # of the check
    rank: int
    node: str
    created: datetime
    phase: PodPhase
    gpus: int = 0
    ip: str = ""
    deleting: bool = False
    finished: datetime | None = None
    outcome: Outcome | None = None
    said: str = ""
    members: str = ""


@dataclass(frozen=True, slots=True)
class CheckView:
    """All pods of checks. `on` says whether the operator was given an image for them."""

    on: bool
    pods: tuple[CheckPod, ...] = ()


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
class Heard:
    """What a running pod is heard of, in seconds in which the operator listened.

    A trainer's times are of its own clock, which may be off by hours, and an operator may have been stopped itself.
    `still` is since the pod said something new or was first asked, `silent` since it answered at all. `mute` says that
    it does not even refuse: its process is stopped, its node dead or cut off. Where a pod's processes are being started
    again, the connection is refused. `stopped` says that since it answered last its kernel took connections for it:
    there is a way to it, and its process does not run.
    """

    still: float
    silent: float = 0.0
    mute: bool = False
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """The API server's last refusal to make a pod of an attempt."""

    attempt: int
    at: datetime
    message: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything `plan` may read about one job.

    `progress` keeps the last answer of a pod for as long as the pod object exists, also when the pod
    no longer answers: a silent member is still a member. `highest_step` is the highest step of the
    current stage that was ever heard of; without it the status (at most 30 s old) is used.
    `status_written` is when this process last wrote the status; None allows the next write at once.
    `hold` is for how many seconds no pod may be made because all jobs together just made many.
    `jobs` is how many jobs the operator has in all: what they write into their statuses, one API server takes.
    `queue` is the line as this job sees it, and `waiting_jobs` how many other jobs of its priority or a
    higher one wait for nodes that they could have. `rulebook` reads what pods leave behind.
    """

    job: InternLM2Job
    pods: tuple[PodRecord, ...]
    nodes: Mapping[str, NodeRecord]  # by name, in any order
    checkpoint: CheckpointView | None = None  # None: not looked at yet
    progress: Mapping[str, Progress] = field(default_factory=dict)  # by pod name
    missing: tuple[str, ...] = ()  # required objects that do not exist, e.g. "secret/s3"
    highest_step: int | None = None
    status_written: datetime | None = None
    refused: Refusal | None = None
    heard: Mapping[str, Heard] | None = None  # by pod name; None where nobody listens
    hold: float = 0.0
    jobs: int = 1
    queue: QueueView = field(default_factory=QueueView)
    waiting_jobs: int = 0
    rulebook: Rulebook = field(default_factory=Rulebook)
    checks: CheckView | None = None  # None: not known here
