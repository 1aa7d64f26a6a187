"""One member of an attempt: a pod that runs one torchrun agent on one node."""

from pathlib import PurePosixPath
from typing import Any, Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.spec import Spec
from internlm2_operator.api.template import SCRAPE
from internlm2_operator.manifests import labels, names
from internlm2_operator.manifests.metadata import Manifest, metadata
from internlm2_operator.plan.actions import CreatePod
from internlm2_operator.plan.constraints import tolerations
from internlm2_spec import contract

IMAGE: Final = "internlm2-trainer:0.1.0"
CONTAINER: Final = "trainer"
# Keys of the Secret, and whether the trainer can do without.
_AWS: Final = {
    "AWS_ACCESS_KEY_ID": False,
    "AWS_SECRET_ACCESS_KEY": False,
    "AWS_ENDPOINT_URL": True,
    "AWS_REGION": True,
}


def pod(job: InternLM2Job, member: CreatePod) -> Manifest:
    """Return the pod of one slot, pinned to its node. The same member is always the same body."""
    name = pod_name(job, member)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(
            job,
            name=name,
            labels=(job.spec.template.labels or {})
            | labels.of_member(
                job.name,
                stage=member.stage,
                attempt=member.attempt,
                slot=member.slot,
                replacement=member.replacement,
            ),
            annotations=(job.spec.template.annotations or {})
            | dict(zip(SCRAPE, ("true", str(contract.METRICS_PORT)), strict=True)),
        ),
        "spec": _spec(job, member, name),
    }


def pod_name(job: InternLM2Job, member: CreatePod) -> str:
    return names.pod(
        job.name, stage=member.stage, attempt=member.attempt, slot=member.slot, replacement=member.replacement
    )


def _spec(job: InternLM2Job, member: CreatePod, name: str) -> Manifest:
    template = job.spec.template
    return {
        "restartPolicy": "Never",  # the operator decides what follows, never the kubelet
        "hostname": name,
        "subdomain": names.service(job.name),
        "affinity": pinned(template.affinity or {}, member.node),
        "containers": [_container(job, member, name)],
        "volumes": [
            {"name": "config", "configMap": {"name": names.config_map(job.name, member.stage)}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            *(volume.to_object() for volume in template.volumes),
        ],
        "terminationGracePeriodSeconds": template.termination_grace_period_seconds,
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            **template.security_context.model_dump(by_alias=True, mode="json", exclude={"capabilities"}),
        },
    } | _optional(job.spec)


def _optional(spec: Spec) -> Manifest:
    """Return the fields of the template that a pod has only when the user set them."""
    template = spec.template
    fields: Manifest = {
        "nodeSelector": template.node_selector,
        "tolerations": [t.to_object() for t in dict.fromkeys(tolerations(spec))],
        "priorityClassName": template.priority_class_name,
        "schedulerName": template.scheduler_name,
        "runtimeClassName": template.runtime_class_name,
        "serviceAccountName": template.service_account_name,
        "imagePullSecrets": [s.to_object() for s in template.image_pull_secrets],
    }
    return {key: value for key, value in fields.items() if value}


def _container(job: InternLM2Job, member: CreatePod, name: str) -> Manifest:
    template = job.spec.template
    container: Manifest = {
        "name": CONTAINER,
        "image": template.image or IMAGE,
        "command": _command(job, member, name),
        "env": _env(job, member, name),
        "ports": [
            {"name": "rendezvous", "containerPort": contract.RENDEZVOUS_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": contract.METRICS_PORT, "protocol": "TCP"},
        ],
        "resources": _resources(job),
        "volumeMounts": [
            {"name": "config", "mountPath": str(PurePosixPath(contract.CONFIG_PATH).parent), "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
            *(mount.to_object() for mount in template.volume_mounts),
        ],
        "terminationMessagePath": contract.TERMINATION_LOG,
        # An agent that is killed leaves no word; the kubelet then keeps the end of the log (80 lines, 2,048 bytes).
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], **template.security_context.capabilities.to_object()},
        },
    }
    return container | ({"imagePullPolicy": template.image_pull_policy} if template.image_pull_policy else {})


def _command(job: InternLM2Job, member: CreatePod, name: str) -> list[str]:
    host = names.pod(job.name, stage=member.stage, attempt=member.attempt, slot=0)
    return [
        "python", "-m", "internlm2_trainer", "agent",
        "--nnodes", f"{member.size}:{member.size}",
        "--nproc-per-node", str(job.spec.nodes.gpus_per_node),
        "--rdzv-endpoint", f"{_address(job, host)}:{contract.RENDEZVOUS_PORT}",
        "--rdzv-id", names.rendezvous_id(job.uid, member.attempt),
        "--local-addr", _address(job, name),
        *(["--is-host"] if member.slot == 0 else []),
        *(["--spare"] if member.slot >= member.size else []),
        "--", "train", "--config", contract.CONFIG_PATH,
    ]  # fmt: skip


def _address(job: InternLM2Job, name: str) -> str:
    return names.address(name, job=job.name, namespace=job.namespace)


def _env(job: InternLM2Job, member: CreatePod, name: str) -> list[Manifest]:
    ours = {
        contract.ENV_ATTEMPT: str(member.attempt),
        contract.ENV_POD: name,
        contract.ENV_NODE: member.node,
        # Without it a new member waits for an address that nobody publishes: torch 2.15, dynamic_rendezvous.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    return [
        *({"name": key, "value": value} for key, value in ours.items()),
        *_credentials(job.spec.checkpoint.secret_name),
        *(variable.to_object() for variable in job.spec.template.env),
    ]


def _credentials(secret: str | None) -> list[Manifest]:
    if secret is None:
        return []
    return [{"name": key, "valueFrom": {"secretKeyRef": _key(secret, key, optional)}} for key, optional in _AWS.items()]


def _key(secret: str, key: str, optional: bool) -> Manifest:
    return {"name": secret, "key": key} | ({"optional": True} if optional else {})


def _resources(job: InternLM2Job) -> Manifest:
    """Return the user's resources with the GPUs added; a limit of an extended resource is its request too."""
    asked = job.spec.template.resources
    limits: dict[str, Any] = {**(asked.limits or {}), job.spec.nodes.resource_name: str(job.spec.nodes.gpus_per_node)}
    return {"limits": limits} | ({"requests": dict(asked.requests)} if asked.requests else {})


def pinned(affinity: Manifest, node: str) -> Manifest:
    """Add the pin to every term that the user requires: terms are alternatives, a pin of its own would widen them."""
    wanted = affinity.get("nodeAffinity", {})
    required = wanted.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    pin = {"key": "metadata.name", "operator": "In", "values": [node]}
    terms = [
        term | {"matchFields": [*term.get("matchFields", []), pin]}
        for term in required.get("nodeSelectorTerms") or [{}]
    ]
    return affinity | {
        "nodeAffinity": wanted | {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    }
