"""The operator against a model of the API server: hypothesis plays the cluster, the people and the operator's deaths.

Other than in a story of `test_invariants`, the operator need not settle between two events: it may die after any of its
actions, lose a race for its status write, or decide on a view of the pods that is older than the cluster.
"""

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from internlm2_operator import plan as planning
from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.plan.actions import Plan
from internlm2_operator.plan.snapshot import CheckpointView, CheckView, PodPhase, Refusal
from internlm2_spec.standstill import Cluster as Stood
from tests.unit.plan.world import GPUS, STEPS, Event, World, after, bug, check, hang, job, node, peer

NODES = ("n1", "n2", "n3", "n4", "n5")
JOBS = (
    job(),
    job(low=1, high=2, spares=0),
    job(low=1, high=4, spares=2),
    job(stages=2),
    job(failurePolicy={"maxRestarts": 1}),
    job(low=3, high=3, spares=0),  # no legal size
    job(nodes={"min": 1, "max": 4, "spares": 1, "gpusPerNode": GPUS, "shrinkAfterSeconds": 0, "growAfterSeconds": 0}),
)
VIEWS = (
    CheckpointView(),
    CheckpointView(verified=50),
    CheckpointView(verified=STEPS),
    CheckpointView(verified=50, time=after(10**6)),  # fresh in any second of a story
    CheckpointView(problem="StoreUnavailable"),
    None,
)

_TAKEN: dict[str, Any] = {"deleting": True, "grace": 30}
FATES: Sequence[Mapping[str, Any]] = (
    {"phase": PodPhase.FAILED, "exit_code": 137, "reason": "OOMKilled"},
    {"phase": PodPhase.FAILED, "exit_code": None, "reason": "UnexpectedAdmissionError"},
    {"waiting": "ErrImagePull"},
    {"waiting": "ContainerCreating"},
    _TAKEN | {"seconds": 30},
    _TAKEN | {"seconds": 30, "disruption": "EvictionByEvictionAPI"},
    _TAKEN | {"seconds": -31, "disruption": "PreemptionByScheduler"},
)


def few_nodes(*alive: str) -> Event:
    """Let only these nodes live."""

    def happens(world: World) -> World:
        for name in NODES:
            world = world.with_node(name, ready=True) if name in alive else world.dead(name)
        return world

    return happens


def passed(seconds: float) -> Event:
    return lambda w: w.later(seconds)


def trains(world: World) -> World:
    return world.trained(30)


def repaired(*names: str) -> Event:
    def happens(world: World) -> World:
        for name in names:
            world = world.with_node(name, ready=True, unschedulable=False, fault=None, ready_since=world.now)
        return world

    return happens


def silent(name: str) -> Event:
    return lambda w: w.with_node(name, ready=False, ready_since=w.now)


def announced(name: str) -> Event:
    return lambda w: w.with_node(name, notice="a taint of the cloud")


def bound(low: int, high: int) -> Event:
    return lambda w: w.edited(nodes=w.job.spec.nodes.model_copy(update={"min": low, "max": high}))


def image_is_missing(world: World) -> World:
    pods = tuple(dataclasses.replace(p, phase=PodPhase.PENDING, waiting="ImagePullBackOff") for p in world.pods)
    return dataclasses.replace(world, pods=pods, progress={})


def image_is_corrected(world: World) -> World:
    return dataclasses.replace(world, job=world.job.model_copy(update={"generation": world.job.generation + 1}))


def node_is_taken_between_two_turns(world: World) -> World:
    placed = World(job(), world.nodes)
    placed = placed.applied(placed.plan())
    for name in NODES[:4]:
        placed = placed.with_node(name, used=GPUS)
    return placed


def suspended(world: World) -> World:
    return world.edited(suspend=True)


def fails(world: World) -> World:
    return world.ended(0, 70, reason="Error", termination=bug(7))


def resumed(world: World) -> World:
    return world.edited(suspend=False)


def checks_run(world: World) -> World:
    return dataclasses.replace(world, checks=CheckView(on=True))


def never_looked(world: World) -> World:
    return dataclasses.replace(world, checkpoint=None)


def stored(step: int) -> Event:
    return lambda w: dataclasses.replace(w, checkpoint=CheckpointView(verified=step, time=after(10**6)))


ELASTIC = job(low=1, high=4, spares=0)
TRAINS: Sequence[Event] = (passed(5), trains, passed(10), trains)
GROWS: Sequence[Event] = (*TRAINS, stored(50), repaired(*NODES), passed(90), trains)
# Where a story begins: a job in the middle of its life, as chance alone would rarely lead it there.
OPENINGS: Sequence[tuple[InternLM2Job, Sequence[Event]]] = (
    *((made, ()) for made in JOBS),
    (ELASTIC, (*TRAINS, few_nodes("n1", "n2"), passed(10), passed(70))),  # waits for nodes, shrinks
    (ELASTIC, (*TRAINS, few_nodes("n1"), passed(70), *GROWS)),  # shrinks, waits, grows
    (ELASTIC, (*TRAINS, bound(1, 2))),  # is told to shrink
    (job(), (*TRAINS, passed(1000))),  # stalls
    (job(failurePolicy={"maxRestarts": 0}), (*TRAINS, fails)),
    (job(), (node_is_taken_between_two_turns,)),
    (job(), (*TRAINS, silent("n1"))),
    (job(), (*TRAINS, announced("n2"))),
    (job(), (*TRAINS, announced("n3"))),  # where the spare waits
    (job(suspend=True), (never_looked, resumed)),
    (job(), (*TRAINS, suspended)),
    (job(), (*TRAINS, lambda w: w.ended(0, 137, reason="Error"))),
    (job(), (*TRAINS, fails, passed(5), passed(5), trains, fails)),
    (job(), (*TRAINS, lambda w: w.ended(1, 75, reason="Error"))),
    (job(stages=2), (*TRAINS, stored(STEPS))),
    (job(spares=0), (*TRAINS, lambda w: w.ended(1, 1, reason="Error", termination=peer()))),
    (job(ttlSecondsAfterFinished=10), (*TRAINS, stored(STEPS), passed(20))),
    (job(), (*TRAINS, image_is_missing, image_is_corrected)),
    (job(suspend=True), (lambda w: dataclasses.replace(w, hold=1.0), resumed, passed(1))),
    (job(suspend=True), (checks_run, resumed, passed(5), passed(1000))),
    (job(spares=0), (*TRAINS, lambda w: w.ended(0, 0).ended(1, 0), passed(100))),
    (job(), (*TRAINS, lambda w: w.ended(1, 77, reason="Error", termination=hang(Stood((2, 3), place="x"))))),
)

names = st.sampled_from(NODES)
slots = st.integers(0, 3)


class Cluster(RuleBasedStateMachine):
    """One job, five nodes, an operator that can die, and everybody who may disturb it."""

    reached: ClassVar[set[str]] = set()

    world: World
    behind: World  # what a watch that lags still shows of the pods

    @initialize(opening=st.sampled_from(OPENINGS))
    def start(self, opening: tuple[InternLM2Job, Sequence[Event]]) -> None:
        made, story = opening
        self.world = self.behind = World(made, tuple(node(n) for n in NODES))
        for happens in story:
            self.operator_settles()
            self.world = happens(self.world)
        self.operator_settles()

    # The operator

    @rule()
    def operator_settles(self) -> None:
        for _ in range(30):
            made = self._planned(self.world)
            if not made.actions and made.status == self.world.job.status:
                return
            self.world = self.world.applied(made)
        raise AssertionError(f"no fixed point: {self._planned(self.world)}")

    @rule()
    def operator_takes_one_turn(self) -> None:
        self.world = self.world.applied(self._planned(self.world))

    @rule(actions=st.integers(0, 4))
    def operator_dies_in_the_middle(self, actions: int) -> None:
        made = self._planned(self.world)
        torn = dataclasses.replace(made, actions=made.actions[:actions], status=self.world.job.status)
        self.world = self.world.applied(torn)

    @rule()
    def operator_sees_an_older_world(self) -> None:
        """Its status write is refused (409), for the job has moved; its actions are made all the same."""
        made = self._planned(self.behind)
        self.world = self.world.applied(dataclasses.replace(made, status=self.world.job.status))

    @rule()
    def watches_catch_up(self) -> None:
        self.behind = self.world

    def _planned(self, world: World) -> Plan:
        made = world.plan()
        self.reached.update(line.split(": ")[1] for line in made.trail[-1:] if ": " in line)
        return made

    @rule(step=st.integers(1, STEPS - 1))
    def all_goes_well(self, step: int) -> None:
        """Some minutes without a disturbance, so that the next one meets a job that trains."""
        self.operator_settles()
        for seconds in (5, 10):
            self.world = self.world.later(seconds)
            self.operator_settles()
            self.world = self.world.trained(step)
            self.operator_settles()

    # The cluster

    @rule(seconds=st.sampled_from([1, 5, 30, 130, 1000]))
    def time_passes(self, seconds: float) -> None:
        self.world = self.world.later(seconds)

    @rule(step=st.integers(1, STEPS))
    def ranks_train(self, step: int) -> None:
        self.world = self.world.trained(step, resumed=max(0, step - 5))

    @rule(name=names)
    def node_dies(self, name: str) -> None:
        self.world = self.world.dead(name)

    @rule(left=st.sets(names, max_size=2))
    def rack_dies(self, left: set[str]) -> None:
        for name in sorted(set(NODES) - left):
            self.world = self.world.dead(name)

    @rule(name=names)
    def node_falls_silent(self, name: str) -> None:
        self.world = self.world.with_node(name, ready=False, ready_since=self.world.now, says_no=False)

    @rule(name=names)
    def kubelet_says_no(self, name: str) -> None:
        self.world = self.world.with_node(name, ready=False, ready_since=self.world.now, says_no=True)

    @rule(name=names, notice=st.sampled_from(["", "a taint of the cloud"]))
    def node_is_announced_to_go(self, name: str, notice: str) -> None:
        self.world = self.world.with_node(name, notice=notice)

    @rule(name=names)
    def node_is_taken_by_others(self, name: str) -> None:
        if all(p.node != name for p in self.world.live):
            self.world = self.world.with_node(name, used=GPUS)

    @rule(name=names)
    def node_is_cordoned_by_us(self, name: str) -> None:
        self.world = self.world.faulty(name)

    @rule(name=names)
    def node_is_repaired(self, name: str) -> None:
        changes = {"ready": True, "unschedulable": False, "fault": None, "used": 0, "ready_since": self.world.now}
        self.world = self.world.with_node(name, **changes, says_no=False, notice="")

    @rule(slot=slots)
    def process_is_killed(self, slot: int) -> None:
        self._end(slot, 137)

    @rule(step=st.sampled_from([7, 7, 8]), times=st.integers(1, 3))
    def user_code_raises(self, step: int, times: int) -> None:
        """The same line at the same step, or another; and again in the attempts that follow."""
        for number in range(times):
            self._end(0, 70, termination=bug(step, f"ValueError: {number if step == 8 else 'no'}"))
            self.all_goes_well(step=step)

    @rule(times=st.integers(1, 6), slot=slots)
    def process_is_killed_again_and_again(self, times: int, slot: int) -> None:
        for _ in range(times):
            self._end(slot, 137)
            self.operator_settles()
            self.world = self.world.later(5)
            self.operator_settles()

    @rule(slot=slots)
    def data_is_refused(self, slot: int) -> None:
        self._end(slot, 65)

    @rule(slots=st.sets(slots, min_size=1))
    def members_stop_after_a_checkpoint(self, slots: set[int]) -> None:
        for slot in slots:
            self._end(slot, 75)

    @rule(slots=st.sets(slots, min_size=1))
    def members_lose_a_peer(self, slots: set[int]) -> None:
        for slot in slots:
            self._end(slot, 1, termination=peer())

    @rule(proved=st.booleans())
    def members_are_done(self, proved: bool) -> None:
        for slot in range(4):
            self._end(slot, 0)
        if proved:
            self.world = self.world.saved(STEPS)

    def _end(self, slot: int, code: int, **said: Any) -> None:
        if any(p.slot == slot for p in self.world.live):
            self.world = self.world.ended(slot, code, reason="Error", **said)

    @rule(slot=slots, fate=st.sampled_from(FATES))
    def kubernetes_interferes(self, slot: int, fate: Mapping[str, Any]) -> None:
        """Seconds are until the grace of a pod that is taken away ends; late by 31, something holds it."""
        changes = {key: value for key, value in fate.items() if key != "seconds"}
        if "seconds" in fate:
            changes["gone_by"] = self.world.now + timedelta(seconds=fate["seconds"])
        waits = {p.slot for p in self.world.live if p.phase is PodPhase.PENDING or "waiting" not in fate}
        if slot in waits:
            self.world = self.world.with_pods(slot, finished=self.world.now, **changes)

    @rule(message=st.sampled_from(["exceeded quota: few", "violates PodSecurity"]), hold=st.sampled_from([0.0, 1.0]))
    def server_takes_no_pod(self, message: str, hold: float) -> None:
        refused = Refusal(self.world.job.status.attempt, self.world.now, message)
        self.world = dataclasses.replace(self.world, refused=None if hold else refused, hold=hold)

    @rule()
    def person_edits(self) -> None:
        job = self.world.job.model_copy(update={"generation": self.world.job.generation + 1})
        self.world = dataclasses.replace(self.world, job=job)

    @rule(slot=slots)
    def pod_vanishes(self, slot: int) -> None:
        pods = tuple(p for p in self.world.pods if p.slot != slot)
        self.world = dataclasses.replace(self.world, pods=pods)

    # Stores and people

    @rule(view=st.sampled_from(VIEWS))
    def store_answers(self, view: CheckpointView | None) -> None:
        self.world = dataclasses.replace(self.world, checkpoint=view)

    @rule(missing=st.sampled_from([(), ("secret/s3",)]))
    def secret_comes_and_goes(self, missing: tuple[str, ...]) -> None:
        self.world = dataclasses.replace(self.world, missing=missing)

    @rule(suspend=st.booleans())
    def person_suspends(self, suspend: bool) -> None:
        self.world = self.world.edited(suspend=suspend)

    @rule(bounds=st.sampled_from([(1, 1), (1, 2), (2, 2), (1, 4), (2, 4), (4, 4)]))
    def person_moves_the_bounds(self, bounds: tuple[int, int]) -> None:
        changes = {"min": bounds[0], "max": bounds[1]}
        self.world = self.world.edited(nodes=self.world.job.spec.nodes.model_copy(update=changes))

    @rule(waiting=st.integers(0, 1))
    def other_jobs_wait(self, waiting: int) -> None:
        self.world = dataclasses.replace(self.world, waiting_jobs=waiting)

    # What always holds

    @invariant()
    def nothing_impossible(self) -> None:
        if hasattr(self, "world"):
            check(self.world)

    @invariant()
    def attempts_only_grow_and_no_slot_is_held_twice(self) -> None:
        if not hasattr(self, "world"):
            return
        held = [(p.stage, p.attempt, p.slot, p.replacement) for p in self.world.pods]
        assert len(held) == len(set(held))
        assert all(p.attempt <= self.world.job.status.attempt for p in self.world.live)


def test_every_transition_is_reached_and_nothing_impossible_ever_is() -> None:
    run_state_machine_as_test(
        Cluster, settings=settings(max_examples=200, stateful_step_count=40, deadline=None, derandomize=True)
    )
    for opening in OPENINGS:  # chance need not draw each of them
        Cluster().start(opening)
    missed = transitions() - Cluster.reached - ELSEWHERE
    assert not missed, f"no story led to {sorted(missed)}"


# What the line of all jobs knows, and one job's world does not: tests/api/test_queue.py.
ELSEWHERE = {"Preempted", "Quota"}


def transitions() -> set[str]:
    """Return the reasons that decisions give by themselves; those of a cause are cases of test_causes."""
    found = set()
    for path in Path(planning.__file__).parent.glob("*.py"):
        for call in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id in ("Decision", "_failed", "_queued"):
                said = [a.value for a in call.args[:2] if isinstance(a, ast.Constant)]
                found |= {word for word in said if isinstance(word, str) and word.isalnum()}
    assert len(found) > 25, "the reasons are not found where they are looked for"
    return found
