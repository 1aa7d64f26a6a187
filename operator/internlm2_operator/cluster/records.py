"""From the API server's objects to the slim records that decisions read. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from internlm2_operator.health.node import FaultNote, NodeRecord
from internlm2_operator.plan.snapshot import PodPhase, PodRecord
from internlm2_spec import contract
from internlm2_spec.contract import Termination

Object = Mapping[str, Any]

_BLOCKING: Final = frozenset({"NoSchedule", "NoExecute"})
_FINISHED: Final = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node before it is known which resource a job asks for."""

    record: NodeRecord
    allocatable: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod of ours, with all that it requests of its node."""

    record: PodRecord
    requests: Mapping[str, int]


def node(raw: Object) -> NodeFacts:
    meta, spec, status = raw["metadata"], raw.get("spec", {}), raw.get("status", {})
    ready: Object = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), {})
    taints = spec.get("taints", ())
    since = ready.get("lastTransitionTime") or meta["creationTimestamp"]
    record = NodeRecord(
        name=meta["name"],
        ready=ready.get("status") == "True",
        ready_since=datetime.fromisoformat(since),
        schedulable=not spec.get("unschedulable") and all(t["effect"] not in _BLOCKING for t in taints),
        gpus=0,
        labels=tuple(sorted(meta.get("labels", {}).items())),
        fault=_note(meta),
    )
    return NodeFacts(record, {k: _extended(v) for k, v in status.get("allocatable", {}).items() if "/" in k})


def pod(raw: Object) -> PodFacts | None:
    """Return a pod of ours, None for one whose labels are not complete: somebody else's, or edited by hand."""
    labels = raw["metadata"].get("labels", {})
    try:
        numbers = {key: int(labels[label]) for key, label in _NUMBERS.items()}
    except (KeyError, ValueError):
        return None
    requests = requested(raw)
    record = PodRecord(
        name=raw["metadata"]["name"],
        namespace=raw["metadata"]["namespace"],
        job=labels[contract.LABEL_JOB],
        uid=raw["metadata"]["uid"],
        stage=numbers["stage"],
        attempt=numbers["attempt"],
        slot=numbers["slot"],
        replacement=int(labels.get(contract.LABEL_REPLACEMENT, "0")),
        node=node_of(raw),
        phase=PodPhase(raw.get("status", {}).get("phase", "Pending").replace("Unknown", "Running")),
        created=datetime.fromisoformat(raw["metadata"]["creationTimestamp"]),
        gpus=sum(requests.values()),
        ip=raw.get("status", {}).get("podIP", ""),
        deleting="deletionTimestamp" in raw["metadata"],
        **_end(raw.get("status", {})),
    )
    return PodFacts(record, requests)


_NUMBERS: Final = {
    "stage": contract.LABEL_STAGE,
    "attempt": contract.LABEL_ATTEMPT,
    "slot": contract.LABEL_SLOT,
}


def node_of(raw: Object) -> str | None:
    """Return where a pod runs, or where it is pinned to while the scheduler has not spoken yet."""
    spec = raw.get("spec", {})
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    terms = spec.get("affinity", {}).get("nodeAffinity", {})
    required = terms.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    for term in required.get("nodeSelectorTerms", ()):
        for field in term.get("matchFields", ()):
            if field["key"] == "metadata.name" and field["operator"] == "In" and len(field["values"]) == 1:
                return str(field["values"][0])
    return None


def requested(raw: Object) -> dict[str, int]:
    """Return the extended resources that a pod holds: the larger of its containers and its init steps."""
    if raw.get("status", {}).get("phase") in _FINISHED:
        return {}
    spec = raw.get("spec", {})
    total: dict[str, int] = {}
    for container in spec.get("containers", ()):
        for key, value in _limits(container).items():
            total[key] = total.get(key, 0) + value
    for container in spec.get("initContainers", ()):
        for key, value in _limits(container).items():
            total[key] = max(total.get(key, 0), value)
    return total


def _limits(container: Object) -> dict[str, int]:
    resources = container.get("resources", {})
    merged = {**resources.get("limits", {}), **resources.get("requests", {})}
    return {key: _extended(value) for key, value in merged.items() if "/" in key}


def _extended(quantity: Any) -> int:
    """Extended resources are whole numbers; `k` is the only suffix that real device plugins were seen to write."""
    text = str(quantity)
    scale, digits = (1000, text[:-1]) if text.endswith("k") else (1, text)
    try:
        return int(Decimal(digits) * scale)
    except InvalidOperation:
        return 0


def _note(meta: Object) -> FaultNote | None:
    text = meta.get("annotations", {}).get(contract.ANNOTATION_FAULT)
    return FaultNote.from_json(text) if text else None


def _end(status: Object) -> dict[str, Any]:
    """How a pod ended or why it cannot start. Eviction and admission errors stand on the pod, not on the container."""
    state: Object = next((c.get("state", {}) for c in status.get("containerStatuses", ())), {})
    ended, waiting = state.get("terminated"), state.get("waiting")
    found: dict[str, Any] = {"reason": status.get("reason", ""), "message": status.get("message", "")}
    if ended:
        found |= {
            "exit_code": ended.get("exitCode"),
            "reason": found["reason"] or ended.get("reason", ""),
            "message": found["message"] or ended.get("message", ""),
            "finished": datetime.fromisoformat(ended["finishedAt"]) if ended.get("finishedAt") else None,
            "termination": Termination.from_json(ended.get("message", "")),
        }
    if waiting:
        found |= {"waiting": waiting.get("reason", ""), "message": found["message"] or waiting.get("message", "")}
    unscheduled: Object = next((c for c in status.get("conditions", ()) if c["type"] == "PodScheduled"), {})
    if unscheduled.get("status") == "False" and not found["reason"]:
        found |= {"reason": unscheduled.get("reason", ""), "message": unscheduled.get("message", "")}
    return found
