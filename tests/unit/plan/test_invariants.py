"""What holds for every plan, whatever happens to the cluster: drawn by hypothesis from the world's own events."""

import dataclasses
import random
from collections import Counter
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.plan import plan
from internlm2_operator.plan.actions import CreatePod
from internlm2_operator.plan.backoff import AT_ONCE
from internlm2_operator.plan.snapshot import CheckpointView, PodPhase, Refusal
from tests.examples import few
from tests.unit.plan.world import STEPS, Event, World, bug, job, node, peer

NODES = ("n1", "n2", "n3", "n4", "n5")
JOBS: tuple[InternLM2Job, ...] = (job(), job(low=1, high=2, spares=0), job(low=1, high=4, spares=2), job(stages=2))

slots = st.integers(0, 3)
names = st.sampled_from(NODES)


def _passed(seconds: float) -> Event:
    return lambda w: w.later(seconds)


def _dies(name: str) -> Event:
    return lambda w: w.dead(name)


def _faults(name: str) -> Event:
    return lambda w: w.faulty(name)


def _heals(name: str) -> Event:
    return lambda w: w.back(name)


def _ends(slot: int, code: int) -> Event:
    said = {70: bug(), 1: peer()}.get(code)
    return lambda w: w.ended(slot, code, reason="Error", termination=said) if w.live else w


def _is_killed_for_memory(slot: int) -> Event:
    return lambda w: w.ended(slot, 137, reason="OOMKilled") if w.live else w


def _cannot_start(slot: int, reason: str) -> Event:
    def event(world: World) -> World:
        waiting = {p.slot for p in world.live if p.phase is PodPhase.PENDING}
        return world.with_pods(slot, waiting=reason) if slot in waiting else world

    return event


def _is_taken_away(slot: int, disruption: str, late: float) -> Event:
    """Somebody deletes a pod; `late` seconds after its grace a finalizer still holds it."""

    def event(world: World) -> World:
        gone_by = world.now - timedelta(seconds=late)
        live = {p.slot for p in world.live}
        if slot not in live:
            return world
        return world.with_pods(slot, deleting=True, grace=30, gone_by=gone_by, disruption=disruption)

    return event


def _is_refused(message: str) -> Event:
    return lambda w: dataclasses.replace(w, refused=Refusal(w.job.status.attempt, w.now, message))


def _edits() -> Event:
    def event(world: World) -> World:
        generation = world.job.generation + 1
        return dataclasses.replace(world, job=world.job.model_copy(update={"generation": generation}))

    return event


def _vanishes(slot: int) -> Event:
    return lambda w: dataclasses.replace(w, pods=tuple(p for p in w.pods if p.slot != slot))


def _trains(step: int) -> Event:
    return lambda w: w.trained(step, resumed=max(0, step - 5))


def _suspends(suspend: bool) -> Event:
    return lambda w: w.edited(suspend=suspend)


def _stores(view: CheckpointView) -> Event:
    return lambda w: dataclasses.replace(w, checkpoint=view)


events = st.one_of(
    st.builds(_passed, st.sampled_from([1, 5, 30, 130, 1000])),
    st.builds(_trains, st.integers(1, STEPS)),
    st.builds(_dies, names),
    st.builds(_faults, names),
    st.builds(_heals, names),
    st.builds(_ends, slots, st.sampled_from([0, 1, 64, 65, 70, 75, 77, 137])),
    st.builds(_vanishes, slots),
    st.builds(_is_killed_for_memory, slots),
    st.builds(_cannot_start, slots, st.sampled_from(["ErrImagePull", "ContainerCreating", "CreateContainerError"])),
    st.builds(
        _is_taken_away,
        slots,
        st.sampled_from(["", "EvictionByEvictionAPI", "PreemptionByScheduler"]),
        st.sampled_from([-30.0, 31.0]),
    ),
    st.builds(_is_refused, st.sampled_from(["exceeded quota: few", "violates PodSecurity"])),
    st.builds(_edits),
    st.builds(_suspends, st.booleans()),
    st.builds(
        _stores,
        st.sampled_from([CheckpointView(), CheckpointView(verified=50), CheckpointView(problem="StoreUnavailable")]),
    ),
)
stories = st.lists(events, min_size=1, max_size=8)
jobs = st.sampled_from(JOBS)
fewer = settings(few, max_examples=10)


def told(made: InternLM2Job, story: list[Event]) -> list[World]:
    """Return the worlds of a story, each as it was before the operator settled it."""
    world = World(made, tuple(node(n) for n in NODES))
    worlds = [world]
    for event in story:
        world = event(world.settled())
        worlds.append(world)
    return worlds


@fewer
@given(jobs, stories)
def test_plan_after_apply_is_empty(made: InternLM2Job, story: list[Event]) -> None:
    for world in told(made, story):
        settled = world.settled()
        again = settled.plan()
        assert again.actions == ()
        assert again.status == settled.job.status


@fewer
@given(jobs, stories)
def test_no_attempt_ever_runs_more_pods_than_nodes_max_and_spares(made: InternLM2Job, story: list[Event]) -> None:
    most = made.spec.nodes.max + made.spec.nodes.spares
    for world in told(made, story):
        for _ in range(6):
            world = world.applied(world.plan())
            assert max(Counter(p.attempt for p in world.live).values(), default=0) <= most


@fewer
@given(jobs, stories, st.randoms(use_true_random=False))
def test_plan_is_blind_to_the_order_of_pods_nodes_and_progress(
    made: InternLM2Job, story: list[Event], chance: random.Random
) -> None:
    for world in told(made, story):
        seen = world.snapshot()
        mixed = dataclasses.replace(
            seen,
            pods=tuple(chance.sample(seen.pods, len(seen.pods))),
            nodes=dict(chance.sample(list(seen.nodes.items()), len(seen.nodes))),
            progress=dict(chance.sample(list(seen.progress.items()), len(seen.progress))),
        )
        assert plan(mixed, world.now) == plan(seen, world.now)


@fewer
@given(jobs, stories)
def test_pods_are_only_made_on_healthy_free_nodes_one_pod_a_node(made: InternLM2Job, story: list[Event]) -> None:
    for world in told(made, story):
        for _ in range(6):
            nodes = world.snapshot().nodes
            free = {n.name: n for n in nodes.values() if n.ready and not n.unschedulable and n.fault is None}
            step = world.plan()
            chosen = [a.node for a in step.actions if isinstance(a, CreatePod)]
            assert len(chosen) == len(set(chosen))
            assert all(free[name].gpus - free[name].used >= 2 for name in chosen)
            world = world.applied(step)


@fewer
@given(jobs, stories, st.integers(0, 3))
def test_operator_that_dies_between_actions_and_status_changes_nothing(
    made: InternLM2Job, story: list[Event], applied: int
) -> None:
    """Half of a plan is applied and its status never written; the pods of the end are the same."""
    for world in told(made, story):
        step = world.plan()
        torn = world.applied(dataclasses.replace(step, actions=step.actions[:applied], status=world.job.status))
        whole, again = world.settled(), torn.settled()
        assert {(p.name, p.node) for p in again.live} == {(p.name, p.node) for p in whole.live}
        assert again.job.status.attempt == whole.job.status.attempt


@fewer
@given(jobs, stories)
def test_failures_of_nobody_are_never_counted_and_what_fails_for_ever_is_slowed_down(
    made: InternLM2Job, story: list[Event]
) -> None:
    """After any story, members that are killed as soon as they run get at most one new set in four seconds."""
    world = told(made, story)[-1].settled()
    counted, attempt = world.job.status.restarts.counted, world.job.status.attempt
    for _ in range(120):
        world = world.later(0.5).ended(0, 137, reason="Error").settled()
    assert world.job.status.restarts.counted <= counted + 1  # a failure of the user's that was already there
    assert world.job.status.attempt - attempt <= AT_ONCE + 15
