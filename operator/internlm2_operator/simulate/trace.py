"""When what strikes which node: drawn from a mix of causes, or read from a person's own records."""

import csv
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from internlm2_operator.simulate.faults import Kind, Mix
from internlm2_spec.config import Refused

COLUMNS: Final = ("time", "node", "kind")


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One fault. `at` is in seconds after the start, `node` counts from 0."""

    at: float
    node: int
    kind: Kind
    cause: str


def draw(mix: Mix, *, nodes: int, gpus_per_node: int, days: float, seed: int) -> tuple[Occurrence, ...]:
    """Draw a trace: each cause is a Poisson process of its published rate per GPU, nodes are struck alike.

    The same seed gives the same trace.
    """
    chance = random.Random(f"{mix.name} {seed}")
    found: list[Occurrence] = []
    for cause in mix.causes:
        at = 0.0
        while (at := at + chance.expovariate(mix.per_second(cause, nodes * gpus_per_node))) < days * 86400:
            found.append(Occurrence(at, chance.randrange(nodes), cause.kind, cause.name))
    return tuple(sorted(found, key=lambda o: o.at))


def read_csv(lines: Iterable[str], *, nodes: int) -> tuple[Occurrence, ...]:
    """Read a trace with a header: time (hours after the start), node (from 0), kind, and cause if there is one.

    Raises:
        Refused: a column is missing, or a row says something that cannot be.
    """
    rows = csv.DictReader(lines)
    missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise Refused(
            "header", wrong=f"no column {missing[0]}", right="start with time,node,kind or time,node,kind,cause"
        )
    return tuple(sorted((_occurrence(rows.line_num, row, nodes) for row in rows), key=lambda o: o.at))


def _occurrence(line: int, row: Mapping[str, str | None], nodes: int) -> Occurrence:
    at = _number(line, "time", row, "hours after the start, 0 or more") * 3600
    node = _number(line, "node", row, f"a whole number from 0 to {nodes - 1}")
    if node != int(node) or node >= nodes:
        raise _refused(line, "node", row, f"a whole number from 0 to {nodes - 1}")
    kind = (row["kind"] or "").strip()
    if kind not in set(Kind):
        raise _refused(line, "kind", row, f"one of {', '.join(Kind)}")
    return Occurrence(at, int(node), Kind(kind), (row.get("cause") or kind).strip())


def _number(line: int, name: str, row: Mapping[str, str | None], right: str) -> float:
    try:
        value = float(row[name] or "")
    except ValueError:
        raise _refused(line, name, row, right) from None
    if not 0 <= value < float("inf"):
        raise _refused(line, name, row, right)
    return value


def _refused(line: int, name: str, row: Mapping[str, str | None], right: str) -> Refused:
    return Refused(f"line {line}, {name}", wrong=repr(row[name] or ""), right=f"write {right}")
