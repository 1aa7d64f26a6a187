"""Why no pods are made now, and when they are again."""

import dataclasses

import pytest

from internlm2_operator.api.status import Phase
from internlm2_operator.plan.actions import CreatePod
from internlm2_operator.plan.snapshot import PodPhase, Refusal
from tests.unit.plan.world import World, four_nodes, job, node, trained_world

QUOTA = '403 Forbidden: pods "p" is forbidden: exceeded quota: gpus, requested: 2, used: 4, limited: 4'


def placed() -> World:
    """The size of the first attempt is fixed, and it has no pods."""
    world = World(job(), four_nodes())
    return world.applied(world.plan())


def edited(world: World) -> World:
    changed = world.job.model_copy(update={"generation": world.job.generation + 1})
    return dataclasses.replace(world, job=changed)


def reason(world: World) -> str:
    told = world.job.status.condition("Progressing")
    return told.reason if told else ""


def unpullable() -> World:
    return World(job(), four_nodes()).settled().with_pods(waiting="ImagePullBackOff", message="no such image")


def test_image_is_told_with_its_cure_and_announced_once() -> None:
    world = unpullable()
    first = world.plan()
    assert "ImagePullBackOff: no such image; correct template.image" in first.trail[-1]
    assert len(first.actions) == 1
    assert world.applied(first).plan().actions == ()
    assert world.settled().job.status.attempt == 1


def test_image_that_never_comes_frees_the_gpus_and_is_tried_ever_more_rarely() -> None:
    world, waits = unpullable().settled(), []
    for _ in range(4):
        world = dataclasses.replace(world, now=world.now.replace(microsecond=0)).later(0)
        world = world.with_pods(phase=PodPhase.PENDING, waiting="ImagePullBackOff")
        world = dataclasses.replace(world, now=max(p.created for p in world.live)).settled()
        assert world.live
        world = dataclasses.replace(world, now=max(p.created for p in world.live)).settled()
        world = _in(world, 121).later(1).settled()
        assert (world.pods, reason(world), world.job.status.phase) == ((), "ImagePullFailed", Phase.PENDING)
        waits.append(_seconds_until_pods(world))
        world = _in(world, waits[-1])
    assert waits == sorted(waits)
    assert 30 * 0.75 <= waits[0] + 1 <= 30 * 1.25 + 1
    assert waits[-1] >= 4 * waits[0]
    assert [(f.cause, f.count) for f in world.job.status.faults] == [("ImagePullFailed", 4)]
    assert (world.job.status.restarts.counted, world.job.status.restarts.infrastructure) == (0, 0)


def _in(world: World, seconds: float) -> World:
    """Let nothing but time pass."""
    later = dataclasses.replace(world.later(seconds), pods=world.pods)
    return later.settled()


def _seconds_until_pods(world: World) -> int:
    return next(s for s in range(1000) if _in(world, s).live)


@pytest.mark.parametrize("after", ["while pods wait", "while the next attempt is put off"])
def test_edit_is_taken_up_at_once(after: str) -> None:
    world, causes = unpullable().settled(), []
    if after == "while the next attempt is put off":
        causes = ["ImagePullFailed"]
        world = _in(world, 121).later(1).settled()
        assert world.pods == ()
    world = edited(world).settled().later(1).settled()
    assert world.job.status.attempt == 2
    assert len(world.live) == 3
    assert [f.cause for f in world.job.status.faults] == causes


def test_edit_does_not_disturb_pods_that_are_about_to_start() -> None:
    world = World(job(), four_nodes()).settled().with_pods(waiting="ContainerCreating")
    assert edited(world).settled().job.status.attempt == 1


def test_member_whose_node_cannot_pull_is_replaced_at_once_while_the_others_stay() -> None:
    world = World(job(spares=0), four_nodes()).settled().with_pods(phase=PodPhase.RUNNING)
    world = world.with_pods(1, phase=PodPhase.PENDING, waiting="ErrImagePull").settled()
    world = _in(world, 121)
    assert world.on == {0: "n1", 1: "n3"}
    assert world.job.status.attempt == 1


def test_refused_pods_free_the_half_that_was_let_in() -> None:
    world = placed()
    made = world.plan()
    (one,) = [a for a in made.actions if isinstance(a, CreatePod) and a.slot == 0]
    world = world.applied(dataclasses.replace(made, actions=(one,)))
    world = dataclasses.replace(world, refused=Refusal(1, world.now, QUOTA)).settled().later(1).settled()
    assert (world.pods, reason(world), world.job.status.phase) == ((), "QuotaExceeded", Phase.PENDING)
    told = world.job.status.condition("Progressing")
    assert told is not None
    assert "exceeded quota: gpus" in told.message
    assert "raise the ResourceQuota" in told.message


def test_refused_spare_stops_nobody_and_is_asked_for_again_after_a_minute() -> None:
    world = trained_world(nodes=[node("n1"), node("n2")])
    assert sorted(world.on) == [0, 1]
    world = dataclasses.replace(world, nodes=four_nodes(), refused=Refusal(1, world.now, QUOTA)).settled()
    assert sorted(world.on) == [0, 1]
    assert world.job.status.phase is Phase.RUNNING
    assert sorted(world.later(61).trained(13).settled().on) == [0, 1, 2]


def test_refusal_of_an_older_attempt_is_history() -> None:
    world = dataclasses.replace(placed(), refused=Refusal(0, placed().now, QUOTA)).settled()
    assert len(world.live) == 3


def test_storm_of_starts_waits_for_its_turn_and_lets_those_that_run_alone() -> None:
    world = dataclasses.replace(placed(), hold=2.5)
    waiting = world.plan()
    assert (waiting.requeue_seconds, waiting.actions) == (2.5, ())
    assert waiting.trail[-1].startswith("wait_for_turn: WaitingForTurn")
    assert len(dataclasses.replace(world, hold=0).settled().live) == 3
    assert dataclasses.replace(trained_world(), hold=2.5).plan().trail[-1].startswith("keep_running")
