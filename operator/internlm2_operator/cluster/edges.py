"""What changed between two samples of the GPU exporters. Pure.

XID gauges are sticky (the value stays until the exporter or the driver restarts), so only a change
means something. The counter of the last five minutes tells a repeat of the same code, and an XID
that came while nobody looked.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from internlm2_operator.health.signals import Kind, Signal, Source

MISSING_SCRAPES: Final = 2

Gpu = tuple[str, str]
"""Node and GPU UUID."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What Prometheus knew at one instant. `scraped` holds the time of each node's last scrape that succeeded."""

    at: datetime
    scraped: Mapping[str, float] = field(default_factory=dict)
    down: frozenset[str] = frozenset()  # nodes whose exporter did not answer
    gpus: frozenset[Gpu] = frozenset()
    xids: Mapping[Gpu, int] = field(default_factory=dict)
    counts: Mapping[tuple[str, str, int], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Memory:
    """What must be remembered from earlier samples to see an edge in the next one."""

    last: Sample
    known: frozenset[Gpu]  # every GPU that was seen and not yet reported as missing
    counts: Mapping[tuple[str, str, int], float]
    missing: Mapping[Gpu, frozenset[float]] = field(default_factory=dict)  # scrapes without it


def baseline(sample: Sample) -> Memory:
    """Start remembering: what stands in the first sample is history, not news."""
    return Memory(last=sample, known=sample.gpus, counts=sample.counts)


def edges(memory: Memory, now: Sample) -> tuple[tuple[Signal, ...], Memory]:
    """Return what is new in `now`, and what to remember for the next sample."""
    counted = dict(_counted(memory, now))
    # Where a code is counted, the count alone speaks: queries of one batch may fall on both sides of a
    # scrape, and the gauge would tell the same XID a second time.
    changed = {gpu: xid for gpu, xid in _changed(memory.last, now) if (*gpu, xid) not in now.counts}
    missing = _missing(memory, now)
    gone = {gpu for gpu, scrapes in missing.items() if len(scrapes) >= MISSING_SCRAPES}
    signals = (
        *(_xid(now.at, (node, gpu), xid, detail) for (node, gpu, xid), detail in counted.items()),
        *(_xid(now.at, gpu, xid, "DCGM_FI_DEV_XID_ERRORS changed") for gpu, xid in changed.items()),
        *(_gone(now.at, gpu) for gpu in sorted(gone)),
        *(_blind(now.at, node) for node in sorted(now.down)),
    )
    kept = {key: value for key, value in memory.counts.items() if key[0] not in now.scraped}
    remembered = Memory(
        last=now,
        known=(memory.known | now.gpus) - gone,
        counts={**kept, **now.counts},
        missing={gpu: scrapes for gpu, scrapes in missing.items() if gpu not in gone},
    )
    return signals, remembered


def _counted(memory: Memory, now: Sample) -> Iterator[tuple[tuple[str, str, int], str]]:
    """Counts that rose. A series that was not there counts as 0, also after an exporter's restart."""
    for key, value in now.counts.items():
        before = memory.counts.get(key, 0.0)
        if value > before:
            yield key, f"DCGM_EXP_XID_ERRORS_COUNT rose from {before:g} to {value:g}"


def _changed(before: Sample, now: Sample) -> Iterator[tuple[Gpu, int]]:
    """Sticky gauges that changed on a GPU that was seen in the sample before; a first value is a baseline."""
    for gpu, xid in now.xids.items():
        if xid and gpu in before.xids and before.xids[gpu] != xid:
            yield gpu, xid


def _missing(memory: Memory, now: Sample) -> dict[Gpu, frozenset[float]]:
    """Count scrapes, not samples: Prometheus may scrape less often than we ask."""
    return {
        gpu: memory.missing.get(gpu, frozenset()) | {now.scraped[gpu[0]]}
        for gpu in memory.known - now.gpus
        if gpu[0] in now.scraped and gpu[0] not in now.down
    }


def _xid(at: datetime, gpu: Gpu, xid: int, detail: str) -> Signal:
    return Signal(Kind.XID, Source.PROMETHEUS, node=gpu[0], at=at, detail=detail, gpu=gpu[1], xid=xid)


def _gone(at: datetime, gpu: Gpu) -> Signal:
    detail = f"no series in {MISSING_SCRAPES} scrapes while the exporter answered"
    return Signal(Kind.GPU_MISSING, Source.PROMETHEUS, node=gpu[0], at=at, detail=detail, gpu=gpu[1])


def _blind(at: datetime, node: str) -> Signal:
    return Signal(Kind.EXPORTER_DOWN, Source.PROMETHEUS, node=node, at=at, detail="up is 0")
