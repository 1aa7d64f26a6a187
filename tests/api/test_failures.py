"""Failures told apart by the real operator on a real API server; the tests say what kubelets and a quota would say.

The table itself is tested in tests/unit/plan/test_causes.py.
"""

from typing import Any, Final

import pytest

from internlm2_spec import contract
from tests.api.apiserver import wait_for
from tests.api.rest import JOBS, Object, Rest
from tests.api.stage import OperatorProcess, Stage, on_stage
from tests.servers import S3Server

pytestmark = pytest.mark.api

ENDED: Final = "2026-11-26T12:00:00Z"


def test_an_image_that_cannot_be_pulled_is_said_and_a_corrected_one_is_tried_at_once(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "imageless") as stage:
        stage.make_nodes("a", "b")
        stage.make_job()
        for name in stage.wait_for_pods(2):
            _set_state(stage, name, {"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}})
        told = wait_for(lambda: _progressing(stage, "ImagePullFailed"), what="ImagePullFailed")
        assert "ErrImagePull: manifest unknown; correct template.image" in told["message"]
        wait_for(lambda: "ImagePullFailed" in _events(stage), what="event ImagePullFailed")
        assert (stage.status()["attempt"], len(stage.pods())) == (1, 2)

        image = "corrected:1"
        rest.merge(f"{JOBS}/namespaces/{stage.name}/internlm2jobs/job", {"spec": {"template": {"image": image}}})
        wait_for(lambda: _images(stage) == [image, image], what="pods of the corrected image")
        status = stage.status()
        assert status.get("faults", []) == []
        assert (status["restarts"]["counted"], status["restarts"]["infrastructure"]) == (0, 0)
    assert process.healthy()


def test_a_memory_that_is_full_three_times_ends_the_job_with_the_cure(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "oom") as stage:
        stage.make_nodes("a", "b")
        stage.make_job()
        for attempt in (1, 2, 3):
            victim = max(_wait_for_attempt(stage, attempt))
            ended = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": ENDED}
            _set_state(stage, victim, {"terminated": ended}, phase="Failed")
            wait_for(
                lambda n=attempt: stage.status().get("restarts", {}).get("counted") == n,  # type: ignore[misc]
                what=f"failure {attempt} counted",
            )
        failed = wait_for(lambda: stage.condition("Failed"), what="Failed")
        assert failed["reason"] == "RepeatedFailure"
        assert failed["message"].startswith("OOMKilled 3 times; raise template.resources.limits.memory")
    assert process.healthy()


def test_a_drained_pod_takes_the_job_along_without_a_failure(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "drained") as stage:
        stage.make_nodes("a", "b", "c")
        stage.make_job()
        pods = sorted(stage.wait_for_pods(2))
        stage.run_pods()
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pods[1]}}
        rest("POST", f"/api/v1/namespaces/{stage.name}/pods/{pods[1]}/eviction", eviction)
        for name in reversed(pods):  # they checkpoint together
            stage.end_pod(name, code=contract.ExitCode.STOPPED)
        _wait_for_attempt(stage, 2)
        status = stage.status()
        assert [(f["cause"], f["verdict"]) for f in status["faults"]] == [("Drained", "request")]
        assert "EvictionByEvictionAPI" in status["faults"][0]["evidence"][0]
        assert (status["restarts"]["counted"], status["restarts"]["infrastructure"]) == (0, 0)
    assert process.healthy()


def test_a_quota_is_said_and_no_half_of_the_job_holds_gpus(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "quota") as stage:
        stage.make_nodes("a", "b")
        path = f"/api/v1/namespaces/{stage.name}/resourcequotas"
        hard = {"hard": {"pods": "1"}}
        # A quota with scopes is not asked before: only the API server knows to which pods it applies.
        rest("POST", path, {"metadata": {"name": "few"}, "spec": hard | {"scopes": ["NotTerminating"]}})
        # No controller counts here, and admission believes the status.
        rest.merge(f"{path}/few/status", {"status": hard | {"used": {"pods": "0"}}})
        stage.make_job()
        told = wait_for(lambda: _progressing(stage, "QuotaExceeded"), what="QuotaExceeded")
        assert "exceeded quota: few" in told["message"]
        wait_for(lambda: stage.pods() == {}, what="no pods")
        wait_for(lambda: stage.status()["phase"] == "Pending", what="Pending")
        assert stage.status()["restarts"]["infrastructure"] == 0
    assert process.healthy()


def _set_state(stage: Stage, name: str, state: Object, *, phase: str = "Pending") -> None:
    container = {"name": "trainer", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": state}
    path = f"/api/v1/namespaces/{stage.name}/pods/{name}/status"
    stage.rest.merge(path, {"status": {"phase": phase, "containerStatuses": [container]}})


def _progressing(stage: Stage, reason: str) -> Object | None:
    """Return the condition once it has this reason."""
    condition = stage.condition("Progressing")
    return condition if condition.get("reason") == reason else None


def _wait_for_attempt(stage: Stage, attempt: int) -> dict[str, Object]:
    """Return the two pods of an attempt once they are there."""

    def found() -> dict[str, Any] | None:
        pods = {
            n: p for n, p in stage.pods().items() if p["metadata"]["labels"][contract.LABEL_ATTEMPT] == str(attempt)
        }
        return pods if len(pods) == 2 else None

    return dict(wait_for(found, what=f"pods of attempt {attempt}"))


def _images(stage: Stage) -> list[str]:
    return [pod["spec"]["containers"][0]["image"] for pod in stage.pods().values()]


def _events(stage: Stage) -> set[str]:
    return {event["reason"] for event in stage.rest.items(f"/api/v1/namespaces/{stage.name}/events")}
