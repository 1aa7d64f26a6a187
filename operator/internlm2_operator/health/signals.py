"""What was seen, before anybody judges it."""

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Final


class Source(enum.StrEnum):
    """Whose word a signal is. Two signals are independent when their sources differ.

    The driver tells one XID twice, in the kernel log and through the exporter: that is one source.
    """

    DRIVER = "driver"  # XIDs, whichever way they came
    SWITCH = "switch"  # SXIDs of the NVSwitch driver
    PROMETHEUS = "prometheus"  # counters of the GPU exporter, and whether it answers
    NODE = "node"  # conditions of the Node: kubelet, node agent, the cloud's notices
    CHECK = "check"  # the node check that the operator runs in its own namespace
    POD = "pod"
    PROGRESS = "progress"
    LOG = "log"

    @property
    def trusted(self) -> bool:
        """Whether no user of a namespace can write it."""
        return self in _TRUSTED


_TRUSTED: Final = frozenset({Source.DRIVER, Source.SWITCH, Source.PROMETHEUS, Source.NODE, Source.CHECK})


class Kind(enum.StrEnum):
    XID = "xid"  # a new XID on a GPU (an edge, never the sticky level)
    SXID = "sxid"
    COUNTER = "counter"  # a counter of the exporter rose; `reason` is its row in `rules`
    GPU_MISSING = "gpu-missing"  # series of a GPU gone while its exporter is up
    EXPORTER_DOWN = "exporter-down"  # blindness, not a fault
    NODE_NOT_READY = "node-not-ready"
    CONDITION = "condition"  # of the Node; `reason` is its row in `rules`
    CHECK_FAILED = "check-failed"  # of a check that the operator ran; `reason` is its row in `rules`
    POD_EXIT = "pod-exit"
    STALLED = "stalled"
    RANK_LOG = "rank-log"


@dataclass(frozen=True, slots=True)
class Signal:
    """One observation about one node. `at` is when the source saw it happen, as well as it can tell."""

    kind: Kind
    source: Source
    node: str
    at: datetime
    detail: str
    gpu: str = ""  # UUID, or the PCI address where only the kernel spoke
    xid: int | None = None  # of an XID or an SXID
    job: str = ""  # namespace/name of the job whose pod it concerns, where there is one
    domain: str = ""  # rack or switch of the node, where it is known
    reason: str = ""
    doubted: datetime | None = None  # until then it may have a harmless reason, and counts for nothing

    @property
    def cause(self) -> str:
        """Return the CamelCase name: Xid79, SXid20034, NodeNotReady, GpuMissing, RowRemapFailure, LinkDown."""
        match self.kind:
            case Kind.XID:
                return f"Xid{self.xid}"
            case Kind.SXID:
                return f"SXid{self.xid}"
            case Kind.COUNTER | Kind.CONDITION | Kind.CHECK_FAILED:
                return self.reason
            case _:
                return "".join(word.capitalize() for word in self.kind.value.split("-"))
