"""What was broken and not undone yet: `faults.json` of the state folder."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.settings import LabError

if TYPE_CHECKING:
    from lab.cluster import Lab

Record = dict[str, Any]


def nothing(_: "Lab", __: Record) -> None:
    """Undo what heals by itself."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to break something. `undo` takes the record that `inject` returned."""

    inject: Callable[["Lab", Record], Record]
    undo: Callable[["Lab", Record], None] = nothing

    @property
    def lasting(self) -> bool:
        """Whether somebody has to undo it."""
        return self.undo is not nothing


def recorded(state: Path) -> list[Record]:
    """Return the injections that nobody has undone yet."""
    try:
        found: list[Record] = json.loads((state / "faults.json").read_text())
    except FileNotFoundError:
        return []
    return found


def save(state: Path, records: list[Record]) -> None:
    """Replace the list in one step."""
    scratch = state / f".faults.{os.getpid()}.json"
    scratch.write_text(json.dumps(records, indent=1))
    scratch.replace(state / "faults.json")


def need(what: Record, key: str, example: str) -> Any:
    """Return an option of the command line that this fault cannot do without.

    Raises:
        LabError: it was not given.
    """
    if key not in what:
        raise LabError(f"--{key}: missing; write for example --{key} {example}")
    return what[key]
