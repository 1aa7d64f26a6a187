"""From a pod of a node check to what decisions read. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from internlm2_operator.cluster.records import node_of, requested
from internlm2_operator.manifests.check_pod import CONTAINER
from internlm2_operator.plan.snapshot import ENDED, CheckPod, Outcome, PodPhase
from internlm2_spec import contract
from internlm2_spec.contract import ExitCode, FailureClass, Termination

Object = Mapping[str, Any]


def is_check(raw: Object, namespace: str) -> bool:
    """Say whether a pod belongs to a check: made in the operator's `namespace`, and for no job.

    Its label proves nothing elsewhere: a user writes labels as well.
    """
    labels = raw["metadata"].get("labels", {})
    ours = raw["metadata"]["namespace"] == namespace
    return ours and contract.LABEL_CHECK in labels and contract.LABEL_JOB not in labels


def check_pod(raw: Object, namespace: str) -> CheckPod | None:
    """Return a node's part of a check, None for any other pod."""
    meta, status = raw["metadata"], raw.get("status", {})
    labels, node = meta.get("labels", {}), node_of(raw)
    rank = labels.get(contract.LABEL_RANK, "")
    if not is_check(raw, namespace) or node is None or not rank.isdecimal():
        return None
    phase = PodPhase(status.get("phase", "Pending").replace("Unknown", "Running"))
    ended = _ended(status)
    outcome, said = _outcome(phase, ended)
    at = ended.get("finishedAt") or meta["creationTimestamp"]
    return CheckPod(
        name=meta["name"],
        uid=meta["uid"],
        id=labels[contract.LABEL_CHECK],
        rank=int(rank),
        node=node,
        created=datetime.fromisoformat(meta["creationTimestamp"]),
        phase=phase,
        gpus=sum(requested({"spec": raw.get("spec", {})}).values()),
        ip=status.get("podIP", ""),
        deleting="deletionTimestamp" in meta,
        finished=datetime.fromisoformat(at) if outcome is not None else None,
        outcome=outcome,
        said=said,
        members=meta.get("annotations", {}).get(contract.ANNOTATION_MEMBERS, ""),
    )


def _ended(status: Object) -> Object:
    containers: dict[str, Object] = {c.get("name", ""): c for c in status.get("containerStatuses", ())}
    found: Object = containers.get(CONTAINER, {}).get("state", {}).get("terminated") or {}
    return found


def _outcome(phase: PodPhase, ended: Object) -> tuple[Outcome | None, str]:
    """Return what the end of a pod says. Only the check's own word counts: a pod can end in many other ways."""
    if phase not in ENDED:
        return None, ""
    code, said = ended.get("exitCode"), Termination.from_json(ended.get("message", ""))
    if said is None or said.exit_code != code:
        return Outcome.UNKNOWN, ""
    if code == ExitCode.DONE and said.failure is FailureClass.DONE:
        return Outcome.PASSED, said.message
    failed = code == ExitCode.NODE_CHECK and said.failure is FailureClass.INFRASTRUCTURE
    return (Outcome.FAILED if failed else Outcome.UNKNOWN), said.message
