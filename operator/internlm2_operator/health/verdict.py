"""What a set of signals means for one node."""

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Final


class Blame(enum.StrEnum):
    USER = "user"
    NODE = "node"
    FABRIC = "fabric"
    UNKNOWN = "unknown"
    NONE = "none"


class Action(enum.StrEnum):
    """What is to be done. The operator cordons by itself; reset, reboot and exchange are the cluster admin's."""

    NONE = "none"
    RESTART = "restart"  # the processes, where they are
    FAIL = "fail"  # the job: its user has to correct something
    CHECK = "check"  # the node, before it is used again
    DRAIN = "drain"  # the node, after a checkpoint
    WAIT = "wait"  # nothing is known
    CORDON = "cordon"
    CORDON_RESET = "cordon-reset"  # the GPU
    CORDON_REBOOT = "cordon-reboot"
    CORDON_REPLACE = "cordon-replace"  # the hardware


_CORDONS: Final = frozenset({Action.CORDON, Action.CORDON_RESET, Action.CORDON_REBOOT, Action.CORDON_REPLACE})


class Confidence(enum.StrEnum):
    CERTAIN = "certain"  # one signal proves it
    AGREED = "agreed"  # independent sources say so
    SUSPECTED = "suspected"  # one source that no user of a namespace can write
    HINTED = "hinted"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who is to blame, how sure we are, why, and what is to be done.

    `cause` is a CamelCase reason such as `NodeNotReady` or `Xid79`; `rule` says in words which rule decided.
    """

    blame: Blame
    cause: str
    node: str
    evidence: tuple[str, ...]
    action: Action
    rule: str
    confidence: Confidence = Confidence.NONE
    gpu: str = ""
    signal_at: datetime | None = None

    @property
    def cordon(self) -> bool:
        """Whether the node deserves a cordon: a suspicion asks for a check, an error that a GPU contained for less."""
        return self.blame is Blame.NODE and self.action in _CORDONS

    @property
    def certain(self) -> bool:
        return self.confidence is Confidence.CERTAIN
