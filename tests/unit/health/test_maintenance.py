"""Which marks on a node announce that it will go."""

from typing import Any

import pytest

from internlm2_operator.health.maintenance import TABLE, notice
from internlm2_spec.contract import ANNOTATION_DRAIN

SAID = {
    "GKE, before it ends a node with GPUs": (
        {"taints": [{"key": "cloud.google.com/impending-node-termination", "effect": "NoSchedule"}]},
        "taint cloud.google.com/impending-node-termination of GKE",
    ),
    "GKE, while it does": (
        {"labels": {"cloud.google.com/active-node-maintenance": "ONGOING"}},
        "label cloud.google.com/active-node-maintenance of GKE",
    ),
    "AWS, a spot interruption": (
        {"taints": [{"key": "aws-node-termination-handler/spot-itn", "value": "1712", "effect": "NoSchedule"}]},
        "taint aws-node-termination-handler/spot-itn of AWS Node Termination Handler",
    ),
    "AWS, scheduled maintenance": (
        {"taints": [{"key": "aws-node-termination-handler/scheduled-maintenance", "effect": "NoExecute"}]},
        "taint aws-node-termination-handler/scheduled-maintenance of AWS Node Termination Handler",
    ),
    "AWS, an instance that its group takes away": (
        {"taints": [{"key": "aws-node-termination-handler/asg-lifecycle-termination", "effect": "NoSchedule"}]},
        "taint aws-node-termination-handler/asg-lifecycle-termination of AWS Node Termination Handler",
    ),
    "AKS, a spot node": (
        {"conditions": [{"type": "VMEventScheduled", "status": "True", "message": "Preempt Scheduled: Mon, 02 Mar"}]},
        "condition VMEventScheduled of AKS",
    ),
    "AKS, its drain": (
        {"taints": [{"key": "remediator.kubernetes.azure.com/unschedulable", "effect": "NoSchedule"}]},
        "taint remediator.kubernetes.azure.com/unschedulable of AKS",
    ),
    "Karpenter": (
        {"taints": [{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}]},
        "taint karpenter.sh/disrupted of Karpenter",
    ),
    "Karpenter before 1.0": (
        {"taints": [{"key": "karpenter.sh/disruption", "value": "disrupting", "effect": "NoSchedule"}]},
        "taint karpenter.sh/disruption of Karpenter before 1.0",
    ),
    "Cluster Autoscaler": (
        {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "value": "1712", "effect": "NoSchedule"}]},
        "taint ToBeDeletedByClusterAutoscaler of Cluster Autoscaler",
    ),
    "a person": (
        {"annotations": {ANNOTATION_DRAIN: "new fans"}},
        f"annotation {ANNOTATION_DRAIN} (new fans) of a person, or a program of the cluster",
    ),
}
UNSAID = {
    "nothing": {},
    "an annotation that was emptied": {"annotations": {ANNOTATION_DRAIN: ""}},
    "a plain cordon": {"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]},
    "a node that is off": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]},
    "a candidate of the autoscaler": {
        "taints": [{"key": "DeletionCandidateOfClusterAutoscaler", "effect": "PreferNoSchedule"}]
    },
    "AWS, a risk": {"taints": [{"key": "aws-node-termination-handler/rebalance-recommendation"}]},
    "maintenance next week": {"labels": {"cloud.google.com/scheduled-maintenance-time": "1733083200"}},
    "maintenance that is over": {"labels": {"cloud.google.com/active-node-maintenance": "COMPLETE"}},
    "no event": {"conditions": [{"type": "VMEventScheduled", "status": "False"}]},
    "a machine that is paused": {
        "conditions": [{"type": "VMEventScheduled", "status": "True", "message": "Freeze Scheduled: Mon, 02 Mar"}]
    },
    "a spot node of AKS": {"taints": [{"key": "kubernetes.azure.com/scalesetpriority", "value": "spot"}]},
    "the key as a label": {"labels": {"ToBeDeletedByClusterAutoscaler": "1"}},
}
NOTHING: dict[str, Any] = {"taints": [], "conditions": [], "labels": {}, "annotations": {}}


@pytest.mark.parametrize(("marks", "want"), SAID.values(), ids=SAID)
def test_what_announces_the_end_of_a_node(marks: dict[str, list[dict[str, str]]], want: str) -> None:
    assert notice(**(NOTHING | marks)) == want


@pytest.mark.parametrize("marks", UNSAID.values(), ids=UNSAID)
def test_what_does_not(marks: dict[str, list[dict[str, str]]]) -> None:
    assert notice(**(NOTHING | marks)) == ""


def test_every_row_has_a_case() -> None:
    assert {(row.where, row.key) for row in TABLE} == {tuple(want.split()[:2]) for _, want in SAID.values()}
