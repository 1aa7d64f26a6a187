"""Members that somebody else takes away."""

from datetime import timedelta

from internlm2_operator.plan.loss import AWAITED
from tests.unit.plan.world import World, trained_world


def removed(world: World, slot: int, disruption: str = "EvictionByEvictionAPI") -> World:
    gone_by = world.now + timedelta(seconds=300)
    return world.with_pods(slot, deleting=True, grace=300, gone_by=gone_by, disruption=disruption)


def stopped(world: World, *slots: int) -> World:
    for slot in slots:
        world = world.ended(slot, 75, reason="Error")
    return world


def test_drain_is_written_down_while_the_pod_still_says_who_it_was() -> None:
    world = removed(trained_world(), 1).settled()
    (fault,) = world.job.status.faults
    assert (fault.cause, fault.node, fault.action) == ("Drained", "n2", AWAITED)
    assert world.job.status.attempt == 1
    assert len(world.pods) == 3


def test_pod_that_is_deleted_without_a_grace_is_nobodys_request_to_stop() -> None:
    """The API server shows it for a moment as being deleted; no trainer heard of it, so no checkpoint is waited for."""
    world = trained_world().with_pods(1, deleting=True, grace=0, gone_by=trained_world().now).settled()
    assert AWAITED not in {f.action for f in world.job.status.faults}


def test_drained_pod_whose_object_is_gone_before_the_others_stopped_is_the_same_fault() -> None:
    world = stopped(removed(trained_world(), 1).settled(), 1).later(1).settled()
    assert 1 not in {p.slot for p in world.pods}
    world = stopped(world, 0, 2).settled()
    assert world.job.status.attempt == 2
    assert [(f.cause, f.action) for f in world.job.status.faults] == [("Drained", "new attempt")]
    assert (world.job.status.restarts.counted, world.job.status.restarts.infrastructure) == (0, 0)


def test_drained_spare_is_replaced_and_stops_nobody() -> None:
    world = removed(trained_world().with_node("n3", unschedulable=True), 2)
    world = stopped(world.settled(), 2).settled()
    assert world.job.status.attempt == 1
    assert world.on == {0: "n1", 1: "n2", 2: "n4"}
    assert [(f.cause, f.steps_lost) for f in world.job.status.faults] == [("Drained", 0)]


def test_second_drain_after_the_first_was_answered_is_a_fault_of_its_own() -> None:
    world = stopped(removed(trained_world(), 1).settled(), 0, 1, 2).settled().later(2).settled().later(2).settled()
    world = world.trained(12, resumed=12).settled()
    world = stopped(removed(world, 1), 0, 1, 2).settled()
    assert [f.cause for f in world.job.status.faults] == ["Drained", "Drained"]


def test_pods_that_somebody_deletes_as_fast_as_they_are_made_are_not_made_in_a_hot_loop() -> None:
    world = trained_world()
    for _ in range(5):
        world = stopped(removed(world, 0, disruption=""), 0, 1, 2).settled().later(1).settled()
    assert not world.live
    told = world.job.status.condition("Progressing")
    assert told is not None
    assert told.reason == "BackingOff"
    assert world.later(10).settled().live
