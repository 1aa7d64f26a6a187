"""Nodes and pods as the API server and the kubelets would have them: plain records, changed by the plan's actions."""

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.health.cordon import Cordon
from internlm2_operator.health.node import NodeRecord
from internlm2_operator.plan.actions import Action, CreatePod, DeletePod, pending
from internlm2_operator.plan.snapshot import CheckpointView, PodPhase, PodRecord, Snapshot
from internlm2_spec.contract import ExitCode, Progress

START: Final = datetime(2024, 1, 1, tzinfo=UTC)


def moment(seconds: float) -> datetime:
    """Return a time of the simulation as everybody else's."""
    return START + timedelta(seconds=seconds)


@dataclasses.dataclass(frozen=True, slots=True)
class Leaving:
    """A pod that is being deleted; `grace` in seconds, None for as long as its checkpoint takes."""

    pod: PodRecord
    grace: int | None


class Cluster:
    """One job and its nodes. Records are replaced, never changed, so a snapshot stays what it was."""

    def __init__(self, job: InternLM2Job, nodes: int) -> None:
        self.job = job
        gpus = job.spec.nodes.gpus_per_node
        names = [f"node-{i:05d}" for i in range(nodes)]
        self.nodes = {n: NodeRecord(name=n, ready=True, ready_since=START, gpus=gpus) for n in names}
        self.pods: dict[str, PodRecord] = {}  # by name
        self.out = 0  # nodes that nobody can use
        self._made = 0
        self._written: datetime | None = None

    def snapshot(self, progress: Mapping[str, Progress], stored: int, highest: int) -> Snapshot:
        return Snapshot(
            job=self.job,
            pods=tuple(self.pods.values()),
            nodes=dict(self.nodes),
            checkpoint=CheckpointView(verified=stored or None),
            progress=progress,
            highest_step=highest,
            status_written=self._written,
        )

    def pod_on(self, node: str) -> PodRecord | None:
        return next((p for p in self.pods.values() if p.node == node), None)

    def write_status(self, status: object, now: float) -> None:
        if status != self.job.status:
            self.job = self.job.model_copy(update={"status": status})
            self._written = moment(now)

    def suspend(self, suspend: bool) -> None:
        spec = self.job.spec.model_copy(update={"suspend": suspend})
        self.job = self.job.model_copy(update={"spec": spec, "generation": self.job.generation + 1})

    def apply(self, actions: Iterable[Action], now: float) -> tuple[list[PodRecord], list[Leaving]]:
        """Carry out a plan; returns the pods that were made, and those that their kubelets will remove."""
        made: list[PodRecord] = []
        leaving: list[Leaving] = []
        for action in actions:
            if isinstance(action, CreatePod):
                made.append(self._create(action, now))
            elif isinstance(action, DeletePod) and (pod := self.pods.get(action.name)) is not None:
                if action.force:
                    self.remove(pod)
                else:
                    self.pods[pod.name] = dataclasses.replace(pod, deleting=True)
                    leaving.append(Leaving(self.pods[pod.name], action.grace_seconds))
        return made, leaving

    def _create(self, asked: CreatePod, now: float) -> PodRecord:
        self._made += 1
        name = f"{asked.stage}-{asked.attempt}-{asked.slot}-{asked.replacement}"
        pod = pending(self.job, asked, name=name, uid=f"uid-{self._made}", created=moment(now))
        self.pods[name] = pod
        self._hold(asked.node, pod.gpus)
        return pod

    def run(self, pod: PodRecord) -> None:
        """The kubelet starts a pod, if it is still wanted and the node lives."""
        known = self.pods.get(pod.name)
        if known is not None and known.uid == pod.uid and known.phase is PodPhase.PENDING and self._lives(known):
            self.pods[pod.name] = dataclasses.replace(known, phase=PodPhase.RUNNING)

    def fail(self, pod: PodRecord, code: ExitCode, now: float) -> None:
        failed = dataclasses.replace(pod, phase=PodPhase.FAILED, exit_code=code, reason="Error", finished=moment(now))
        self.pods[pod.name] = failed
        self._hold(pod.node, -pod.gpus)

    def remove(self, pod: PodRecord) -> None:
        """The object is gone."""
        known = self.pods.get(pod.name)
        if known is None or known.uid != pod.uid:
            return
        del self.pods[pod.name]
        if known.phase in (PodPhase.PENDING, PodPhase.RUNNING):
            self._hold(known.node, -known.gpus)

    def silence(self, node: str, now: float) -> None:
        self._change(node, ready=False, unschedulable=True, ready_since=moment(now))

    def cordon(self, made: Cordon) -> None:
        self._change(made.node, unschedulable=True, fault=made.note)

    def repair(self, node: str, now: float) -> None:
        self._change(node, ready=True, unschedulable=False, fault=None, ready_since=moment(now))

    def _lives(self, pod: PodRecord) -> bool:
        return pod.node is not None and self.nodes[pod.node].ready

    def _hold(self, node: str | None, gpus: int) -> None:
        if node is not None:
            self._change(node, used=self.nodes[node].used + gpus)

    def _change(self, node: str, **changes: object) -> None:
        before = self.nodes[node]
        self.nodes[node] = after = dataclasses.replace(before, **changes)  # type: ignore[arg-type]
        self.out += _usable(before) - _usable(after)


def _usable(node: NodeRecord) -> bool:
    return node.ready and not node.unschedulable
