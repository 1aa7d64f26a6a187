"""A node as every decision sees it, and the note that explains a cordon of ours."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from internlm2_operator.health.condition import Event
from internlm2_operator.health.history import History, aware
from internlm2_operator.health.signals import Kind, Signal, Source

NODE_NOT_READY = "NodeNotReady"
NODE_CHECK_FAILED = "NodeCheckFailed"
SUSPECTED: Final = "Suspected"
# A kubelet that says no is often one that is being restarted; one that says nothing has been silent for its grace.
WAVERS_FOR: Final = timedelta(seconds=30)


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
    rule: str = ""  # which rule decided, in words
    action: str = ""  # what would mend the node

    def to_json(self) -> str:
        """Return the annotation's text, keys sorted so that equal notes are equal text."""
        times = {"signalAt": self.signal_at, "verdictAt": self.verdict_at, "cordonedAt": self.cordoned_at}
        words = {"cause": self.cause, "evidence": list(self.evidence), "gpu": self.gpu, "by": self.by}
        words |= {"rule": self.rule, "action": self.action}
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
                signal_at=aware(fields["signalAt"]),
                verdict_at=aware(fields["verdictAt"]),
                cordoned_at=aware(fields["cordonedAt"]),
                gpu=str(fields.get("gpu", "")),
                by=str(fields.get("by", "")),
                before=bool(fields.get("before", False)),
                rule=str(fields.get("rule", "")),
                action=str(fields.get("action", "")),
            )
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True, slots=True)
class CheckNote:
    """The annotation that says how the last node check run by the operator ended.

    `at` is when it ended, `uid` that of the pod that checked, `evidence` what was measured, or what was wrong.
    """

    at: datetime
    depth: Literal["quick", "full"]
    passed: bool
    evidence: tuple[str, ...] = ()
    uid: str = ""

    def to_json(self) -> str:
        """Return the annotation's text, keys sorted so that equal notes are equal text."""
        words = {"at": self.at.isoformat(), "depth": self.depth, "passed": self.passed}
        return json.dumps(words | {"evidence": list(self.evidence), "uid": self.uid}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "CheckNote | None":
        """Parse an annotation; None for text that is not ours, which therefore proves no health."""
        try:
            fields: Mapping[str, Any] = json.loads(text)
            at, depth, passed = aware(fields["at"]), fields["depth"], fields["passed"]
            if depth not in ("quick", "full") or not isinstance(passed, bool):
                return None
            evidence = tuple(map(str, fields.get("evidence", ())))
            return cls(at=at, depth=depth, passed=passed, evidence=evidence, uid=str(fields.get("uid", "")))
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class HeldNote:
    """The annotation about a node that the operator found something against and did not cordon.

    `reason` is why not: a `HoldReason`, or SUSPECTED for what would not be enough for a cordon. `action` is what
    enforcing would have led to.
    """

    reason: str
    cause: str
    at: datetime
    action: str = ""
    rule: str = ""
    evidence: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the annotation's text, keys sorted so that equal notes are equal text."""
        words = {"reason": self.reason, "cause": self.cause, "at": self.at.isoformat(), "action": self.action}
        return json.dumps(words | {"rule": self.rule, "evidence": list(self.evidence)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "HeldNote | None":
        """Parse an annotation; None for text that is not ours."""
        try:
            fields: Mapping[str, Any] = json.loads(text)
            return cls(
                reason=str(fields["reason"]),
                cause=str(fields["cause"]),
                at=aware(fields["at"]),
                action=str(fields.get("action", "")),
                rule=str(fields.get("rule", "")),
                evidence=tuple(map(str, fields.get("evidence", ()))),
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class Taint:
    """What keeps pods off a node that do not tolerate it."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node. `gpus` is allocatable, `used` what pods of anybody (ours included) request on it."""

    name: str
    ready: bool
    ready_since: datetime  # when the Ready condition last changed, in either direction
    gpus: int
    used: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    fault: FaultNote | None = None  # set when the cordon is ours
    health: tuple[Event, ...] = ()  # of the condition GPUHealthy, which the node agent writes
    says_no: bool = False  # the kubelet is alive and says that the node is not ready: often it is only being restarted
    excused: datetime | None = None  # until then its silence may be that of its kubelet alone, or of the API server
    check: CheckNote | None = None  # how its last check ended
    unschedulable: bool = False  # cordoned, by whomever
    taints: tuple[Taint, ...] = ()  # that keep pods off, but for the one that every cordoned node has
    history: History = field(default_factory=History)
    held: HeldNote | None = None  # what was found against it without a cordon
    notice: str = ""  # what announces that the node will go
    reset: datetime | None = None  # faults up to then were dealt with, says a person or a passed check
    created: datetime | None = None  # what was said before of a node with its name is about another machine


def domain(node: NodeRecord, label: str) -> str:
    """Return the rack or switch that the label names, empty for a node without it or where no label is set."""
    return next((value for name, value in node.labels if name == label), "")


def down_since(node: NodeRecord) -> datetime | None:
    """Return the moment from which a node that is not ready is lost to its pods, None for a ready one.

    Cordons and jobs both go by it: pods that moved before the cordon would take its evidence with them.
    """
    if node.ready:
        return None
    if node.says_no:
        return node.ready_since + WAVERS_FOR
    return node.excused or node.ready_since


def not_ready(node: NodeRecord) -> Signal | None:
    """Return the signal of a node whose kubelet is silent or says no; None for a ready one."""
    if (down := down_since(node)) is None:
        return None
    return Signal(
        kind=Kind.NODE_NOT_READY,
        source=Source.NODE,
        node=node.name,
        at=node.ready_since,
        detail=f"condition Ready is not True since {node.ready_since.isoformat()}",
        doubted=down if down > node.ready_since else None,
    )


def failed_check(node: NodeRecord) -> Signal | None:
    """Return the signal of a node that failed its last check, if nobody has said since that it was repaired."""
    check = node.check
    if check is None or check.passed or (node.reset is not None and node.reset >= check.at):
        return None
    said = "; ".join(check.evidence) or "no word of it"
    return Signal(Kind.CHECK_FAILED, Source.CHECK, node.name, check.at, said, reason=NODE_CHECK_FAILED)
