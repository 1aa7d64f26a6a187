"""The figures beside their targets."""

from collections.abc import Iterator, Mapping
from typing import Any

Row = tuple[str, str, str]


def table(results: Mapping[str, Any]) -> str:
    """Return one line a figure."""
    lines = [("from fault to", "target", "p50 / p95 / p99 / max, how many runs got there"), *rows(results)]
    return "\n".join(f"{what:44} {target:>14}  {measured}".rstrip() for what, target, measured in lines)


def rows(results: Mapping[str, Any]) -> Iterator[Row]:
    """Yield what, target, measured of the sections that are there."""
    for name in ("stream", "corpus"):
        if found := results.get("verdicts", {}).get(name):
            target = f"{results['verdicts']['target']['signalsPerSecond']} /s" if name == "stream" else ""
            measured = f"{found['signalsPerSecond']} /s, {found['signalsPerCpuSecond']} a second of a core"
            yield f"signals judged, {name}", target, measured
    for section in ("paths", "lab", "default-timings"):
        for name, found in results.get(section, {}).items():
            if isinstance(found, Mapping) and "secondsAfterFault" in found:
                yield from _path(f"{section}, {name}", found)


def _path(name: str, found: Mapping[str, Any]) -> Iterator[Row]:
    for arrow, seen in found["secondsAfterFault"].items():
        target = f"p95 {found['targets'][arrow]:g} s" if arrow in found["targets"] else ""
        times = " / ".join(f"{seen[key]:.2f}" for key in ("p50", "p95", "p99", "max")) + " s" if seen["n"] else "never"
        yield f"{name} -> {arrow}", target, f"{times}, {seen['n']} of {found['runs']}"
