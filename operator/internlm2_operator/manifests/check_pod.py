"""One node's part of a node check: a pod in the operator's own namespace, pinned to the node."""

from typing import Any, Final

from internlm2_operator.manifests.metadata import Manifest
from internlm2_operator.manifests.pod import pinned
from internlm2_operator.plan.check import JOIN, LIMIT, Depth, MakePod
from internlm2_operator.plan.constraints import of_resource
from internlm2_spec import contract

CONTAINER: Final = "check"
ROLE: Final = "node-check"
_IP: Final = "$(POD_IP)"  # the kubelet puts it in


def check_pod(member: MakePod, *, namespace: str, image: str) -> Manifest:
    """Return the pod. Nothing owns it: the operator removes it, and its deadline ends it in any case."""
    members = {contract.ANNOTATION_MEMBERS: member.check.to_json()} if member.rank == 0 else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": check_pod_name(member),
            "namespace": namespace,
            "labels": {
                contract.LABEL_CHECK: member.check.id,
                contract.LABEL_RANK: str(member.rank),
                contract.LABEL_ROLE: ROLE,
            },
        }
        | ({"annotations": members} if members else {}),
        "spec": _spec(member, image),
    }


def check_pod_name(member: MakePod) -> str:
    return f"node-check-{member.check.id}-{member.rank:04d}"


def _spec(member: MakePod, image: str) -> Manifest:
    return {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": int(LIMIT[member.check.depth].total_seconds()),
        "terminationGracePeriodSeconds": 1,  # nothing is kept, and who needs the node waits for it
        "affinity": pinned({}, member.node),
        # A cordoned node is checked too; taints of others are respected.
        "tolerations": [
            {"key": contract.TAINT_FAULT, "operator": "Exists"},
            {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"},
            of_resource(member.check.resource).to_object(),
        ],
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(member, image)],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    }


def _container(member: MakePod, image: str) -> Manifest:
    port = contract.RENDEZVOUS_PORT
    return {
        "name": CONTAINER,
        "image": image,
        "command": _command(member),
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "HOME", "value": "/tmp"},
        ],
        "ports": [{"name": "store", "containerPort": port, "protocol": "TCP"}],
        "resources": {"limits": {member.check.resource: str(member.gpus)}},
        "terminationMessagePath": contract.TERMINATION_LOG,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}],
    }


def _command(member: MakePod) -> list[str]:
    check = member.check
    among: list[Any] = [
        "--nodes", len(check.nodes), "--rank", member.rank,
        "--store", f"{member.store or _IP}:{contract.RENDEZVOUS_PORT}",
        "--join-seconds", int(JOIN * LIMIT[check.depth].total_seconds()),
    ] if len(check.nodes) > 1 else []  # fmt: skip
    return [
        "python", "-m", "internlm2_trainer", "check", *map(str, among), "--name", member.node,
        *(["--domain", member.domain] if member.domain else []),
        *(["--full"] if check.depth is Depth.FULL else []),
        "-o", "json",
    ]  # fmt: skip
