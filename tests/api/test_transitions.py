"""The transitions of `plan` that matter most, each brought about on a real API server and read from the job alone.

`test_operator` has the others: start, queue, missing Secret, missing data, dead node, success, and the operator's end.
"""

from typing import Any

import pytest

from internlm2_spec.contract import FailureClass, Termination
from tests.api.apiserver import wait_for
from tests.api.rest import Object, Rest
from tests.api.stage import OperatorProcess, Stage, node_of, on_stage
from tests.servers import S3Server

pytestmark = pytest.mark.api


def test_slot_0_lost_with_its_node_is_a_new_attempt(process: OperatorProcess, rest: Rest, store: S3Server) -> None:
    with on_stage(rest, store, "headless") as stage:
        dead = node_of(_started(stage, "a", "b", "c")[0])
        stage.set_ready(dead, ready=False)
        stage.wait_for_reason("NewAttempt")
        again = wait_for(lambda: _of_attempt(stage, 2), what="the pods of attempt 2")
        assert dead not in {node_of(pod) for pod in again}
        assert _restarts(stage) == (0, 1)
    assert process.healthy()


def test_a_bug_is_counted_once_and_ends_the_job_with_its_traceback_when_it_comes_again(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "bug") as stage:
        _started(stage, "a", "b")
        _raise(stage)
        stage.wait_for_reason("ProgramError")
        wait_for(lambda: _of_attempt(stage, 2), what="a second attempt")
        stage.run_pods()
        _raise(stage)
        stage.wait_for_reason("RepeatedFailure")
        failed = stage.condition("Failed")
        assert (failed["status"], stage.status()["phase"]) == ("True", "Failed")
        assert "ValueError: the seventh step" in failed["message"]
        assert _restarts(stage) == (2, 0)
        assert stage.pods() != {}, "what failed is kept for its logs"
    assert process.healthy()


def test_more_failures_than_the_policy_allows_end_the_job(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "patience") as stage:
        _started(stage, "a", "b", failurePolicy={"maxRestarts": 0})
        _raise(stage)
        stage.wait_for_reason("TooManyFailures")
        assert stage.status()["phase"] == "Failed"
    assert process.healthy()


def test_suspend_stops_with_grace_and_the_job_goes_on_as_a_new_attempt(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "suspended") as stage:
        _started(stage, "a", "b")
        stage.edit(suspend=True)
        stage.wait_for_reason("Suspending")
        wait_for(lambda: stage.pods() == {}, what="every pod asked to stop")
        stage.say_goodbye()
        stage.wait_for_reason("Suspended")
        assert stage.status()["phase"] == "Suspended"
        stage.edit(suspend=False)
        assert wait_for(lambda: _of_attempt(stage, 2), what="the attempt after the suspension")
    assert process.healthy()


def test_a_stage_that_is_complete_is_followed_by_the_next(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "stages") as stage:
        first = _started(stage, "a", "b", stages=("pretrain", "anneal"))
        stage.put_checkpoint(10)
        for pod in first:
            stage.end_pod(pod["metadata"]["name"], code=0)
        stage.wait_for_reason("StageComplete")
        wait_for(lambda: _of_attempt(stage, 2), what="the pods of the second stage")
        assert stage.status()["stage"] == "anneal"
        stage.run_pods()
        stage.put_checkpoint(10, stage="anneal")
        stage.wait_for_reason("StagesComplete")
    assert process.healthy()


def test_members_that_somebody_else_stopped_start_again(process: OperatorProcess, rest: Rest, store: S3Server) -> None:
    with on_stage(rest, store, "stopped") as stage:
        first, second = _started(stage, "a", "b")
        said = Termination(FailureClass.STOPPED, "Stopped", 75, step=7)
        stage.end_pod(first["metadata"]["name"], code=75, message=said.to_json())
        stage.wait_for_reason("Stopping")
        assert stage.status()["attempt"] == 1, "the other member may still finish its checkpoint"
        stage.end_pod(second["metadata"]["name"], code=75, message=said.to_json())
        assert wait_for(lambda: _of_attempt(stage, 2), what="the next attempt")
        assert _restarts(stage)[0] == 0
    assert process.healthy()


def test_a_member_that_lost_its_peer_waits_for_the_one_that_fell(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "peer") as stage:
        first, second = _started(stage, "a", "b", "c")
        said = Termination(FailureClass.PEER, "RendezvousConnectionError", 1)
        stage.end_pod(second["metadata"]["name"], code=1, message=said.to_json())
        stage.wait_for_reason("WaitingForCause")
        dead = node_of(first)
        stage.set_ready(dead, ready=False)
        stage.wait_for_reason("NewAttempt")
        (fault,) = wait_for(lambda: stage.status().get("faults"), what="the record of the fault")
        assert (fault["node"], fault["cause"]) == (dead, "NodeNotReady"), "the follower is not blamed"
    assert process.healthy()


def test_a_bucket_that_does_not_exist_is_said_and_no_pod_is_made(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "bucketless") as stage:
        stage.make_nodes("a", "b")
        stage.make_job(checkpoint={"url": "s3://no-such-bucket/run", "secretName": "s3", "everySteps": 5})
        stage.wait_for_reason("BucketMissing")
        assert stage.pods() == {}
        assert "no-such-bucket" in stage.condition("Progressing")["message"]
    assert process.healthy()


def test_a_pod_that_a_person_deleted_is_made_again(process: OperatorProcess, rest: Rest, store: S3Server) -> None:
    with on_stage(rest, store, "deleted") as stage:
        first, second = _started(stage, "a", "b")
        name, uid = (second["metadata"][key] for key in ("name", "uid"))
        rest("DELETE", f"/api/v1/namespaces/deleted/pods/{name}", {"gracePeriodSeconds": 0})
        back = wait_for(lambda: found if len(found := _uids(stage)) == 2 and uid not in found else None,
                        what="another pod in its place")  # fmt: skip
        assert first["metadata"]["uid"] in back, "the other member is left alone"
        assert _restarts(stage)[0] == 0
    assert process.healthy()


def test_a_job_deleted_in_a_recovery_gets_nothing_any_more(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "leaving") as stage:
        dead = node_of(_started(stage, "a", "b", "c")[0])
        # What the garbage collector, which does not run here, deletes in the foreground comes after the job's mark.
        rest("DELETE", f"{stage.path}/job", {"propagationPolicy": "Foreground"})
        held = set(stage.pods())
        stage.set_ready(dead, ready=False)
        looks = process.metric(ROUNDS)
        wait_for(lambda: process.metric(ROUNDS) > looks + 3, what="some rounds of the operator")
        assert set(stage.pods()) <= held
        rest.merge(f"{stage.path}/job", {"metadata": {"finalizers": None}})
    assert process.healthy()


ROUNDS = 'internlm2_operator_source_rounds_total{source="progress"}'


def _started(stage: Stage, *nodes: str, **job: Any) -> list[Object]:
    """Make nodes and a job of two pods, and let them run; returns the pods by slot."""
    stage.make_nodes(*nodes)
    stage.make_job(**job)
    pods = stage.train()
    return [pods[name] for name in sorted(pods)]


def _uids(stage: Stage) -> set[str]:
    return {pod["metadata"]["uid"] for pod in stage.pods().values()}


def _restarts(stage: Stage) -> tuple[int, int]:
    """Return how many failures were counted, and how many were the infrastructure's."""
    told = stage.status()["restarts"]
    return told["counted"], told["infrastructure"]


def _of_attempt(stage: Stage, attempt: int) -> list[Object] | None:
    """Return both pods of an attempt once they are there; the kubelets let go of those before."""
    stage.say_goodbye()
    found = [pod for _, pod in sorted(stage.pods().items()) if f"-{attempt:03d}-" in pod["metadata"]["name"]]
    return found if len(found) == 2 else None


def _raise(stage: Stage) -> None:
    """Let the code of slot 0 raise, always at the same step."""
    traceback = "Traceback (most recent call last):\n  ...\nValueError: the seventh step"
    said = Termination(FailureClass.USER, "Bug", 70, message="ValueError", step=7, traceback=traceback)
    stage.end_pod(sorted(stage.pods())[0], code=70, message=said.to_json())
