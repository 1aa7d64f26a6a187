"""What a set of signals means for one node."""

import enum
from dataclasses import dataclass
from datetime import datetime


class Blame(enum.StrEnum):
    USER = "user"
    NODE = "node"
    FABRIC = "fabric"
    UNKNOWN = "unknown"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who is to blame, how sure we are, and why.

    `cause` is a CamelCase reason such as `NodeNotReady` or `Xid79`. `hard` says that one signal was
    enough; otherwise `signals` independent sources agreed.
    """

    blame: Blame
    cause: str
    node: str
    evidence: tuple[str, ...]
    cordon: bool
    hard: bool = False
    gpu: str = ""
    signal_at: datetime | None = None
