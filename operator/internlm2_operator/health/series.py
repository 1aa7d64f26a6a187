"""Series of the GPU exporters, sorted into what `edges` compares. Numbers that no exporter means are nothing."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from internlm2_operator.health.edges import GpuCounter, XidCount, XidGauge, whole

XID: Final = "DCGM_FI_DEV_XID_ERRORS"
XID_COUNT: Final = "DCGM_EXP_XID_ERRORS_COUNT"
_CODE: Final = re.compile(r"[0-9]{1,4}")
# What DCGM gives for a field that it cannot read: blank, not found, not supported, not permitted, of each width
# (DCGM, dcgm_structs.h). Where an exporter passes one on, it is no rise of a counter.
_INT32_BLANK: Final = 0x7FFFFFF0
_FP64_BLANK: Final = 2.0**47


@dataclass(frozen=True, slots=True)
class Series:
    """One value. `gpu` is the UUID, empty where the exporter does not say; `xid` the label of that name.

    `exporter` tells two of one node apart.
    """

    name: str
    node: str
    gpu: str
    value: float
    xid: str = ""
    exporter: str = ""


@dataclass(frozen=True, slots=True)
class Sorted:
    """The maps of a `Sample`. Two exporters of one node, its links or its watches have a series each: the worst counts.

    Of the sticky gauge no value is worse than another: each exporter's is kept.
    """

    xids: Mapping[XidGauge, int]
    counts: Mapping[XidCount, float]
    counters: Mapping[GpuCounter, float]


def _said(value: float) -> bool:
    """Say whether a value is one, and not the blank of a field that DCGM cannot read."""
    return math.isfinite(value) and value < _FP64_BLANK and not _INT32_BLANK <= value <= _INT32_BLANK + 0xF


def sort(series: Iterable[Series]) -> Sorted:
    """Sort series in any order; those without a node, or without the GPU that they need, are somebody else's."""
    xids: dict[XidGauge, int] = {}
    counts: dict[XidCount, float] = {}
    counters: dict[GpuCounter, float] = {}
    for one in series:
        if not one.node or not _said(one.value):
            continue
        code = whole(one.value)
        if one.name == XID_COUNT:
            if code is not None and _CODE.fullmatch(one.xid):
                counted = (one.node, one.gpu, int(one.xid))
                counts[counted] = max(one.value, counts.get(counted, one.value))
        elif one.gpu and one.name == XID:
            if code is not None:
                xids[one.node, one.gpu, one.exporter] = code
        elif one.gpu:
            counter = (one.node, one.gpu, one.name)
            counters[counter] = max(one.value, counters.get(counter, one.value))
    return Sorted(xids, counts, counters)
