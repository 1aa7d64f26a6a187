"""spec.template: the parts of a pod that belong to the user."""

from typing import Any, ClassVar, Final, Literal

from pydantic import Field
from pydantic.config import JsonDict

from internlm2_operator.api.base import ATOMIC, BY_NAME, OBJECT_NAME, SET, ApiModel, Rule
from internlm2_operator.api.environment import EnvVar
from internlm2_operator.api.volumes import Volume, VolumeMount
from internlm2_spec import contract

# Annotations by which Prometheus finds the trainer's metrics.
SCRAPE: Final = ("prometheus.io/scrape", "prometheus.io/port")
# What a trainer may be given of root's powers: pinned memory for RDMA, and ports below 1024.
CAPABILITIES: Final = ("IPC_LOCK", "NET_BIND_SERVICE")
# By these a pod's annotation changes what its container may do on the node: profile, devices, whose pod it is.
_RUNTIME: Final = ("container.apparmor.security.beta.kubernetes.io/", "cdi.k8s.io/", "kubernetes.io/config.")

_OPEN: Final[JsonDict] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_QUANTITIES: Final[JsonDict] = {
    "type": "object",
    "maxProperties": 12,  # more, and the API server refuses the rules about quantities for their cost
    "additionalProperties": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True},
}
_LABELS: Final[JsonDict] = {
    "type": "object",
    "maxProperties": 32,
    "additionalProperties": {"type": "string", "maxLength": 63},
}
_ANNOTATIONS: Final[JsonDict] = {
    "type": "object",
    "maxProperties": 32,
    "additionalProperties": {"type": "string", "maxLength": 4096},
}
_KEY: Final = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
_VALUE: Final = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"


def _each_key(field: str, check: str, message: str) -> Rule:
    """Return a rule that every key `k` of a map must pass, told for the first that fails, with its value `v`."""
    for name, found in (("k", "k"), ("v", f"self.{field}[k]")):
        message = message.replace(f"{{{name}}}", f"{{self.{field}.map(k, !({check}), {found})[0]}}")
    return Rule(f"!has(self.{field}) || self.{field}.all(k, {check})", message)


def _label_rules(field: str) -> tuple[Rule, ...]:
    return (
        _each_key(
            field,
            f"k.matches('{_KEY}')",
            f"template.{field} key {{k}} is no label; write [DOMAIN/]NAME, the name with letters, digits and -_.",
        ),
        _each_key(
            field,
            f"self.{field}[k].matches('{_VALUE}')",
            f"template.{field} {{k}} has the value {{v}}, no label's; use letters, digits and -_. in between",
        ),
    )


class NamedObject(ApiModel):
    """An object of the same namespace."""

    name: str = Field(min_length=1, max_length=253, pattern=OBJECT_NAME, description="name of the object.")


class Toleration(ApiModel):
    """A taint that the pods accept."""

    key: str | None = Field(default=None, max_length=316, description="key of the taint; empty matches every key.")
    operator: Literal["Exists", "Equal"] | None = Field(default=None, description="operator compares key and value.")
    value: str | None = Field(default=None, max_length=63, description="value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="effect of the taint; without it every effect is matched."
    )
    toleration_seconds: int | None = Field(
        default=None, ge=0, le=604800, description="tolerationSeconds is how long a NoExecute taint is tolerated."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.key) && self.key != '' || has(self.operator) && self.operator == 'Exists'",
            "template.tolerations[] has no key and operator {has(self.operator) ? self.operator : 'Equal'};"
            " name the taint's key, or use operator Exists to tolerate every taint",
        ),
        Rule(
            "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
            "template.tolerations[] value {self.value} is not compared by operator Exists;"
            " remove value, or use operator Equal",
            at=".value",
        ),
        Rule(
            "!has(self.tolerationSeconds) || has(self.effect) && self.effect == 'NoExecute'",
            "template.tolerations[] tolerationSeconds {self.tolerationSeconds} has no meaning with effect"
            " {has(self.effect) ? self.effect : 'unset'}; remove it, or use effect NoExecute",
            at=".tolerationSeconds",
        ),
    )


def _within_limit(name: str) -> Rule:
    asked, limit = f"self.requests['{name}']", f"self.limits['{name}']"
    return Rule(
        f"!has(self.requests) || !has(self.limits) || !('{name}' in self.requests && '{name}' in self.limits)"
        f" || quantity(string({asked})).compareTo(quantity(string({limit}))) <= 0",
        f"template.resources.requests {name} {{{asked}}} is above its limit {{{limit}}};"
        " lower the request or raise the limit",
        at=".requests",
    )


class Resources(ApiModel):
    """Resources of the trainer's container beside the GPUs."""

    requests: dict[str, int | str] | None = Field(
        default=None, description="requests is what the scheduler reserves.", json_schema_extra=_QUANTITIES
    )
    limits: dict[str, int | str] | None = Field(
        default=None, description="limits is what the container may use.", json_schema_extra=_QUANTITIES
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        *(
            _each_key(
                field,
                f"type(self.{field}[k]) == int || isQuantity(self.{field}[k])",
                f"template.resources.{field} {{k}} {{v}} is no quantity; write for example 8, 500m or 64Gi",
            )
            for field in ("requests", "limits")
        ),
        # Of every resource would cost too much; extended ones have no requests of their own.
        *(_within_limit(name) for name in ("cpu", "memory", "ephemeral-storage")),
    )


class Capabilities(ApiModel):
    """Linux capabilities of the trainer's container, of which it has none by itself."""

    add: tuple[str, ...] = Field(
        default=(),
        max_length=16,
        description="add are the capabilities that it gets; RDMA needs IPC_LOCK to pin memory.",
        json_schema_extra=SET | {"items": {"type": "string", "maxLength": 32, "pattern": "^[A-Z][A-Z_]*$"}},
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.add.all(c, c in {list(CAPABILITIES)})",
            f"template.securityContext.capabilities.add holds {{self.add.filter(c, !(c in {list(CAPABILITIES)}))[0]}},"
            f" which training does not need; remove it ({' and '.join(CAPABILITIES)} may be added)",
            at=".add",
        ),
    )


class SecurityContext(ApiModel):
    """Who the trainer runs as: never root, and without privileges but those that are added."""

    run_as_user: int = Field(default=1000, ge=1, le=2147483647, description="runAsUser of the pods; root is refused.")
    run_as_group: int = Field(default=1000, ge=0, le=2147483647, description="runAsGroup of the pods.")
    fs_group: int = Field(default=1000, ge=0, le=2147483647, description="fsGroup owns the volumes.")
    supplemental_groups: tuple[int, ...] = Field(
        default=(),
        max_length=16,
        description="supplementalGroups are further groups, for example of a shared file system.",
        json_schema_extra=ATOMIC | {"items": {"type": "integer", "minimum": 0, "maximum": 2147483647}},
    )
    capabilities: Capabilities = Field(
        default=Capabilities(), description="capabilities of the trainer's container, none by itself."
    )


class TemplateSpec(ApiModel):
    """template is the user's part of the pods: a subset of a PodTemplateSpec, flattened."""

    labels: dict[str, str] | None = Field(
        default=None,
        description=f"labels of the pods beside the operator's own; {contract.API_GROUP}/ is reserved.",
        json_schema_extra=_LABELS,
    )
    annotations: dict[str, str] | None = Field(
        default=None,
        description=f"annotations of the pods beside the operator's own; {contract.API_GROUP}/ is reserved.",
        json_schema_extra=_ANNOTATIONS,
    )
    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        pattern=r"^\S+$",
        description="image of the trainer; the operator's default if unset.",
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="imagePullPolicy of the image."
    )
    image_pull_secrets: tuple[NamedObject, ...] = Field(
        default=(),
        max_length=8,
        description="imagePullSecrets name the Secrets for the registry.",
        json_schema_extra=BY_NAME,
    )
    env: tuple[EnvVar, ...] = Field(
        default=(),
        max_length=64,
        description="env adds variables to the trainer's environment.",
        json_schema_extra=BY_NAME,
    )
    node_selector: dict[str, str] | None = Field(
        default=None,
        description="nodeSelector is the set of labels that a node must have.",
        json_schema_extra=_LABELS,
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(),
        max_length=32,
        description="tolerations are the taints that the pods accept, beside the one that GPU nodes have by the name of"
        " their resource. Nodes with others are not used.",
        json_schema_extra=ATOMIC,
    )
    affinity: dict[str, Any] | None = Field(
        default=None, description="affinity of the pods, passed on unchanged.", json_schema_extra=_OPEN
    )
    priority_class_name: str | None = Field(
        default=None,
        max_length=253,
        pattern=OBJECT_NAME,
        description="priorityClassName of the pods, for scheduler and kubelet; spec.priority is the job's.",
    )
    scheduler_name: str | None = Field(
        default=None,
        max_length=253,
        pattern=OBJECT_NAME,
        description="schedulerName of the pods, each of which is pinned to the node that the operator chose.",
    )
    runtime_class_name: str | None = Field(
        default=None, max_length=253, pattern=OBJECT_NAME, description="runtimeClassName of the pods."
    )
    service_account_name: str | None = Field(
        default=None,
        max_length=253,
        pattern=OBJECT_NAME,
        description="serviceAccountName of the pods; no token is mounted.",
    )
    termination_grace_period_seconds: int = Field(
        default=120,
        ge=5,
        le=86400,
        description="terminationGracePeriodSeconds is the time for a last checkpoint after a request to stop.",
    )
    resources: Resources = Field(
        default=Resources(), description="resources of the trainer's container beside the GPUs."
    )
    security_context: SecurityContext = Field(
        default=SecurityContext(), description="securityContext says who the trainer runs as."
    )
    volumes: tuple[Volume, ...] = Field(
        default=(),
        max_length=32,
        description="volumes of the pods, of kinds that a namespace gives.",
        json_schema_extra=BY_NAME,
    )
    volume_mounts: tuple[VolumeMount, ...] = Field(
        default=(), max_length=32, description="volumeMounts of the trainer's container.", json_schema_extra=ATOMIC
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        *(
            _each_key(
                field,
                f"!k.startsWith('{contract.API_GROUP}/')",
                f"template.{field} key {{k}} is reserved: the operator knows its pods by them; remove it",
            )
            for field in ("labels", "annotations")
        ),
        _each_key(
            "annotations",
            f"!(k in {list(SCRAPE)})",
            f"template.annotations key {{k}} is reserved: it says where the trainer's metrics are;"
            f" remove it (they are at port {contract.METRICS_PORT})",
        ),
        _each_key(
            "annotations",
            " && ".join(f"!k.startsWith('{prefix}')" for prefix in _RUNTIME),
            "template.annotations key {k} changes what the container may do on its node; remove it"
            " (devices come from nodes.resourceName and template.resources)",
        ),
        Rule(
            "!has(self.priorityClassName) || !self.priorityClassName.startsWith('system-')",
            "template.priorityClassName {self.priorityClassName} is for the parts of the cluster itself;"
            " use a PriorityClass of your own, or remove it",
            at=".priorityClassName",
        ),
        _each_key(
            "labels",
            "!k.startsWith('kueue.x-k8s.io/')",
            # docs/decisions/0010-kueue-holds-jobs-not-pods.md
            "template.labels key {k} has Kueue hold pods, and an attempt starts whole or not at all;"
            " remove it: a queue holds a job by suspend, or altogether by managedBy",
        ),
        *_label_rules("labels"),
        *_label_rules("nodeSelector"),
        Rule(
            "self.volumeMounts.all(m, self.volumes.exists(v, v.name == m.name))",
            "template.volumeMounts name"
            " {self.volumeMounts.map(m, !self.volumes.exists(v, v.name == m.name), m.name)[0]}"
            " is no volume of template.volumes; add the volume, or correct the name",
            at=".volumeMounts",
        ),
        Rule(
            "self.volumeMounts.all(m, self.volumeMounts.exists_one(n, n.mountPath == m.mountPath))",
            "template.volumeMounts mountPath {self.volumeMounts.map(m,"
            " !self.volumeMounts.exists_one(n, n.mountPath == m.mountPath), m.mountPath)[0]}"
            " is there more than once; give each mount its own path",
            at=".volumeMounts",
        ),
    )
