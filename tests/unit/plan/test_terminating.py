"""Pods that do not go delay nobody: new names, force where the node is dead, elsewhere where it lives."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta

import pytest

from internlm2_operator.plan.actions import DeletePod
from tests.unit.plan.world import GPUS, World, job, node, trained_world

GRACE = 30


def finalized(world: World, slot: int, *, late: float) -> World:
    """Somebody deleted the pod of a slot; a finalizer has kept it until `late` seconds after its grace."""
    return world.with_pods(slot, deleting=True, grace=GRACE, gone_by=world.now - timedelta(seconds=late))


def without(world: World, name: str) -> World:
    return dataclasses.replace(world, nodes=tuple(n for n in world.nodes if n.name != name))


def passed(world: World, seconds: float) -> World:
    """Let time pass in which no kubelet removes anything."""
    return dataclasses.replace(world, now=world.now + timedelta(seconds=seconds)).settled()


def uid(world: World, slot: int) -> str:
    return next(p.uid for p in world.pods if p.slot == slot)


# What happens while the pod of slot 1 is in Terminating, and whether it is taken away by force.
CASES: dict[str, tuple[Callable[[World, str], World], bool]] = {
    "on a node that is silent": (lambda w, n: finalized(w, 1, late=-10).dead(n), True),
    "on a node that is gone": (lambda w, n: without(finalized(w, 1, late=-10), n), True),
    "on a node that lives, held by a finalizer": (lambda w, _: finalized(w, 1, late=31), False),
}


@pytest.mark.parametrize(("happens", "forced"), CASES.values(), ids=CASES)
def test_slot_is_filled_elsewhere_at_once(happens: Callable[[World, str], World], forced: bool) -> None:
    world = trained_world()
    lost = uid(world, 1)
    world = happens(world, "n2").settled()
    assert world.on == {0: "n1", 1: "n4", 2: "n3"}
    assert world.job.status.attempt == 1
    assert any(p.uid == lost for p in world.pods) is not forced


def test_pod_within_its_grace_is_left_to_end_by_itself() -> None:
    world = trained_world()
    world = finalized(world, 1, late=30).settled()
    assert [f.cause for f in world.job.status.faults] == ["PodDeleted"]  # noted, and not yet answered
    assert world.job.status.replacements == ()


def test_gpus_of_a_pod_that_is_stuck_stay_taken_until_it_is_gone() -> None:
    world = finalized(trained_world(job(spares=0), [node(f"n{i}") for i in (1, 2, 3)]), 1, late=31).settled()
    assert world.on == {0: "n1", 1: "n3"}
    held = {n.name: n.used for n in world.snapshot().nodes.values()}
    assert held == {"n1": 2, "n2": 2, "n3": 2}


def test_stuck_slot_0_gives_way_to_a_new_attempt_with_new_names() -> None:
    world = trained_world(job(spares=0), [node(f"n{i}") for i in (1, 2, 3, 4)])
    names = {p.name for p in world.pods}
    world = finalized(world, 0, late=31).settled()
    assert (world.job.status.attempt, sorted(world.on)) == (2, [0, 1])
    assert "n1" not in world.on.values()
    assert names.isdisjoint(p.name for p in world.pods if p.attempt == 2)


def test_job_that_cannot_have_the_stuck_gpus_goes_on_with_the_others() -> None:
    sizes = {"min": 1, "max": 2, "gpusPerNode": GPUS, "shrinkAfterSeconds": 0}
    world = finalized(trained_world(job(nodes=sizes), [node("n1"), node("n2")]), 1, late=31).settled()
    assert world.job.status.size == 0
    world = passed(world.with_pods(0, deleting=True), 1)
    world = dataclasses.replace(world, pods=tuple(p for p in world.pods if p.slot == 1)).settled()
    assert world.on == {0: "n1"}


def test_force_is_asked_for_once() -> None:
    """A pod whose grace is 0 is held by a finalizer alone: asking again changes nothing."""
    world = trained_world().dead("n2").settled()
    held = dataclasses.replace(
        trained_world().pods[1], deleting=True, grace=0, gone_by=world.now, uid="held", replacement=7, name="held"
    )
    world = dataclasses.replace(world, pods=(*world.pods, held))
    assert not [a for a in world.plan().actions if isinstance(a, DeletePod)]
    asked = dataclasses.replace(world, pods=(*world.pods[:-1], dataclasses.replace(held, grace=1)))
    assert [a.force for a in asked.plan().actions if isinstance(a, DeletePod)] == [True]


def test_pods_of_a_deleted_namesake_are_no_members_and_go() -> None:
    world = trained_world()
    anew = world.with_pods(owner="of the job before")
    assert [type(action).__name__ for action in anew.plan().actions].count("DeletePod") == len(world.pods)
    assert anew.plan().status.nodes.ready == 0
    assert world.plan().actions == (), "the control"
