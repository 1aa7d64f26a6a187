"""What the status says, and how often it says it."""

import dataclasses
from datetime import timedelta

import pytest

from internlm2_operator.api.status import CONDITIONS, JobStatus, NodesStatus, Phase
from internlm2_operator.plan.report import settle
from internlm2_operator.plan.snapshot import CheckpointView, CheckView
from tests.unit.plan.world import STEPS, T0, World, bug, four_nodes, job, node, trained_world

OLD = JobStatus(phase=Phase.RUNNING, step=1, loss=3.0)
STEP = OLD.model_copy(update={"step": 2})
WRITES = {
    "a step alone waits for 30 s": (STEP, 1, 29, False),
    "a step alone is written after 30 s": (STEP, 1, 30, True),
    "300 jobs write ten times a second": (STEP, 300, 30, True),
    "1,000 jobs write ten times a second, too": (STEP, 1000, 99, False),
    "each of them every 100 s": (STEP, 1000, 100, True),
    "a change of phase takes the step with it at once": (
        STEP.model_copy(update={"phase": Phase.RECOVERING}),
        1000,
        1,
        True,
    ),
    "nothing new is never written": (OLD, 1, 1000, False),
}


@pytest.mark.parametrize(("new", "jobs", "seconds", "written"), WRITES.values(), ids=WRITES.keys())
def test_status_write(new: JobStatus, jobs: int, seconds: int, written: bool) -> None:
    assert (settle(OLD, new, T0, jobs, T0 + timedelta(seconds=seconds)) != OLD) is written


def test_a_job_without_pods_tells_of_its_last_checkpoint_at_once() -> None:
    trains = trained_world().later(31).saved(STEPS - 50).settled()
    stopped = trains.edited(suspend=True).settled().later(40).settled()
    assert (stopped.job.status.phase, stopped.pods) == (Phase.SUSPENDED, ())
    newest = stopped.saved(STEPS - 1).settled().job.status.checkpoint
    assert newest is not None
    assert newest.step == STEPS - 1
    assert trains.saved(STEPS - 1).settled().job.status.checkpoint == trains.job.status.checkpoint, "one of many"


def test_loss_that_is_not_finite_is_left_out() -> None:
    world = trained_world()
    lost = {k: dataclasses.replace(p, loss=float("nan")) for k, p in world.progress.items()}
    world = dataclasses.replace(world, progress=lost).later(31).settled()
    assert world.job.status.loss is None
    assert world.job.status.step == 12


def test_a_job_that_succeeded_shows_its_last_step_and_no_nodes() -> None:
    status = trained_world(step=STEPS - 1).saved(STEPS).settled().job.status
    assert (status.step, status.nodes) == (STEPS, NodesStatus())
    assert {c.type: c.reason for c in status.conditions if c.type in ("Scheduled", "Recovering")} == {
        "Scheduled": "Ended",
        "Recovering": "Ended",
    }


def test_restarts_of_both_kinds_are_summed() -> None:
    world = trained_world().ended(1, 70, termination=bug()).settled().later(2).settled().later(5).settled()
    restarts = world.dead("n1").settled().job.status.restarts
    assert (restarts.counted, restarts.infrastructure, restarts.total) == (1, 1, 2)


def test_every_condition_says_something_in_every_phase() -> None:
    """`kubectl describe` shows them and nothing else explains them."""
    worlds = (
        World(job(), (node("n1"),)).settled(),
        World(job(), four_nodes()).settled(),
        trained_world(),
        trained_world().dead("n2").settled(),
        trained_world().edited(suspend=True).settled().later(5).settled(),
        trained_world().saved(STEPS).settled(),
    )
    phases = {world.job.status.phase for world in worlds}
    assert phases == set(Phase) - {Phase.PENDING, Phase.FAILED}
    assert [c for world in worlds for c in world.job.status.conditions if not c.message] == []


def test_corrupt_checkpoint_is_told_with_the_reason() -> None:
    view = CheckpointView(verified=10, time=T0, corrupt=((15, "wrong size"),))
    world = dataclasses.replace(trained_world(), checkpoint=view).settled()
    fresh = world.job.status.condition("CheckpointFresh")
    assert fresh is not None
    assert (fresh.status, fresh.reason, fresh.message) == (
        "False",
        "CorruptCheckpoint",
        "step 15 was passed over: wrong size",
    )
    assert world.job.status.checkpoint is not None
    assert world.job.status.checkpoint.url == "s3://bucket/run/stage-0/step-00000010"


def test_image_that_cannot_be_pulled_is_the_reason_of_not_progressing() -> None:
    world = trained_world()
    pods = tuple(dataclasses.replace(p, waiting="ImagePullBackOff", message="no such image") for p in world.pods)
    told = dataclasses.replace(world, pods=pods, progress={}).settled().job.status.condition("Progressing")
    assert told is not None
    assert told.reason == "ImagePullFailed"
    assert "ImagePullBackOff: no such image; correct template.image" in told.message


def test_a_spec_that_is_not_acted_on_is_told_while_the_former_one_goes_on() -> None:
    world = trained_world()
    world = dataclasses.replace(world, job=world.job.model_copy(update={"refused": "stages.0.kind: 'SFT'"})).settled()
    told = world.job.status.condition("Validated")
    assert told is not None
    assert (told.status, told.reason, told.message) == ("False", "SpecUnreadable", "stages.0.kind: 'SFT'")
    assert (world.job.status.phase, len(world.live)) == (Phase.RUNNING, 3)


def test_every_condition_is_in_the_reference() -> None:
    trained = trained_world(job(failurePolicy={"maxRestarts": 0}))
    failed = (
        dataclasses.replace(trained, checks=CheckView(on=False)).settled().ended(1, 70, termination=bug()).settled()
    )
    assert {c.type for c in failed.job.status.conditions} == set(CONDITIONS)
