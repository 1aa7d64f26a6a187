"""spec.template: the parts of a pod that belong to the user."""

from typing import Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from internlm2_operator.api.base import ATOMIC, BY_NAME, ApiModel, Rule
from internlm2_spec import contract

_OPEN: Final[JsonDict] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_NAME: Final = 253
_QUANTITIES: Final[JsonDict] = {
    "type": "object",
    "maxProperties": 32,
    "additionalProperties": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True},
}


class KeyRef(ApiModel):
    """One key of a Secret or ConfigMap."""

    name: str = Field(min_length=1, max_length=_NAME, description="name of the Secret or ConfigMap.")
    key: str = Field(min_length=1, max_length=_NAME, description="key whose value is taken.")
    optional: bool | None = Field(default=None, description="optional says that the object or key may be missing.")


class EnvSource(ApiModel):
    """Where the value of a variable comes from."""

    secret_key_ref: KeyRef | None = Field(default=None, description="secretKeyRef takes a key of a Secret.")
    config_map_key_ref: KeyRef | None = Field(default=None, description="configMapKeyRef takes a key of a ConfigMap.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.secretKeyRef) != has(self.configMapKeyRef)",
            "template.env[].valueFrom has {has(self.secretKeyRef) ? 'two sources' : 'no source'};"
            " set exactly one of secretKeyRef and configMapKeyRef",
        ),
    )


class EnvVar(ApiModel):
    """One variable of the trainer's environment."""

    name: str = Field(
        min_length=1,
        max_length=128,
        pattern="^[A-Za-z_][A-Za-z0-9_]*$",
        description="name of the variable; those that the operator or torchrun set are reserved.",
    )
    value: str | None = Field(default=None, max_length=4096, description="value of the variable.")
    value_from: EnvSource | None = Field(default=None, description="valueFrom takes the value from elsewhere.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!(self.name in {list(contract.RESERVED_ENV_NAMES)})"
            + "".join(f" && !self.name.startsWith('{prefix}')" for prefix in contract.RESERVED_ENV_PREFIXES),
            "template.env name {self.name} is reserved: the operator and torchrun set it;"
            " remove it (credentials come from checkpoint.secretName)",
            at=".name",
        ),
        Rule(
            "!(has(self.value) && has(self.valueFrom))",
            "template.env {self.name} has both value and valueFrom; set one",
        ),
    )


class NamedObject(ApiModel):
    """An object of the same namespace."""

    name: str = Field(min_length=1, max_length=_NAME, description="name of the object.")


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


class Volume(ApiModel):
    """A volume of the pods; everything beside the name is passed on unchanged."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})

    name: str = Field(min_length=1, max_length=63, description="name that volumeMounts refer to.")


class VolumeMount(ApiModel):
    """Where a volume appears in the trainer's container."""

    name: str = Field(min_length=1, max_length=63, description="name of the volume.")
    mount_path: str = Field(min_length=1, max_length=1024, description="mountPath is the folder in the container.")
    sub_path: str | None = Field(default=None, max_length=1024, description="subPath is the part that is mounted.")
    read_only: bool | None = Field(default=None, description="readOnly mounts the volume without write access.")


class Resources(ApiModel):
    """Resources of the trainer's container beside the GPUs."""

    requests: dict[str, int | str] | None = Field(
        default=None, description="requests is what the scheduler reserves.", json_schema_extra=_QUANTITIES
    )
    limits: dict[str, int | str] | None = Field(
        default=None, description="limits is what the container may use.", json_schema_extra=_QUANTITIES
    )


class TemplateSpec(ApiModel):
    """template is the user's part of the pods: a subset of a PodTemplateSpec, flattened."""

    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
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
        json_schema_extra={
            "type": "object",
            "maxProperties": 32,
            "additionalProperties": {"type": "string", "maxLength": 63},
        },
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(),
        max_length=32,
        description="tolerations are the taints that the pods accept.",
        json_schema_extra=ATOMIC,
    )
    affinity: dict[str, Any] | None = Field(
        default=None, description="affinity of the pods, passed on unchanged.", json_schema_extra=_OPEN
    )
    priority_class_name: str | None = Field(
        default=None, max_length=_NAME, description="priorityClassName of the pods."
    )
    scheduler_name: str | None = Field(default=None, max_length=_NAME, description="schedulerName of the pods.")
    service_account_name: str | None = Field(
        default=None, max_length=_NAME, description="serviceAccountName of the pods; no token is mounted."
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
    volumes: tuple[Volume, ...] = Field(
        default=(), max_length=32, description="volumes of the pods, passed on unchanged.", json_schema_extra=BY_NAME
    )
    volume_mounts: tuple[VolumeMount, ...] = Field(
        default=(), max_length=32, description="volumeMounts of the trainer's container.", json_schema_extra=ATOMIC
    )
