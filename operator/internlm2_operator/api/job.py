"""InternLM2Job: the custom resource as the rest of the operator sees it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Final

import pydantic
from pydantic import Field

from internlm2_operator.api import edits
from internlm2_operator.api.base import ApiModel, Rule
from internlm2_operator.api.spec import MANAGER, Spec
from internlm2_operator.api.status import Condition, JobStatus
from internlm2_spec import config

# The name is a label value, and the host name of the Service.
MAX_NAME: Final = 63

UNREADABLE: Final = "SpecUnreadable"


class InternLM2Job(ApiModel):
    """One job: its identity, what the user asked for, and what the operator said last."""

    name: str
    namespace: str
    uid: str
    generation: int
    resource_version: str
    created: datetime
    deleting: bool = False
    refused: str = ""  # why a newer spec is not acted on; `spec` is the last one that could be read
    spec: Spec
    status: JobStatus = Field(default=JobStatus())

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.metadata.name.size() <= {MAX_NAME}",
            "metadata.name {self.metadata.name} has {self.metadata.name.size()} characters;"
            f" use at most {MAX_NAME}, because it is a label of its pods and the name of its Service",
        ),
        Rule(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name {self.metadata.name} is not a host name;"
            " start with a letter and use a-z, 0-9 and -, because its Service has the same name",
        ),
        *edits.RULES,
    )

    @classmethod
    def from_object(cls, body: Mapping[str, Any]) -> "InternLM2Job":
        """Read an object of the API server.

        Raises:
            Refused: it has another shape than this version of the CRD allows.
        """
        meta = body["metadata"]
        try:
            return cls(
                name=meta["name"],
                namespace=meta["namespace"],
                uid=meta["uid"],
                generation=meta.get("generation", 1),
                resource_version=meta.get("resourceVersion", ""),
                created=meta["creationTimestamp"],
                deleting="deletionTimestamp" in meta,
                spec=Spec.model_validate(body["spec"]),
                status=JobStatus.from_object(body.get("status")),
            )
        except pydantic.ValidationError as error:
            raise _refused(error) from error

    def going_on(self, body: Mapping[str, Any], refused: config.Refused) -> "InternLM2Job":
        """Return the job as `body` has it but with the spec from before, which goes on while `body`'s is refused."""
        meta = body["metadata"]
        seen = {
            "resource_version": meta["resourceVersion"],
            "deleting": "deletionTimestamp" in meta,
            "status": JobStatus.from_object(body.get("status")),
        }
        told = f"{refused} (generation {meta['generation']} is ignored, generation {self.generation} goes on)"
        return self.model_copy(update=seen | {"refused": told})

    @property
    def key(self) -> str:
        """Return `namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def ours(self) -> bool:
        """Say whether this operator runs the job, and not another controller."""
        return self.spec.managed_by == MANAGER

    def stage_config(self, index: int) -> config.Stage:
        """Return stage `index` as the trainer reads it."""
        return self.spec.stage_config(index)


def _refused(error: pydantic.ValidationError) -> config.Refused:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    right = "the CRD is newer than this operator: upgrade it, or write what it knows"
    return config.Refused(path, wrong=f"{first['input']!r}: {first['msg']}", right=right)


def refusal(body: Mapping[str, Any], refused: config.Refused, now: datetime) -> dict[str, Any] | None:
    """Return the part of a status that tells why a job is not acted on at all, None where it stands there already."""
    told = body.get("status", {}).get("conditions", [])
    new = Condition(
        type="Validated",
        status="False",
        reason=UNREADABLE,
        message=str(refused),
        observed_generation=body["metadata"].get("generation", 1),
        last_transition_time=now,
    )
    if any((old["type"], old["status"], old.get("message")) == (new.type, new.status, new.message) for old in told):
        return None
    return {"conditions": [new.to_object(), *(old for old in told if old["type"] != new.type)]}
