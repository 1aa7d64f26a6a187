"""What the agent remembers over a restart: how far it read, and what it saw. One JSON file on the node."""

import json
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from internlm2_operator.health.condition import Event, Kept, say_time


@dataclass(frozen=True, slots=True)
class Memory:
    """`sequence` is the last record that was read in boot `boot`, -1 before the first; `levels` are measured faults."""

    boot: str
    sequence: int = -1
    kept: Kept = field(default_factory=Kept)
    levels: tuple[Event, ...] = ()


def recall(path: Path, boot: str) -> Memory:
    """Return what is remembered of this boot; of another one, or of a file that is not ours, nothing is."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        if found["boot"] != boot:
            return Memory(boot)
        kept = Kept(tuple(map(_event, found["events"])), int(found["leftOut"]))
        return Memory(boot, int(found["sequence"]), kept, tuple(map(_event, found["levels"])))
    except (OSError, ValueError, TypeError, KeyError):
        return Memory(boot)


def save(path: Path, memory: Memory) -> None:
    """Replace the file in one step.

    There is no fsync: what a power cut can lose is of a boot that is over, and a new boot starts anew anyway.
    """
    body = {
        "boot": memory.boot,
        "sequence": memory.sequence,
        "leftOut": memory.kept.left_out,
        "events": [_fields(one) for one in memory.kept.events],
        "levels": [_fields(one) for one in memory.levels],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(body))
    os.replace(beside, path)


def _event(fields: dict[str, str]) -> Event:
    return Event(fields["cause"], fields["where"], datetime.fromisoformat(fields["at"]), fields["detail"])


def _fields(one: Event) -> dict[str, str]:
    return {"cause": one.cause, "where": one.where, "at": say_time(one.at), "detail": one.detail}
