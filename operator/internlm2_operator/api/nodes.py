"""spec.nodes: how many nodes an attempt may hold."""

from typing import ClassVar

from pydantic import Field

from internlm2_operator.api.base import ApiModel, Rule


class NodesSpec(ApiModel):
    """nodes bounds how many nodes an attempt may hold."""

    min: int = Field(ge=1, le=5000, description="min is the least number of nodes that the job trains on.")
    max: int = Field(ge=1, le=5000, description="max is the greatest number of nodes that the job trains on.")
    spares: int = Field(
        default=0,
        ge=0,
        le=64,
        description="spares is the number of further nodes that wait in the rendezvous and take over when one fails.",
    )
    shrink_after_seconds: int = Field(
        default=60,
        ge=0,
        le=86400,
        description="shrinkAfterSeconds is how long a job that lost nodes waits for others before it goes on with"
        " fewer, or is queued below min; 0 does so at once.",
    )
    grow_after_seconds: int = Field(
        default=600,
        ge=0,
        le=2592000,
        description="growAfterSeconds is the least time from one change of size to the next larger one. Raising max"
        " ends it. 0 grows at every checkpoint for which more nodes are free.",
    )
    gpus_per_node: int = Field(
        default=8, ge=1, le=64, description="gpusPerNode is the number of GPUs, and so of ranks, on each node."
    )
    resource_name: str = Field(
        default="nvidia.com/gpu",
        min_length=3,
        max_length=253,
        description="resourceName is the extended resource that a GPU is requested by.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.min <= self.max",
            "nodes.min {self.min} is above nodes.max {self.max}; lower nodes.min or raise nodes.max",
            at=".min",
        ),
        Rule(
            "self.resourceName.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?$')"
            " && !self.resourceName.startsWith('requests.')",
            "nodes.resourceName {self.resourceName} is no extended resource; write DOMAIN/NAME as the device plugin"
            " announces it, for example nvidia.com/gpu",
            at=".resourceName",
        ),
    )
