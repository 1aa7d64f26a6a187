"""The events of one run of a job: faults strike, torchrun and kubelets react, the operator decides.

A heap of (time, number, what happens); between two events nothing changes, so GPU time is booked from one to the next.
"""

import dataclasses
import heapq
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import Phase
from internlm2_operator.health.signals import Kind as SignalKind
from internlm2_operator.health.signals import Signal, Source
from internlm2_operator.plan.actions import Action
from internlm2_operator.plan.faults import open_faults
from internlm2_operator.plan.snapshot import PodPhase, PodRecord, Snapshot
from internlm2_operator.simulate import decisions
from internlm2_operator.simulate.account import Account, Part
from internlm2_operator.simulate.cluster import Cluster, Leaving, moment
from internlm2_operator.simulate.faults import NEEDS_REPAIR, Kind
from internlm2_operator.simulate.times import Times
from internlm2_operator.simulate.trace import Occurrence
from internlm2_operator.simulate.training import Copies, Pace, Run
from internlm2_spec.contract import ExitCode, Progress, TrainPhase

START_EPOCH: Final = moment(0).timestamp()
HARD_XID: Final = 79
SUSPECT_XID: Final = 119
START: Final = "start"
RESIZE: Final = "resize"
# Every event of the cluster calls the operator. Between two of them only the clock moves, and a plan that wants to be
# asked again in PROMPT seconds or later waits for nothing that the clock alone decides within a minute, unless it
# holds an attempt back. Whatever changes nothing is asked again later and later.
PROMPT: Final = 5.0
LONGEST_LOOK: Final = 60.0
HELD_LOOK: Final = 15.0
STILL_OCCUPIED: Final = 600.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What is simulated. `nodes` are those of the cluster; `replicas` says that each rank's copy lies on two nodes."""

    job: InternLM2Job
    nodes: int
    days: float
    trace: tuple[Occurrence, ...]
    times: Times
    pace: Pace
    seed: int
    replicas: bool = True

    @property
    def seconds(self) -> float:
        return self.days * 86400

    @property
    def gpus_per_node(self) -> int:
        return self.job.spec.nodes.gpus_per_node


class Simulation:
    """One job over `setup.days`. `go` runs it; then `account` and the counters tell what happened."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.cluster = Cluster(setup.job, setup.nodes)
        self.account = Account()
        self.plans = 0
        self.most_out = 0
        self.new_attempts = 0
        self.outs = 0
        self.stored_resumes = 0
        self.now = 0.0
        self._chance = random.Random(f"times {setup.seed}")
        self._operator_chance = random.Random(f"operator {setup.seed}")
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._evidence = decisions.Evidence()
        self._due: float | None = None
        self._patience = 0.0
        self._ill: dict[str, Occurrence] = {}
        self._lapsed: set[str] = set()  # nodes that torchrun waits for no longer
        self._run: Run | None = None
        self._crew_before: tuple[str, ...] = ()
        self._attempt_before = 0
        self._incarnations: dict[str, int] = {}
        self._heard: dict[str, Progress] = {}
        self._heard_at: object = None
        self._copies = Copies()
        self._position = 0.0
        self._highest = 0
        self._hold_until = 0.0
        self._cause = START
        self._planned = START
        self._struck_at = 0.0

    @property
    def position(self) -> float:
        """Return the steps of the stage that are done and not lost."""
        return self._run.position(self.now) if self._run else self._position

    def go(self) -> "Simulation":
        for fault in self.setup.trace:
            self._at(fault.at, partial(self._strike, fault))
        self._operate_at(0.0)
        while self._agenda and self._agenda[0][0] <= self.setup.seconds:
            at, _, happen = heapq.heappop(self._agenda)
            self._pass(at)
            happen()
        self._pass(self.setup.seconds)
        return self

    # Time

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._agenda, (when, self._number, happen))

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        self._at(self.now + seconds, happen)

    def _sample(self, samples: tuple[float, ...]) -> float:
        return self._chance.choice(samples)

    def _pass(self, at: float) -> None:
        """Book the GPU time since the last event."""
        seconds, self.now = at - self.now, at
        if seconds <= 0:
            return
        gpu_seconds, most = seconds * self.setup.gpus_per_node, self.cluster.job.spec.nodes.max
        out = self.cluster.out
        self.most_out = max(self.most_out, out)
        size, healthy = self.cluster.job.status.size, self.setup.nodes - out
        used = min(size or most, healthy)
        unused = max(0, min(most, healthy) - used)
        book = self.account.book
        book(Part.REPAIR, out * gpu_seconds)
        book(Part.UNUSED, unused * gpu_seconds)
        book(Part.SPARE, (healthy - used - unused) * gpu_seconds)
        run = self._run
        if run is None:
            book(Part.DETECT if size else Part.QUEUE, used * gpu_seconds, self._cause)
        elif run.phase(at - seconds) is not TrainPhase.STEP:
            book(Part.RESTART, used * gpu_seconds, self._cause)
        else:
            stalled = self.setup.pace.stall / run.step_seconds
            book(Part.PRODUCTIVE, used * gpu_seconds * (1 - stalled))
            book(Part.CHECKPOINT, used * gpu_seconds * stalled)

    # What strikes

    def _strike(self, fault: Occurrence) -> None:
        node, times = f"node-{fault.node:05d}", self.setup.times
        out = node in self._ill or self.cluster.nodes[node].unschedulable
        if out and fault.kind is not Kind.PLANNED:
            return
        self.account.faults[fault.cause] += 1
        if fault.kind is Kind.PLANNED:
            self._suspend(fault)
        elif fault.kind in NEEDS_REPAIR:
            self._fall_ill(node, fault)
        elif not self._trains_on(node):
            return
        elif fault.kind is Kind.SILENT:
            if self._run is not None:
                stored = self._copies.after(self._run, self.setup.pace, self.now).stored
                self._after(times.seen(times.silent_seconds), partial(self._notice_silent, fault, stored))
        else:
            hang = times.hang_seconds if fault.kind is Kind.HANG else 0.0
            self._interrupt(fault.cause)
            self._restart_in(times.seen(hang + self._sample(times.notice)))

    def _fall_ill(self, node: str, fault: Occurrence) -> None:
        times = self.setup.times
        self.outs += 1
        self._ill[node] = fault
        if self._trains_on(node):
            self._interrupt(fault.cause)
        if fault.kind is Kind.NODE:
            self._after(times.seen(self._sample(times.lapse)), partial(self._lapse, node))
            self._after(times.seen(times.node_grace), partial(self._silence, node))
        else:
            self._after(times.seen(times.xid_seconds), partial(self._signal, node, fault))
            if (pod := self.cluster.pod_on(node)) is not None:
                self._after(times.seen(self._sample(times.notice) + times.node_check), partial(self._fail, pod))
        hours = self._chance.expovariate(1 / times.repair_hours) if times.repair_hours else 0.0
        self._after(hours * 3600, partial(self._repair, node))

    def _suspend(self, fault: Occurrence) -> None:
        if not self.cluster.job.spec.suspend:
            self._planned = fault.cause
            self.cluster.suspend(True)
            self._wake()

    def _notice_silent(self, fault: Occurrence, stored: int) -> None:
        """The copies in memory are wrong too, and so are the newer ones in the store."""
        self._interrupt(fault.cause)
        self._copies = Copies(stored=min(stored, self._copies.stored))
        self._restart_in(self._sample(self.setup.times.notice))

    def _interrupt(self, cause: str) -> None:
        """The steps end now, and what follows is for `cause`."""
        self._cause, self._struck_at = cause, self.now
        self._end_run(cause)

    def _end_run(self, cause: str) -> None:
        if (run := self._run) is None:
            return
        self.account.interruptions[cause] += 1
        self._hear(all_ranks=True)
        self._position = run.position(self.now)
        self._copies = self._copies.after(run, self.setup.pace, self.now)
        self._run = None

    def _restart_in(self, seconds: float) -> None:
        """Hold torchrun back until it has noticed."""
        self._hold_until = max(self._hold_until, self.now + seconds)
        self._at(self._hold_until, self._form)

    # What kubelets and torchrun do

    def _lapse(self, node: str) -> None:
        if node in self._ill:
            self._lapsed.add(node)
            self._form()

    def _silence(self, node: str) -> None:
        if node in self._ill:
            self.cluster.silence(node, self.now)
            self._wake()

    def _signal(self, node: str, fault: Occurrence) -> None:
        if node not in self._ill:
            return
        xid = HARD_XID if fault.kind is Kind.XID else SUSPECT_XID
        self._evidence.add(
            Signal(
                kind=SignalKind.XID,
                source=Source.DRIVER,
                node=node,
                at=moment(self.now),
                detail=fault.cause,
                gpu="GPU-0",
                xid=xid,
                job=self.cluster.job.key,
            )
        )
        self._wake()

    def _fail(self, pod: PodRecord) -> None:
        """The node check of a restart says no."""
        known = self.cluster.pods.get(pod.name)
        alive = known is not None and known.uid == pod.uid and known.phase is PodPhase.RUNNING and not known.deleting
        if known is None or not alive or known.node not in self._ill:
            return
        self.cluster.fail(known, ExitCode.NODE_CHECK, self.now)
        self._wake()
        self._form()

    def _repair(self, node: str) -> None:
        if self.cluster.pod_on(node) is not None:
            self._after(STILL_OCCUPIED, partial(self._repair, node))
            return
        self._ill.pop(node, None)
        self._lapsed.discard(node)
        self.cluster.repair(node, self.now)
        self._wake()

    def _start(self, pods: Iterable[PodRecord]) -> None:
        times = self.setup.times
        for pod in pods:
            self.cluster.run(pod)
            if pod.node in self._ill and self._ill[pod.node].kind is not Kind.NODE:
                self._after(times.node_check, partial(self._fail, pod))
        self._wake()
        self._form()

    def _remove(self, pods: Iterable[PodRecord]) -> None:
        for pod in pods:
            if pod.node is not None and self.cluster.nodes[pod.node].ready:
                self.cluster.remove(pod)
        if self.cluster.job.spec.suspend and not self.cluster.pods:
            self._after(self.setup.times.planned_seconds, self._resume)
        self._wake()
        self._form()

    def _resume(self) -> None:
        if self.cluster.job.spec.suspend:
            self.cluster.suspend(False)
            self._wake()

    def _trains_on(self, node: str) -> bool:
        pod = self.cluster.pod_on(node)
        return pod is not None and self._run is not None and pod.name in self._run.crew

    def _form(self) -> None:
        """Let torchrun form a world out of the first members, if slot 0 and enough of them are there and well."""
        size = self.cluster.job.status.size
        if self._run is not None or self.now < self._hold_until or not size:
            return
        members = self._members()[:size]
        if len(members) < size or members[0].slot != 0 or any(p.node in self._ill for p in members):
            return
        self._begin(tuple(p.name for p in members))

    def _members(self) -> list[PodRecord]:
        attempt = self.cluster.job.status.attempt
        there = (p for p in self.cluster.pods.values() if p.attempt == attempt and p.phase is PodPhase.RUNNING)
        return sorted((p for p in there if not p.deleting and p.node not in self._lapsed), key=lambda p: p.slot)

    def _begin(self, crew: tuple[str, ...]) -> None:
        setup, times, attempt = self.setup, self.setup.times, self.cluster.job.status.attempt
        self.new_attempts += attempt != self._attempt_before
        if attempt != self._attempt_before or not (setup.replicas or set(crew) <= set(self._crew_before)):
            self._copies = dataclasses.replace(self._copies, memory=None)
        base = self._copies.newest
        self.stored_resumes += base == self._copies.stored
        nodes = setup.job.spec.nodes
        lost = (self._position - base) * setup.pace.step_seconds * nodes.max * setup.gpus_per_node
        self.account.lose(lost, self._cause)
        self._position = float(base)
        loading = self.now + self._sample(times.start) + times.form_seconds
        stepping = loading + times.load_seconds + self._sample(times.first_step) + times.compile_seconds
        step = setup.pace.step_seconds * nodes.max / len(crew) + setup.pace.stall
        self._run = run = Run(
            started_at=self.now,
            loading_at=loading,
            stepping_at=max(stepping, self._struck_at + times.recover_at_least),
            base=base,
            step_seconds=step,
            crew=crew,
        )
        self._incarnations |= {name: self._incarnations.get(name, -1) + 1 for name in crew}
        self._crew_before, self._attempt_before = crew, attempt
        self._wake()
        self._at(run.stepping_at, self._nothing)
        self._at(run.stepping_at + step, partial(self._wake_for, run))

    # What the operator does

    def _wake(self) -> None:
        """Something happened that the operator sees: it acts as soon after as it did in the lab."""
        self._operate_at(self.now + self._operator_chance.choice(self.setup.times.verdict))

    def _nothing(self) -> None:
        """A moment at which only the booking changes."""

    def _wake_for(self, run: Run) -> None:
        if self._run is run:
            self._wake()

    def _operate_at(self, when: float) -> None:
        if self._due is None or when < self._due:
            self._due = when
            self._at(when, partial(self._operate, when))

    def _operate(self, due: float) -> None:
        if due != self._due:
            return  # an earlier call came in between
        self._due = None
        held = decisions.cordon(self.cluster, self._evidence, self.now)
        done = decisions.settle(self.cluster, self._snapshot, self._apply, self.now)
        self.plans += done.plans
        if held:
            self._operate_at(self.now + HELD_LOOK)
        self._form()
        if done.requeue_seconds is not None and not self._calm():
            self._operate_at(self.now + self._look_after(done))

    def _look_after(self, done: decisions.Round) -> float:
        """Return when to ask again although nothing happens; see PROMPT."""
        asked = done.requeue_seconds or 0.0
        self._patience = asked if done.changed else min(2 * self._patience, LONGEST_LOOK)
        soon = asked < PROMPT or (
            not self.cluster.job.status.size and self.cluster.job.status.phase is not Phase.QUEUED
        )
        return max(asked, self._patience) if soon else LONGEST_LOOK

    def _calm(self) -> bool:
        """Say whether the job steps at full size and every fault is closed: the next plan can wait for an event."""
        status, run = self.cluster.job.status, self._run
        full = status.size == self.cluster.job.spec.nodes.max
        return run is not None and self.now > run.stepping_at and full and not open_faults(status.faults)

    def _snapshot(self) -> Snapshot:
        self._hear()
        pods = self.cluster.pods
        heard = {name: said for name, said in self._heard.items() if name in pods}
        return self.cluster.snapshot(heard, self._stored_now(), self._highest)

    def _stored_now(self) -> int:
        return self._copies.after(self._run, self.setup.pace, self.now).stored if self._run else self._copies.stored

    def _hear(self, *, all_ranks: bool = False) -> None:
        """Take down what the processes that run now say: all of them when a phase begins or ends, else rank 0."""
        run = self._run
        if run is None:
            return
        step = int(run.position(self.now))
        state = (run, run.phase(self.now), step > run.base)
        ranks = run.crew if all_ranks or state != self._heard_at else run.crew[:1]
        self._heard_at = state
        self._highest = max(self._highest, step)
        self._heard |= zip(ranks, self._progress(run, step, ranks), strict=True)
        if len(self._heard) > 2 * len(run.crew):
            self._heard = {name: said for name, said in self._heard.items() if name in self.cluster.pods}

    def _progress(self, run: Run, step: int, pods: Iterable[str]) -> Iterator[Progress]:
        """Yield what the pods of `run` say, in rank order; loss and checkpoints are nobody's business here.

        Pods whose processes started equally often say the same but for their ranks, which only break ties: one
        object stands for them all.
        """
        world, attempt, phase = (
            len(run.crew) * self.setup.gpus_per_node,
            self.cluster.job.status.attempt,
            run.phase(self.now),
        )
        done, seconds = step > run.base, run.step_seconds
        last = START_EPOCH + (run.stepping_at + (step - run.base) * seconds if done else run.started_at)
        first = START_EPOCH + run.stepping_at + seconds if done else None
        speed = self.setup.job.spec.stages[0].global_batch_tokens / seconds if done else None
        begun, count = START_EPOCH + run.started_at, self._incarnations
        said: dict[int, Progress] = {}
        for name in pods:
            started = count[name]
            if started not in said:
                said[started] = Progress(
                    phase, 0, world, attempt, started, run.base, step, last, begun, first,
                    None, speed, None, None, None,
                )  # fmt: skip
            yield said[started]

    def _apply(self, actions: Iterable[Action]) -> None:
        made, leaving = self.cluster.apply(actions, self.now)
        if made:
            times = self.setup.times
            self._after(len(made) / times.pods_per_second + times.pod_start, partial(self._start, made))
        if leaving:
            self._leave(leaving)
            if self._run is not None and any(self._gone(name) for name in self._run.crew):
                self._end_run(self._cause)

    def _leave(self, leaving: list[Leaving]) -> None:
        """Pods end within their grace; those that were asked in peace write a checkpoint first."""
        in_peace = [one.pod for one in leaving if one.grace is None]
        at_once = [one.pod for one in leaving if one.grace is not None]
        if in_peace:
            if self._run is not None and self.now >= self._run.stepping_at:
                self._interrupt(self._planned if self.cluster.job.spec.suspend else RESIZE)
                self._copies = Copies(stored=int(self._position))
            elif self.cluster.job.spec.suspend:
                self._interrupt(self._planned)
            self._after(self.setup.times.save_seconds, partial(self._remove, in_peace))
        if at_once:
            self._after(max(one.grace or 0 for one in leaving), partial(self._remove, at_once))

    def _gone(self, name: str) -> bool:
        pod = self.cluster.pods.get(name)
        return pod is None or pod.deleting
