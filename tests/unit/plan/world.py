"""A tiny pure cluster: it does what a plan asks, as the API server, kubelets and torchrun would.

`check` refuses worlds that a real cluster can never show, so no test proves something about one.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.health.node import FaultNote, NodeRecord
from internlm2_operator.manifests.pod import pod_name
from internlm2_operator.plan import plan
from internlm2_operator.plan.actions import Action, CreatePod, DeleteJob, DeletePod, Plan, pending
from internlm2_operator.plan.snapshot import CheckpointView, CheckView, Heard, PodPhase, PodRecord, Refusal, Snapshot
from internlm2_spec.contract import HANG, FailureClass, Progress, Termination, TrainPhase
from internlm2_spec.standstill import Cluster

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
GPUS = 2
STEPS = 100


def after(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def job(
    *, low: int = 2, high: int = 2, spares: int = 1, suspend: bool = False, stages: int = 1, **spec: Any
) -> InternLM2Job:
    """Return a small job: two GPUs a node, a global batch that divides on 1, 2 and 4 nodes."""
    stage = {
        "data": {"url": "s3://bucket/corpus"},
        "sequenceLength": 256,
        "globalBatchTokens": 16384,
        "steps": STEPS,
        "parallel": {"tensor": 2},
    }
    return InternLM2Job(
        name="demo",
        namespace="default",
        uid="0000-1111",
        generation=1,
        resource_version="1",
        created=T0,
        spec={  # type: ignore[arg-type]  # pydantic parses what the API server holds
            "model": {"preset": "internlm2-tiny"},
            "checkpoint": {"url": "s3://bucket/run", "secretName": "s3"},
            "nodes": {"min": low, "max": high, "spares": spares, "gpusPerNode": GPUS},
            "stages": [stage | {"name": f"stage-{i}"} for i in range(stages)],
            "suspend": suspend,
        }
        | spec,
    )


def node(name: str, **changes: Any) -> NodeRecord:
    base = NodeRecord(name=name, ready=True, ready_since=T0 - timedelta(hours=1), gpus=GPUS)
    return dataclasses.replace(base, **changes)


def note(cause: str = "Xid79", at: datetime = T0) -> FaultNote:
    return FaultNote(
        cause=cause, evidence=(f"{cause} was seen",), signal_at=at, verdict_at=at, cordoned_at=at, gpu="GPU-0"
    )


@dataclass(frozen=True, slots=True)
class World:
    """The state of one cluster with one job on it at `now`."""

    job: InternLM2Job
    nodes: tuple[NodeRecord, ...]
    now: datetime = T0
    pods: tuple[PodRecord, ...] = ()
    progress: Mapping[str, Progress] = dataclasses.field(default_factory=dict)
    heard: Mapping[str, Heard] | None = None
    checkpoint: CheckpointView | None = dataclasses.field(default_factory=CheckpointView)
    missing: tuple[str, ...] = ()
    written: datetime | None = None
    refused: Refusal | None = None
    hold: float = 0.0
    waiting_jobs: int = 0
    checks: CheckView | None = None
    made: int = 0  # pods so far, for uids
    events: tuple[str, ...] = ()

    def snapshot(self) -> Snapshot:
        check(self)
        held = Counter[str]()
        for p in self.pods:
            if p.node and p.phase in (PodPhase.PENDING, PodPhase.RUNNING):
                held[p.node] += p.gpus
        return Snapshot(
            job=self.job,
            pods=self.pods,
            nodes={n.name: dataclasses.replace(n, used=n.used + held[n.name]) for n in self.nodes},
            checkpoint=self.checkpoint,
            progress=self.progress,
            heard=self.heard,
            missing=self.missing,
            status_written=self.written,
            refused=self.refused,
            hold=self.hold,
            waiting_jobs=self.waiting_jobs,
            checks=self.checks,
        )

    def plan(self) -> Plan:
        return plan(self.snapshot(), self.now)

    # What the operator does

    def applied(self, made: Plan) -> "World":
        """Carry out a plan: actions, then the status."""
        world = self
        for action in made.actions:
            world = world._one(action)
        status = world.job.model_copy(update={"status": made.status})
        written = world.now if made.status != self.job.status else world.written
        return dataclasses.replace(world, job=status, written=written)

    def settled(self, rounds: int = 30) -> "World":
        """Plan and apply at one moment until a plan changes nothing any more."""
        world = self
        for _ in range(rounds):
            made = world.plan()
            if not made.actions and made.status == world.job.status:
                return world
            world = world.applied(made)
        raise AssertionError(f"no fixed point after {rounds} plans: {world.plan()}")

    def _one(self, action: Action) -> "World":
        match action:
            case CreatePod():
                return self._created(action)
            case DeletePod(name=name, uid=uid, force=force):
                kept = tuple(
                    dataclasses.replace(p, deleting=True) if p.name == name and p.uid == uid else p
                    for p in self.pods
                    if not (force and p.name == name and p.uid == uid)
                )
                return dataclasses.replace(self, pods=kept)
            case DeleteJob():
                return dataclasses.replace(self, job=self.job.model_copy(update={"deleting": True}))
            case _:
                return dataclasses.replace(self, events=(*self.events, type(action).__name__))

    def _created(self, action: CreatePod) -> "World":
        name = pod_name(self.job, action)
        if any(p.name == name for p in self.pods):  # 409 AlreadyExists is fine
            return self
        created = pending(self.job, action, name=name, uid=f"uid-{self.made}", created=self.now)
        return dataclasses.replace(self, pods=(*self.pods, created), made=self.made + 1)

    # What everybody else does

    def later(self, seconds: float) -> "World":
        """Let time pass: kubelets of live nodes start pending pods and remove those that are deleted."""
        live = {n.name for n in self.nodes if n.ready}
        kept = tuple(
            dataclasses.replace(p, phase=PodPhase.RUNNING) if p.phase is PodPhase.PENDING and p.node in live else p
            for p in self.pods
            if not (p.deleting and p.node in live)
        )
        return dataclasses.replace(self, pods=kept, now=self.now + timedelta(seconds=seconds))._forgotten()

    def _forgotten(self) -> "World":
        names = {p.name for p in self.pods}
        return dataclasses.replace(self, progress={k: v for k, v in self.progress.items() if k in names})

    def trained(self, step: int, *, resumed: int = 0) -> "World":
        """Let torchrun form the world, which slot 0 hosts, and train to `step`; a changed membership restarts all."""
        status = self.job.status
        ready = [p for p in self._members() if p.phase is PodPhase.RUNNING][: status.size]
        if len(ready) < status.size or not ready or ready[0].slot != 0:
            return self
        formed = {p.name for p in ready} == {n for n in self.progress if n in {p.name for p in self._members()}}
        at = self.now.timestamp()
        progress = dict(self.progress)
        for rank, p in enumerate(ready):
            old = progress.get(p.name)
            if formed and old is not None:
                progress[p.name] = dataclasses.replace(old, step=step, step_time=at)
            else:
                progress[p.name] = running(
                    rank, step, at, resumed=resumed, incarnation=old.incarnation + 1 if old else 0
                )
        return dataclasses.replace(self, progress=progress)

    def restarted(self, step: int, *, resumed: int) -> "World":
        """Let torchrun restart every process in place."""
        at = self.now.timestamp()
        progress = {
            name: running(p.rank, step, at, resumed=resumed, incarnation=p.incarnation + 1)
            for name, p in self.progress.items()
        }
        return dataclasses.replace(self, progress=progress)

    def _members(self) -> list[PodRecord]:
        status = self.job.status
        return sorted((p for p in self.pods if p.attempt == status.attempt and not p.deleting), key=lambda p: p.slot)

    def with_node(self, name: str, **changes: Any) -> "World":
        nodes = tuple(dataclasses.replace(n, **changes) if n.name == name else n for n in self.nodes)
        return dataclasses.replace(self, nodes=nodes)

    def dead(self, name: str) -> "World":
        since = self.now - timedelta(seconds=6)
        return self.with_node(name, ready=False, ready_since=since, says_no=False)

    def back(self, name: str) -> "World":
        return self.with_node(name, ready=True, unschedulable=False, fault=None, ready_since=self.now)

    def faulty(self, name: str, cause: str = "Xid79") -> "World":
        return self.with_node(name, unschedulable=True, fault=note(cause, self.now))

    def ended(self, slot: int, code: int | None, **changes: Any) -> "World":
        """Let the pod of a slot end by itself."""
        phase = PodPhase.SUCCEEDED if code == 0 else PodPhase.FAILED
        pods = tuple(
            dataclasses.replace(p, phase=phase, exit_code=code, finished=self.now, **changes) if p.slot == slot else p
            for p in self.pods
        )
        return dataclasses.replace(self, pods=pods)

    def with_pods(self, slot: int | None = None, **changes: Any) -> "World":
        """Change the pod of a slot, or all of them."""
        pods = tuple(dataclasses.replace(p, **changes) if slot in (None, p.slot) else p for p in self.pods)
        return dataclasses.replace(self, pods=pods)

    def saved(self, step: int) -> "World":
        return dataclasses.replace(self, checkpoint=CheckpointView(verified=step, time=self.now))

    def edited(self, **spec: Any) -> "World":
        return dataclasses.replace(
            self, job=self.job.model_copy(update={"spec": self.job.spec.model_copy(update=spec)})
        )

    @property
    def live(self) -> list[PodRecord]:
        """Pods that are neither ended nor being removed."""
        return [p for p in self.pods if not p.deleting and p.phase in (PodPhase.PENDING, PodPhase.RUNNING)]

    @property
    def on(self) -> dict[int, str | None]:
        """Node of each slot of the current attempt."""
        return {p.slot: p.node for p in self.live if p.attempt == self.job.status.attempt}


def running(rank: int, step: int, at: float, *, resumed: int, incarnation: int) -> Progress:
    return Progress(
        phase=TrainPhase.STEP,
        rank=rank * GPUS,
        world=0,
        attempt=1,
        incarnation=incarnation,
        started_step=resumed,
        step=step,
        step_time=at,
        started_time=at - 2,
        first_step_time=at - 1,
        loss=3.0 - step / 100,
        tokens_per_second=1000.0,
        mfu=0.4,
        checkpoint_step=None,
        checkpoint_time=None,
    )


def bug(step: int | None = 7, traceback: str = "ValueError: no") -> Termination:
    return Termination(
        failure=FailureClass.USER, reason="Bug", exit_code=70, message="ValueError", step=step, traceback=traceback
    )


def peer() -> Termination:
    return Termination(failure=FailureClass.PEER, reason="RendezvousConnectionError", exit_code=1)


def hang(*stood: Cluster) -> Termination:
    """Return the word of a pod whose ranks found that nothing went on: a follower's where all of them wait."""
    failure = FailureClass.PEER if all(cluster.waits for cluster in stood) else FailureClass.INFRASTRUCTURE
    return Termination(failure, HANG, 77, "no progress", stood=stood)


def four_nodes() -> tuple[NodeRecord, ...]:
    return tuple(node(f"n{i}") for i in range(1, 5))


def trained_world(made: InternLM2Job | None = None, nodes: Iterable[NodeRecord] = (), *, step: int = 12) -> World:
    """Return a world whose job trains: two members and a spare on four nodes unless told otherwise."""
    world = World(made or job(), tuple(nodes) or four_nodes()).settled().later(5).settled()
    return world.trained(step).settled().later(10).trained(step).settled()


def check(world: World) -> None:
    """Raise for what no cluster can show: two pods of one name, more GPUs held than a node has."""
    names = [p.name for p in world.pods]
    assert len(names) == len(set(names)), f"two pods of one name: {names}"
    for n in world.nodes:
        held = sum(p.gpus for p in world.pods if p.node == n.name and p.phase in (PodPhase.PENDING, PodPhase.RUNNING))
        assert held <= n.gpus, f"{n.name} holds {held} GPUs of {n.gpus}"
    for p in world.pods:
        assert p.phase is not PodPhase.FAILED or p.finished is not None or p.reason, f"{p.name} failed at no time"


Event = Callable[[World], World]
