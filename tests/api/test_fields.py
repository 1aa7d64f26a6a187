"""Fields of the spec that take effect by themselves, and what `kubectl describe` says about a job."""

import contextlib
import copy
import json
import urllib.error
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.api.apiserver import ApiServer, wait_for
from tests.api.rest import Rest
from tests.api.stage import OperatorProcess, Stage, on_stage
from tests.servers import S3Server

pytestmark = pytest.mark.api

LONG: Final = "n" * 63


def test_a_job_of_the_longest_name_gets_all_its_objects(process: OperatorProcess, rest: Rest, store: S3Server) -> None:
    with on_stage(rest, store, "long") as stage:
        stage.make_nodes("a", "b")
        stage.make_job(name=LONG)
        pods = stage.wait_for_pods(2)
        assert {pod["metadata"]["labels"]["training.internlm.io/job"] for pod in pods.values()} == {LONG}
        assert {pod["spec"]["hostname"] for pod in pods.values()} == set(pods)
        assert {pod["spec"]["subdomain"] for pod in pods.values()} == {LONG}
        assert rest.maybe(f"/api/v1/namespaces/long/services/{LONG}")
        assert rest.maybe(f"/api/v1/namespaces/long/configmaps/{LONG}-0")
    assert process.healthy()


def test_jobs_of_one_name_in_two_namespaces_do_not_meet(process: OperatorProcess, rest: Rest, store: S3Server) -> None:
    with on_stage(rest, store, "twin-a") as one, on_stage(rest, store, "twin-b") as other:
        for stage in (one, other):
            stage.make_nodes("a", "b")
            stage.make_job()
        both = [stage.wait_for_pods(2) for stage in (one, other)]
        assert both[0].keys() == both[1].keys()
        one.edit(suspend=True)
        wait_for(lambda: one.pods() == {}, what="the pods of one to stop")
        assert other.pods().keys() == both[1].keys()
    assert process.healthy()


def test_a_finished_job_is_deleted_after_its_time_to_live(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "expired") as stage:
        stage.make_nodes("a", "b")
        stage.make_job(ttlSecondsAfterFinished=3600)
        stage.wait_for_pods(2)
        stage.run_pods()
        stage.put_checkpoint(10)
        wait_for(lambda: stage.condition("Complete").get("status") == "True", what="Complete")
        assert rest.maybe(f"{stage.path}/job"), "an hour is not over"
        stage.edit(ttlSecondsAfterFinished=0)
        wait_for(lambda: rest.maybe(f"{stage.path}/job") is None, what="the job's end")
    assert process.healthy()


def test_a_job_of_another_controller_is_not_touched(process: OperatorProcess, rest: Rest, store: S3Server) -> None:
    with on_stage(rest, store, "foreign") as stage, on_stage(rest, store, "ours") as control:
        stage.make_nodes("a", "b")
        stage.make_job(managedBy="example.com/other")
        control.make_nodes("a", "b")
        control.make_job()
        control.wait_for_pods(2)  # the job that was made later is served
        assert (stage.pods(), "status" in stage.job()) == ({}, False)
        assert stage.reasons() == set()
    assert process.healthy()


def test_what_pods_were_made_from_stays_until_they_are_gone(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    """The spec of a running attempt cannot change under it; what changes while it is suspended is taken by the next."""
    with on_stage(rest, store, "held") as stage:
        stage.make_nodes("a", "b")
        stage.make_job()
        stage.wait_for_pods(2)
        stage.run_pods()
        assert "were made with" in _refusal(stage, template={"image": "trainer:new"})
        stage.edit(suspend=True)
        wait_for(lambda: stage.pods() == {}, what="pods asked to stop")
        stage.say_goodbye()
        wait_for(lambda: stage.status()["phase"] == "Suspended", what="Suspended")
        stage.edit(template={"image": "trainer:new"})
        longer = copy.deepcopy(stage.job()["spec"]["stages"][0]) | {"steps": 20}
        stage.edit(stages=[longer], suspend=False)
        pods = stage.wait_for_pods(2)
        assert {pod["spec"]["containers"][0]["image"] for pod in pods.values()} == {"trainer:new"}
        config = rest("GET", "/api/v1/namespaces/held/configmaps/job-0")["data"]["job.json"]
        assert '"steps": 20' in config
    assert process.healthy()


def test_an_appended_stage_is_run(process: OperatorProcess, rest: Rest, store: S3Server) -> None:
    with on_stage(rest, store, "appended") as stage:
        stage.make_nodes("a", "b")
        stage.make_job()
        stage.wait_for_pods(2)
        first = stage.job()["spec"]["stages"][0]
        stage.edit(stages=[first, first | {"name": "anneal"}])
        stage.put_checkpoint(10)
        wait_for(lambda: stage.status().get("stage") == "anneal", what="the second stage")
    assert process.healthy()


KIND: Final = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/stages/items/properties/kind/enum"


@contextlib.contextmanager
def newer_crd(api: ApiServer) -> Iterator[None]:
    """A CRD of a later version, which knows another kind of stage."""
    crd = ("patch", "crd", "internlm2jobs.training.internlm.io", "--type=json", "-p")
    api.kubectl(*crd, json.dumps([{"op": "replace", "path": KIND, "value": ["Pretrain", "Later"]}]))
    try:
        yield
    finally:
        api.kubectl(*crd, json.dumps([{"op": "replace", "path": KIND, "value": ["Pretrain"]}]))


def test_a_spec_of_a_newer_crd_is_told_and_what_runs_goes_on(
    process: OperatorProcess, api: ApiServer, rest: Rest, store: S3Server
) -> None:
    """One job runs when it gets a stage that this operator does not know, another one is made with it."""
    with on_stage(rest, store, "older") as stage, on_stage(rest, store, "newer") as never, newer_crd(api):
        stage.make_nodes("a", "b", "c")
        stage.make_job()
        first = stage.wait_for_pods(2)
        stage.run_pods()
        known = stage.job()["spec"]["stages"][0]
        later = known | {"name": "later", "kind": "Later"}
        wait_for(lambda: _edited(stage, stages=[known, later]), what="the newer CRD to be served")
        wait_for(lambda: stage.condition("Validated")["status"] == "False", what="Validated=False")
        assert "'Later'" in stage.condition("Validated")["message"]
        lost = next(name for name in first if name.endswith("-0001"))
        rest("DELETE", f"/api/v1/namespaces/older/pods/{lost}", {"gracePeriodSeconds": 0})
        old = first[lost]["metadata"]["uid"]
        wait_for(lambda: stage.pods().get(lost, first[lost])["metadata"]["uid"] != old, what="the pod made again")
        never.make_job(stages=("a",))
        never.edit(stages=[later])
        wait_for(lambda: never.condition("Validated").get("status") == "False", what="Validated=False of the other")
        stage.edit(stages=[known])
        wait_for(lambda: stage.condition("Validated")["status"] == "True", what="Validated again")
    assert process.healthy()


def test_describe_alone_tells_why_a_job_waits(
    process: OperatorProcess, api: ApiServer, rest: Rest, store: S3Server
) -> None:
    def describe() -> str:
        return api.kubectl("describe", "ilj", "job", "--namespace", "told").stdout

    with on_stage(rest, store, "told") as stage:
        stage.make_nodes("a")
        stage.make_job()
        wait_for(lambda: stage.status().get("phase") == "Queued", what="Queued")
        told = describe()
        assert "the smallest legal size is 2 nodes and only 1 exist that have 2 nvidia.com/gpu" in told
        stage.make_nodes("b")
        stage.wait_for_pods(2)
        # The phase is Starting from the placement on; that the pods are seen is a later write.
        wait_for(lambda: "0 of 2 pods run" in describe(), what="the start told")
        assert "attempt 1 of stage pretrain gets 2 nodes" in describe()
    assert process.healthy()


def _refusal(stage: Stage, **spec: Any) -> str:
    with pytest.raises(urllib.error.HTTPError) as caught:
        stage.edit(**spec)
    with caught.value as answer:
        assert answer.code == 422
        return answer.read().decode()


def _edited(stage: Stage, **spec: Any) -> bool:
    try:
        stage.edit(**spec)
    except urllib.error.HTTPError as error:
        with error:
            return False
    return True
