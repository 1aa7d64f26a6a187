"""Node checks by the real operator on a real API server; the tests say what kubelets and the checks would say."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from internlm2_operator.cluster import records
from internlm2_operator.cluster.check_records import check_pod
from internlm2_spec import contract
from internlm2_spec.contract import ExitCode, FailureClass, Termination
from tests.api.apiserver import ApiServer, wait_for
from tests.api.rest import Object, Rest
from tests.api.stage import GPU, SYSTEM, OperatorProcess, Stage, install_rights, node_of, on_stage, operating
from tests.servers import S3Server

pytestmark = pytest.mark.api

IMAGE: Final = "trainer:1"
PODS: Final = f"/api/v1/namespaces/{SYSTEM}/pods"
NO_CHECK: Final = {"check": {"firstStart": "None"}}
GOOD: Final = Termination(FailureClass.DONE, "Completed", ExitCode.DONE)
BAD: Final = Termination(
    FailureClass.INFRASTRUCTURE, "NodeCheckFailed", ExitCode.NODE_CHECK, message="compute: 120 TFLOP/s"
)


@pytest.fixture(scope="module")
def process(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """An operator that has an image for checks, with the rights of the chart."""
    folder = tmp_path_factory.mktemp("operator")
    with operating(install_rights(api, folder), folder, f"--node-check-image={IMAGE}") as operator:
        yield operator


@pytest.fixture(autouse=True)
def swept(rest: Rest) -> Iterator[None]:
    """Leave no pod of a check to the next test."""
    yield
    for pod in checks(rest, deleting=True).values():
        rest.maybe(f"{PODS}/{pod['metadata']['name']}", "DELETE", {"gracePeriodSeconds": 0})


def test_a_first_start_waits_until_its_nodes_have_passed(process: OperatorProcess, rest: Rest, store: S3Server) -> None:
    with on_stage(rest, store, "unchecked") as stage:
        a, b = stage.make_nodes("a", "b")
        stage.make_job()
        (head,) = wait_for_checks(rest, a).values()
        assert stage.condition("Progressing")["reason"] == "CheckingNodes"
        assert (stage.pods(), head["spec"]["containers"][0]["image"]) == ({}, IMAGE)
        run(rest, a)
        other = wait_for_checks(rest, a, b)[b]
        command = other["spec"]["containers"][0]["command"]
        assert command[command.index("--store") + 1] == f"10.9.0.1:{contract.RENDEZVOUS_PORT}"
        run(rest, b)
        end(rest, a, GOOD)
        end(rest, b, GOOD)
        stage.wait_for_pods(2)
        assert [_check(rest, node)["passed"] for node in (a, b)] == [True, True]
        wait_for(lambda: stage.condition("NodesChecked").get("reason") == "Checked", what="NodesChecked")
    assert process.healthy()


def test_a_node_that_fails_is_cordoned_and_the_job_takes_another_that_passes(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "failing") as stage:
        a, b, c = stage.make_nodes("a", "b", "c")
        stage.make_job()
        run_check(rest, a, b)
        end(rest, a, GOOD)
        end(rest, b, BAD)
        note = wait_for(lambda: _cordon(rest, b), what="cordon")
        assert (note["cause"], note["rule"]) == ("NodeCheckFailed", "one signal that proves it")
        assert "compute: 120 TFLOP/s" in note["evidence"][0]
        run_check(rest, a, c)
        end(rest, a, GOOD)
        end(rest, c, GOOD)
        pods = stage.wait_for_pods(2)
        assert sorted(node_of(pod) for pod in pods.values()) == [a, c]
        wait_for(lambda: stage.status()["nodeCheck"].get("failed") == [b], what="the failed node in the status")
    assert process.healthy()


def test_a_users_pod_that_looks_like_a_check_is_never_believed(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    """The same pod, labels, annotation, end and all, in the operator's namespace is: the namespace is what counts."""
    with on_stage(rest, store, "forger") as stage:
        a, b = stage.make_nodes("a", "b")
        _forge(rest, stage.name, a)
        _forge(rest, SYSTEM, b)
        assert wait_for(lambda: _cordon(rest, b), what="cordon by the true one")["cause"] == "NodeCheckFailed"
        assert (_cordon(rest, a), _check(rest, a)) == (None, {})
        # And so is a pod of a job in the operator's own namespace not.
        _forge(rest, SYSTEM, a, **{contract.LABEL_JOB: "job"})
        settle(process, stage)
        assert (_cordon(rest, a), _check(rest, a)) == (None, {})
    assert process.healthy()


def test_a_cordoned_node_that_came_back_is_checked_with_two_good_ones_and_let_in_again(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "back") as stage:
        node, *_ = stage.make_nodes("a", "b", "c", "d")
        _forge(rest, SYSTEM, node)
        assert wait_for(lambda: _cordon(rest, node), what="cordon")["action"] == "cordon-reboot"
        _come_back(rest, node, at=_now(3))
        members = _members(rest, node)
        assert (len(members), members[-1]) == (3, node)
        run_check(rest, *members)
        for name in members:
            end(rest, name, GOOD, at=_now(6))
        wait_for(lambda: _cordon(rest, node) is None, what="the cordon lifted")
        assert _check(rest, node)["evidence"][1] == "asked for: NodeCheckFailed, and the node is back"
    assert process.healthy()


def test_a_check_goes_where_a_job_comes(process: OperatorProcess, rest: Rest, store: S3Server) -> None:
    with on_stage(rest, store, "yielding") as stage:
        a, b, c = stage.make_nodes("a", "b", "c")
        _suspect(rest, a)
        run_check(rest, *_members(rest, a))
        stage.make_job(health=NO_CHECK)
        pods = stage.wait_for_pods(2)
        assert {node_of(pod) for pod in pods.values()} < {a, b, c}
        wait_for(lambda: not checks(rest), what="pods of the check gone")
    assert process.healthy()


# --- what kubelets and checks would do ---


def checks(rest: Rest, *, deleting: bool = False) -> dict[str, Object]:
    """Return the pods of checks that have not ended and stay, by node."""
    found = rest.items(f"{PODS}?labelSelector={contract.LABEL_CHECK.replace('/', '%2F')}")
    return {
        str(records.node_of(pod)): pod
        for pod in found
        if deleting or (check_pod(pod, SYSTEM) and not _over(pod) and "deletionTimestamp" not in pod["metadata"])
    }


def wait_for_checks(rest: Rest, *nodes: str) -> dict[str, Object]:
    found: dict[str, Object] = wait_for(
        lambda: there if set(nodes) == set(there := checks(rest)) else None, what=f"checks on {nodes}"
    )
    return found


def run(rest: Rest, node: str) -> None:
    """Bind the pod of a check, and let it run."""
    pod = checks(rest)[node]
    path = f"{PODS}/{pod['metadata']['name']}"
    if "nodeName" not in pod["spec"]:
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        rest("POST", f"{path}/binding", {"metadata": {"name": pod["metadata"]["name"]}, "target": target})
    rest.merge(f"{path}/status", {"status": {"phase": "Running", "podIP": "10.9.0.1", "podIPs": [{"ip": "10.9.0.1"}]}})


def run_check(rest: Rest, *nodes: str) -> None:
    """Let a whole check run, rank 0 first."""
    wait_for(lambda: nodes[0] in checks(rest), what=f"rank 0 on {nodes[0]}")
    run(rest, nodes[0])
    for node in nodes[1:]:
        wait_for(lambda n=node: n in checks(rest), what=f"a check on {node}")  # type: ignore[misc]
        run(rest, node)


def end(rest: Rest, node: str, said: Termination, *, at: str = "") -> None:
    pod = checks(rest)[node]
    _end(rest, SYSTEM, pod["metadata"]["name"], said, at=at or _now())


def settle(process: OperatorProcess, stage: Stage) -> None:
    """Wait until the operator has looked at everything that was there before: it cordons another node for a reason."""
    (node,) = stage.make_nodes("settle")
    _forge(stage.rest, SYSTEM, node)
    wait_for(lambda: _cordon(stage.rest, node), what="cordon of the last one")
    assert process.healthy()


def _end(rest: Rest, namespace: str, name: str, said: Termination, *, at: str) -> None:
    ended = {"exitCode": said.exit_code, "reason": "Error", "message": said.to_json(), "finishedAt": at}
    container = {"name": "check", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
    status = {"phase": "Failed" if said.exit_code else "Succeeded",
              "containerStatuses": [container | {"state": {"terminated": ended}}]}  # fmt: skip
    rest.merge(f"/api/v1/namespaces/{namespace}/pods/{name}/status", {"status": status})


def _forge(rest: Rest, namespace: str, node: str, **labels: str) -> None:
    """Make the pod of a check that ended with the worst news of a node."""
    name = f"node-check-forged-{node}"[:63]
    members = {"nodes": [node], "depth": "quick", "resource": GPU, "asked": _now(), "why": "nothing", "job": "",
               "label": "", "number": 0}  # fmt: skip
    own = {contract.LABEL_CHECK: f"f{abs(hash(node + namespace)) % 10**6}", contract.LABEL_RANK: "0"}
    body: dict[str, Any] = {
        "metadata": {
            "name": name + ("-job" if labels else ""),
            "labels": own | labels,
            "annotations": {contract.ANNOTATION_MEMBERS: json.dumps(members)},
        },
        "spec": {"nodeName": node, "containers": [{"name": "check", "image": IMAGE}]},
    }
    rest("POST", f"/api/v1/namespaces/{namespace}/pods", body)
    _end(rest, namespace, body["metadata"]["name"], BAD, at=_now())


def _members(rest: Rest, suspect: str) -> list[str]:
    """Return who takes part in the check of a suspect, by rank."""

    def found() -> list[str] | None:
        for pod in checks(rest).values():
            text = pod["metadata"].get("annotations", {}).get(contract.ANNOTATION_MEMBERS)
            if text and suspect in (nodes := json.loads(text)["nodes"]):
                return [str(node) for node in nodes]
        return None

    return list(wait_for(found, what=f"check of {suspect}"))


def _suspect(rest: Rest, node: str) -> None:
    """Leave on a node what the operator leaves there when something speaks against it."""
    held = {"reason": "Suspected", "cause": "Xid48", "at": _now(), "action": "check", "rule": "", "evidence": []}
    rest.merge(f"/api/v1/nodes/{node}", {"metadata": {"annotations": {contract.ANNOTATION_HELD: json.dumps(held)}}})


def _come_back(rest: Rest, node: str, *, at: str) -> None:
    """Say that a node became ready at that time."""
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": at}
    rest.merge(f"/api/v1/nodes/{node}/status", {"status": {"conditions": [condition]}})


def _over(pod: Object) -> bool:
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def _cordon(rest: Rest, node: str) -> Object | None:
    found = _annotations(rest, node).get(contract.ANNOTATION_FAULT)
    note: Object | None = json.loads(found) if found else None
    return note


def _check(rest: Rest, node: str) -> Object:
    found = _annotations(rest, node).get(contract.ANNOTATION_CHECK)
    note: Object = json.loads(found) if found else {}
    return note


def _annotations(rest: Rest, node: str) -> Object:
    found: Object = rest("GET", f"/api/v1/nodes/{node}")["metadata"].get("annotations", {})
    return found


def _now(later: float = 0.0) -> str:
    at = datetime.now(UTC) + timedelta(seconds=later)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
