"""A node as every decision sees it, and the note that explains a cordon of ours."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from internlm2_operator.health.signals import Kind, Signal, Source

NODE_NOT_READY = "NodeNotReady"


@dataclass(frozen=True, slots=True)
class FaultNote:
    """The annotation that explains a cordon of ours: who, when, on what evidence.

    `before` says that somebody else had made the node unschedulable already, so that lifting our
    cordon must not lift theirs.
    """

    cause: str
    evidence: tuple[str, ...]
    signal_at: datetime
    verdict_at: datetime
    cordoned_at: datetime
    gpu: str = ""
    by: str = ""
    before: bool = False

    def to_json(self) -> str:
        """Return the annotation's text, keys sorted so that equal notes are equal text."""
        times = {"signalAt": self.signal_at, "verdictAt": self.verdict_at, "cordonedAt": self.cordoned_at}
        words = {"cause": self.cause, "evidence": list(self.evidence), "gpu": self.gpu, "by": self.by}
        return json.dumps(
            words | {key: at.isoformat() for key, at in times.items()} | {"before": self.before}, sort_keys=True
        )

    @classmethod
    def from_json(cls, text: str) -> "FaultNote | None":
        """Parse an annotation; None for text that is not ours, which therefore proves no cordon of ours."""
        try:
            fields: Mapping[str, Any] = json.loads(text)
            return cls(
                cause=str(fields["cause"]),
                evidence=tuple(map(str, fields["evidence"])),
                signal_at=datetime.fromisoformat(fields["signalAt"]),
                verdict_at=datetime.fromisoformat(fields["verdictAt"]),
                cordoned_at=datetime.fromisoformat(fields["cordonedAt"]),
                gpu=str(fields.get("gpu", "")),
                by=str(fields.get("by", "")),
                before=bool(fields.get("before", False)),
            )
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node. `gpus` is allocatable, `used` what pods of anybody (ours included) request on it."""

    name: str
    ready: bool
    ready_since: datetime  # when the Ready condition last changed, in either direction
    schedulable: bool  # neither cordoned nor tainted NoSchedule/NoExecute
    gpus: int
    used: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    fault: FaultNote | None = None  # set when the cordon is ours


def not_ready(node: NodeRecord) -> Signal | None:
    """Return the signal of a node whose kubelet is silent or says no; None for a ready one."""
    if node.ready:
        return None
    return Signal(
        kind=Kind.NODE_NOT_READY,
        source=Source.NODE,
        node=node.name,
        at=node.ready_since,
        detail=f"condition Ready is not True since {node.ready_since.isoformat()}",
    )
