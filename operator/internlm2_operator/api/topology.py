"""spec.topology: how an attempt lies on the racks, blocks or zones of the cluster."""

from typing import Literal

from pydantic import Field

from internlm2_operator.api.base import ApiModel


class TopologySpec(ApiModel):
    """topology says which nodes are near each other, and whether an attempt keeps together or spreads."""

    label: str = Field(
        default="topology.kubernetes.io/rack",
        min_length=1,
        max_length=317,
        pattern="^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        description="label of the nodes whose value names the domain that a node lies in, such as its rack.",
    )
    policy: Literal["Pack", "Spread"] = Field(
        default="Pack",
        description="policy chooses the nodes: Pack from as few domains as possible, Spread evenly from all of them."
        " Neither holds a start back.",
    )
