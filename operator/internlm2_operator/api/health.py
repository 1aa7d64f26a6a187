"""spec.health: what the operator may do to nodes."""

from typing import Literal

from pydantic import Field

from internlm2_operator.api.base import ApiModel


class NodeCheckSpec(ApiModel):
    """check says whether nodes are checked before the job uses them for the first time."""

    first_start: Literal["None", "Quick", "Full"] = Field(
        default="Quick",
        description="firstStart is the check of the chosen nodes before the job's first start: Quick takes seconds once"
        " its pods run and the start waits 6 minutes for it at most, Full a minute or two and 21 minutes, None none."
        " It needs an image that the operator's admin names (nodeCheck.image in the chart). Nodes that a fault speaks"
        " against are checked in any case, beside the job.",
    )


class HangSpec(ApiModel):
    """hang says after how long without a step the trainer calls it a hang: the greater of the two."""

    multiple: float = Field(
        default=3.0, ge=2, le=100, description="multiple is of the 99th percentile of the last 256 steps."
    )
    floor_seconds: int = Field(
        default=60,
        ge=10,
        le=86400,
        description="floorSeconds is the least time. Below 60 a store or a network with a bad minute ends attempts.",
    )


class HealthSpec(ApiModel):
    """health says what the operator may do when it finds a node at fault."""

    check: NodeCheckSpec = Field(
        default=NodeCheckSpec(), description="check says whether nodes are checked before the job's first start."
    )
    mode: Literal["Enforce", "Observe"] = Field(
        default="Enforce",
        description="mode Enforce cordons nodes at fault; mode Observe only reports what it would have done.",
    )
    max_cordon_percent: int = Field(
        default=10,
        ge=0,
        le=100,
        description="maxCordonPercent is the part of the cluster's nodes, and of those of each rack, that may be"
        " cordoned within five minutes; two nodes are always allowed.",
    )
    hang: HangSpec = Field(default=HangSpec(), description="hang says when steps that do not end are a hang.")


class FailurePolicySpec(ApiModel):
    """failurePolicy bounds how often a job is restarted after failures of its own code."""

    max_restarts: int = Field(
        default=10,
        ge=0,
        le=1000,
        description="maxRestarts is the number of the user's failures within windowSeconds that are answered by a"
        " restart. Failures of the infrastructure are not counted.",
    )
    window_seconds: int = Field(
        default=21600, ge=60, le=2592000, description="windowSeconds is the time after which a failure is forgotten."
    )
