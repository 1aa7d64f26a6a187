"""What a verb answers, and the forms that it is printed in."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, get_args

import yaml

Form = Literal["text", "wide", "json", "yaml", "name"]
FORMS: Final = get_args(Form)
UNKNOWN: Final = "-"
GAP: Final = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """Lines for people, more of them with `-o wide`, and the same for machines. `names` is what `-o name` prints.

    `documents` are what `-o yaml` prints instead of `data`.
    """

    lines: Sequence[str]
    data: Any
    names: Sequence[str] = ()
    wide: Sequence[str] | None = None  # None: the same lines
    documents: Sequence[Any] = ()


def printed(answer: Answer, form: Form) -> str:
    """Return an answer in one of the forms, without a line feed at its end."""
    match form:
        case "json":
            return json.dumps(answer.data, indent=2)
        case "yaml":
            return yaml.safe_dump_all(list(answer.documents) or [answer.data], sort_keys=False, width=120).rstrip("\n")
        case "name":
            return "\n".join(answer.names)
        case "wide" if answer.wide is not None:
            return "\n".join(answer.wide)
    return "\n".join(answer.lines)


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows as aligned columns, as kubectl does: the first is the heading."""
    widths = [max(map(len, column)) + GAP for column in zip(*rows, strict=True)]
    for row in rows:
        yield "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def ago(then: datetime | None, now: datetime) -> str:
    """Return how long ago something was, in at most two units: 45s, 12m, 3h20m, 5d."""
    return UNKNOWN if then is None else span(now - then)


def span(passed: timedelta) -> str:
    """Return a duration in at most two units."""
    seconds = max(0, int(passed.total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 2:
        return f"{seconds}s"
    if hours < 2:
        return f"{minutes}m"
    if days < 2:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{days}d{hours % 24}h" if hours % 24 and days < 8 else f"{days}d"


def figure(value: float | None, form: str = "") -> str:
    return UNKNOWN if value is None else format(value, form)


def size(count: float) -> str:
    """Return bytes in the largest binary unit of which there is one."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} TiB"
