"""What the operator believes of a namespace and does for it with its own rights, and what it never says."""

import contextlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from typing import Any, Final

import pytest

from internlm2_spec import contract
from internlm2_spec.contract import ExitCode, FailureClass, Termination
from tests.api.apiserver import ApiServer, wait_for
from tests.api.rest import Object, Rest
from tests.api.stage import SYSTEM, OperatorProcess, Stage, install_rights, on_stage, operating
from tests.servers import S3Server

pytestmark = pytest.mark.api

RULES: Final = "internlm2-operator-log-rules"
RESTRICTED: Final = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
SECRET: Final = "s3cr3t-of-this-test"
NO_CHECK: Final = {"check": {"firstStart": "None"}}


@pytest.fixture(scope="module")
def process(api: ApiServer, store: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """An operator whose own environment could open every bucket, and that checks nodes."""
    folder = tmp_path_factory.mktemp("operator")
    flags = ("--node-check-image=trainer:1", f"--log-rules={RULES}")
    with operating(install_rights(api, folder), folder, *flags, environment=store.environment) as operator:
        yield operator


def make_secret(stage: Stage, **values: str) -> None:
    """Make the job's Secret, right but for these values."""
    body = {"metadata": {"name": "s3"}, "stringData": stage.store.environment | values}
    stage.rest("POST", f"/api/v1/namespaces/{stage.name}/secrets", body)


def told(stage: Stage) -> str:
    """Return all that a namespace shows of a job: its status, its events, and the objects that the operator made."""
    kinds = ("/api/v1/{}/pods", "/api/v1/{}/configmaps", "/api/v1/{}/services", "/apis/events.k8s.io/v1/{}/events")
    paths = [kind.format(f"namespaces/{stage.name}") for kind in kinds]
    return json.dumps([stage.job(), *(stage.rest("GET", path) for path in paths)])


def test_pods_of_jobs_pass_the_restricted_pod_standard_and_have_no_token(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with on_stage(rest, store, "restricted") as stage:
        rest.merge(f"/api/v1/namespaces/{stage.name}", RESTRICTED)
        stage.make_nodes("a", "b")
        stage.make_job(health=NO_CHECK)
        pods = stage.wait_for_pods(2)
        specs = [pod["spec"] for pod in pods.values()]
        assert {spec["automountServiceAccountToken"] for spec in specs} == {False}
        assert "serviceAccountToken" not in json.dumps(specs)
    assert process.healthy()


def test_only_pods_of_a_job_may_speak_to_each_other(process: OperatorProcess, rest: Rest, store: S3Server) -> None:
    with on_stage(rest, store, "walled") as stage:
        stage.make_nodes("a", "b")
        stage.make_job(health=NO_CHECK)
        stage.wait_for_pods(2)
        policy = rest("GET", f"/apis/networking.k8s.io/v1/namespaces/{stage.name}/networkpolicies/job")
        peers, metrics = policy["spec"]["ingress"]
        assert peers == {"from": [{"podSelector": {"matchLabels": {contract.LABEL_JOB: "job"}}}]}
        assert [port["port"] for port in metrics["ports"]] == [contract.METRICS_PORT]
        assert policy["metadata"]["ownerReferences"][0]["uid"] == stage.job()["metadata"]["uid"]
    assert process.healthy()


def test_the_operators_own_credentials_open_no_bucket(process: OperatorProcess, rest: Rest, store: S3Server) -> None:
    """Neither where the job's are wrong nor where they are empty."""
    with on_stage(rest, store, "borrowing", secret=False) as stage:
        stage.make_nodes("a", "b")
        make_secret(stage, AWS_SECRET_ACCESS_KEY="wrong")
        stage.make_job(health=NO_CHECK)
        stage.wait_for_reason("CredentialsRefused")
        rest.merge(f"/api/v1/namespaces/{stage.name}/secrets/s3", {"stringData": {"AWS_SECRET_ACCESS_KEY": ""}})
        stage.wait_for_reason("SecretMissing")
        assert stage.pods() == {}
    assert process.healthy()


WRONG: Final[dict[str, tuple[dict[str, str], str]]] = {
    "a line feed": ({"AWS_SECRET_ACCESS_KEY": f"{SECRET}\n"}, "SecretMissing"),
    "the key as the address": ({"AWS_ENDPOINT_URL": SECRET}, "SecretMissing"),
    "a password in the address": ({"AWS_ENDPOINT_URL": f"http://u:{SECRET}@127.0.0.1:1"}, "SecretMissing"),
    "an address of nobody": ({"AWS_ENDPOINT_URL": f"http://{SECRET}.invalid:1"}, "StoreUnavailable"),
    "the key as the region": ({"AWS_REGION": f"{SECRET}/x"}, "SecretMissing"),
    "another key": ({"AWS_SECRET_ACCESS_KEY": SECRET}, "CredentialsRefused"),
    "another user": ({"AWS_ACCESS_KEY_ID": SECRET}, "StoreUnavailable"),  # so calls it the server of the tests
}


@pytest.mark.parametrize("name", WRONG)
def test_a_secret_with_a_mistake_is_told_and_never_shown(
    name: str, process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    values, reason = WRONG[name]
    with on_stage(rest, store, f"shy-{list(WRONG).index(name)}", secret=False) as stage:
        stage.make_nodes("a", "b")
        make_secret(stage, **values)
        stage.make_job(health=NO_CHECK)
        stage.wait_for_reason(reason)
        shown = told(stage) + process.log.read_text()
        assert SECRET not in shown
        assert reason in shown
    assert process.healthy()


def test_a_secret_that_works_is_in_no_object_event_or_log(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    """Its pods name it, and get its values from the kubelet."""
    with on_stage(rest, store, "discreet") as stage:
        stage.make_nodes("a", "b")
        stage.make_job(health=NO_CHECK)
        name, pod = next(iter(stage.wait_for_pods(2).items()))
        stage.run_pods()
        stage.end_pod(name, code=1, message="it fell")
        wait_for(lambda: stage.status().get("faults"), what="a fault")
        shown = told(stage) + process.log.read_text()
        assert store.environment["AWS_SECRET_ACCESS_KEY"] not in shown
        environment = pod["spec"]["containers"][0]["env"]
        sources = [entry.get("valueFrom", {}).get("secretKeyRef", {}).get("name") for entry in environment]
        assert sources.count("s3") == 4
    assert process.healthy()


@contextlib.contextmanager
def inner_server(text: str) -> Iterator[str]:
    """Something that the operator reaches and the namespace does not, such as a cloud's metadata."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_answers_at_an_address_of_a_jobs_choice_is_not_passed_on(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    with inner_server(SECRET) as url, on_stage(rest, store, "curious", secret=False) as stage:
        stage.make_nodes("a", "b")
        make_secret(stage, AWS_ENDPOINT_URL=url)
        stage.make_job(health=NO_CHECK)
        stage.wait_for_reason("StoreUnavailable")
        assert SECRET not in told(stage) + process.log.read_text()
    assert process.healthy()


def test_a_service_of_somebody_else_is_not_taken_over(process: OperatorProcess, rest: Rest, store: S3Server) -> None:
    with on_stage(rest, store, "squatting") as stage:
        path = f"/api/v1/namespaces/{stage.name}/services"
        spec = {"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80}]}
        before = rest("POST", path, {"metadata": {"name": "job"}, "spec": spec})
        stage.make_nodes("a", "b")
        stage.make_job(health=NO_CHECK)
        stage.wait_for_reason("ActionRefused")
        assert rest("GET", f"{path}/job") == before
        assert "Service job belongs to no job; remove it, or give the job another name" in told(stage)
        assert stage.pods() == {}
        rest("DELETE", f"{path}/job")
        stage.wait_for_pods(2)
    assert process.healthy()


LIE: Final = Termination(
    FailureClass.INFRASTRUCTURE,
    "NodeCheckFailed",
    ExitCode.NODE_CHECK,
    message="NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus; GPU lost; uncorrectable ECC error",
)


def untouched(rest: Rest, nodes: list[str]) -> bool:
    """Say whether nodes are as they were made: no cordon, no note, no verdict of a check."""
    found = [rest("GET", f"/api/v1/nodes/{node}") for node in nodes]
    notes = {key for node in found for key in node["metadata"].get("annotations", {})}
    return not any(node["spec"].get("unschedulable") for node in found) and not {
        note for note in notes if note.startswith(contract.API_GROUP) and note != contract.ANNOTATION_HELD
    }


def test_no_word_of_a_pod_cordons_its_node(process: OperatorProcess, rest: Rest, store: S3Server) -> None:
    """All pods of several attempts say that their nodes are broken."""
    with on_stage(rest, store, "slander") as stage:
        nodes = stage.make_nodes("a", "b")
        stage.make_job(health=NO_CHECK)
        for attempt in (1, 2):
            pods = wait_for(lambda n=attempt: members(stage, n), what=f"attempt {attempt}")  # type: ignore[misc]
            stage.run_pods()
            for name in pods:
                stage.end_pod(name, code=ExitCode.NODE_CHECK, message=LIE.to_json())
            wait_for(lambda n=attempt: stage.status().get("attempt", 0) > n, what="the next attempt")  # type: ignore[misc]
        assert untouched(rest, nodes)
    assert process.healthy()


def members(stage: Stage, attempt: int) -> list[str]:
    """Return the names of both pods of an attempt, once there are two."""
    labels = {name: pod["metadata"]["labels"] for name, pod in stage.pods().items()}
    mine = [name for name, label in labels.items() if label.get(contract.LABEL_ATTEMPT) == str(attempt)]
    return mine if len(mine) == 2 else []


def forged_check(node: str) -> Object:
    check = {
        "nodes": [node],
        "depth": "quick",
        "resource": "nvidia.com/gpu",
        "time": "2026-01-01T00:00:00Z",
        "why": "x",
    }
    return {
        "metadata": {
            "name": "node-check-forged-0000",
            "labels": {contract.LABEL_CHECK: "forged", contract.LABEL_RANK: "0", contract.LABEL_ROLE: "node-check"},
            "annotations": {contract.ANNOTATION_MEMBERS: json.dumps(check)},
        },
        "spec": {"nodeName": node, "containers": [{"name": "check", "image": "i"}]},
    }


def test_a_node_check_of_another_namespace_is_none(process: OperatorProcess, rest: Rest, store: S3Server) -> None:
    """It ends with the word that its node is broken; a job that starts afterwards takes that node."""
    with on_stage(rest, store, "quack") as stage:
        nodes = stage.make_nodes("a", "b")
        path = f"/api/v1/namespaces/{stage.name}/pods"
        rest("POST", path, forged_check(nodes[0]))
        ended = {"terminated": {"exitCode": int(ExitCode.NODE_CHECK), "message": LIE.to_json(), "reason": "Error"}}
        state = {"name": "check", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": ended}
        rest.merge(
            f"{path}/node-check-forged-0000/status", {"status": {"phase": "Failed", "containerStatuses": [state]}}
        )
        stage.make_job(health=NO_CHECK)
        wait_for(lambda: members(stage, 1), what="pods of the job")
        assert untouched(rest, nodes)
    assert process.healthy()


def test_rules_of_rank_logs_are_those_of_the_operators_namespace(
    process: OperatorProcess, rest: Rest, store: S3Server
) -> None:
    rule = {"name": "mine", "pattern": "x", "blame": "node", "cause": "Mine", "weight": "cause"}
    body = {"metadata": {"name": RULES}, "data": {"rules.yaml": json.dumps({"rules": [rule]})}}
    counted = "internlm2_operator_log_rules"
    with on_stage(rest, store, "legislating") as stage:
        rest("POST", f"/api/v1/namespaces/{stage.name}/configmaps", body)
        rounds = 'internlm2_operator_source_rounds_total{source="log rules"}'
        seen = process.metric(rounds)
        wait_for(lambda: process.metric(rounds) >= seen + 1, what="a look at the rules")
        assert process.metric(counted) == 0
        # The control: there they count.
        rest("POST", f"/api/v1/namespaces/{SYSTEM}/configmaps", body)
        wait_for(lambda: process.metric(counted) == 1, what="the rule in force")
        rest("DELETE", f"/api/v1/namespaces/{SYSTEM}/configmaps/{RULES}")
    assert process.healthy()


def test_the_operators_environment_really_opens_the_bucket(process: OperatorProcess, store: S3Server) -> None:
    """The control of the test about its credentials: what it was given is right."""
    assert process.environment["AWS_SECRET_ACCESS_KEY"] == store.environment["AWS_SECRET_ACCESS_KEY"] != ""
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ
