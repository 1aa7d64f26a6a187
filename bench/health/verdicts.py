"""Signals to verdicts by the pure code alone: no cluster, no clock, one core.

A line of the kernel's log is parsed into the event of its node's condition, the condition's text is read back as a
signal, the node is judged by all that it has, and what is convicted goes to the breaker. `corpus` are the recorded
faults with all their kinds of signals, each of which has every node of its case judged anew.
"""

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from bench.operator.gauge import spread
from internlm2_operator.health import condition, kernel
from internlm2_operator.health.cordon import Limits, decide_cordon
from internlm2_operator.health.diagnose import diagnose
from internlm2_operator.health.node import NodeRecord
from internlm2_operator.health.signals import Signal
from internlm2_operator.replay.case import Case, read
from internlm2_operator.replay.judge import replay

TARGET: Final = 5000
CORPUS: Final = Path("tests/data/faults")
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
NODES: Final = 1000
CODES: Final = (13, 31, 43, 45, 48, 62, 63, 74, 79, 94, 95, 119)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of one node's kernel log."""

    node: str
    at: datetime
    text: str


def lines(seed: int = 0) -> Iterator[Line]:
    """Yield lines for ever, from 1,000 nodes with 8 GPUs, at the pace of the target, of codes of every kind."""
    chance = random.Random(seed)
    for number in itertools.count():
        pci, code = f"0000:{chance.randrange(8):02x}:00", chance.choice(CODES)
        text = f"NVRM: Xid (PCI:{pci}): {code}, pid=1, name=python, words of the driver"
        yield Line(f"n{chance.randrange(NODES)}", START + timedelta(microseconds=200 * number), text)


class Judge:
    """What is remembered between signals: each node's condition, as its agent would have written it."""

    def __init__(self) -> None:
        self._nodes = tuple(NodeRecord(f"n{n}", True, START, 8) for n in range(NODES))
        self._kept: dict[str, condition.Kept] = {}
        self.convicted = 0

    def hear(self, line: Line) -> None:
        """Take one line from its text to the decision on its node."""
        seen = kernel.read(line.text)
        event = condition.event_of(seen, line.at) if seen is not None else None
        assert event is not None, line.text
        kept = condition.keep(condition.forget(self._kept.get(line.node, condition.Kept()), line.at, None), event)
        said = condition.condition(kept.events, kept.left_out)
        signals: list[Signal] = list(condition.signals(line.node, condition.events(said.message)))
        verdict = diagnose(signals, line.node, line.at)
        decided = decide_cordon([verdict], self._nodes, {}, Limits(), line.at) if verdict.cordon else ()
        # Whoever cordons a node mends it, so that nodes do not fill with faults of long ago.
        self._kept[line.node] = condition.Kept() if decided else kept
        self.convicted += len(decided)


class Clock:
    """Time since it was made: what passed, and what this process had of a core."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def wall(self) -> float:
        return time.perf_counter() - self._wall

    def rate(self, took: list[float], counts: list[int]) -> dict[str, Any]:
        """Return signals a second up to now, and the microseconds of each: every piece took so long for so many."""
        wall, cpu = self.wall(), time.process_time() - self._cpu
        each = [1e6 * seconds / count for seconds, count in zip(took, counts, strict=True) if count]
        return {
            "signals": sum(counts),
            "signalsPerSecond": round(sum(counts) / wall),
            # Of a core: on a machine that does other things, too, the figure that says something about the code.
            "signalsPerCpuSecond": round(sum(counts) / cpu),
            "microsecondsPerSignal": spread(each),
        }


def stream(seconds: float) -> dict[str, Any]:
    """Judge lines for so many seconds, one at a time."""
    judge, clock, took = Judge(), Clock(), list[float]()
    for line in lines():
        began = time.perf_counter()
        judge.hear(line)
        took.append(time.perf_counter() - began)
        if len(took) % 1000 == 0 and clock.wall() >= seconds:
            break
    return clock.rate(took, [1] * len(took)) | {"nodes": NODES, "convicted": judge.convicted}


def corpus(seconds: float) -> dict[str, Any]:
    """Replay the recorded faults, all of them again and again, for so many seconds at least."""
    cases: list[Case] = read(CORPUS)
    clock, took, counts = Clock(), list[float](), list[int]()
    while clock.wall() < seconds:
        for case in cases:
            began = time.perf_counter()
            replay(case)
            took.append(time.perf_counter() - began)
            counts.append(len(case.seen))
    return clock.rate(took, counts) | {"cases": len(cases)}


def measure(seconds: float) -> dict[str, Any]:
    """Return both figures beside the target."""
    return {"target": {"signalsPerSecond": TARGET}, "stream": stream(seconds), "corpus": corpus(seconds)}
