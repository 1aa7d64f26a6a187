"""What the table of causes is made of: how a cause is recognised, whose it is, what is done about it."""

import enum
from dataclasses import dataclass
from typing import Final


class Kind(enum.StrEnum):
    """Whose a cause is. It decides what counts."""

    USER = "user"  # counts against failurePolicy.maxRestarts
    INFRASTRUCTURE = "infrastructure"  # never counts; a number in status.restarts.infrastructure
    WAITING = (
        "waiting"  # something that the job needs is not there: no failure of anybody, tried again ever more rarely
    )
    REQUEST = "request"  # somebody wanted it: a person, a drain, a scheduler; no failure at all


class Reaction(enum.StrEnum):
    """What the operator does."""

    RECORD = "record"
    FOLLOW = "follow"
    REPLACE = "replace"
    RESTART = "restart"
    RETRY = "retry"
    HOLD = "hold"
    GATE = "gate"
    KEEP = "keep"


MEANINGS: Final = {
    Reaction.RECORD: "writes it down; torchrun restarts the processes in place",
    Reaction.FOLLOW: "waits up to 60 s for the one that fell, whose cause decides",
    Reaction.REPLACE: "makes another pod for the slot, on another node; a new attempt where that cannot do",
    Reaction.RESTART: "starts a new attempt; a spare alone is replaced",
    Reaction.RETRY: "gives the attempt up; the next one after the back-off",
    Reaction.HOLD: "leaves the pod to kubelet or scheduler; after its patience another pod, and then the back-off",
    Reaction.GATE: "makes no pods, looks every 10 s, and starts the job by itself",
    Reaction.KEEP: "leaves the pods as they are",
}


class By(enum.IntEnum):
    """Where a cause is read, in the order in which the sources are believed.

    What Kubernetes says about an end comes before what the process could know of it, and that before
    its exit code; the last three are about pods that have not started.
    """

    KUBELET = 1  # reason on the pod, or of its ended container
    DISRUPTION = 2  # reason of the pod's condition DisruptionTarget
    DELETED = 3  # somebody else deleted the pod
    TRAINER = 4  # reason in the trainer's termination message
    EXIT = 5  # exit code
    CLASS = 6  # failure class in the trainer's termination message
    SANDBOX = 7  # condition PodReadyToStartContainers
    WAITING = 8  # reason of a container that has not started
    SCHEDULER = 9  # reason of the condition PodScheduled
    API = 10  # words of a refused creation


@dataclass(frozen=True, slots=True)
class Mark:
    """One sign of a cause. `value` may end in `*`; `says` is a part of the message that has to be there, too."""

    by: By
    value: str
    says: str = ""

    def fits(self, value: str, message: str) -> bool:
        same = value.startswith(self.value[:-1]) if self.value.endswith("*") else value == self.value
        return same and self.says in message


@dataclass(frozen=True, slots=True)
class Cause:
    """One row. `seen` tells what marks cannot: a cause that is not read from a pod.

    Attributes:
        repeats: so many equal failures within the window end the job (kind USER only).
        patience: seconds that a pod may fail to start before it counts as lost; None is for ever.
        backoff: seconds before the next attempt, first and longest, doubled each time in a row.
        edited: an edit of the spec cures it, so that a pod in this state gives way to one of the new spec at once.
        suspects: the pod's end speaks against its node; the node is cordoned when a second source agrees.
        symptom: says what was seen and not why, so that a node's fault found later takes over its record.
    """

    name: str  # CamelCase: cause of the fault, reason of conditions and events
    kind: Kind
    reaction: Reaction
    cure: str  # what a person should do; empty: nothing
    marks: tuple[Mark, ...] = ()
    seen: str = ""
    edited: bool = False
    suspects: bool = False
    symptom: bool = False
    repeats: int = 0
    patience: float | None = None
    backoff: tuple[float, float] | None = None

    @property
    def by_kubernetes(self) -> bool:
        """Say whether Kubernetes names the cause: then the step at which it happened means nothing."""
        return all(mark.by <= By.DELETED for mark in self.marks)
