"""InternLM2Job: the custom resource as the rest of the operator sees it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Final

import pydantic
from pydantic import Field

from internlm2_operator.api.base import ApiModel, Rule
from internlm2_operator.api.spec import Spec
from internlm2_operator.api.status import JobStatus
from internlm2_spec import config

# A pod is `<job>-<stage>-<attempt>-<slot>-r<replacement>` and its name is a host name of at most 63.
MAX_NAME: Final = 40


class InternLM2Job(ApiModel):
    """One job: its identity, what the user asked for, and what the operator said last."""

    name: str
    namespace: str
    uid: str
    generation: int
    resource_version: str
    created: datetime
    deleting: bool = False
    spec: Spec
    status: JobStatus = Field(default=JobStatus())

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.metadata.name.size() <= {MAX_NAME}",
            "metadata.name {self.metadata.name} has {self.metadata.name.size()} characters;"
            f" use at most {MAX_NAME}, because the names of its pods and hosts are longer",
        ),
        Rule(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name {self.metadata.name} is not a host name;"
            " start with a letter and use a-z, 0-9 and -, because its Service has the same name",
        ),
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

    @property
    def key(self) -> str:
        """Return `namespace/name`."""
        return f"{self.namespace}/{self.name}"

    def stage_config(self, index: int) -> config.Stage:
        """Return stage `index` as the trainer reads it."""
        return self.spec.stage_config(index)


def _refused(error: pydantic.ValidationError) -> config.Refused:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    return config.Refused(path, wrong=f"{first['input']!r}: {first['msg']}", right="see the reference of InternLM2Job")
