"""`make bench-trainer`: what the trainer costs, each part in its own process, the figures beside their bars."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

from bench.record import RESULTS

PARTS: Final = ("trainer", "checkpoint", "weights", "start")


def main() -> int:
    """Measure every part and print the table; return 1 when a part could not be measured."""
    for part in PARTS:
        print(f"{part}: python -m bench.{part}", file=sys.stderr, flush=True)
        if code := subprocess.run([sys.executable, "-m", f"bench.{part}"], stdout=subprocess.DEVNULL).returncode:
            print(f"bench.{part} ended with {code}", file=sys.stderr)
            return 1
    results = {part: json.loads((RESULTS / f"{part}.json").read_text()) for part in PARTS}
    print("\n".join(f"{what:60} {value:>10}  {bar}".rstrip() for what, value, bar in rows(results)))
    return 0


def rows(results: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield each figure and its bar."""
    for name, shape in results["trainer"]["shapes"].items():
        yield f"{name}: tokens per CPU second over transformers'", f"{shape['ratio']['median']:.2f}", "at least 0.95"
    saves = results["checkpoint"]
    for cost in saves["costs"]:
        tier = "memory tier" if cost["memoryTier"] else "storage alone"
        for tokens, share in cost["stallShare"].items():
            yield f"{tier}: stall over step time, {tokens} tokens a step", f"{share:.2%}", "at most 0.5%"
        yield f"{tier}: memory of a save over the shard", f"{cost['peakRatio']:.2f}", "at most 1.2"
    for cost in results["weights"]["costs"]:
        yield f"{cost['what']}: MiB per second", f"{cost['mib_per_second']:.0f}", ""
    for job in results["start"]["jobs"]:
        yield f"start to first step, {job['ranks']} ranks: CPU s", f"{job['toFirstStep']['cpuSeconds']['median']}", ""


if __name__ == "__main__":
    sys.exit(main())
