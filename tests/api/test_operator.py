"""The real operator process against a real API server, with no more rights than the chart gives it.

No kubelet runs: the tests say what nodes and pods would say.
"""

import json
import time
from datetime import UTC, datetime

import pytest

from internlm2_operator.api.base import rfc3339
from internlm2_operator.health.contact import BLIP
from internlm2_spec import contract
from tests.api.apiserver import ApiServer, wait_for
from tests.api.rest import Object, Rest
from tests.api.stage import OperatorProcess, Stage, node_of, on_stage
from tests.servers import S3Server

pytestmark = pytest.mark.api

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
NODE_LOOKS = 'internlm2_operator_reconcile_seconds_count{kind="node"}'
LOOKS = 'internlm2_operator_source_rounds_total{source="checkpoints"}'


def test_a_job_gets_its_service_its_configuration_and_all_its_pods(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "start") as stage:
        nodes = stage.make_nodes("a", "b", "c")
        stage.make_job(spares=1)
        pods = stage.wait_for_pods(3)
        assert sorted(node_of(pod) for pod in pods.values()) == nodes
        assert {pod["metadata"]["labels"][contract.LABEL_ATTEMPT] for pod in pods.values()} == {"1"}
        service = rest("GET", "/api/v1/namespaces/start/services/job")
        assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
        config = rest("GET", "/api/v1/namespaces/start/configmaps/job-0")
        assert json.loads(config["data"]["job.json"])["name"] == "pretrain"
        wait_for(lambda: stage.status().get("attempt") == 1, what="status of attempt 1")
    assert process.healthy()


def test_a_job_that_does_not_fit_waits_without_pods_and_starts_when_a_node_comes(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "queued") as stage:
        stage.make_nodes("a")
        stage.make_job()
        wait_for(lambda: stage.status().get("phase") == "Queued", what="Queued")
        assert stage.pods() == {}
        stage.make_nodes("b")
        stage.wait_for_pods(2)
    assert process.healthy()


def test_a_missing_secret_is_said_and_the_job_starts_by_itself_once_it_is_there(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "secretless", secret=False) as stage:
        stage.make_nodes("a", "b")
        stage.make_job()
        wait_for(lambda: "SecretMissing" in _reasons(stage), what="SecretMissing")
        assert stage.pods() == {}
        stage.make_secret()
        stage.wait_for_pods(2)
    assert process.healthy()


def test_missing_data_is_said_and_the_job_starts_by_itself_once_it_is_there(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "dataless", data=False) as stage:
        stage.make_nodes("a", "b")
        stage.make_job()
        wait_for(lambda: "DataMissing" in _reasons(stage), what="DataMissing")
        stage.put("corpus/index.json")
        stage.wait_for_pods(2)
    assert process.healthy()


def test_a_dead_node_is_cordoned_its_pod_removed_and_replaced(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "dead") as stage:
        stage.make_nodes("a", "b", "c")
        stage.make_job()
        stage.train()
        lost = next(pod for name, pod in stage.pods().items() if name.endswith("-0001"))
        dead = node_of(lost)
        stage.set_ready(dead, ready=False)
        node = wait_for(lambda: _cordoned(rest, dead), what="cordon")
        note = json.loads(node["metadata"]["annotations"][contract.ANNOTATION_FAULT])
        assert (note["cause"], note["by"]) == ("NodeNotReady", "internlm2-operator")
        wait_for(lambda: lost["metadata"]["uid"] not in _uids(stage), what="lost pod gone")
        wait_for(
            lambda: len(pods := stage.pods()) == 2 and dead not in {node_of(p) for p in pods.values()},
            what="replacement on a healthy node",
        )
        fault = wait_for(lambda: stage.status().get("faults"), what="fault record")[0]
        assert (fault["cause"], fault["node"], fault["cordoned"]) == ("NodeNotReady", dead, True)
        assert process.metric('internlm2_operator_cordons_total{cause="NodeNotReady"}') == 1


def test_a_job_succeeds_by_its_final_manifest_and_not_by_exit_codes(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "success") as stage:
        stage.make_nodes("a", "b")
        stage.make_job()
        pods = stage.wait_for_pods(2)
        stage.run_pods()
        for name in pods:
            stage.end_pod(name, code=0)
        looks = process.metric(LOOKS)
        wait_for(lambda: process.metric(LOOKS) > looks + 1, what="a look into the store after the end")
        assert stage.condition("Complete").get("status") != "True"
        stage.put_checkpoint(10)
        wait_for(lambda: stage.condition("Complete").get("status") == "True", what="Complete")
        assert (stage.status()["phase"], stage.status()["checkpoint"]["step"]) == ("Succeeded", 10)
    assert process.healthy()


def test_a_killed_operator_makes_nothing_twice_and_carries_on(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "killed") as stage:
        stage.make_nodes("a", "b", "c")
        stage.make_job()
        before = stage.wait_for_pods(2)
        process.kill()
        stage.run_pods()
        process.start()
        wait_for(lambda: stage.status().get("nodes", {}).get("ready") == 2, what="status of the second operator")
        assert {p["metadata"]["uid"] for p in before.values()} == _uids(stage)
        assert stage.status()["attempt"] == 1


def test_an_api_server_that_was_killed_is_found_again(
    process: OperatorProcess, api: ApiServer, rest: Rest, store: S3Server
) -> None:
    """The seconds are written down for docs/decisions; what is asserted is that it happens without a restart."""
    with on_stage(rest, store, "outage") as stage:
        stage.make_nodes("a", "b")
        api.kill_apiserver()
        api.start_apiserver()
        back = time.monotonic()
        stage.make_job()
        stage.wait_for_pods(2)
        print(f"job handled {time.monotonic() - back:.1f} s after the API server was ready again")
    assert process.healthy()


def test_after_an_outage_a_node_that_renews_its_lease_is_not_lost_and_one_that_does_not_is(
    process: OperatorProcess, api: ApiServer, rest: Rest, store: S3Server
) -> None:
    """Both are called silent as soon as the API server is back."""
    with on_stage(rest, store, "leases") as stage:
        stage.make_nodes("a", "b")
        stage.make_job()
        stage.train()
        lives, dead = (node_of(pod) for pod in stage.pods().values())
        for node in (lives, dead):
            rest("POST", LEASES, {"metadata": {"name": node}, "spec": renewed()})
        api.kill_apiserver()
        time.sleep(BLIP.total_seconds() + 1)
        api.start_apiserver()
        for node in (lives, dead):
            stage.set_ready(node, ready=False)

        def dead_is_cordoned() -> bool:
            rest.merge(f"{LEASES}/{lives}", {"spec": renewed()})
            return _cordoned(rest, dead) is not None

        wait_for(dead_is_cordoned, what="the cordon of the dead node")
        looks = process.metric(NODE_LOOKS)
        rest.merge(f"/api/v1/nodes/{lives}", {"metadata": {"labels": {"look": "again"}}})
        wait_for(lambda: process.metric(NODE_LOOKS) > looks, what="a look at the other")
        assert _cordoned(rest, lives) is None
        for node in (lives, dead):
            rest("DELETE", f"{LEASES}/{node}")
    assert process.healthy()


def renewed() -> Object:
    """Return what a kubelet writes now."""
    return {"renewTime": rfc3339(datetime.now(UTC))}


def test_it_stops_when_told_to_and_leaves_the_lease_to_the_next(process: OperatorProcess, rest: Rest) -> None:
    assert process.stop() == 0
    leases = rest.items("/apis/coordination.k8s.io/v1/namespaces/internlm2-under-test/leases")
    assert [lease["spec"].get("holderIdentity", "") for lease in leases] == [""]


def _reasons(stage: Stage) -> set[str]:
    return {condition["reason"] for condition in stage.status().get("conditions", ())}


def _uids(stage: Stage) -> set[str]:
    return {pod["metadata"]["uid"] for pod in stage.rest.items(f"/api/v1/namespaces/{stage.name}/pods")}


def _cordoned(rest: Rest, name: str) -> dict[str, object] | None:
    """Return the node once it is unschedulable and carries our taint."""
    node = rest("GET", f"/api/v1/nodes/{name}")
    taints = [taint["key"] for taint in node["spec"].get("taints", ())]
    return node if node["spec"].get("unschedulable") and contract.TAINT_FAULT in taints else None
