"""What is read before and after a stretch of time: the operator's metrics, the API server's, CPU and memory."""

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.operator.client import Client
from bench.operator.plane import ControlPlane, OperatorUnderLoad, cpu_seconds, parsed, resident_mib

WRITES: Final = ("POST", "PUT", "PATCH", "DELETE")
PREFIX: Final = "internlm2_operator_"
REQUESTS: Final = f"{PREFIX}api_requests_total"


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything at one moment."""

    at: float
    operator: Mapping[str, float]
    server: Mapping[str, float]
    cpu: Mapping[str, float]


class Gauge:
    """Reads, and says what happened between two readings."""

    def __init__(self, client: Client, plane: ControlPlane, operator: OperatorUnderLoad) -> None:
        self._client = client
        self._plane = plane
        self._operator = operator

    async def read(self) -> Reading:
        server = parsed((await self._client.text("/metrics")).splitlines())
        pids = {name: self._plane.pid(name) for name in ("kube-apiserver", "etcd")}
        pids |= {"operator": self._operator.pid, "bench": os.getpid()}
        cpu = {name: cpu_seconds(pid) for name, pid in pids.items()}
        kept = {name: value for name, value in server.items() if name.startswith("apiserver_request_total")}
        return Reading(time.monotonic(), self._operator.samples(), kept, cpu)

    def memory(self) -> dict[str, float]:
        pid = self._operator.pid
        return {"rssMib": round(resident_mib(pid), 1), "rssPeakMib": round(resident_mib(pid, "VmHWM"), 1)}


def shares(before: Reading, after: Reading) -> dict[str, float]:
    """Return the cores that each process used."""
    seconds = after.at - before.at
    return {name: round((after.cpu[name] - before.cpu[name]) / seconds, 2) for name in after.cpu}


def writes_per_second(before: Reading, after: Reading) -> float:
    """Return what the operator wrote, leases included."""
    name = f"{PREFIX}api_requests_total"
    sums = [
        sum(
            value for sample, value in reading.operator.items() if sample.startswith(name) and _method(sample) in WRITES
        )
        for reading in (before, after)
    ]
    return round((sums[1] - sums[0]) / (after.at - before.at), 1)


def lists(before: Reading, after: Reading) -> dict[str, int]:
    """Return the LISTs that the API server answered to anybody, by resource."""
    found: dict[str, int] = defaultdict(int)
    for sample, value in after.server.items():
        if 'verb="LIST"' in sample and (count := int(value - before.server.get(sample, 0.0))):
            found[sample.split('resource="')[1].split('"')[0]] += count
    return dict(found)


def quantiles(before: Reading, after: Reading, histogram: str, kind: str) -> dict[str, float]:
    """Return p50, p95 and p99 of one of the operator's histograms, between the bounds of its buckets."""
    counts: dict[float, float] = {}
    start = f'{PREFIX}{histogram}_bucket{{kind="{kind}",le="'
    for sample, value in after.operator.items():
        if sample.startswith(start):
            counts[float(sample[len(start) :].rstrip('"}'))] = value - before.operator.get(sample, 0.0)
    rows = sorted(counts.items())
    return {f"p{round(share * 100)}": round(_quantile(rows, share), 4) for share in (0.5, 0.95, 0.99)}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return count, p50, p95, p99 and maximum of exact values."""
    if not values:
        return {"n": 0}
    ordered = sorted(values)
    at = {f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 95, 99)}
    return {"n": len(ordered), **{name: round(value, 3) for name, value in at.items()}, "max": round(ordered[-1], 3)}


def _quantile(rows: Sequence[tuple[float, float]], share: float) -> float:
    if not rows or not rows[-1][1]:
        return 0.0
    wanted, low, under = rows[-1][1] * share, 0.0, 0.0
    for bound, count in rows:
        if count >= wanted:
            return low if bound == float("inf") else low + (bound - low) * (wanted - under) / max(count - under, 1e-9)
        low, under = bound, count
    return low


def _writes(reading: Reading) -> float:
    found = reading.operator.items()
    return sum(value for sample, value in found if sample.startswith(REQUESTS) and _method(sample) in WRITES)


def _method(sample: str) -> str:
    return sample.partition('method="')[2].partition('"')[0]
