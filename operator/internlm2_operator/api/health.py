"""spec.health: what the operator may do to nodes."""

from typing import Literal

from pydantic import Field

from internlm2_operator.api.base import ApiModel


class HealthSpec(ApiModel):
    """health says what the operator may do when it finds a node at fault."""

    mode: Literal["Enforce", "Observe"] = Field(
        default="Enforce",
        description="mode Enforce cordons nodes at fault; mode Observe only reports what it would have done.",
    )
    max_cordon_percent: int = Field(
        default=10,
        ge=0,
        le=100,
        description="maxCordonPercent is the part of the cluster's nodes that may be cordoned within five minutes;"
        " two nodes are always allowed.",
    )


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
