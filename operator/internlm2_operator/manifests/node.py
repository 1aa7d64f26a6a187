"""What a cordon, its end, and a cordon that is not made write on a node.

Taints are one atomic list to every kind of patch: what is written is the whole list, those of others in it, for a node
that is still at the resourceVersion that was read. Applying one twice changes nothing.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from internlm2_operator.health.cordon import Cordon
from internlm2_operator.health.node import CheckNote, HeldNote
from internlm2_operator.health.uncordon import Uncordon
from internlm2_operator.manifests.metadata import Manifest
from internlm2_spec.contract import (
    ANNOTATION_CHECK,
    ANNOTATION_FAULT,
    ANNOTATION_HELD,
    ANNOTATION_HISTORY,
    ANNOTATION_RESET,
    TAINT_FAULT,
)


def cordon_patch(cordon: Cordon, node: Mapping[str, Any]) -> Manifest:
    """Return what makes a node unschedulable, with the cause as a taint and the evidence as a note.

    `node` is the object as it was read last.
    """
    ours = {"key": TAINT_FAULT, "value": cordon.note.cause, "effect": "NoSchedule"}
    notes = {ANNOTATION_FAULT: cordon.note.to_json(), ANNOTATION_HISTORY: cordon.history.to_json()}
    return {
        "metadata": _version(node) | {"annotations": notes | {ANNOTATION_HELD: None}},
        "spec": {"unschedulable": True, "taints": [*_taints_of_others(node), ours]},
    }


def uncordon_patch(made: Uncordon, node: Mapping[str, Any]) -> Manifest:
    """Return what takes a cordon of ours off `node` again, the object as it was read last.

    The node agent forgets the faults up to the check, so that they do not cordon the node a second time.
    """
    notes = {
        ANNOTATION_FAULT: None,
        ANNOTATION_HELD: None,
        ANNOTATION_HISTORY: made.history.to_json(),
        ANNOTATION_RESET: made.settled.isoformat(),
    }
    return {
        "metadata": _version(node) | {"annotations": notes},
        "spec": {"unschedulable": None, "taints": _taints_of_others(node)},
    }


def reset_patch(at: datetime) -> Manifest:
    """Return what notes that the faults of a node up to then were dealt with."""
    return {"metadata": {"annotations": {ANNOTATION_RESET: at.isoformat()}}}


def checked_patch(node: str, note: CheckNote) -> Manifest:
    """Return what a server-side apply leaves on a node about its check, and nothing else."""
    meta = {"name": node, "annotations": {ANNOTATION_CHECK: note.to_json()}}
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta}


def held_patch(note: HeldNote | None) -> Manifest:
    """Return what notes that something was found against a node and it was not cordoned, or that this is over."""
    return {"metadata": {"annotations": {ANNOTATION_HELD: note.to_json() if note else None}}}


def _version(node: Mapping[str, Any]) -> dict[str, Any]:
    return {"resourceVersion": node["metadata"]["resourceVersion"]}


def _taints_of_others(node: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [taint for taint in node.get("spec", {}).get("taints") or () if taint["key"] != TAINT_FAULT]
