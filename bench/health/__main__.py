"""`make bench-health`: from a fault to the verdict, the cordon and the next step, each figure beside its target.

    python -m bench.health [--runs 30]                                                verdicts and paths
    python -m lab enter -- python -m bench.health --only lab default-timings [--runs 30]

`verdicts` is the pure code alone, `paths` the real operator, node agent, API server, Prometheus and S3 server, `lab`
and `default-timings` real nodes inside the lab. GPUs are simulated throughout. Sections are added to what the file
holds of the others, each with its own command. About 15 minutes without the lab and two hours with it.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from bench import record
from bench.health import lab, paths, verdicts
from bench.health.table import table
from bench.operator.client import say

Section = Callable[[argparse.Namespace], dict[str, Any]]
SECTIONS: Final[dict[str, Section]] = {
    "verdicts": lambda options: verdicts.measure(options.seconds),
    "paths": lambda options: paths.measure(options.runs),
    "lab": lambda options: lab.measure(options.runs),
    "default-timings": lambda options: lab.measure_default(options.runs),
}
WITHOUT_LAB: Final = ("verdicts", "paths")


def main() -> int:
    """Measure section by section, write each at once, and print the table."""
    options = _parser().parse_args()
    before = json.loads(options.output.read_text()) if options.output.exists() else {}
    results: dict[str, Any] = {name: before[name] for name in SECTIONS if name in before}
    for name in options.only:
        began, load = time.monotonic(), os.getloadavg()[0]
        found = SECTIONS[name](options)
        took = round(time.monotonic() - began)
        command = " ".join(["python -m bench.health", *sys.argv[1:]])
        results[name] = {"command": command, "loadBefore": round(load, 1), "tookSeconds": took, **found}
        record.write(options.output, "bench.health", results)
        say(f"{name}: {took} s")
    print(table(results))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.health", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=SECTIONS, default=WITHOUT_LAB, help="default: verdicts paths")
    add("--runs", type=_positive, default=30, help="faults of each kind (default 30)")
    add("--seconds", type=float, default=20.0, help="length of each part of `verdicts` (default 20)")
    record.add_output(parser, "health")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a number of runs; write 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
