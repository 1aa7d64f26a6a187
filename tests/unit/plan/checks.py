"""Values for tests of node checks: nodes, pods of checks as a cluster would show them, and a cluster that runs them."""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from internlm2_operator.health.node import CheckNote, NodeRecord
from internlm2_operator.manifests.check_pod import check_pod_name
from internlm2_operator.plan.check import Asked, MakePod, RemovePod, Seen, Step, WriteNote, decide
from internlm2_operator.plan.snapshot import CheckPod, Outcome, PodPhase
from internlm2_operator.plan.suspects import Suspect
from tests.unit.plan.world import T0

GPU = "nvidia.com/gpu"


def checked(passed: bool, at: datetime, uid: str = "") -> CheckNote:
    return CheckNote(at, "quick", passed, ("said",), uid)


def ended(pod: CheckPod, outcome: Outcome, at: datetime) -> CheckPod:
    phase = PodPhase.SUCCEEDED if outcome is Outcome.PASSED else PodPhase.FAILED
    return dataclasses.replace(pod, phase=phase, outcome=outcome, finished=at)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Nodes and pods of checks. Kubelets of `mute` nodes never start one; `bad` nodes fail, `odd` ones do not know."""

    nodes: Mapping[str, NodeRecord]
    now: datetime = T0
    pods: tuple[CheckPod, ...] = ()
    asked: tuple[Asked, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    bad: frozenset[str] = frozenset()
    odd: frozenset[str] = frozenset()
    mute: frozenset[str] = frozenset()
    made: int = 0
    history: tuple[Step, ...] = field(default=())

    def seen(self) -> Seen:
        # A node that was checked since is no suspect, as `suspects` sees to.
        left = tuple(s for s in self.suspects if (c := self.nodes[s.node].check) is None or c.at < s.at)
        return Seen(GPU, self.nodes, self.pods, self.asked, left)

    def decided(self) -> tuple[Step, ...]:
        return decide(self.seen(), self.now)

    def acted(self) -> "Cluster":
        """Do what is decided now."""
        cluster = self
        for step in self.decided():
            cluster = cluster._one(step)
        return cluster

    def _one(self, step: Step) -> "Cluster":
        done = dataclasses.replace(self, history=(*self.history, step))
        match step:
            case MakePod():
                return done._with(step)
            case RemovePod(uid=uid):
                return dataclasses.replace(done, pods=tuple(p for p in done.pods if p.uid != uid))
            case WriteNote(node=name, note=note):
                return done.with_node(name, check=note)

    def _with(self, made: MakePod) -> "Cluster":
        name = check_pod_name(made)
        if any(pod.name == name for pod in self.pods):
            return self
        members = made.check.to_json() if made.rank == 0 else ""
        pod = CheckPod(
            name, f"uid-{self.made}", made.check.id, made.rank, made.node, self.now, PodPhase.PENDING, gpus=made.gpus,
            members=members,
        )  # fmt: skip
        return dataclasses.replace(self, pods=(*self.pods, pod), made=self.made + 1)

    def later(self, seconds: float) -> "Cluster":
        """Let time pass: kubelets start what waits, and the checks whose nodes all run come to their end."""
        now = self.now + timedelta(seconds=seconds)
        running = tuple(
            dataclasses.replace(p, phase=PodPhase.RUNNING, ip="10.0.0.1")
            if p.phase is PodPhase.PENDING and p.node not in self.mute
            else p
            for p in self.pods
        )
        return dataclasses.replace(self, now=now, pods=running)

    def finished(self) -> "Cluster":
        """Let every check end whose pods all run."""
        there: dict[str, list[CheckPod]] = {}
        for pod in self.pods:
            there.setdefault(pod.id, []).append(pod)
        whole = {id for id, pods in there.items() if all(p.phase is PodPhase.RUNNING for p in pods)}
        pods = tuple(ended(p, self._outcome(p.node), self.now) if p.id in whole else p for p in self.pods)
        return dataclasses.replace(self, pods=pods)

    def run(self, rounds: int, seconds: float = 10) -> "Cluster":
        """Act and let time pass, so often. A check is over once all its pods have run for a round."""
        cluster = self
        for _ in range(rounds):
            before = {p.uid for p in cluster.pods if p.phase is PodPhase.RUNNING}
            cluster = cluster.acted().later(seconds)
            if {p.uid for p in cluster.pods if p.phase is PodPhase.RUNNING} == before:
                cluster = cluster.finished()
        return cluster

    def _outcome(self, node: str) -> Outcome:
        if node in self.odd:
            return Outcome.UNKNOWN
        return Outcome.FAILED if node in self.bad else Outcome.PASSED

    def with_node(self, name: str, **changes: Any) -> "Cluster":
        nodes = {**self.nodes, name: dataclasses.replace(self.nodes[name], **changes)}
        return dataclasses.replace(self, nodes=nodes)

    @property
    def live(self) -> dict[str, CheckPod]:
        """Pods that have not ended, by node."""
        return {pod.node: pod for pod in self.pods if pod.outcome is None}

    def members(self) -> list[tuple[str, ...]]:
        """Return who took part in each check that was begun."""
        return [step.check.nodes for step in self.history if isinstance(step, MakePod) and step.rank == 0]


def nodes_of(*names: str, **changes: Any) -> dict[str, NodeRecord]:
    base = NodeRecord("", ready=True, ready_since=T0 - timedelta(hours=1), gpus=8)
    return {name: dataclasses.replace(base, name=name, **changes) for name in names}


def suspected(*names: str, at: datetime = T0) -> tuple[Suspect, ...]:
    return tuple(Suspect(name, at, "Xid48: Suspected") for name in names)


def verdicts(cluster: Cluster, names: Collection[str]) -> dict[str, bool | None]:
    """Return what is noted on each node: passed, failed, nothing."""
    checks = {name: cluster.nodes[name].check for name in names}
    return {name: check.passed if check else None for name, check in checks.items()}
