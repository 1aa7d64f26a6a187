"""What the operator hears and reads of faults, against a real API server and with the chart's rights alone."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import pytest

from internlm2_operator.plan.topology import RACK
from tests.api.apiserver import ApiServer, wait_for
from tests.api.rest import Object, Rest
from tests.api.stage import SYSTEM, OperatorProcess, Stage, install_rights, node_of, on_stage, operating
from tests.servers import S3Server

pytestmark = pytest.mark.api

RULES: Final = "internlm2-operator-log-rules"
PATH: Final = f"/api/v1/namespaces/{SYSTEM}/configmaps"
ROW: Final = {"name": "feeder-stopped", "pattern": r"feeder \w+ stopped", "blame": "unknown", "cause": "FeederStopped",
              "weight": "cause"}  # fmt: skip


@pytest.fixture(scope="module")
def process(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """The operator with a ConfigMap of rules that does not exist yet."""
    folder = tmp_path_factory.mktemp("operator")
    with operating(install_rights(api, folder), folder, f"--log-rules={RULES}") as operator:
        yield operator


def text(**changed: str) -> Object:
    return {"data": {"rules.yaml": json.dumps({"rules": [ROW | changed]})}}


def test_rules_of_rank_logs_are_taken_from_a_config_map_and_a_mistake_leaves_them_in_force(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    rest("POST", PATH, {"metadata": {"name": RULES}} | text())
    wait_for(lambda: process.metric("internlm2_operator_log_rules") == 1, what="one rule in force")
    rest.merge(f"{PATH}/{RULES}", text(weight="grave"))
    wait_for(lambda: process.metric("internlm2_operator_log_rules_refused") == 1, what="the mistake")
    told = wait_for(lambda: _told(rest), what="the event")
    assert "rules[feeder-stopped].weight: 'grave' is not right; use one of cause, symptom" in told["note"]
    assert process.metric("internlm2_operator_log_rules") == 1
    with on_stage(rest, store, "rules") as stage:
        stage.make_nodes("a", "b", "c")
        stage.make_job()
        stage.wait_for_pods(2)
        stage.run_pods()
        second = next(name for name in stage.pods() if name.endswith("-0001"))
        stage.end_pod(second, code=1, message="loading\nRuntimeError: feeder seven stopped\n")
        fault = wait_for(lambda: stage.status().get("faults"), what="fault record")[0]
        assert any("log rule feeder-stopped: " in line and second in line for line in fault["evidence"])
    rest("DELETE", f"{PATH}/{RULES}")
    wait_for(lambda: process.metric("internlm2_operator_log_rules") == 0, what="no rule in force")


def test_links_that_go_down_at_one_switch_cordon_no_node_and_a_single_one_does(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    """A link that is down and a pod that ended convict a node, but not where three nodes of a rack lost theirs."""
    with on_stage(rest, store, "rack") as stage:
        *together, alone, spare = stage.make_nodes("a", "b", "c", "d", "e", "f")
        for rack, nodes in {"r1": together, "r2": [alone, spare]}.items():
            for node in nodes:
                rest.merge(f"/api/v1/nodes/{node}", {"metadata": {"labels": {RACK: rack}}})
        for rack, size in {"r1": 4, "r2": 1}.items():
            sizes = {"min": size, "max": size, "gpusPerNode": 2}
            stage.make_job(name=rack, nodes=sizes, template={"nodeSelector": {RACK: rack}})
        pods = stage.wait_for_pods(5)
        stage.run_pods()
        for node in (*together, alone):
            _link_down(stage, node)
        homes = {node_of(pod): name for name, pod in pods.items()}
        for node in (together[0], alone):
            stage.end_pod(homes[node], code=137)
        wait_for(lambda: _cordoned(rest, alone), what="cordon of the one node")
        assert [node for node in together if _cordoned(rest, node)] == []
    assert process.healthy()


def _told(rest: Rest) -> Object | None:
    events = rest.items(f"/apis/events.k8s.io/v1/namespaces/{SYSTEM}/events")
    return next((event for event in events if event["reason"] == "LogRulesRefused"), None)


def _link_down(stage: Stage, node: str) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    said = {"type": "GPUHealthy", "status": "False", "reason": "LinkDown", "message": f"LinkDown on ib0 at {now}"}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": now}
    stage.rest.merge(f"/api/v1/nodes/{node}/status", {"status": {"conditions": [ready, said]}})


def _cordoned(rest: Rest, node: str) -> bool:
    return bool(rest("GET", f"/api/v1/nodes/{node}")["spec"].get("unschedulable"))
