"""What verbs of the command line share: how one is declared, and lines about work that takes long."""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Final, TypeAlias

Group: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # the type has no public name

SILENT_SECONDS: Final = 5.0
NOTE_SECONDS: Final = 2.0
MIB: Final = 2**20


def add_verb(
    group: Group, name: str, does: str, run: Callable[[argparse.Namespace], int], example: str
) -> argparse.ArgumentParser:
    """Add a verb that `run` does, with `example` as its arguments in the help."""
    verb: argparse.ArgumentParser = group.add_parser(
        name,
        help=does,
        description=does[0].upper() + does[1:] + ".",
        epilog=f"example: python -m internlm2_trainer checkpoint {name} {example}",
    )
    verb.add_argument("--json", action="store_true", help="one JSON object")
    verb.set_defaults(run=run)
    return verb


class Progress:
    """Lines on standard error about work that takes longer than a few seconds."""

    def __init__(self, what: str, total: int, *, unit: str = "MiB") -> None:
        self._what, self._total, self._unit = what, total, unit
        self._scale = MIB if unit == "MiB" else 10**6
        self._done = 0
        self._started = self._noted = time.monotonic()

    def add(self, amount: int) -> None:
        """Count work that was done."""
        self._done += amount
        now = time.monotonic()
        if now - self._started > SILENT_SECONDS and now - self._noted > NOTE_SECONDS:
            self._noted = now
            done, total = self._done / self._scale, self._total / self._scale
            speed = done / (now - self._started)
            print(f"{self._what}: {done:.0f} of {total:.0f} {self._unit}, {speed:.0f} a second", file=sys.stderr)
