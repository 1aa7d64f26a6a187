"""From the API server's objects to the slim records that decisions read. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar, Final

from internlm2_operator.health import condition, maintenance
from internlm2_operator.health.history import History, aware
from internlm2_operator.health.node import CheckNote, FaultNote, HeldNote, NodeRecord, Taint
from internlm2_operator.manifests.pod import CONTAINER
from internlm2_operator.plan.queue import Quota
from internlm2_operator.plan.snapshot import PodPhase, PodRecord
from internlm2_spec import contract
from internlm2_spec.contract import Termination

Object = Mapping[str, Any]

_CORDONED: Final = "node.kubernetes.io/unschedulable"  # follows spec.unschedulable
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


@dataclass(frozen=True, slots=True)
class QuotaFacts:
    """What a ResourceQuota leaves, by extended resource and for PODS; what it does not limit is not there."""

    PODS: ClassVar[str] = "pods"

    namespace: str
    name: str
    left: Mapping[str, int]

    def more(self, amounts: Mapping[str, int]) -> "QuotaFacts":
        """Return the quota with `amounts` given back to it."""
        return replace(self, left={key: left + amounts.get(key, 0) for key, left in self.left.items()})

    def on(self, resource: str) -> Quota | None:
        """Return the quota as a job that asks for `resource` sees it, None when it limits neither that nor pods."""
        if resource not in self.left and self.PODS not in self.left:
            return None
        return Quota(self.name, self.left.get(resource), self.left.get(self.PODS))


def node(raw: Object) -> NodeFacts:
    meta, spec, status = raw["metadata"], raw.get("spec", {}), raw.get("status", {})
    notes: Mapping[str, str] = meta.get("annotations", {})
    ready: Object = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), {})
    healthy: Object = next((c for c in status.get("conditions", ()) if c["type"] == condition.TYPE), {})
    taints, labels = spec.get("taints", ()), meta.get("labels", {})
    since = ready.get("lastTransitionTime") or meta["creationTimestamp"]
    record = NodeRecord(
        name=meta["name"],
        ready=ready.get("status") == "True",
        ready_since=datetime.fromisoformat(since),
        gpus=0,
        labels=tuple(sorted(labels.items())),
        fault=FaultNote.from_json(notes.get(contract.ANNOTATION_FAULT, "")),
        health=condition.events(healthy.get("message") or ""),
        says_no=ready.get("status") == "False",
        check=CheckNote.from_json(notes.get(contract.ANNOTATION_CHECK, "")),
        unschedulable=bool(spec.get("unschedulable")),
        taints=tuple(
            Taint(t["key"], t.get("value", ""), t["effect"])
            for t in taints
            if t["effect"] in _BLOCKING and t["key"] != _CORDONED
        ),
        history=History.from_json(notes.get(contract.ANNOTATION_HISTORY, "")),
        held=HeldNote.from_json(notes.get(contract.ANNOTATION_HELD, "")),
        notice=maintenance.notice(taints, status.get("conditions", ()), labels, notes),
        reset=_time(notes.get(contract.ANNOTATION_RESET, "")),
        created=datetime.fromisoformat(meta["creationTimestamp"]),
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
        owner=next((o["uid"] for o in raw["metadata"].get("ownerReferences", ()) if o.get("controller")), ""),
        ip=raw.get("status", {}).get("podIP", ""),
        **_deletion(raw["metadata"]),
        **_end(raw.get("status", {})),
        **_conditions(raw.get("status", {})),
    )
    return PodFacts(record, requests)


def quota(raw: Object) -> QuotaFacts | None:
    """Return a quota of a namespace, None for one with scopes: the API server knows to which pods it applies."""
    spec, status = raw.get("spec", {}), raw.get("status", {})
    if spec.get("scopes") or spec.get("scopeSelector"):
        return None
    hard, used = status.get("hard") or spec.get("hard", {}), status.get("used", {})
    left: dict[str, int] = {}
    for key, amount in hard.items():
        name = QuotaFacts.PODS if key in ("pods", "count/pods") else key.removeprefix("requests.")
        if name == QuotaFacts.PODS or (name != key and "/" in name):
            room = _extended(amount) - _extended(used.get(key, 0))
            left[name] = min(left.get(name, room), room)
    return QuotaFacts(raw["metadata"]["namespace"], raw["metadata"]["name"], left)


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


def _time(text: str) -> datetime | None:
    try:
        return aware(text)
    except ValueError:
        return None


def _deletion(meta: Object) -> dict[str, Any]:
    if "deletionTimestamp" not in meta:
        return {}
    gone_by = datetime.fromisoformat(meta["deletionTimestamp"])
    return {"deleting": True, "gone_by": gone_by, "grace": meta.get("deletionGracePeriodSeconds")}


def _conditions(status: Object) -> dict[str, Any]:
    """Who takes the pod away, and whether its volumes and its network are there; False is not the same as unsaid."""
    conditions: dict[str, Object] = {c["type"]: c for c in status.get("conditions", ())}
    target, sandbox = conditions.get("DisruptionTarget", {}), conditions.get("PodReadyToStartContainers", {})
    disruption = target.get("reason", "") if target.get("status") == "True" else ""
    return {"disruption": disruption, "prepared": sandbox.get("status") != "False"}


def _end(status: Object) -> dict[str, Any]:
    """How a pod ended or why it cannot start. Eviction and admission errors stand on the pod, not on the container."""
    state = _state(status)
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
    target: Object = next((c for c in status.get("conditions", ()) if c["type"] == "DisruptionTarget"), {})
    return found | {"message": found["message"] or target.get("message", "")}


def _state(status: Object) -> Object:
    """Return the state of our container; a service mesh may have put others beside it."""
    containers: dict[str, Object] = {c.get("name", ""): c for c in reversed(status.get("containerStatuses", ()))}
    ours: Object = containers.get(CONTAINER) or next(reversed(containers.values()), {})
    state: Object = ours.get("state", {})
    return state
