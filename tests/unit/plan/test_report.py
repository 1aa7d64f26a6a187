"""What the status says, and how often it says it."""

import dataclasses
from datetime import timedelta

import pytest

from internlm2_operator.api.status import JobStatus, Phase
from internlm2_operator.plan.report import settle
from internlm2_operator.plan.snapshot import CheckpointView
from tests.unit.plan.world import T0, trained_world

OLD = JobStatus(phase=Phase.RUNNING, step=1, loss=3.0)
WRITES = {
    "a step alone waits for 30 s": (OLD.model_copy(update={"step": 2}), 29, False),
    "a step alone is written after 30 s": (OLD.model_copy(update={"step": 2}), 30, True),
    "a change of phase takes the step with it at once": (
        OLD.model_copy(update={"step": 2, "phase": Phase.RECOVERING}),
        1,
        True,
    ),
    "nothing new is never written": (OLD, 1000, False),
}


@pytest.mark.parametrize(("new", "seconds", "written"), WRITES.values(), ids=WRITES.keys())
def test_status_write(new: JobStatus, seconds: int, written: bool) -> None:
    assert (settle(OLD, new, T0, T0 + timedelta(seconds=seconds)) != OLD) is written


def test_loss_that_is_not_finite_is_left_out() -> None:
    world = trained_world()
    lost = {k: dataclasses.replace(p, loss=float("nan")) for k, p in world.progress.items()}
    world = dataclasses.replace(world, progress=lost).later(31).settled()
    assert world.job.status.loss is None
    assert world.job.status.step == 12


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
    assert (told.reason, told.message) == ("ImagePullBackOff", "no such image")
