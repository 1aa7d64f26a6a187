"""Whole stories of one job, told by what the world looks like after the plan settled."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from internlm2_operator.api.status import Phase
from internlm2_operator.plan.actions import CreatePod, DeletePod
from internlm2_operator.plan.snapshot import CheckpointView
from internlm2_operator.plan.view import moment
from internlm2_spec.contract import FailureClass, Termination
from tests.unit.plan.world import (
    STEPS,
    World,
    after,
    bug,
    four_nodes,
    job,
    node,
    peer,
    trained_world,
)


def healed(world: World, *, resumed: int, step: int) -> World:
    """Settle, let pods start and train again, and settle."""
    world = world.settled().later(2).settled().later(2).settled().later(8).settled()
    return world.trained(step, resumed=resumed).settled().later(1).settled()


def deletions(world: World) -> dict[str, DeletePod]:
    """Return what is deleted once the decision is written down."""
    first = world.plan()
    assert not any(isinstance(a, DeletePod) for a in first.actions)
    return {a.name: a for a in world.applied(first).plan().actions if isinstance(a, DeletePod)}


def test_first_attempt_is_created_at_once_on_nodes_in_name_order() -> None:
    world = World(job(), four_nodes()).settled()
    assert world.on == {0: "n1", 1: "n2", 2: "n3"}
    assert (world.job.status.attempt, world.job.status.size) == (1, 2)
    assert {"EnsureService", "EnsureConfigMap"} <= set(world.events)


def test_size_is_written_before_the_first_pod_exists() -> None:
    first = World(job(), four_nodes()).plan()
    assert not any(isinstance(a, CreatePod) for a in first.actions)
    assert (first.status.size, first.requeue_seconds) == (2, 0)


def test_training_job_is_running_and_left_alone() -> None:
    world = trained_world()
    assert world.job.status.phase is Phase.RUNNING
    assert (world.job.status.nodes.active, world.job.status.nodes.spare) == (2, 1)
    assert not world.plan().actions


def test_too_few_nodes_queue_the_job_with_the_missing_number() -> None:
    world = World(job(), (node("n1"),)).settled()
    assert world.job.status.phase is Phase.QUEUED
    scheduled = world.job.status.condition("Scheduled")
    assert scheduled is not None
    assert scheduled.message.startswith("1 more nodes")
    assert not world.pods


def test_largest_legal_size_in_the_range_is_taken() -> None:
    # The batch of 64 samples divides on 1, 2 and 4 nodes, not on 3.
    world = World(job(low=1, high=4, spares=1), tuple(node(f"n{i}") for i in range(1, 4))).settled()
    assert world.job.status.size == 2
    assert len(world.live) == 3


def test_dead_node_of_a_member_is_force_deleted_and_its_slot_refilled_elsewhere() -> None:
    world = trained_world().dead("n2")
    assert deletions(world)["demo-0-001-0001"].force
    world = world.settled()
    assert world.on == {0: "n1", 1: "n4", 2: "n3"}
    assert world.job.status.attempt == 1
    assert [f.cause for f in world.job.status.faults] == ["NodeNotReady"]
    assert world.job.status.phase is Phase.RECOVERING


def test_dead_node_is_closed_by_the_first_step_after_it_with_the_steps_lost() -> None:
    world = healed(trained_world(step=12).dead("n2"), resumed=10, step=11)
    (fault,) = world.job.status.faults
    assert fault.times.closed is not None
    assert fault.times.resume is not None
    assert fault.times.replacement is not None
    assert fault.steps_lost == 2
    assert world.job.status.phase is Phase.RUNNING


def test_cordon_that_comes_after_the_record_is_added_to_it() -> None:
    world = trained_world().dead("n2").settled().later(1).faulty("n2", "NodeNotReady").settled()
    (fault,) = world.job.status.faults
    assert fault.cordoned
    assert fault.times.cordon == after(16)


@pytest.mark.parametrize(("mode", "waits"), [("Enforce", True), ("Observe", False)])
def test_silent_node_is_cordoned_before_its_pods_go(mode: str, waits: bool) -> None:
    world = trained_world(job(health={"mode": mode}))
    world = world.with_node("n2", ready=False, ready_since=world.now).settled()
    assert (world.job.status.faults == ()) is waits
    assert world.faulty("n2", "NodeNotReady").settled().job.status.faults[0].node == "n2"
    assert world.later(6).settled().job.status.faults


SAYS_NO = {
    "for a moment it may only be restarting": (29, "Running", []),
    "its cordon is on the way": (31, "WaitingForCordon", []),
    "it does not come back": (36, "MemberReplaced", ["NodeNotReady"]),
}


@pytest.mark.parametrize("doubt", [{"says_no": True}, {"excused": after(45)}], ids=["says no", "could say nothing"])
@pytest.mark.parametrize(("seconds", "decided", "faults"), SAYS_NO.values(), ids=SAYS_NO)
def test_kubelet_that_says_no_or_could_say_nothing_has_the_grace_that_its_cordon_has(
    seconds: float, decided: str, faults: list[str], doubt: dict[str, Any]
) -> None:
    world = trained_world()
    world = world.with_node("n2", ready=False, ready_since=world.now, **doubt)
    world = dataclasses.replace(world, now=world.now + timedelta(seconds=seconds))
    assert f": {decided}: " in world.plan().trail[-1]
    assert [f.cause for f in world.settled().job.status.faults] == faults


def test_spare_that_was_told_to_end_waits_for_the_failure_that_ended_it() -> None:
    told = Termination(FailureClass.PEER, "RendezvousClosed", 70)
    world = trained_world().ended(2, 70, termination=told).settled()
    assert (world.job.status.attempt, world.job.status.faults) == (1, ())
    world = world.ended(1, 70, termination=bug()).settled()
    assert [f.cause for f in world.job.status.faults] == ["ProgramError"]
    assert world.job.status.restarts.counted == 1


def test_xid_on_a_live_node_removes_its_pod_with_one_second_of_grace() -> None:
    world = trained_world().faulty("n2", "Xid79")
    doomed = deletions(world)["demo-0-001-0001"]
    assert (doomed.grace_seconds, doomed.force) == (1, False)
    world = healed(world, resumed=10, step=11)
    (fault,) = world.job.status.faults
    assert (fault.cause, fault.node, fault.cordoned, fault.gpu) == ("Xid79", "n2", True, "GPU-0")
    assert fault.times.closed is not None
    assert world.on == {0: "n1", 1: "n4", 2: "n3"}


def test_lost_slot_0_starts_a_new_attempt_that_waits_for_the_old_pods_gpus() -> None:
    world = trained_world().dead("n1").settled()
    assert (world.job.status.attempt, world.job.status.size) == (2, 0)
    assert not [p for p in world.pods if p.node == "n1"]
    world = healed(world, resumed=10, step=11)
    assert world.on == {0: "n2", 1: "n3", 2: "n4"}
    assert world.job.status.faults[0].times.closed is not None
    assert world.job.status.restarts.infrastructure == 1


def test_lost_spare_is_replaced_and_its_fault_closed_at_once() -> None:
    world = trained_world().dead("n3").settled()
    assert world.on == {0: "n1", 1: "n2", 2: "n4"}
    (fault,) = world.job.status.faults
    assert fault.times.closed is not None
    assert fault.steps_lost == 0


def test_member_without_spare_or_free_node_shrinks_the_job_in_a_new_attempt() -> None:
    world = trained_world(job(low=1, high=2, spares=0), [node("n1"), node("n2")]).dead("n2").settled()
    world = healed(world.later(60), resumed=10, step=11)
    assert (world.job.status.attempt, world.job.status.size) == (2, 1)
    assert world.on == {0: "n1"}


def test_job_at_its_minimum_without_a_free_node_is_queued_and_returns_by_itself() -> None:
    world = trained_world(job(spares=0), [node("n1"), node("n2")]).dead("n2").settled().later(60).settled()
    world = world.later(5).settled()
    assert world.job.status.phase is Phase.QUEUED
    assert not world.pods
    world = world.with_node("n2", ready=True, ready_since=world.now).settled()
    assert world.on == {0: "n1", 1: "n2"}


def test_pod_deleted_by_somebody_is_a_lost_member() -> None:
    world = trained_world()
    world = dataclasses.replace(world, pods=tuple(p for p in world.pods if p.slot != 1)).settled()
    assert [f.cause for f in world.job.status.faults] == ["PodLost"]
    assert sorted(world.on) == [0, 1, 2]
    assert [p.replacement for p in world.live if p.slot == 1] == [1]


def test_followers_are_not_blamed_when_slot_0_falls() -> None:
    world = trained_world().ended(0, 137, reason="Error").ended(1, 1, termination=peer()).settled()
    assert [(f.cause, f.node) for f in world.job.status.faults] == [("ProcessKilled", "n1")]
    assert world.job.status.restarts.counted == 0
    assert world.job.status.attempt == 2


def test_followers_wait_for_the_one_that_fell_before_anything_is_decided() -> None:
    world = trained_world().ended(1, 1, termination=peer()).ended(2, 1, termination=peer()).settled()
    assert world.job.status.attempt == 1
    assert [f.cause for f in world.later(20).dead("n1").settled().job.status.faults] == ["NodeNotReady"]
    assert world.later(61).settled().job.status.attempt == 2


def test_slot_0_that_only_followed_waits_for_the_node_that_fell() -> None:
    world = trained_world().ended(0, 1, termination=peer()).settled()
    assert world.job.status.attempt == 1
    world = world.later(20).dead("n2").settled()
    assert world.job.status.attempt == 2
    assert [(f.cause, f.node) for f in world.job.status.faults] == [("NodeNotReady", "n2")]


def test_pod_that_never_lets_go_of_its_node_holds_the_job_for_a_minute_only() -> None:
    world = trained_world(job(low=1, high=2, spares=0), [node("n1"), node("n2")])
    world = world.ended(0, 137, reason="Error").settled()
    stuck = dataclasses.replace(world, now=after(60)).settled()
    assert stuck.job.status.size == 0
    assert dataclasses.replace(stuck, now=after(90)).settled().on == {0: "n1"}


def test_restart_in_place_is_recorded_once_without_a_cordon() -> None:
    world = trained_world(step=12).later(30).restarted(11, resumed=10).settled().later(40).settled()
    (fault,) = world.job.status.faults
    assert (fault.cause, fault.cordoned, fault.steps_lost) == ("ProcessRestart", False, 2)
    assert fault.times.closed is not None
    assert world.job.status.attempt == 1


def test_node_that_died_explains_the_restart_that_was_seen_first() -> None:
    world = trained_world(step=12).later(20)
    # torchrun took the spare before Kubernetes knew that n2 was gone: slot 1 is silent, slot 2 trains.
    at = world.now.timestamp()
    names = {p.slot: p.name for p in world.pods}
    old = world.progress[names[0]]
    fresh = dataclasses.replace(
        old, incarnation=1, started_time=at - 2, first_step_time=at, started_step=10, step=11, step_time=at
    )
    world = dataclasses.replace(
        world,
        progress={**world.progress, names[0]: fresh, names[2]: dataclasses.replace(fresh, incarnation=0, rank=2)},
    ).settled()
    assert [f.cause for f in world.job.status.faults] == ["ProcessRestart"]
    world = world.later(20).dead("n2").settled().later(1).faulty("n2", "NodeNotReady").settled()
    (fault,) = world.job.status.faults
    assert (fault.cause, fault.node, fault.cordoned, fault.steps_lost) == ("NodeNotReady", "n2", True, 2)
    assert world.job.status.phase is not Phase.RECOVERING


def test_member_that_trained_after_a_restart_did_not_cause_it() -> None:
    world = trained_world(step=12).later(30).restarted(11, resumed=10).settled().later(10).trained(14).settled()
    assert world.job.status.faults[0].times.closed is not None
    world = world.later(5).ended(1, 1).settled()
    assert [(f.cause, f.node) for f in world.job.status.faults] == [("ProcessRestart", ""), ("ProcessExit", "n2")]


@pytest.mark.parametrize(("seconds", "causes"), [(40, ["NodeNotReady"]), (90, ["ProcessRestart", "NodeNotReady"])])
def test_operator_that_started_after_a_loss_goes_by_the_clock(seconds: float, causes: list[str]) -> None:
    """It never heard of the last step of the member that is gone, which would tell a loss from a restart before it."""
    world = trained_world(step=12).later(30).restarted(11, resumed=10).settled().later(5).trained(14).settled()
    lost = next(p.name for p in world.pods if p.node == "n2")
    world = world.later(seconds - 5).trained(30).dead("n2")
    progress = {name: said for name, said in world.progress.items() if name != lost}
    world = dataclasses.replace(world, progress=progress).settled()
    assert [f.cause for f in world.job.status.faults] == causes


def test_world_that_formed_before_its_member_was_called_dead_closes_the_fault_though_it_is_seen_later() -> None:
    world = trained_world(step=12).later(20)
    names = {p.slot: p.name for p in world.pods}
    old, signal = world.progress[names[0]], world.now.timestamp() - 6
    world = world.dead("n2").settled().faulty("n2", "NodeNotReady").settled().later(1)
    (fault,) = world.job.status.faults
    assert (fault.times.closed, fault.times.last_step) == (None, moment(old.step_time))
    step = world.now.timestamp()
    fresh = dataclasses.replace(
        old, incarnation=1, started_time=signal - 0.5, first_step_time=step, started_step=10, step=11, step_time=step
    )
    (fault,) = dataclasses.replace(world, progress={names[0]: fresh}).settled().job.status.faults
    assert fault.times.closed == moment(step)
    assert fault.times.resume is not None
    assert fault.steps_lost == 2


# Seconds from the start of the processes to the moment at which their node was called dead, the slots that the new
# operator hears of, and whether they are those that train without the dead member.
HEARD = {
    "formed just before": (0.5, (0, 2), True),
    "the control: older than any loss of that node": (70.0, (0, 2), False),
    "the control: not all of them yet": (0.5, (0,), False),
}


@pytest.mark.parametrize(("before", "slots", "expected"), HEARD.values(), ids=HEARD)
def test_operator_that_started_after_a_node_died_knows_those_that_formed_without_it(
    before: float, slots: tuple[int, ...], expected: bool
) -> None:
    world = trained_world(step=12).later(100)
    names = {p.slot: p.name for p in world.pods}
    old = world.progress[names[0]]
    world = dataclasses.replace(world, progress={}).dead("n2").settled().faulty("n2", "NodeNotReady").settled()
    (fault,) = world.job.status.faults
    assert (fault.times.closed, fault.times.last_step, fault.times.signal) == (None, None, after(109))
    started = after(109).timestamp() - before
    fresh = dataclasses.replace(
        old, incarnation=1, started_time=started, first_step_time=started + 5, started_step=10, step=11,
        step_time=started + 5,
    )  # fmt: skip
    heard = {names[slot]: dataclasses.replace(fresh, rank=slot) for slot in slots}
    (fault,) = dataclasses.replace(world.later(1), progress=heard).settled().job.status.faults
    assert fault.times.closed == (moment(started + 5) if expected else None)
    assert fault.times.signal == (moment(started) if expected else after(109))
    assert min(fault.seconds.values()) >= 0


def test_same_failure_at_the_same_step_twice_fails_the_job_with_its_traceback() -> None:
    world = trained_world().ended(1, 70, termination=bug()).settled()
    assert (world.job.status.restarts.counted, world.job.status.attempt) == (1, 2)
    world = world.later(2).settled().later(5).ended(1, 70, termination=bug()).settled()
    failed = world.job.status.condition("Failed")
    assert world.job.status.phase is Phase.FAILED
    assert failed is not None
    assert failed.reason == "RepeatedFailure"
    assert failed.message.endswith("ValueError: no")


def test_more_failures_than_max_restarts_fail_the_job() -> None:
    world = trained_world(job(failurePolicy={"maxRestarts": 1, "windowSeconds": 600}))
    world = world.ended(1, 70, termination=bug(step=1)).settled().later(2).settled().later(5)
    world = world.ended(1, 70, termination=bug(step=2)).settled()
    failed = world.job.status.condition("Failed")
    assert failed is not None
    assert failed.reason == "TooManyFailures"


def test_failures_outside_the_window_are_forgotten() -> None:
    world = trained_world(job(failurePolicy={"maxRestarts": 1, "windowSeconds": 60}))
    world = world.ended(1, 70, termination=bug(step=1)).settled().later(2).settled().later(100)
    world = world.ended(1, 70, termination=bug(step=2)).settled()
    assert world.job.status.phase is not Phase.FAILED


def test_faulty_node_explains_a_traceback_before_the_user_does() -> None:
    world = trained_world().ended(1, 70, termination=bug()).faulty("n2").settled()
    assert world.job.status.restarts.counted == 0
    assert [f.cause for f in world.job.status.faults] == ["Xid79"]


def test_refused_data_waits_longer_each_time_and_is_not_counted() -> None:
    world = trained_world().ended(0, 65).settled().later(1).settled()
    assert world.job.status.phase is Phase.PENDING
    assert not world.live
    assert world.job.status.restarts.counted == 0
    world = world.later(15).settled()
    assert world.live
    world = world.later(2).ended(0, 65).settled().later(20).settled()
    assert not world.live
    assert world.later(11).settled().live


@pytest.mark.parametrize(
    ("missing", "checkpoint", "reason"),
    [
        (("secret/s3",), CheckpointView(), "SecretMissing"),
        ((), CheckpointView(problem="BucketMissing", message="no bucket"), "BucketMissing"),
        ((), CheckpointView(problem="StoreUnavailable"), "StoreUnavailable"),
        ((), CheckpointView(problem="DataMissing"), "DataMissing"),
    ],
)
def test_missing_object_holds_the_job_with_a_reason_until_it_is_there(
    missing: tuple[str, ...], checkpoint: CheckpointView, reason: str
) -> None:
    world = dataclasses.replace(World(job(), four_nodes()), missing=missing, checkpoint=checkpoint).settled()
    told = world.job.status.condition("Progressing")
    assert told is not None
    assert (world.job.status.phase, told.status, told.reason) == (Phase.PENDING, "False", reason)
    assert not world.pods
    assert world.plan().requeue_seconds == 10
    assert len(dataclasses.replace(world, missing=(), checkpoint=CheckpointView()).settled().live) == 3


def test_store_that_fails_while_pods_run_costs_only_freshness() -> None:
    world = dataclasses.replace(trained_world(), checkpoint=CheckpointView(problem="StoreUnavailable")).settled()
    fresh = world.job.status.condition("CheckpointFresh")
    assert fresh is not None
    assert (world.job.status.phase, fresh.reason) == (Phase.RUNNING, "StoreUnavailable")
    assert len(world.live) == 3


def test_suspend_stops_pods_with_their_own_grace_and_unsuspend_starts_a_new_attempt() -> None:
    world = trained_world().edited(suspend=True)
    assert {d.grace_seconds for d in deletions(world).values()} == {None}
    world = world.settled().later(5).settled()
    assert (world.job.status.phase, world.pods) == (Phase.SUSPENDED, ())
    world = world.edited(suspend=False).settled()
    assert world.job.status.attempt == 2
    assert len(world.live) == 3


def test_stop_that_nobody_asked_for_is_infrastructure_once_all_have_stopped() -> None:
    world = trained_world().ended(1, 75).settled()
    assert world.job.status.attempt == 1
    world = world.ended(0, 75).ended(2, 75).settled()
    assert (world.job.status.attempt, world.job.status.restarts.counted) == (2, 0)


def test_exit_0_without_the_final_manifest_is_no_success() -> None:
    world = trained_world().ended(0, 0).ended(1, 0).settled()
    assert world.job.status.attempt == 1
    world = world.later(61).settled()
    assert world.job.status.attempt == 2
    assert world.job.status.faults[-1].cause == "CompletionUnproved"


def test_final_manifest_ends_the_job_and_removes_its_pods() -> None:
    world = trained_world().ended(0, 0).ended(1, 0).saved(STEPS).settled().later(5).settled()
    complete = world.job.status.condition("Complete")
    assert complete is not None
    assert (world.job.status.phase, complete.status, world.pods) == (Phase.SUCCEEDED, "True", ())


def test_next_stage_is_a_new_attempt_with_the_next_stage_number() -> None:
    world = trained_world(job(stages=2)).saved(STEPS)
    world = world.applied(world.plan())
    world = dataclasses.replace(world, checkpoint=CheckpointView()).settled().later(5).settled()
    status = world.job.status
    assert (status.stage_index, status.stage, status.attempt, status.step) == (1, "stage-1", 2, None)
    assert {p.stage for p in world.live} == {1}


def test_view_of_another_stage_is_not_believed() -> None:
    world = trained_world(job(stages=2))
    stale = CheckpointView(verified=STEPS, stage="stage-1")
    assert dataclasses.replace(world, checkpoint=stale).settled().job.status.stage_index == 0


def test_job_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    world = trained_world().dead("n2")
    world = dataclasses.replace(world, job=world.job.model_copy(update={"deleting": True}))
    assert world.plan().actions == ()


def test_a_finished_job_is_deleted_when_its_time_is_over() -> None:
    world = trained_world(job(ttlSecondsAfterFinished=60)).saved(STEPS).settled().later(59)
    assert not world.settled().job.deleting
    assert world.plan().requeue_seconds == 1
    assert world.later(1).settled().job.deleting


@pytest.mark.parametrize("spec", [{}, {"ttlSecondsAfterFinished": 10**7}], ids=["no time to live", "a long one"])
def test_a_finished_job_stays(spec: dict[str, Any]) -> None:
    assert not trained_world(job(**spec)).saved(STEPS).settled().later(10**6).settled().job.deleting


def test_a_time_to_live_that_is_edited_counts_from_the_end() -> None:
    world = trained_world().saved(STEPS).settled().later(100).settled()
    assert world.edited(ttl_seconds_after_finished=50).settled().job.deleting


def test_a_job_of_another_controller_is_left_alone() -> None:
    world = World(job(managedBy="example.com/other"), four_nodes())
    step = world.plan()
    assert (step.actions, step.status, step.requeue_seconds) == ((), world.job.status, None)
    assert step.trail == ("the job is managed by example.com/other",)


def test_standstill_of_a_whole_attempt_starts_a_new_one() -> None:
    world = trained_world()
    assert world.later(100).settled().job.status.attempt == 1
    stalled = world.later(200).settled()
    assert stalled.job.status.attempt == 2
    assert [f.cause for f in stalled.job.status.faults] == ["Stalled"]


def test_pod_that_the_scheduler_never_takes_is_replaced() -> None:
    world = World(job(), four_nodes()).settled()
    world = dataclasses.replace(world, now=after(121)).settled()
    assert world.job.status.attempt == 2


def test_faults_in_a_row_without_a_step_are_slowed_down() -> None:
    world = World(job(), four_nodes()).settled().later(1)
    for _ in range(5):
        world = world.ended(0, 137, reason="Error").settled().later(1).settled()
    assert not world.live
    told = world.job.status.condition("Progressing")
    assert told is not None
    assert told.reason == "BackingOff"


def test_trail_tells_what_each_decision_said() -> None:
    trail = trained_world().dead("n1").plan().trail
    assert trail[0] == "keep_finished: nothing to say"
    assert trail[-1].startswith("start_new_attempt: NewAttempt: attempt 1 is given up: slot 0")
