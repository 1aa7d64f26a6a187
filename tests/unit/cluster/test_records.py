"""The API server's objects become records that hold what decisions read."""

from datetime import UTC, datetime
from typing import Any

import pytest

from internlm2_operator.cluster import records
from internlm2_operator.health.node import CheckNote, Taint
from internlm2_operator.plan.snapshot import PodPhase
from internlm2_spec import contract
from internlm2_spec.contract import FailureClass, Termination

GPU = "nvidia.com/gpu"
BORN = "2026-11-25T10:00:00Z"


def raw_node(**parts: Any) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": BORN}
    return {
        "metadata": {"name": "n1", "creationTimestamp": BORN} | parts.get("metadata", {}),
        "spec": parts.get("spec", {}),
        "status": {"conditions": [ready], "allocatable": {"cpu": "2", GPU: "8"}} | parts.get("status", {}),
    }


def raw_pod(*, status: dict[str, Any] | None = None, spec: dict[str, Any] | None = None) -> dict[str, Any]:
    ours = {
        contract.LABEL_JOB: "demo",
        contract.LABEL_STAGE: "0",
        contract.LABEL_ATTEMPT: "3",
        contract.LABEL_SLOT: "1",
        contract.LABEL_REPLACEMENT: "2",
    }
    container = {"name": "trainer", "resources": {"limits": {GPU: "8", "cpu": "1"}}}
    return {
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "creationTimestamp": BORN, "labels": ours},
        "spec": {"containers": [container]} | (spec or {}),
        "status": status or {"phase": "Pending"},
    }


def ended(code: int, message: str = "", **status: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "message": message, "reason": "Error", "finishedAt": BORN}}
    return {"phase": "Failed", "containerStatuses": [{"name": "trainer", "state": state}]} | status


OTHERS = {"key": "dedicated", "value": "others", "effect": "NoExecute"}
NODES = {
    "a ready node without taints": (raw_node(), (True, False, ())),
    "a cordoned node has a taint of its own": (
        raw_node(
            spec={
                "unschedulable": True,
                "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}],
            }
        ),
        (True, True, ()),
    ),
    "taints": (
        raw_node(spec={"taints": [{"key": GPU, "effect": "NoSchedule"}, OTHERS]}),
        (True, False, (Taint(GPU, "", "NoSchedule"), Taint("dedicated", "others", "NoExecute"))),
    ),
    "a PreferNoSchedule taint keeps nobody off": (
        raw_node(spec={"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}),
        (True, False, ()),
    ),
    "Ready Unknown is not ready": (
        raw_node(status={"conditions": [{"type": "Ready", "status": "Unknown", "lastTransitionTime": BORN}]}),
        (False, False, ()),
    ),
    "a node that has not reported yet is not ready": (raw_node(status={"conditions": []}), (False, False, ())),
}


@pytest.mark.parametrize(("raw", "want"), NODES.values(), ids=NODES)
def test_node_state(raw: dict[str, Any], want: tuple[bool, bool, tuple[Taint, ...]]) -> None:
    found = records.node(raw).record
    assert (found.ready, found.unschedulable, found.taints) == want


def test_only_extended_resources_of_a_node_are_kept() -> None:
    assert records.node(raw_node()).allocatable == {GPU: 8}


def test_somebody_elses_annotation_is_no_cordon_of_ours() -> None:
    annotations = {contract.ANNOTATION_FAULT: "by hand"}
    assert records.node(raw_node(metadata={"annotations": annotations})).record.fault is None


def test_a_check_is_read_from_its_annotation() -> None:
    note = CheckNote(datetime(2026, 11, 25, tzinfo=UTC), "quick", passed=True)
    annotations = {contract.ANNOTATION_CHECK: note.to_json()}
    assert records.node(raw_node(metadata={"annotations": annotations})).record.check == note
    assert records.node(raw_node()).record.check is None


def test_a_pod_is_read_from_its_labels_and_status() -> None:
    facts = records.pod(raw_pod(status={"phase": "Running", "podIP": "10.1.2.3"}))
    assert facts is not None
    pod = facts.record
    assert (pod.job, pod.stage, pod.attempt, pod.slot, pod.replacement) == ("demo", 0, 3, 1, 2)
    assert (pod.phase, pod.ip, pod.gpus) == (PodPhase.RUNNING, "10.1.2.3", 8)


@pytest.mark.parametrize("slot", ["", "one"], ids=["empty", "a word"])
def test_a_pod_with_a_broken_label_is_not_ours(slot: str) -> None:
    raw = raw_pod()
    raw["metadata"]["labels"][contract.LABEL_SLOT] = slot
    assert records.pod(raw) is None


def test_a_pinned_pod_counts_on_its_node_before_the_scheduler_has_spoken() -> None:
    fields = [{"key": "metadata.name", "operator": "In", "values": ["n7"]}]
    required = {"nodeSelectorTerms": [{"matchFields": fields}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    assert records.node_of(raw_pod(spec={"affinity": affinity})) == "n7"


SAID = Termination(failure=FailureClass.USER, reason="ValueError", exit_code=70, step=4)
ENDS = {
    "exit code and termination message of the container": (ended(70, SAID.to_json()), (70, "Error", SAID)),
    "a message that is not ours is kept as text only": (ended(137, "killed"), (137, "Error", None)),
    "an eviction stands on the pod": (ended(137, reason="Evicted"), (137, "Evicted", None)),
    "an admission error has no container": (
        {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no GPU"},
        (None, "UnexpectedAdmissionError", None),
    ),
}


@pytest.mark.parametrize(("status", "want"), ENDS.values(), ids=ENDS)
def test_how_a_pod_ended(status: dict[str, Any], want: tuple[object, ...]) -> None:
    facts = records.pod(raw_pod(status=status))
    assert facts is not None
    assert (facts.record.exit_code, facts.record.reason, facts.record.termination) == want


def test_a_container_that_cannot_start_says_why() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    facts = records.pod(raw_pod(status={"phase": "Pending", "containerStatuses": [{"state": waiting}]}))
    assert facts is not None
    assert (facts.record.waiting, facts.record.message) == ("ImagePullBackOff", "not found")


def _needs(*amounts: str, init: str = "0") -> dict[str, Any]:
    def container(amount: str) -> dict[str, Any]:
        return {"resources": {"limits": {GPU: amount}}}

    return {"containers": [container(a) for a in amounts], "initContainers": [container(init)]}


REQUESTS = {
    "containers add up": (_needs("1", "2"), 3),
    "an init container counts when it is larger": (_needs("1", init="4"), 4),
    "thousands are written with k": (_needs("1k"), 1000),
}


@pytest.mark.parametrize(("spec", "want"), REQUESTS.values(), ids=REQUESTS)
def test_what_a_pod_holds(spec: dict[str, Any], want: int) -> None:
    assert records.requested({"spec": spec, "status": {"phase": "Running"}}) == {GPU: want}


def test_a_finished_pod_holds_nothing() -> None:
    assert records.requested(raw_pod(status={"phase": "Succeeded"})) == {}


def condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


DISRUPTIONS = {
    "who takes a pod away stands in a condition": (
        [condition("DisruptionTarget", "True", "EvictionByEvictionAPI", "drained")],
        ("EvictionByEvictionAPI", True, "drained"),
    ),
    "a disruption that was called off is none": (
        [condition("DisruptionTarget", "False", "PreemptionByScheduler")],
        ("", True, ""),
    ),
    "volumes and network are missing only where the kubelet says so": (
        [condition("PodReadyToStartContainers", "False")],
        ("", False, ""),
    ),
    "the scheduler's words are the message": (
        [condition("PodScheduled", "False", "Unschedulable", "0/3 nodes are available")],
        ("", True, "0/3 nodes are available"),
    ),
}


@pytest.mark.parametrize(("conditions", "want"), DISRUPTIONS.values(), ids=DISRUPTIONS)
def test_conditions_of_a_pod(conditions: list[dict[str, Any]], want: tuple[str, bool, str]) -> None:
    facts = records.pod(raw_pod(status={"phase": "Pending", "conditions": conditions}))
    assert facts is not None
    assert (facts.record.disruption, facts.record.prepared, facts.record.message) == want


def test_a_pod_that_is_being_deleted_says_until_when() -> None:
    raw = raw_pod(status={"phase": "Running"})
    raw["metadata"] |= {"deletionTimestamp": "2026-11-25T10:05:00Z", "deletionGracePeriodSeconds": 300}
    facts = records.pod(raw)
    assert facts is not None
    assert (facts.record.deleting, facts.record.grace) == (True, 300)
    assert facts.record.gone_by == datetime(2026, 11, 25, 10, 5, tzinfo=UTC)


@pytest.mark.parametrize("name", ["trainer", "a-mesh"])
def test_containers_that_others_put_into_the_pod_do_not_speak_for_it(name: str) -> None:
    ours = {"name": "trainer", "state": {"terminated": {"exitCode": 70, "reason": "Error"}}}
    other = {"name": "a-mesh", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
    statuses = sorted([ours, other], key=lambda status: status["name"] != name)
    facts = records.pod(raw_pod(status={"phase": "Failed", "containerStatuses": statuses}))
    assert facts is not None
    assert facts.record.exit_code == 70
