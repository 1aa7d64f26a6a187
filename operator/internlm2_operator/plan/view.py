"""One job's snapshot, arranged the way decisions ask for it. Built once per plan, changes nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Final, TypeVar

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import JobStatus
from internlm2_operator.health.lemon import doubts
from internlm2_operator.health.node import NodeRecord, down_since
from internlm2_operator.plan.check import shunned
from internlm2_operator.plan.exits import exit_of
from internlm2_operator.plan.snapshot import CheckpointView, Heard, PodPhase, PodRecord, Snapshot
from internlm2_spec import config
from internlm2_spec.contract import Progress, TrainPhase

# A kubelet removes a pod within its grace; what is there so long after is held by something else.
STUCK: Final = timedelta(seconds=30)
Said = TypeVar("Said")
ORDER: Final = attrgetter("attempt", "slot", "replacement", "uid")
# More than anything that was found against a node before.
SHUNNED: Final = 1e6
STEPPING = (TrainPhase.STEP, TrainPhase.CHECKPOINT, TrainPhase.DONE)


@dataclass(frozen=True, slots=True)
class View:
    """`members` are the pods that the status asks for, by slot, spares included; the rest is `leaving`."""

    snapshot: Snapshot
    status: JobStatus
    stage: config.Stage
    at: datetime  # when this was looked at
    running: int  # how many pods of the attempt run on nodes that live
    well: frozenset[int]  # slots whose pods run and stay, on nodes that nothing speaks against
    members: Mapping[int, PodRecord]
    leaving: tuple[PodRecord, ...]
    progress: Mapping[str, Progress]  # of members, by pod name
    heard: Mapping[str, Heard] | None  # of members that were asked, by pod name; None where nobody listens
    checkpoint: CheckpointView | None
    stuck: frozenset[str]  # uids of pods that should have been gone long ago: what they hold is not free soon

    @property
    def job(self) -> InternLM2Job:
        return self.snapshot.job

    @property
    def nodes(self) -> Mapping[str, NodeRecord]:
        """Return all nodes by name. A plan asks for its own: there may be thousands of others."""
        return self.snapshot.nodes

    @property
    def doubts(self) -> Mapping[str, float]:
        """Return what speaks against nodes without a cordon. It looks at all nodes: for who chooses some."""
        return doubts(self.nodes.values(), self.at) | dict.fromkeys(shunned(self.snapshot, self.at), SHUNNED)

    @property
    def edited(self) -> bool:
        """Say whether this is the first look at a new generation of the spec."""
        return self.status.observed_generation != self.job.generation

    @property
    def slots(self) -> range:
        """Slots of the attempt, spares included; empty before it is placed."""
        return range(self.status.size + self.job.spec.nodes.spares if self.status.size else 0)

    @property
    def unwell(self) -> Iterator[PodRecord]:
        """Yield the members that something happened to, in slot order."""
        return (p for slot, p in self.members.items() if slot not in self.well)

    @property
    def stepping(self) -> bool:
        return any(p.phase in STEPPING for p in self.progress.values())

    def told(self, seconds: float) -> datetime:
        """Return a time that a trainer tells, whose clock may be ahead: nothing that it tells of is later than now."""
        return min(self.at, moment(seconds))

    def dead(self, pod: PodRecord) -> bool:
        """Say whether the pod's node is gone or silent, so that nothing on it can answer."""
        return pod.node is not None and not _lives(self.nodes.get(pod.node), self.at)

    def at_fault(self, pod: PodRecord) -> bool:
        """Say whether the pod sits on a node that is dead or that we cordoned."""
        return pod.node is not None and not _sound(self.nodes.get(pod.node), self.at)


def look(snapshot: Snapshot, now: datetime) -> View:
    """Arrange a snapshot; pods and progress in any order give the same view."""
    job, status = snapshot.job, snapshot.job.status
    kept = tuple(zip(snapshot.pods, wanted(snapshot.pods, job, status), strict=True))
    members = {p.slot: p for p in sorted((p for p, is_kept in kept if is_kept), key=attrgetter("slot", "uid"))}
    stage = job.stage_config(min(status.stage_index, len(job.spec.stages) - 1))
    store, nodes, said = snapshot.checkpoint, snapshot.nodes, snapshot.progress
    running = [p for p in members.values() if p.phase is PodPhase.RUNNING and _lives(nodes.get(p.node or ""), now)]
    return View(
        snapshot=snapshot,
        status=status,
        stage=stage,
        at=now,
        running=len(running),
        well=frozenset(p.slot for p in running if not p.deleting and _sound(nodes.get(p.node or ""), now)),
        members=members,
        leaving=tuple(sorted((p for p, is_kept in kept if not is_kept), key=ORDER)),
        progress=_of(members, said),
        heard=None if snapshot.heard is None else _of(members, snapshot.heard),
        checkpoint=store if store is None or store.stage in ("", stage.name) else None,
        stuck=frozenset(p.uid for p in snapshot.pods if p.gone_by is not None and now - p.gone_by > STUCK),
    )


def _of(members: Mapping[int, PodRecord], by_name: Mapping[str, Said]) -> dict[str, Said]:
    """Return what was heard of the members, in their order."""
    return {p.name: by_name[p.name] for p in members.values() if p.name in by_name}


def wanted(pods: Sequence[PodRecord], job: InternLM2Job, status: JobStatus) -> list[bool]:
    """Say for each pod whether the status asks for this very one; anything else of the job is to be removed."""
    if not status.size or status.completion_time is not None:
        return [False] * len(pods)
    replaced = {r.slot: r.count for r in status.replacements}
    slots, attempt = status.size + job.spec.nodes.spares, (job.uid, status.stage_index, status.attempt)
    return [
        (p.owner, p.stage, p.attempt) == attempt and p.slot < slots and p.replacement == replaced.get(p.slot, 0)
        for p in pods
    ]


def alive(pod: PodRecord) -> bool:
    """Say whether the pod has not ended, whether it started or not."""
    return exit_of(pod) is None


def _lives(node: NodeRecord | None, now: datetime) -> bool:
    """Say whether the node is there, and its kubelet answers or may only be restarting."""
    if node is None:
        return False
    down = None if node.ready else down_since(node)
    return node.ready or down is None or now < down


def _sound(node: NodeRecord | None, now: datetime) -> bool:
    """Say whether the node lives and we did not cordon it."""
    return node is not None and node.fault is None and _lives(node, now)


def moment(seconds: float) -> datetime:
    """Return a time of a trainer's clock (seconds since the epoch) as everybody else's."""
    return datetime.fromtimestamp(seconds, UTC)
