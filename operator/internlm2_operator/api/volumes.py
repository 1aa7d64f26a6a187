"""spec.template.volumes and volumeMounts: files that the user brings."""

from typing import Any, ClassVar, Final

from pydantic import Field
from pydantic.config import JsonDict

from internlm2_operator.api.base import ATOMIC, ApiModel, Rule

# Volumes of every pod, which the operator makes: configuration, scratch, shared memory.
RESERVED_VOLUMES: Final = ("config", "tmp", "shm")
# Where these are and what would hide them: / /etc /etc/internlm2 /tmp /dev /dev/shm /dev/termination-log.
_RESERVED_PATHS: Final = "^/+(etc(/+internlm2(/.*)?)?|tmp|dev(/+(shm|termination-log))?)?/*$"
_OPEN: Final[JsonDict] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
# The kinds of Pod Security `restricted` without `csi`: what an inline driver mounts, it takes from its attributes.
_KINDS: Final = ("configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret")
_PARTS: Final = ("configMap", "downwardAPI", "secret")


def _count(names: tuple[str, ...]) -> str:
    """Return how many of these fields are set, in CEL. What is not among them was pruned before."""
    return f"[{', '.join(f'has(self.{name})' for name in names)}].filter(s, s).size()"


def _source(description: str, alias: str | None = None) -> Any:
    return Field(default=None, alias=alias, description=description, json_schema_extra=_OPEN)


class ProjectedPart(ApiModel):
    """One part of a projected volume."""

    config_map: dict[str, Any] | None = _source("configMap shows a ConfigMap.")
    downward_api: dict[str, Any] | None = _source("downwardAPI shows fields of the pod.", "downwardAPI")
    secret: dict[str, Any] | None = _source("secret shows a Secret.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"{_count(_PARTS)} == 1",
            f"template.volumes projected.sources has an entry with {{{_count(_PARTS)}}} of {', '.join(_PARTS)};"
            " set exactly one of them (pods of jobs get no token of a service account)",
        ),
    )


class Projected(ApiModel):
    """Several sources in one folder."""

    default_mode: int | None = Field(default=None, ge=0, le=511, description="defaultMode of the files.")
    sources: tuple[ProjectedPart, ...] = Field(
        default=(), max_length=16, description="sources are its parts.", json_schema_extra=ATOMIC
    )


class Volume(ApiModel):
    """A volume of the pods: what a namespace may give, and nothing of the node."""

    name: str = Field(
        min_length=1,
        max_length=63,
        pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        description="name that volumeMounts refer to.",
    )
    config_map: dict[str, Any] | None = _source("configMap shows a ConfigMap; as a pod has it.")
    downward_api: dict[str, Any] | None = _source("downwardAPI shows fields; as a pod has it.", "downwardAPI")
    empty_dir: dict[str, Any] | None = _source("emptyDir is scratch space; as a pod has it.")
    ephemeral: dict[str, Any] | None = _source("ephemeral is a claim that lives with its pod; as a pod has it.")
    persistent_volume_claim: dict[str, Any] | None = _source("persistentVolumeClaim is a claim; as a pod has it.")
    projected: Projected | None = Field(default=None, description="projected shows several sources in one folder.")
    secret: dict[str, Any] | None = _source("secret shows a Secret; as a pod has it.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!(self.name in {list(RESERVED_VOLUMES)})",
            "template.volumes name {self.name} is reserved: the operator makes volumes"
            f" {', '.join(RESERVED_VOLUMES)}; use another name",
            at=".name",
        ),
        Rule(
            f"{_count(_KINDS)} == 1",
            f"template.volumes {{self.name}} has {{{_count(_KINDS)}}} of {', '.join(_KINDS)};"
            " set exactly one of them (for a folder of the node or a file server, a persistentVolumeClaim)",
        ),
    )


class VolumeMount(ApiModel):
    """Where a volume appears in the trainer's container."""

    name: str = Field(min_length=1, max_length=63, description="name of the volume.")
    mount_path: str = Field(min_length=1, max_length=512, description="mountPath is the folder in the container.")
    sub_path: str | None = Field(default=None, max_length=512, description="subPath is the part that is mounted.")
    read_only: bool | None = Field(default=None, description="readOnly mounts the volume without write access.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.mountPath.startsWith('/') && !self.mountPath.contains(':') && !self.mountPath.contains('..')",
            "template.volumeMounts mountPath {self.mountPath} is no absolute path;"
            " start with / and use neither : nor ..",
            at=".mountPath",
        ),
        Rule(
            f"!self.mountPath.matches('{_RESERVED_PATHS}')",
            "template.volumeMounts mountPath {self.mountPath} is reserved: it would hide what the operator mounts in"
            " /etc/internlm2, /tmp and /dev; mount it elsewhere, for example at /mnt",
            at=".mountPath",
        ),
        Rule(
            "!has(self.subPath) || !self.subPath.startsWith('/') && !self.subPath.contains('..')",
            "template.volumeMounts subPath {self.subPath} is no path inside the volume; use a relative one without ..",
            at=".subPath",
        ),
    )
