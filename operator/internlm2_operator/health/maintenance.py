"""Whether somebody announced that a node will go: the notices of clouds and autoscalers, as data.

A plain cordon, as by `kubectl cordon`, is none: pods may stay on such a node. `node.kubernetes.io/out-of-service` is
none, either: it says that the node is off already, and what was on it is lost. So is what may happen, or will another
day: AWS' recommendation to rebalance, GKE's date of a maintenance.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from internlm2_spec.contract import ANNOTATION_DRAIN

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Notice:
    """One sign. Without a `value` any will do, but for an annotation, which needs one."""

    where: str  # taint, label, condition or annotation
    key: str
    value: str
    by: str
    source: str

    def among(self, marks: Mapping[str, str]) -> bool:
        """Say whether this sign is among a node's marks."""
        value = marks.get(self.key)
        if value is None or (self.where == "annotation" and not value):
            return False
        return self.value in ("", value)


_AWS: Final = "AWS Node Termination Handler"
TABLE: Final = (
    Notice("annotation", ANNOTATION_DRAIN, "", "a person, or a program of the cluster", "ours; its value says why"),
    Notice("taint", "cloud.google.com/impending-node-termination", "", "GKE", "GKE: disruption of GPU and TPU nodes"),
    Notice(
        "label", "cloud.google.com/active-node-maintenance", "ONGOING", "GKE", "GKE: disruption of GPU and TPU nodes"
    ),
    Notice("taint", "aws-node-termination-handler/spot-itn", "", _AWS, "its README, TAINT_NODE"),
    Notice("taint", "aws-node-termination-handler/scheduled-maintenance", "", _AWS, "its README, TAINT_NODE"),
    Notice("taint", "aws-node-termination-handler/asg-lifecycle-termination", "", _AWS, "its README, TAINT_NODE"),
    Notice("taint", "remediator.kubernetes.azure.com/unschedulable", "", "AKS", "AKS: node auto-drain"),
    Notice("condition", "VMEventScheduled", "True", "AKS", "AKS: node problem detector"),
    Notice("taint", "karpenter.sh/disrupted", "", "Karpenter", "Karpenter: disruption"),
    Notice("taint", "karpenter.sh/disruption", "disrupting", "Karpenter before 1.0", "Karpenter: v1 migration"),
    Notice("taint", "ToBeDeletedByClusterAutoscaler", "", "Cluster Autoscaler", "its utils/taints"),
)
# A virtual machine that is frozen for seconds keeps its memory: waiting is cheaper than moving.
_PAUSE: Final = "Freeze"


def notice(
    taints: Iterable[Object], conditions: Iterable[Object], labels: Mapping[str, str], annotations: Mapping[str, str]
) -> str:
    """Return what announces the end of a node, in words, empty when nothing does."""
    there = {
        "annotation": annotations,
        "taint": {taint["key"]: taint.get("value", "") for taint in taints},
        "label": labels,
        "condition": {c["type"]: c["status"] for c in conditions if _PAUSE not in c.get("message", "")},
    }
    row = next((row for row in TABLE if row.among(there[row.where])), None)
    if row is None:
        return ""
    why = f" ({annotations[row.key][:256]})" if row.where == "annotation" else ""
    return f"{row.where} {row.key}{why} of {row.by}"
