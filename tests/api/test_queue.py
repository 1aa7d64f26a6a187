"""Several jobs and too few nodes, on a real API server: who starts, who waits, who makes room."""

import time

import pytest

from internlm2_spec import contract
from tests.api.apiserver import wait_for
from tests.api.rest import Object, Rest
from tests.api.stage import GPU, OperatorProcess, Stage, on_stage
from tests.servers import S3Server

pytestmark = pytest.mark.api

ONE = {"min": 1, "max": 1, "gpusPerNode": 2}


def test_the_higher_priority_starts_first_though_it_came_later(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "first") as stage:
        stage.make_nodes("a")
        stage.make_job(name="early")
        stage.make_job(name="urgent", priority=5)
        for name in ("early", "urgent"):
            _wait_for_phase(stage, name, "Queued")
        stage.make_nodes("b")
        stage.wait_for_pods(2)
        assert _owners(stage) == {"urgent"}
        assert stage.status("early")["queuedTime"]
    assert process.healthy()


def test_a_small_job_starts_early_only_on_nodes_that_the_one_ahead_cannot_use(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "backfill") as stage, on_stage(rest, store, "aside") as other:
        stage.make_nodes("a", "b")
        other.make_nodes("c")
        # Jobs made within one second are of one age: the priority says who is ahead.
        stage.make_job(name="runs", nodes=ONE, priority=1)
        stage.wait_for_pods(1)
        stage.make_job(name="large", priority=1)
        _wait_for_phase(stage, "large", "Queued")
        stage.make_job(name="small", nodes=ONE)
        _wait_for_phase(stage, "small", "Queued")
        assert "kept for backfill/large" in stage.condition("Scheduled", "small")["message"]
        stage.make_job(name="aside", nodes=ONE, template={"nodeSelector": {"stage": "aside"}})
        stage.wait_for_pods(2)
        assert _owners(stage) == {"runs", "aside"}
        # The control: without the one ahead the small job takes the node that was free all along.
        rest("DELETE", f"{stage.path}/large")
        stage.wait_for_pods(3)
        assert _owners(stage) == {"runs", "aside", "small"}
    assert process.healthy()


def test_a_lower_priority_stops_gracefully_and_goes_on_by_itself(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "preempt") as stage:
        stage.make_nodes("a", "b")
        stage.make_job(name="patient")
        stage.wait_for_pods(2)
        stage.run_pods()
        stage.make_job(name="urgent", priority=5)
        wait_for(lambda: stage.pods() == {}, what="the pods of patient told to stop")
        graces = {pod["metadata"]["deletionGracePeriodSeconds"] for pod in _all_pods(stage)}
        assert graces == {120}, "time for a checkpoint"
        assert _owners(stage) == set(), "nothing is made while they stop"
        stage.say_goodbye()
        stage.wait_for_pods(2)
        assert _owners(stage) == {"urgent"}
        _wait_for_phase(stage, "patient", "Queued")
        scheduled, status = stage.condition("Scheduled", "patient"), stage.status("patient")
        assert (scheduled["reason"], status["preemptedBy"]) == ("Preempted", "preempt/urgent")
        assert "preempt/urgent" in scheduled["message"]
        assert (status.get("faults", []), status["restarts"].get("counted", 0)) == ([], 0)
        _remove(stage, "urgent")
        stage.wait_for_pods(2)
        assert _owners(stage) == {"patient"}
        wait_for(lambda: stage.status("patient").get("attempt") == 2, what="attempt 2")
        assert "preemptedBy" not in stage.status("patient") or not stage.status("patient")["preemptedBy"]
    assert process.healthy()


def test_a_job_over_the_quota_of_its_namespace_waits_with_the_numbers_and_starts_when_it_is_raised(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "allowance") as stage:
        stage.make_nodes("a", "b")
        _set_quota(stage, 2, method="POST")
        posted = time.monotonic()
        wait_for(lambda: process.metric(QUOTA_SILENCE) < time.monotonic() - posted, what="the quota heard of")
        stage.make_job()
        stage.wait_for_reason("Quota")
        assert (
            "ResourceQuota few of namespace allowance leaves room for 1 nodes"
            in stage.condition("Scheduled")["message"]
        )
        assert stage.pods() == {}
        _set_quota(stage, 4)
        stage.wait_for_pods(2)
    assert process.healthy()


QUOTA_SILENCE = 'internlm2_operator_watch_age_seconds{kind="quota"}'


def _set_quota(stage: Stage, gpus: int, *, method: str = "") -> None:
    """Say what the quota is, and, as no controller runs, what it is in its status."""
    path = f"/api/v1/namespaces/{stage.name}/resourcequotas"
    hard = {f"requests.{GPU}": str(gpus)}
    if method:
        stage.rest(method, path, {"metadata": {"name": "few"}, "spec": {"hard": hard}})
    else:
        stage.rest.merge(f"{path}/few", {"spec": {"hard": hard}})
    stage.rest.merge(f"{path}/few/status", {"status": {"hard": hard, "used": {f"requests.{GPU}": "0"}}})


def _wait_for_phase(stage: Stage, name: str, phase: str) -> None:
    wait_for(lambda: stage.status(name).get("phase") == phase, what=f"{phase} of {name}")


def _all_pods(stage: Stage) -> list[Object]:
    return stage.rest.items(f"/api/v1/namespaces/{stage.name}/pods")


def _owners(stage: Stage) -> set[str]:
    """Return the jobs that have pods which are not being deleted."""
    return {pod["metadata"]["labels"][contract.LABEL_JOB] for pod in stage.pods().values()}


def _remove(stage: Stage, name: str) -> None:
    """Delete a job, and its pods as the garbage collector would."""
    stage.rest("DELETE", f"{stage.path}/{name}")
    for pod in _all_pods(stage):
        if pod["metadata"]["labels"][contract.LABEL_JOB] == name:
            path = f"/api/v1/namespaces/{stage.name}/pods/{pod['metadata']['name']}"
            stage.rest.maybe(path, "DELETE", {"gracePeriodSeconds": 0})
