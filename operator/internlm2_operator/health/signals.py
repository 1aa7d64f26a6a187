"""What was seen, before anybody judges it."""

import enum
from dataclasses import dataclass
from datetime import datetime


class Source(enum.StrEnum):
    """Where a signal came from; two signals are independent when their sources differ."""

    PROMETHEUS = "prometheus"
    NODE = "node"
    POD = "pod"
    PROGRESS = "progress"


class Kind(enum.StrEnum):
    XID = "xid"  # a new XID on a GPU (an edge, never the sticky level)
    GPU_MISSING = "gpu-missing"  # series of a GPU gone while its exporter is up
    NODE_NOT_READY = "node-not-ready"
    POD_EXIT = "pod-exit"
    EXPORTER_DOWN = "exporter-down"  # blindness, not a fault


@dataclass(frozen=True, slots=True)
class Signal:
    """One observation about one node. `at` is when the source saw it happen, as well as it can tell."""

    kind: Kind
    source: Source
    node: str
    at: datetime
    detail: str
    gpu: str = ""  # UUID
    xid: int | None = None
    job: str = ""  # namespace/name of the job whose pod it concerns, where there is one
