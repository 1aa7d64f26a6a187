"""One job's snapshot, arranged the way decisions ask for it. Built once per plan, changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import JobStatus
from internlm2_operator.health.node import NodeRecord
from internlm2_operator.plan.exits import exit_of
from internlm2_operator.plan.snapshot import CheckpointView, PodPhase, PodRecord, Snapshot
from internlm2_spec import config
from internlm2_spec.contract import Progress, TrainPhase

STEPPING = (TrainPhase.STEP, TrainPhase.CHECKPOINT, TrainPhase.DONE)


@dataclass(frozen=True, slots=True)
class View:
    """`members` are the pods that the status asks for, by slot, spares included; the rest is `leaving`."""

    snapshot: Snapshot
    status: JobStatus
    stage: config.Stage
    nodes: Mapping[str, NodeRecord]
    members: Mapping[int, PodRecord]
    leaving: tuple[PodRecord, ...]
    progress: Mapping[str, Progress]  # of members, by pod name
    checkpoint: CheckpointView | None

    @property
    def job(self) -> InternLM2Job:
        return self.snapshot.job

    @property
    def slots(self) -> range:
        """Slots of the attempt, spares included; empty before it is placed."""
        return range(self.status.size + self.job.spec.nodes.spares if self.status.size else 0)

    @property
    def running(self) -> int:
        """How many pods of the attempt run on nodes that live."""
        return sum(p.phase is PodPhase.RUNNING and not self.dead(p) for p in self.members.values())

    @property
    def stepping(self) -> bool:
        return any(p.phase in STEPPING for p in self.progress.values())

    def dead(self, pod: PodRecord) -> bool:
        """Say whether the pod's node is gone or silent, so that nothing on it can answer."""
        if pod.node is None:
            return False
        node = self.nodes.get(pod.node)
        return node is None or not node.ready

    def at_fault(self, pod: PodRecord) -> bool:
        """Say whether the pod sits on a node that is dead or that we cordoned."""
        node = self.nodes.get(pod.node or "")
        return self.dead(pod) or (node is not None and node.fault is not None)


def look(snapshot: Snapshot) -> View:
    """Arrange a snapshot; pods and progress in any order give the same view."""
    job, status = snapshot.job, snapshot.job.status
    pods = sorted(snapshot.pods, key=lambda p: (p.attempt, p.slot, p.replacement, p.uid))
    members = {p.slot: p for p in pods if wanted(p, job, status)}
    stage = job.stage_config(min(status.stage_index, len(job.spec.stages) - 1))
    names = {p.name for p in members.values()}
    store = snapshot.checkpoint
    return View(
        snapshot=snapshot,
        status=status,
        stage=stage,
        nodes={n.name: n for n in sorted(snapshot.nodes, key=lambda n: n.name)},
        members=members,
        leaving=tuple(p for p in pods if not wanted(p, job, status)),
        progress={name: p for name, p in sorted(snapshot.progress, key=lambda item: item[0]) if name in names},
        checkpoint=store if store is None or store.stage in ("", stage.name) else None,
    )


def wanted(pod: PodRecord, job: InternLM2Job, status: JobStatus) -> bool:
    """Say whether the status asks for this very pod; anything else of the job is to be removed."""
    if not status.size or status.completion_time is not None:
        return False
    slots = status.size + job.spec.nodes.spares
    return (pod.stage, pod.attempt) == (status.stage_index, status.attempt) and (
        pod.slot < slots and pod.replacement == status.replacement_of(pod.slot)
    )


def alive(pod: PodRecord) -> bool:
    """Say whether the pod has not ended, whether it started or not."""
    return exit_of(pod) is None


def moment(seconds: float) -> datetime:
    """Return a time of a trainer's clock (seconds since the epoch) as everybody else's."""
    return datetime.fromtimestamp(seconds, UTC)
