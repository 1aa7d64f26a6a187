"""How a measurement is written: with its command, the machine and its load beside the figures."""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any, Final

from bench.machine import machine

RESULTS: Final = Path("bench/results")


def add_output(parser: argparse.ArgumentParser, name: str) -> None:
    """Add `--output`, by default this measurement's file in bench/results."""
    parser.add_argument("--output", type=Path, default=RESULTS / f"{name}.json")


def write(path: Path, module: str, results: dict[str, Any]) -> None:
    """Write what this command measured."""
    arguments = sys.argv[1:]
    told = {"command": " ".join(["python -m", module, *arguments]), "machine": machine(), "load": os.getloadavg()[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told | results, indent=1) + "\n")


def spread(values: list[float]) -> dict[str, float]:
    """Return count, median, minimum and maximum."""
    return {
        "n": len(values),
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }
