"""A job leaves a node that is announced to go, after a checkpoint."""

import dataclasses

import pytest

from internlm2_operator.api.status import Phase
from internlm2_operator.plan.actions import DeletePod
from tests.unit.plan.world import World, job, trained_world

NOTICE = "taint cloud.google.com/impending-node-termination of GKE"


def announced(world: World, *names: str) -> World:
    for name in names:
        world = world.with_node(name, notice=NOTICE)
    return world


def stopped(world: World) -> World:
    """Let the pods that were told to stop do so, and the job start again."""
    world = dataclasses.replace(world, pods=tuple(p for p in world.pods if not p.deleting))
    return world.settled().later(2).settled().later(2).settled()


def test_pods_of_an_announced_node_stop_in_peace_and_the_job_goes_on_elsewhere() -> None:
    world = announced(trained_world(), "n2")
    first = world.plan()
    assert first.status.elastic.stopping is not None
    assert not any(isinstance(a, DeletePod) for a in first.actions)
    deleted = [a for a in world.applied(first).plan().actions if isinstance(a, DeletePod)]
    assert {(a.grace_seconds, a.force) for a in deleted} == {(None, False)}
    assert len(deleted) == 3
    world = world.settled()
    assert (world.job.status.attempt, world.job.status.size) == (2, 0)
    (fault,) = world.job.status.faults
    assert (fault.cause, fault.verdict, fault.node) == ("Maintenance", "request", "n2")
    assert NOTICE in fault.evidence[0]
    world = stopped(world)
    assert world.on == {0: "n1", 1: "n3", 2: "n4"}
    assert (world.job.status.restarts.counted, world.job.status.restarts.infrastructure) == (0, 0)


def test_first_step_after_it_closes_the_record() -> None:
    world = stopped(announced(trained_world(), "n2").settled()).trained(13, resumed=12).settled()
    (fault,) = world.job.status.faults
    assert fault.times.closed is not None
    assert world.job.status.phase is Phase.RUNNING


def test_spare_moves_and_nobody_stops() -> None:
    world = announced(trained_world(), "n3").settled()
    assert (world.job.status.attempt, world.job.status.faults) == (1, ())
    assert world.on == {0: "n1", 1: "n2", 2: "n4"}
    assert world.later(2).settled().job.status.attempt == 1


QUIET = {
    "no node of the job": lambda w: announced(w, "n4"),
    "a job that only observes": lambda w: announced(w, "n2"),
    "a member that is taken away already": lambda w: announced(
        w.with_pods(1, deleting=True, grace=300, disruption="EvictionByEvictionAPI"), "n2"
    ),
}


@pytest.mark.parametrize("change", QUIET.values(), ids=QUIET)
def test_who_stays(change: object, request: pytest.FixtureRequest) -> None:
    mode = "Observe" if "observes" in request.node.callspec.id else "Enforce"
    world = change(trained_world(job(health={"mode": mode}))).settled()  # type: ignore[operator]
    assert (world.job.status.attempt, world.job.status.elastic.stopping) == (1, None)


def test_without_other_nodes_it_waits_and_comes_back_when_the_notice_is_taken_back() -> None:
    world = stopped(announced(trained_world(), "n1", "n2", "n3", "n4").settled())
    assert world.job.status.phase is Phase.QUEUED
    assert world.live == []
    back = world
    for name in ("n1", "n2", "n3", "n4"):
        back = back.with_node(name, notice="")
    assert stopped(back.settled()).job.status.size == 2


def test_dead_node_that_was_announced_is_a_lost_node() -> None:
    world = announced(trained_world(), "n2").dead("n2").settled()
    assert [f.cause for f in world.job.status.faults] == ["NodeNotReady"]
