"""What is edited while a job runs takes effect with the next plan; tests/api/test_edits.py has what may be edited."""

import dataclasses

import pytest

from internlm2_operator.api.health import FailurePolicySpec, HealthSpec
from internlm2_operator.api.status import Phase
from internlm2_operator.plan.snapshot import CheckpointView
from tests.unit.plan.world import STEPS, World, bug, job, trained_world


def spares(world: World, count: int) -> World:
    """Edit nodes.spares and let the pods follow."""
    nodes = world.job.spec.nodes.model_copy(update={"spares": count})
    return world.edited(nodes=nodes).settled().later(5).settled()


def test_a_spare_more_is_made_and_one_less_is_removed_beside_the_members() -> None:
    world = spares(trained_world(), 2)
    assert (sorted(world.on), world.job.status.attempt) == ([0, 1, 2, 3], 1)
    world = spares(world, 0)
    assert (sorted(world.on), world.job.status.attempt) == ([0, 1], 1)


@pytest.mark.parametrize(("allowed", "fails"), [(1, True), (2, False)])
def test_the_next_failure_is_answered_by_the_policy_of_now(allowed: int, fails: bool) -> None:
    world = trained_world(job(failurePolicy={"maxRestarts": 3 - allowed}))
    world = world.ended(1, 70, termination=bug(step=1)).settled().later(2).settled().later(5)
    world = world.edited(failure_policy=FailurePolicySpec(max_restarts=allowed))
    status = world.ended(1, 70, termination=bug(step=2)).settled().job.status
    assert (status.phase is Phase.FAILED) is fails


@pytest.mark.parametrize(("mode", "waits"), [("Enforce", True), ("Observe", False)])
def test_a_silent_node_is_answered_by_the_mode_of_now(mode: str, waits: bool) -> None:
    other = {"Enforce": "Observe", "Observe": "Enforce"}[mode]
    world = trained_world(job(health={"mode": other})).edited(health=HealthSpec.model_validate({"mode": mode}))
    world = world.with_node("n2", ready=False, ready_since=world.now).settled()
    assert (world.job.status.faults == ()) is waits


def test_a_stage_that_is_appended_is_run_and_one_that_is_taken_away_is_not() -> None:
    stages = job(stages=2).spec.stages
    longer = trained_world(job(stages=1)).edited(stages=stages).saved(STEPS)
    longer = dataclasses.replace(longer.applied(longer.plan()), checkpoint=CheckpointView()).settled()
    assert (longer.job.status.stage, longer.job.status.completion_time) == ("stage-1", None)
    shorter = trained_world(job(stages=2)).edited(stages=stages[:1]).saved(STEPS).settled()
    assert shorter.job.status.phase is Phase.SUCCEEDED
