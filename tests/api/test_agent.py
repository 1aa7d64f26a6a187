"""The node agent against a real API server: what it says, what it believes, what it may do."""

import json
import time
import urllib.error
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from internlm2_operator.health.condition import events
from lab.settings import CHECKOUT
from tests.api.agent import ACCOUNT, GPU, LOST, NAMESPACE, AgentProcess, install_agent, make_node, token_of
from tests.api.apiserver import ApiServer, wait_for
from tests.api.rest import MERGE, Object, Rest

pytestmark = pytest.mark.api


@pytest.fixture(scope="module")
def rights(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The account, role and policy of the chart."""
    install_agent(api, tmp_path_factory.mktemp("helm"))


Launch = Callable[..., AgentProcess]


@pytest.fixture
def launch(api: ApiServer, rest: Rest, rights: None, tmp_path: Path) -> Iterator[Launch]:
    """Start agents, each on a node of its own."""
    assert rights is None
    started: list[AgentProcess] = []

    def start(node: str, *flags: str) -> AgentProcess:
        make_node(rest, node)
        folder = tmp_path / node
        folder.mkdir()
        agent = AgentProcess(api, rest, folder, node, *flags)
        started.append(agent)
        agent.start()
        return agent

    yield start
    for agent in started:
        agent.kill()
        # The operator of other tests would cordon it, and the breaker would count it.
        rest("DELETE", f"/api/v1/nodes/{agent.node}")


def test_a_gpu_off_the_bus_is_told_and_a_restart_repeats_nothing(launch: Launch, rest: Rest) -> None:
    agent = launch("lost")
    assert agent.reason() == ("True", "Healthy")
    agent.log(LOST)
    told = agent.becomes("False", "Xid79")
    (seen,) = events(told["message"])
    assert (seen.cause, seen.where, seen.detail) == ("Xid79", "0000:3b:00", "GPU has fallen off the bus.")
    # Killed, not stopped: nothing was said on the way out. Then a line while nobody reads.
    agent.kill()
    agent.log("NVRM: Xid (PCI:0000:5e:00): 95, pid=1, name=python, Uncontained ECC error.")
    agent.start()
    wait_for(lambda: len(events(agent.condition()["message"])) == 2, what="the second event", seconds=30)
    after = agent.condition()
    assert {(e.cause, e.where) for e in events(after["message"])} == {("Xid79", "0000:3b:00"), ("Xid95", "0000:5e:00")}
    assert seen in events(after["message"])
    assert not after["message"].endswith("more")
    assert agent.metric("internlm2_agent_events_total") == 1
    assert (after["reason"], after["lastTransitionTime"]) == ("Xid79", told["lastTransitionTime"])
    # Other conditions are as they were, and the condition is managed by the agent alone.
    node = rest("GET", "/api/v1/nodes/lost")
    assert {c["type"]: c["status"] for c in node["status"]["conditions"]} == {"Ready": "True", "GPUHealthy": "False"}
    assert "internlm2-agent" in {entry["manager"] for entry in node["metadata"]["managedFields"]}
    assert agent.stop() == 0


def test_a_fault_is_over_with_the_boot_the_driver_or_a_word(launch: Launch, rest: Rest) -> None:
    agent = launch("over")
    agent.log(LOST)
    agent.becomes("False", "Xid79")
    agent.log("NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  570.195.03  Release Build")
    agent.becomes("True", "Healthy")
    agent.log(LOST)
    agent.becomes("False", "Xid79")
    # An annotation of the past ends nothing, one of now does.
    path = "/api/v1/nodes/over"
    rest.merge(path, {"metadata": {"annotations": {"training.internlm.io/health-reset": "2020-01-01T00:00:00Z"}}})
    rest.merge(
        path, {"metadata": {"annotations": {"training.internlm.io/health-reset": datetime.now(UTC).isoformat()}}}
    )
    agent.becomes("True", "Healthy")
    # Nor does it come back when the memory is lost and the log is read anew.
    agent.kill()
    agent.forget()
    agent.start()
    assert agent.reason() == ("True", "Healthy")
    agent.log(LOST)
    agent.becomes("False", "Xid79")
    agent.kill()
    agent.boot.write_text("boot-2\n")
    agent.kmsg.write_text("")
    agent.start()
    agent.becomes("True", "Healthy")


def test_a_storm_of_lines_is_few_writes_and_hides_no_fault(launch: Launch) -> None:
    agent = launch("storm", "--writes-per-second=2")
    before = agent.writes()
    started = time.monotonic()
    # Each is another event, so that nothing but the bucket keeps the writes apart.
    agent.log(*(f"NVRM: Xid (PCI:{n:08x}:5e:00): 31, pid=1, name=python, Ch 0, MMU Fault" for n in range(100_000)))
    agent.log(LOST)
    agent.becomes("False", "Xid79")
    wait_for(lambda: agent.read() >= 100_001, what="every line read")
    seconds = time.monotonic() - started
    # A burst of three, two a second, and nothing a line: the bound grows with the time that was measured.
    assert agent.writes() - before <= 3 + 2 * seconds + 1

    def all_told() -> bool:
        message = agent.condition()["message"]
        return str(message).endswith(f"; and {100_001 - len(events(message))} more")

    wait_for(all_told, what="the number of the rest", seconds=60)
    assert events(agent.condition()["message"])[0].cause == "Xid79"


def test_what_a_process_wrote_is_not_believed(launch: Launch) -> None:
    """Facility 1 is what the kernel makes of a process's line. The control is the same line of the kernel."""
    agent = launch("counterfeit")
    for priority in (12, 8, 30, 191):
        agent.log(LOST, priority=priority)
    for text in (f"python: {LOST}", LOST[:30], "NVRM: Xid (PCI:0000:3b:00): 99999999999, x"):
        agent.log(text)
    wait_for(lambda: agent.read() >= 7, what="every line read")
    assert agent.metric('internlm2_agent_records_total{writer="process"}') == 4
    assert agent.metric("internlm2_agent_events_total") == 0
    assert agent.reason() == ("True", "Healthy")
    agent.log(LOST)
    agent.becomes("False", "Xid79")


def test_a_device_that_is_not_offered(launch: Launch, rest: Rest) -> None:
    agent = launch("devices")
    path = "/api/v1/nodes/devices/status"
    rest.merge(path, {"status": {"allocatable": {GPU: "7"}}})
    assert "7 of 8 devices" in agent.becomes("False", "DeviceUnhealthy")["message"]
    rest.merge(path, {"status": {"allocatable": {GPU: "0"}}})
    agent.becomes("Unknown", "DevicePluginRestarting")
    rest.merge(path, {"status": {"allocatable": {GPU: "8"}}})
    agent.becomes("True", "Healthy")


def test_a_link_and_a_log_that_cannot_be_read(launch: Launch, tmp_path: Path) -> None:
    folder = tmp_path / "net" / "eth0"
    folder.mkdir(parents=True)
    (folder / "operstate").write_text("up\n")
    agent = launch("links", "--link=eth0", f"--sys-net={tmp_path / 'net'}", f"--disk={tmp_path}")
    assert agent.reason() == ("True", "Healthy")
    (folder / "operstate").write_text("down\n")
    agent.log("mlx5_core 0000:17:00.0 eth0: Link down")
    agent.becomes("False", "LinkDown")
    (folder / "operstate").write_text("up\n")
    agent.becomes("True", "Healthy")
    agent.kill()
    agent.kmsg.unlink()
    agent.start()
    agent.becomes("Unknown", "KernelLogUnreadable")


APPLY: Final = "application/apply-patch+yaml"


def objection(rest: Rest, path: str, body: Object, kind: str = MERGE) -> str:
    """Return what the API server says against a patch, empty when it does it."""
    try:
        rest("PATCH", path + ("?fieldManager=x&force=true" if kind == APPLY else ""), body, kind=kind)
    except urllib.error.HTTPError as error:
        with error:
            return str(json.loads(error.read())["message"])
    return ""


def of(node: str, **status: Any) -> Object:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}, "status": status}


def said(kind: str) -> Object:
    return {"type": kind, "status": "False", "reason": "Test", "message": "x"}


def test_the_account_changes_one_condition_of_one_node(api: ApiServer, rest: Rest, rights: None) -> None:
    """Everything else that `patch nodes/status` would allow is refused, and the control is allowed."""
    assert rights is None
    for node in ("mine", "other"):
        make_node(rest, node)
    agent = Rest(api, token_of(api, rest, "mine"))
    mine, other = "/api/v1/nodes/mine/status", "/api/v1/nodes/other/status"

    def refused() -> bool:  # a policy takes effect a moment after it was made
        return "names" in objection(agent, other, of("other", conditions=[said("GPUHealthy")]), APPLY)

    wait_for(refused, what="the policy", seconds=60)
    assert objection(agent, mine, of("mine", conditions=[said("GPUHealthy")]), APPLY) == ""
    only = "the condition GPUHealthy only"
    assert only in objection(agent, mine, of("mine", conditions=[said("Ready")]), APPLY)
    assert only in objection(agent, mine, of("mine", conditions=[said("GPUHealthy"), said("DiskPressure")]), APPLY)
    assert only in objection(agent, mine, {"status": {"allocatable": {GPU: "0"}}})
    assert only in objection(agent, mine, {"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.9"}]}})
    assert only in objection(agent, mine, {"status": {"conditions": None}})
    assert "status of its node only" in objection(agent, mine, {"metadata": {"labels": {"a": "b"}}})
    assert "status of its node only" in objection(agent, mine, {"metadata": {"annotations": {"a": "b"}}})
    assert "forbidden" in objection(agent, "/api/v1/nodes/mine", {"spec": {"unschedulable": True}})
    # A token of the same account that is bound to no pod names no node.
    loose = api.kubectl("create", "token", ACCOUNT, "-n", NAMESPACE).stdout.strip()
    assert "names" in objection(Rest(api, loose), mine, of("mine", conditions=[said("GPUHealthy")]), APPLY)
    # And nobody else is bound by the policy.
    rest.merge(other, {"status": {"conditions": [said("Ready")]}})


def test_the_policy_names_every_field_of_a_nodes_status(rest: Rest) -> None:
    """A field that Kubernetes adds is the agent's to change until the policy names it."""
    schemas = rest("GET", "/openapi/v3/api/v1")["components"]["schemas"]
    fields = set(schemas["io.k8s.api.core.v1.NodeStatus"]["properties"])
    policy = (CHECKOUT / "charts/internlm2-operator/templates/agent-policy.yaml").read_text()
    assert {field for field in fields if f"oldObject.status.?{field}" not in policy} == set()
    assert len(fields) > 10
