"""The user's failures: counted, told with a cure, and the end of the job when they repeat."""

import dataclasses

import pytest

from internlm2_operator.api.status import Phase
from internlm2_operator.plan.snapshot import CheckpointView
from internlm2_spec.contract import FailureClass, Termination
from tests.unit.plan.world import World, bug, job, trained_world


def again(world: World, code: int, reason: str = "Error", termination: Termination | None = None) -> World:
    """Let a member of the newest attempt end, and the job start again if it may."""
    world = world.ended(1, code, reason=reason, termination=termination)
    return world.settled().later(2).settled().later(100).settled()


def killed_rank(step: int) -> Termination:
    return Termination(FailureClass.INFRASTRUCTURE, "RankKilled", 1, step=step)


ROWS = {
    "a full memory ends the job the third time, at whatever step": (
        [(137, "OOMKilled", killed_rank(step)) for step in (3, 5, 8)],
        "OOMKilled 3 times; raise template.resources.limits.memory",
    ),
    "a bug at the same step the second time": (
        [(70, "Error", bug(step=7))] * 2,
        "ProgramError at step 7 2 times; read the traceback",
    ),
    "an image without the trainer the second time": (
        [(127, "Error", None)] * 2,
        "StartError 2 times; use an image that holds the trainer",
    ),
}


@pytest.mark.parametrize(("story", "message"), ROWS.values(), ids=ROWS)
def test_equal_failures_end_the_job_with_the_cure(
    story: list[tuple[int, str, Termination | None]], message: str
) -> None:
    world = trained_world()
    for n, (code, reason, termination) in enumerate(story, start=1):
        assert world.job.status.phase is not Phase.FAILED
        world = again(world, code, reason, termination)
        assert (world.job.status.restarts.counted, world.job.status.restarts.infrastructure) == (n, 0)
    failed = world.job.status.condition("Failed")
    assert failed is not None
    assert failed.reason == "RepeatedFailure"
    assert failed.message.startswith(message)


def test_bugs_at_different_steps_are_not_the_same_failure() -> None:
    world = trained_world()
    for step in (3, 5, 8):
        world = again(world, 70, termination=bug(step=step))
    assert world.job.status.phase is not Phase.FAILED
    assert world.job.status.restarts.counted == 3


def test_infrastructure_never_ends_the_job() -> None:
    world = trained_world(job(failurePolicy={"maxRestarts": 0}))
    for _ in range(5):
        world = again(world, 137)
    assert world.job.status.phase is not Phase.FAILED
    assert (world.job.status.restarts.counted, world.job.status.restarts.infrastructure) == (0, 5)


def test_configuration_that_the_store_refuses_to_the_operator_too_is_waited_for() -> None:
    refused = CheckpointView(problem="CredentialsRefused", message="s3://bucket: AccessDenied; correct the keys")
    said = Termination(FailureClass.USER, "ConfigurationRefused", 64, message="S3 refuses the credentials")
    world = dataclasses.replace(trained_world(), checkpoint=refused).ended(0, 64, termination=said).settled()
    assert [f.cause for f in world.job.status.faults] == ["CredentialsRefused"]
    assert (world.job.status.restarts.counted, world.job.status.size) == (0, 0)
    told = world.job.status.condition("Progressing")
    assert told is not None
    assert told.reason == "CredentialsRefused"


def test_what_is_waited_for_again_and_again_stays_one_record() -> None:
    world = trained_world()
    for n in range(1, 4):
        world = world.ended(0, 65).settled().later(1000).settled()
        assert [(f.cause, f.count) for f in world.job.status.faults] == [("DataRefused", n)]
        world = world.later(2).settled()
