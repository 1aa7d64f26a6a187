"""What changed between two samples of the GPU exporters. Pure.

XID gauges are sticky (the value stays until the exporter or the driver restarts), so only a change
means something. The counter of the last five minutes tells a repeat of the same code, and an XID
that came while nobody looked.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.health.signals import Kind, Signal, Source

MISSING_SCRAPES: Final = 2
LOST_KEPT: Final = 16  # of one node: as many GPUs as the largest has
# A node that boots, or is repaired, is away for minutes to hours, and must come back with all its GPUs.
FORGOTTEN_AFTER: Final = timedelta(hours=24)

Gpu = tuple[str, str]
"""Node and GPU UUID."""
XidGauge = tuple[str, str, str]
"""Node, GPU UUID and the exporter, of which a node has two while one replaces the other."""
XidCount = tuple[str, str, int]
"""Node, GPU UUID (empty where it is not said) and code."""
GpuCounter = tuple[str, str, str]
"""Node, GPU UUID and the exporter's name of the counter."""

# What a rise of a counter is, by name of the exporter; the rows are those of `health.rules`.
COUNTERS: Final[Mapping[str, str]] = {
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": "DoubleBitError",
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": "RowRemapFailure",
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": "RowsRemapped",
    "DCGM_FI_DEV_RETIRED_PENDING": "RetirementPending",
    "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL": "NvlinkErrors",
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": "PcieReplays",
}
REPLAYS: Final = "DCGM_FI_DEV_PCIE_REPLAY_COUNTER"
# NVIDIA's limit of health; replays below it are everyday.
REPLAYS_PER_MINUTE: Final = 8.0
HEALTH: Final = "DCGM_EXP_GPU_HEALTH_STATUS"
HEALTH_FAIL: Final = 20.0  # DCGM_HEALTH_RESULT_FAIL


def whole(value: float) -> int | None:
    """Return a code or a count as the whole number that it must be; None for anything else an exporter may send."""
    return int(value) if math.isfinite(value) and value >= 0 and value == int(value) else None


@dataclass(frozen=True, slots=True)
class Sample:
    """What Prometheus knew at one instant. `scraped` holds the time of each node's last scrape that succeeded.

    `complete` is False where Prometheus says that it left something out: then what is absent is not known to be.
    """

    at: datetime
    scraped: Mapping[str, float] = field(default_factory=dict)
    down: frozenset[str] = frozenset()  # nodes whose exporter did not answer
    gpus: frozenset[Gpu] = frozenset()
    xids: Mapping[XidGauge, int] = field(default_factory=dict)
    counts: Mapping[XidCount, float] = field(default_factory=dict)
    counters: Mapping[GpuCounter, float] = field(default_factory=dict)
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Memory:
    """What must be remembered from earlier samples to see an edge in the next one."""

    last: Sample
    known: frozenset[Gpu]  # every GPU that was seen and not yet reported as missing
    counts: Mapping[XidCount, float]
    missing: Mapping[Gpu, frozenset[float]] = field(default_factory=dict)  # scrapes without it
    lost: Mapping[Gpu, datetime] = field(default_factory=dict)  # when each was reported that has not come back
    whole: bool = True  # a complete answer was seen: what it did not show is new where it shows
    counters: Mapping[GpuCounter, tuple[float, float]] = field(default_factory=dict)  # scrape and value
    heard: Mapping[str, datetime] = field(default_factory=dict)  # by node: when a target of it last existed


def baseline(sample: Sample) -> Memory:
    """Start remembering: what stands in the first sample is history, not news."""
    heard = dict.fromkeys(_targets(sample), sample.at)
    return Memory(
        last=sample, known=sample.gpus, counts=sample.counts, counters=_read(sample), heard=heard, whole=sample.complete
    )


def edges(memory: Memory, now: Sample) -> tuple[tuple[Signal, ...], Memory]:
    """Return what is new in `now`, and what to remember for the next sample."""
    counted = dict(_counted(memory, now))
    # Where a code is counted, the count alone speaks: queries of one batch may fall on both sides of a
    # scrape, and the gauge would tell the same XID a second time.
    changed = sorted((gpu, xid) for gpu, xid in _changed(memory.last, now) if (*gpu, xid) not in now.counts)
    away = _moved(memory, now)
    away |= _exchanged(memory, now, away)
    missing = _missing(memory, now, away)
    gone = {gpu for gpu, scrapes in missing.items() if len(scrapes) >= MISSING_SCRAPES}
    signals = (
        *(_xid(now.at, (node, gpu), xid, detail) for (node, gpu, xid), detail in counted.items()),
        *(_xid(now.at, gpu, xid, "DCGM_FI_DEV_XID_ERRORS changed") for gpu, xid in changed),
        *(_gone(now.at, gpu) for gpu in sorted(gone)),
        *_risen(memory, now),
        *(_blind(now.at, node) for node in sorted(now.down)),
    )
    heard = _heard(memory, now)
    # What an incomplete answer shows for the first time may have come in the place of what it does not show.
    fresh = now.gpus if now.complete else frozenset[Gpu]()
    known = frozenset(gpu for gpu in (memory.known - away) | fresh if gpu[0] in heard) - gone
    remembered = Memory(
        last=now,
        known=known,
        lost=_lost({**memory.lost, **dict.fromkeys(gone, now.at)}, now, heard),
        whole=memory.whole or now.complete,
        counts={**_unread(memory, now, heard), **now.counts},
        missing={gpu: scrapes for gpu, scrapes in missing.items() if gpu not in gone},
        counters={**{key: value for key, value in memory.counters.items() if key[:2] in known}, **_read(now)},
        heard=heard,
    )
    return signals, remembered


def _unread(memory: Memory, now: Sample, heard: Mapping[str, datetime]) -> dict[XidCount, float]:
    """Return the counts of which `now` does not tell whether they have fallen."""
    read = now.scraped if now.complete else ()
    return {key: value for key, value in memory.counts.items() if key[0] not in read and key[0] in heard}


def _targets(sample: Sample) -> set[str]:
    """Return the nodes that have an exporter which Prometheus asks, or series of one."""
    return {*sample.scraped, *sample.down, *(node for node, _ in sample.gpus)}


def _heard(memory: Memory, now: Sample) -> dict[str, datetime]:
    """Say when each node last had an exporter; what a cluster had a day ago must not fill the memory."""
    heard = {**memory.heard, **dict.fromkeys(_targets(now), now.at)}
    return {node: at for node, at in heard.items() if now.at - at <= FORGOTTEN_AFTER}


def _moved(memory: Memory, now: Sample) -> set[Gpu]:
    """Return the GPUs that are seen on another node now, and only there: somebody carried them over."""
    homes = {uuid for _, uuid in now.gpus}
    return {gpu for gpu in memory.known - now.gpus if gpu[1] in homes}


def _exchanged(memory: Memory, now: Sample, moved: set[Gpu]) -> set[Gpu]:
    """Return the GPUs of nodes that show others in their place: somebody changed the hardware, or the machine.

    A node that shows none of those that it had, and others, is another machine under the same name.
    """
    if not (now.complete and memory.whole):
        return set()
    had, shows = _by_node(memory.known - moved), _by_node(now.gpus)
    fresh = _by_node(now.gpus - memory.known - memory.lost.keys())
    found: set[Gpu] = set()
    for node, new in fresh.items():
        absent = had.get(node, set()) - shows[node]
        if len(new) >= len(absent) or absent == had[node]:
            found |= absent
    return found


def _lost(reported: Mapping[Gpu, datetime], now: Sample, heard: Mapping[str, datetime]) -> dict[Gpu, datetime]:
    """Return which GPUs are away still, of each node the last that were reported."""
    back = now.gpus if now.complete else frozenset[Gpu]()
    away = _by_node(gpu for gpu in reported if gpu[0] in heard and gpu not in back)
    kept = (sorted(gpus, key=lambda gpu: (reported[gpu], gpu))[-LOST_KEPT:] for gpus in away.values())
    return {gpu: reported[gpu] for gpus in kept for gpu in gpus}


def _by_node(gpus: Iterable[Gpu]) -> dict[str, set[Gpu]]:
    found: dict[str, set[Gpu]] = defaultdict(set)
    for gpu in gpus:
        found[gpu[0]].add(gpu)
    return found


def _counted(memory: Memory, now: Sample) -> Iterator[tuple[XidCount, str]]:
    """Counts that rose. A series that was not there counts as 0, also after an exporter's restart."""
    for key, value in now.counts.items():
        before = memory.counts.get(key, 0.0)
        if value > before:
            yield key, f"DCGM_EXP_XID_ERRORS_COUNT rose from {before:g} to {value:g}"


def _changed(before: Sample, now: Sample) -> set[tuple[Gpu, int]]:
    """Sticky gauges that changed. An exporter's first value is a baseline; a code that another showed is no news."""
    shown = {(key[:2], xid) for key, xid in before.xids.items()}
    changed = {(key[:2], xid) for key, xid in now.xids.items() if xid and before.xids.get(key, xid) != xid}
    return changed - shown


def _missing(memory: Memory, now: Sample, away: set[Gpu]) -> dict[Gpu, frozenset[float]]:
    """Count scrapes, not samples: Prometheus may scrape less often than we ask.

    An exporter that shows no GPU at all sees none: it has just started, or its engine is away.
    """
    if not now.complete:
        return dict(memory.missing)
    seeing = {node for node, _ in now.gpus}
    return {
        gpu: memory.missing.get(gpu, frozenset()) | {now.scraped[gpu[0]]}
        for gpu in memory.known - now.gpus - away
        if gpu[0] in now.scraped and gpu[0] not in now.down and gpu[0] in seeing
    }


def _read(sample: Sample) -> dict[GpuCounter, tuple[float, float]]:
    return {key: (sample.scraped.get(key[0], 0.0), value) for key, value in sample.counters.items()}


def _risen(memory: Memory, now: Sample) -> Iterator[Signal]:
    """Counters that rose on a GPU that was counted before. A fall is a restart of exporter or driver."""
    for key, (scraped, value) in sorted(_read(now).items()):
        node, gpu, name = key
        before = memory.counters.get(key)
        if before is None or before[0] == scraped or node not in now.scraped:
            continue
        if name == HEALTH:
            reason = "GpuHealthFailed" if before[1] < HEALTH_FAIL <= value else ""
        else:
            reason = COUNTERS.get(name, "") if value > before[1] else ""
        if name == REPLAYS and (value - before[1]) * 60 <= REPLAYS_PER_MINUTE * (scraped - before[0]):
            reason = ""
        if reason:
            detail = f"{name} rose from {before[1]:g} to {value:g}"
            yield Signal(Kind.COUNTER, Source.PROMETHEUS, node=node, at=now.at, detail=detail, gpu=gpu, reason=reason)


def _xid(at: datetime, gpu: Gpu, xid: int, detail: str) -> Signal:
    return Signal(Kind.XID, Source.DRIVER, node=gpu[0], at=at, detail=detail, gpu=gpu[1], xid=xid)


def _gone(at: datetime, gpu: Gpu) -> Signal:
    detail = f"no series in {MISSING_SCRAPES} scrapes while the exporter answered"
    return Signal(Kind.GPU_MISSING, Source.PROMETHEUS, node=gpu[0], at=at, detail=detail, gpu=gpu[1])


def _blind(at: datetime, node: str) -> Signal:
    return Signal(Kind.EXPORTER_DOWN, Source.PROMETHEUS, node=node, at=at, detail="up is 0")
