"""How the size of a job follows the nodes: tables of single decisions, and what holds whatever the nodes do."""

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import ElasticStatus, Phase
from internlm2_operator.plan.actions import DeletePod
from internlm2_operator.plan.snapshot import CheckpointView
from tests.examples import few
from tests.unit.plan.world import GPUS, World, job, node, trained_world

LEGAL = (1, 2, 4)  # nodes, of the batch of 64 samples
SHRINK, GROW = 60, 600
TICK = 10.0


def elastic(
    *, low: int = 1, high: int = 4, spares: int = 0, shrink: int = SHRINK, grow: int = GROW, **spec: Any
) -> InternLM2Job:
    bounds = {"min": low, "max": high, "spares": spares, "gpusPerNode": GPUS}
    return job(nodes=bounds | {"shrinkAfterSeconds": shrink, "growAfterSeconds": grow}, **spec)


def on(count: int, made: InternLM2Job | None = None) -> World:
    """Return a job that trains on so many nodes, with a fresh checkpoint."""
    return trained_world(made or elastic(), [node(f"n{i}") for i in range(1, count + 1)]).saved(12).settled()


def with_nodes(world: World, *names: str) -> World:
    return dataclasses.replace(world, nodes=(*world.nodes, *(node(name, ready_since=world.now) for name in names)))


def moments(world: World) -> Iterator[World]:
    """Let ten seconds pass in which kubelets, torchrun, the trainers and the operator do their part."""
    yield (world := world.settled())
    yield (world := world.later(1).settled())
    yield world.later(TICK - 1).trained(12, resumed=10).saved(12).settled()


def trains(world: World, seconds: float) -> World:
    for _ in range(int(seconds / TICK)):
        *_, world = moments(world)
    return world


def told(world: World, kind: str = "FullSize") -> tuple[str, str, str]:
    found = world.job.status.condition(kind)
    assert found is not None
    return found.status, found.reason, found.message


Change = Callable[[World], World]


def dies(name: str) -> Change:
    return lambda w: w.dead(name)


def returns(name: str) -> Change:
    return lambda w: w.back(name)


def nothing(world: World) -> World:
    return world


# Shrinking


@pytest.mark.parametrize(
    ("lost", "size"),
    [("n4", 2), ("n3 n4", 2), ("n1", 2), ("n1 n2", 2), ("n2 n3 n4", 1), ("n1 n2 n3", 1)],
)
def test_any_nodes_lost_at_once_shrink_the_job_to_the_largest_legal_size(lost: str, size: int) -> None:
    world = on(4)
    for name in lost.split():
        world = world.dead(name)
    world = world.settled().later(5).settled()
    assert told(world)[0] == "False"
    assert told(world, "Progressing")[1] == "WaitingForNodes"
    assert f"goes on with {size}" in told(world, "Progressing")[2]
    assert world.job.status.phase is Phase.RECOVERING
    world = trains(world, SHRINK + 20)
    assert (world.job.status.size, world.job.status.phase) == (size, Phase.RUNNING)
    assert not {n for n in world.on.values() if n in lost.split()}


def test_all_nodes_lost_queue_the_job_with_the_number_missing_and_it_starts_by_itself() -> None:
    world = on(4)
    for name in ("n1", "n2", "n3", "n4"):
        world = world.dead(name)
    world = trains(world.settled(), SHRINK + 20)
    assert (world.job.status.phase, world.job.status.size, world.live) == (Phase.QUEUED, 0, [])
    assert told(world, "Scheduled")[2].startswith("1 more nodes")
    world = trains(world.back("n1").back("n2"), 30)
    assert (world.job.status.size, world.job.status.phase) == (2, Phase.RUNNING)


@pytest.mark.parametrize("slot", [0, 1])
def test_node_that_returns_within_the_grace_takes_its_place_again(slot: int) -> None:
    world = on(4)
    name = world.on[slot]
    assert name is not None
    world = trains(world.dead(name).settled(), SHRINK - 20)
    assert told(world, "Progressing")[1] == "WaitingForNodes"
    world = trains(world.back(name), 30)
    assert (world.job.status.size, world.job.status.phase) == (4, Phase.RUNNING)
    assert world.job.status.elastic.short_since is None


def test_survivors_keep_their_pods_and_what_they_have_in_memory_while_the_job_waits() -> None:
    world = on(4)
    before = {p.uid for p in world.live if p.node != "n4"}
    assert {p.uid for p in trains(world.dead("n4").settled(), 30).live} == before


def test_node_that_comes_and_goes_does_not_begin_the_grace_again() -> None:
    world = on(2).dead("n2").settled()
    for _ in range(4):
        world = world.later(10).back("n2").settled().later(10).dead("n2").settled()
    world = world.later(1).settled().later(1).settled()
    assert world.on == {0: "n1"}


@pytest.mark.parametrize("lost", ["n1", "n2"])
def test_without_a_grace_the_job_shrinks_at_once(lost: str) -> None:
    world = on(2, elastic(shrink=0)).dead(lost).settled().later(1).settled()
    assert world.job.status.size == 1


def test_node_is_lost_while_another_is_waited_for() -> None:
    world = trains(on(4).dead("n4").settled(), 30)
    world = trains(world.dead("n3").settled(), 40)
    assert world.job.status.size == 2


def test_loss_is_counted_once_whatever_follows_from_it() -> None:
    world = trains(on(2).dead("n2").settled(), SHRINK + 20)
    assert world.job.status.restarts.infrastructure == 1
    assert [f.node for f in world.job.status.faults] == ["n2"]
    assert world.job.status.faults[0].times.closed is not None


def test_spare_stands_in_before_anything_shrinks() -> None:
    world = trains(on(3, elastic(high=2, spares=1)).dead("n2").settled(), SHRINK + 20)
    assert (world.job.status.size, world.job.status.attempt) == (2, 1)


def drained(world: World, name: str) -> World:
    """Let a person drain a node: its pod is evicted, and takes the others along into a checkpoint."""
    return world.with_node(name, unschedulable=True).settled().ended(0, 75).ended(1, 75).settled().later(1).settled()


def test_drained_node_is_left_for_a_free_one_after_a_checkpoint() -> None:
    world = drained(with_nodes(on(2, elastic(high=2)), "n3"), "n2")
    assert world.on == {0: "n1", 1: "n3"}
    assert world.job.status.restarts.counted == 0


def test_drained_node_without_a_free_one_shrinks_the_job() -> None:
    world = trains(drained(on(2, elastic(high=2)), "n1"), SHRINK + 20)
    assert (world.on, world.job.status.phase) == ({0: "n2"}, Phase.RUNNING)


def test_cordon_alone_moves_nothing() -> None:
    world = on(2)
    before = world.on
    assert trains(world.with_node("n2", unschedulable=True), GROW + 20).on == before


# Growing


def test_job_grows_after_the_snooze_through_a_checkpoint_and_is_told_when() -> None:
    world = trains(with_nodes(on(2), "n3", "n4"), GROW - 40)
    assert world.job.status.size == 2
    assert told(world)[:2] == ("False", "WaitingToGrow")
    assert "nodes for 4 instead of 2 are free" in told(world)[2]
    assert world.job.status.phase is Phase.RUNNING
    world = trains(world, 60)
    assert (world.job.status.size, world.job.status.attempt, world.job.status.restarts.infrastructure) == (4, 2, 0)
    assert told(world)[0] == "True"
    assert world.job.status.faults == ()


def stopping() -> World:
    """Return a job whose pods stop because it grows, as soon as they have been told."""
    world = with_nodes(on(2, elastic(grow=0)), "n3", "n4").settled()
    assert world.job.status.elastic.stopping is not None
    return world


def test_pods_that_stop_for_more_nodes_have_their_own_grace() -> None:
    world = with_nodes(on(2, elastic(grow=0)), "n3", "n4")
    world = world.applied(world.plan())
    deleted = [a for a in world.plan().actions if isinstance(a, DeletePod)]
    assert {d.grace_seconds for d in deleted} == {None}
    assert len(deleted) == 2


def test_larger_attempt_waits_until_the_checkpoint_of_the_former_one_is_written() -> None:
    # Six free nodes: the attempt could start elsewhere at once, and would fence the old one off.
    world = with_nodes(stopping(), *(f"m{i}" for i in range(6))).settled()
    assert (world.job.status.size, world.live) == (0, [])
    assert told(world, "Progressing")[1] == "Resizing"
    assert world.later(5).settled().job.status.size == 4


def test_pod_that_does_not_stop_is_waited_for_no_longer_than_its_grace() -> None:
    world = with_nodes(stopping(), *(f"m{i}" for i in range(6))).settled()
    grace = world.job.spec.template.termination_grace_period_seconds
    held = dataclasses.replace(world, now=world.now + timedelta(seconds=grace))
    assert held.settled().job.status.size == 0
    assert dataclasses.replace(held, now=held.now + timedelta(seconds=10)).settled().job.status.size == 4


def test_node_that_dies_while_pods_stop_is_not_waited_for() -> None:
    world = stopping().dead("n2").settled().later(1).settled()
    assert world.job.status.size == 2


HINDRANCES: dict[str, Change] = {
    "a fault is open": lambda w: w.restarted(13, resumed=10),
    "a node is silent": lambda w: w.with_node("n2", ready=False, ready_since=w.now),
    "nothing was saved for long": lambda w: dataclasses.replace(
        w, checkpoint=CheckpointView(verified=12, time=w.now - timedelta(seconds=121))
    ),
    "nothing was ever saved": lambda w: dataclasses.replace(w, checkpoint=CheckpointView()),
    "the store is away": lambda w: dataclasses.replace(w, checkpoint=CheckpointView(problem="StoreUnavailable")),
    "other jobs wait": lambda w: dataclasses.replace(w, waiting_jobs=1),
    "the new nodes are cordoned": lambda w: w.with_node("n3", unschedulable=True),
    "one of the new nodes is at fault": lambda w: w.faulty("n4"),
    "the nodes are taken": lambda w: w.with_node("n3", used=1),
}


@pytest.mark.parametrize("hinder", HINDRANCES.values(), ids=HINDRANCES.keys())
def test_job_does_not_grow_while(hinder: Change) -> None:
    ready = trains(with_nodes(on(2), "n3", "n4"), GROW - 20)
    ripe = dataclasses.replace(ready, now=ready.now + timedelta(seconds=30))
    assert ripe.settled().job.status.elastic.stopping is not None
    assert hinder(ripe).settled().job.status.elastic.stopping is None


def test_job_does_not_grow_for_the_end_of_a_stage() -> None:
    world = trains(with_nodes(on(2), "n3", "n4"), GROW - 20).later(30)
    # Five steps of 16,384 tokens at 1,000 tokens a second.
    status = world.job.status.model_copy(update={"step": 95})
    world = dataclasses.replace(world, job=world.job.model_copy(update={"status": status}))
    assert world.plan().status.elastic.stopping is None
    assert "ends too soon" in told(world.applied(world.plan()))[2]


def test_job_grows_some_time_after_a_fault_and_not_right_after_it() -> None:
    world = with_nodes(on(2), "n3", "n4")
    world = trains(world, GROW - 40).restarted(13, resumed=10).settled()
    world = trains(world, 60)
    assert (world.job.status.phase, world.job.status.size) == (Phase.RUNNING, 2)
    assert trains(world, 120).job.status.size == 4


def test_raised_max_does_not_wait_for_the_snooze() -> None:
    world = on(4, elastic(high=2))
    assert (world.job.status.size, told(world)[0]) == (2, "True")
    world = raised(world, high=4)
    assert trains(world, 180).job.status.size == 4


def test_raised_max_is_one_growth_and_then_the_snooze_counts_again() -> None:
    world = trains(raised(on(2, elastic(high=1)), high=4), 180)
    assert world.job.status.size == 2
    assert trains(with_nodes(world, "n3", "n4"), 300).job.status.size == 2


def test_members_come_before_spares() -> None:
    """Two spares make the job twice as fast as members; what is left over is a spare again."""
    world = on(2, elastic(spares=2))
    world = with_nodes(world, "n3", "n4").settled().later(5).settled()
    assert len(world.live) == 4
    world = trains(world, GROW + 20)
    assert (world.job.status.size, len(world.live)) == (4, 4)
    world = with_nodes(world, "n5").settled()
    assert world.on[4] == "n5"


def test_job_may_turn_its_own_spares_into_members_while_others_wait() -> None:
    world = with_nodes(on(2, elastic(spares=2)), "n3", "n4").settled().later(5).settled()
    world = dataclasses.replace(world, waiting_jobs=3)
    assert trains(world, GROW + 20).job.status.size == 4


# Bounds that a person moves


def raised(world: World, *, low: int = 1, high: int) -> World:
    nodes = world.job.spec.nodes.model_copy(update={"min": low, "max": high})
    return world.edited(nodes=nodes)


@pytest.mark.parametrize(
    ("low", "high", "size", "phase"),
    [(1, 2, 2, Phase.RUNNING), (1, 1, 1, Phase.RUNNING), (1, 4, 4, Phase.RUNNING)],
    ids=["max 2", "max 1", "the same"],
)
def test_lowered_max_stops_the_job_in_peace_and_starts_it_within_the_bound(
    low: int, high: int, size: int, phase: Phase
) -> None:
    world = raised(on(4), low=low, high=high).settled()
    assert (world.job.status.elastic.stopping is None) is (high == 4)
    world = trains(world, 30)
    assert (world.job.status.size, world.job.status.phase) == (size, phase)
    assert world.job.status.restarts.infrastructure == 0


def test_raised_min_queues_the_job_after_a_checkpoint_until_enough_nodes_are_free() -> None:
    world = trains(raised(on(2), low=4, high=4), 30)
    assert (world.job.status.phase, world.live) == (Phase.QUEUED, [])
    assert told(world, "Scheduled")[2].startswith("2 more nodes")
    assert trains(with_nodes(world, "n3", "n4"), 30).job.status.size == 4


def test_bounds_that_are_moved_while_pods_stop_are_obeyed() -> None:
    world = raised(stopping(), high=1).later(5).settled()
    assert world.job.status.size == 1


def test_suspended_job_does_not_wait_for_its_former_size() -> None:
    world = on(4).edited(suspend=True).settled().later(5).settled().dead("n4")
    assert world.edited(suspend=False).settled().job.status.size == 2


@pytest.mark.parametrize("lost", ["n1", "n2"])
def test_job_of_an_operator_that_remembered_nothing_shrinks_as_any_other(lost: str) -> None:
    world = on(2)
    old = world.job.status.model_copy(update={"elastic": ElasticStatus()})
    world = dataclasses.replace(world, job=world.job.model_copy(update={"status": old}))
    assert trains(world.dead(lost).settled(), SHRINK + 20).job.status.size == 1


# Whatever the nodes do


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What became of a job: sizes of its attempts, when it stopped in peace (seconds after it was placed), the end."""

    sizes: tuple[int, ...]
    stops: tuple[float, ...]
    world: World

    @property
    def resizes(self) -> int:
        """Attempts after the first one, those that got the same size again for nothing among them."""
        return len(self.sizes) - 1


def run(made: InternLM2Job, steps: Iterable[Change]) -> Run:
    """Let the nodes change, one change every ten seconds, while the job trains when it can."""
    world = World(made, tuple(node(f"n{i}") for i in range(1, 5))).saved(12)
    sizes: dict[int, int] = {}
    stops: dict[datetime, float] = {}
    for change in itertools.chain([nothing], steps):
        for moment in moments(change(world)):
            world = moment
            status, elastic = world.job.status, world.job.status.elastic
            if status.size:
                sizes.setdefault(status.attempt, status.size)
            if elastic.stopping is not None and elastic.placed_time is not None:
                since = elastic.stopping.since
                stops[since] = (since - elastic.placed_time).total_seconds()
    return Run(tuple(sizes.values()), tuple(stops.values()), world)


names = st.sampled_from(["n1", "n2", "n3", "n4"])
weather = st.lists(
    st.one_of(st.just(nothing), st.builds(dies, names), st.builds(returns, names)), min_size=5, max_size=60
)


@settings(few, max_examples=25)
@given(weather, st.sampled_from([elastic(), elastic(low=2, spares=1), elastic(shrink=0), elastic(high=2)]))
def test_size_is_legal_within_the_bounds_and_no_stop_in_peace_comes_within_the_snooze(
    changes: list[Change], made: InternLM2Job
) -> None:
    ran, nodes = run(made, changes), made.spec.nodes
    assert set(ran.sizes) <= set(LEGAL) & set(range(nodes.min, nodes.max + 1))
    assert all(after >= nodes.grow_after_seconds for after in ran.stops)


@settings(few, max_examples=10)
@given(weather)
def test_healthy_nodes_are_used_in_the_end(changes: list[Change]) -> None:
    world = run(elastic(), changes).world
    for name in ("n1", "n2", "n3", "n4"):
        world = world.back(name)
    world = trains(world, GROW + 200)
    assert (world.job.status.size, world.job.status.phase) == (4, Phase.RUNNING)


@settings(few, max_examples=10)
@given(weather)
def test_total_loss_queues_the_job(changes: list[Change]) -> None:
    world = run(elastic(), changes).world
    for name in ("n1", "n2", "n3", "n4"):
        world = world.dead(name)
    world = trains(world, SHRINK + 180)
    assert (world.job.status.phase, world.live) == (Phase.QUEUED, [])


def flapping(hours: float, *, up: float, down: float) -> list[Change]:
    """Return the changes of two nodes out of four that come and go, after up and down times of these means."""
    chance = random.Random(1)
    changes: list[Change] = [nothing] * int(hours * 3600 / TICK)
    for name in ("n3", "n4"):
        at, alive = chance.expovariate(1 / up), True
        while int(at / TICK) < len(changes):
            changes[int(at / TICK)] = both(changes[int(at / TICK)], dies(name) if alive else returns(name))
            at, alive = at + chance.expovariate(1 / (down if alive else up)), not alive
    return changes


def both(first: Change, second: Change) -> Change:
    return lambda w: second(first(w))


HOURS = 2
# A growth after each snooze, and a shrink before it.
BOUND = 2 * HOURS * 3600 / GROW + 1


@pytest.mark.parametrize(("up", "down"), [(30, 30), (300, 90), (1800, 900)])
def test_flapping_nodes_resize_the_job_a_bounded_number_of_times(up: float, down: float) -> None:
    ran = run(elastic(), flapping(HOURS, up=up, down=down))
    assert 0 < ran.resizes <= BOUND
    assert all(after >= GROW for after in ran.stops)


def test_without_grace_and_snooze_the_same_nodes_resize_the_job_without_a_bound() -> None:
    assert run(elastic(shrink=0, grow=0), flapping(HOURS, up=300, down=90)).resizes > BOUND


def test_free_nodes_that_flap_faster_than_the_hysteresis_are_left_alone() -> None:
    taken, given_back = lambda w: w.with_node("n4", used=1), lambda w: w.with_node("n4", used=0)
    changes = [dies("n4"), *[nothing] * 20, returns("n4"), *[taken, nothing, given_back, nothing] * 30]
    assert run(elastic(), changes).sizes == (4, 2)
    # The control stops for a node that is taken by the time it has stopped.
    assert run(elastic(grow=10), changes).sizes == (4, 2, 2, 4)
