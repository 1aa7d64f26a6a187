"""Intents. `cluster` alone turns them into calls, each idempotent."""

from dataclasses import dataclass, field
from datetime import datetime

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import JobStatus
from internlm2_operator.plan.snapshot import PodPhase, PodRecord


@dataclass(frozen=True, slots=True)
class EnsureService:
    """The headless Service that gives every member of the job a DNS name."""


@dataclass(frozen=True, slots=True)
class EnsureConfigMap:
    """The stage's configuration, as the trainer reads it."""

    stage: int


@dataclass(frozen=True, slots=True)
class CreatePod:
    """One torchrun agent. `size` is N of --nnodes=N:N; slots from N up are spares when created."""

    stage: int
    attempt: int
    slot: int
    replacement: int
    size: int
    node: str


def pending(job: InternLM2Job, asked: CreatePod, *, name: str, uid: str, created: datetime) -> PodRecord:
    """Return the pod of a CreatePod as it is seen once the API server has it and no kubelet does."""
    return PodRecord(
        name=name,
        namespace=job.namespace,
        job=job.name,
        uid=uid,
        stage=asked.stage,
        attempt=asked.attempt,
        slot=asked.slot,
        replacement=asked.replacement,
        node=asked.node,
        phase=PodPhase.PENDING,
        created=created,
        gpus=job.spec.nodes.gpus_per_node,
        owner=job.uid,
    )


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete one pod. `force` removes the object without waiting for its node, which is dead."""

    name: str
    uid: str
    grace_seconds: int | None = None  # None: the pod's own, long enough for a checkpoint
    force: bool = False


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """The job itself, if nobody has changed it since; owner references take everything else along."""


@dataclass(frozen=True, slots=True)
class Announce:
    """An Event on the job, sent after the status write succeeded."""

    reason: str
    message: str
    warning: bool = False


Action = EnsureService | EnsureConfigMap | CreatePod | DeletePod | DeleteJob | Announce


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, what to say, and when to look again at the latest."""

    status: JobStatus
    actions: tuple[Action, ...] = ()
    requeue_seconds: float | None = None
    trail: tuple[str, ...] = field(default=())  # what each decision said, for `internlm2 why`
