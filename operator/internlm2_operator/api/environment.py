"""spec.template.env: variables of the trainer's environment."""

from typing import ClassVar

from pydantic import Field

from internlm2_operator.api.base import OBJECT_NAME, ApiModel, Rule
from internlm2_spec import contract

# The device plugin says by them which devices of the node a container sees; `template.env` would come after it.
_DEVICES = ("NVIDIA_VISIBLE_DEVICES", "AMD_VISIBLE_DEVICES", "HABANA_VISIBLE_DEVICES")
_SOURCES = "[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef)].filter(s, s).size()"


class KeyRef(ApiModel):
    """One key of a Secret or ConfigMap."""

    name: str = Field(min_length=1, max_length=253, pattern=OBJECT_NAME, description="name of the Secret or ConfigMap.")
    key: str = Field(min_length=1, max_length=253, description="key whose value is taken.")
    optional: bool | None = Field(default=None, description="optional says that the object or key may be missing.")


class FieldRef(ApiModel):
    """One field of the pod."""

    field_path: str = Field(
        min_length=1,
        max_length=253,
        pattern=r"^(metadata\.(name|namespace|uid|labels\['.+'\]|annotations\['.+'\])"
        r"|spec\.(nodeName|serviceAccountName)|status\.(hostIP|hostIPs|podIP|podIPs))$",
        description="fieldPath is the field, for example status.hostIP.",
    )


class EnvSource(ApiModel):
    """Where the value of a variable comes from."""

    secret_key_ref: KeyRef | None = Field(default=None, description="secretKeyRef takes a key of a Secret.")
    config_map_key_ref: KeyRef | None = Field(default=None, description="configMapKeyRef takes a key of a ConfigMap.")
    field_ref: FieldRef | None = Field(default=None, description="fieldRef takes a field of the pod.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"{_SOURCES} == 1",
            f"template.env[].valueFrom has {{{_SOURCES} == 0 ? 'no source' : 'several sources'}};"
            " set exactly one of secretKeyRef, configMapKeyRef and fieldRef",
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
            f"!(self.name in {list(_DEVICES)})",
            "template.env name {self.name} is reserved: it would show the container devices of other pods;"
            " remove it (nodes.gpusPerNode says how many it gets)",
            at=".name",
        ),
        Rule(
            "!(has(self.value) && has(self.valueFrom))",
            "template.env {self.name} has both value and valueFrom; set one",
        ),
    )
