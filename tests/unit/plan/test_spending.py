"""What the GPUs of a job are booked on, in each state that a job can be in."""

import dataclasses
from datetime import timedelta

import pytest

from internlm2_operator.api.status import Fault, FaultTimes
from internlm2_operator.plan.spending import Spending, oldest, spending
from internlm2_spec.metrics import SpentOn
from tests.unit.plan.world import GPUS, T0, World, four_nodes, job, trained_world


def spent(world: World, highest: int | None = None) -> Spending | None:
    return spending(world.job, world.progress.values(), highest)


def lost_a_node() -> World:
    return trained_world().dead("n1").settled()


def closed(world: World) -> World:
    """Let the job train again from step 10, two steps behind."""
    back = world.later(5).settled().later(5).trained(10, resumed=10).settled()
    return back.later(10).trained(11).settled()


CASES = {
    "before the first pods": (World(job(), ()).settled(), None, None),
    "first start": (World(job(), four_nodes()).settled(), None, (SpentOn.START, "")),
    "training": (trained_world(step=12), 12, (SpentOn.PRODUCTIVE, "")),
    "training, highest step not known": (trained_world(step=12), None, (SpentOn.PRODUCTIVE, "")),
    "a node is dead": (lost_a_node(), 12, (SpentOn.FAULT, "NodeNotReady")),
    "steps done before": (closed(lost_a_node()), 12, (SpentOn.REDO, "NodeNotReady")),
    "steps done before are made up for": (closed(lost_a_node()), 11, (SpentOn.PRODUCTIVE, "")),
}


@pytest.mark.parametrize(("world", "highest", "expected"), CASES.values(), ids=CASES)
def test_gpus_of_a_job_are_spent_on(world: World, highest: int | None, expected: tuple[SpentOn, str] | None) -> None:
    assert spent(world, highest) == (Spending(2 * GPUS, *expected) if expected else None)


def test_a_job_without_nodes_is_charged_what_it_had_unless_somebody_suspended_it() -> None:
    trained = trained_world()
    status = trained.job.status.model_copy(update={"size": 0})
    waits = dataclasses.replace(trained, job=trained.job.model_copy(update={"status": status}))
    assert spent(waits) == Spending(2 * GPUS, SpentOn.QUEUE)
    assert spent(waits.edited(suspend=True)) is None


def test_a_job_that_has_ended_spends_nothing() -> None:
    trained = trained_world()
    status = trained.job.status.model_copy(update={"completion_time": trained.now})
    assert spending(trained.job.model_copy(update={"status": status}), (), None) is None


def test_the_last_word_of_a_dead_pod_is_no_step() -> None:
    """Both are there while the dead one's object is Terminating; the processes that started last count."""
    world = trained_world(step=12)
    dead, live = world.progress.values()
    live = dataclasses.replace(live, step=11, started_time=dead.started_time + 60)
    assert spending(world.job, (dead, live), 12) == Spending(2 * GPUS, SpentOn.REDO)
    assert spending(world.job, (dead, dataclasses.replace(live, step=12)), 12) == Spending(2 * GPUS, SpentOn.PRODUCTIVE)


def test_of_two_faults_the_one_that_was_seen_first_is_to_blame() -> None:
    first, second = (
        Fault(id=name, cause=name, times=FaultTimes(signal=T0 + timedelta(seconds=seconds)))
        for name, seconds in (("first", 0), ("second", 5))
    )
    unseen = Fault(id="a", cause="a")
    assert oldest((unseen, second, first)) == first
    assert oldest(()) is None
