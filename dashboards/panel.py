"""What a panel is, before it is JSON: a question, queries, and how the answer looks."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


class Look(enum.Enum):
    """The kinds of panels, by the names that Grafana's plugins have."""

    TIMES = "timeseries"
    STAT = "stat"
    BARS = "bargauge"
    TABLE = "table"
    STATES = "state-timeline"


@dataclass(frozen=True, slots=True)
class Query:
    """One query; `legend` names a series by its labels, or the column of a table.

    `unit` and `decimals` are of that column alone.
    """

    expr: str
    legend: str = ""
    unit: str = ""
    decimals: int = 0


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `question` is what it answers, `empty` what it says when there are no data.

    `steps` are thresholds, ascending, each the colour from a value on; the colour below the first is `base`.
    `words` are what values mean, with their colours; in a table those of the first column. Width is of 24.
    `hidden` are columns of a table that are left out.
    """

    title: str
    question: str
    look: Look
    queries: tuple[Query, ...]
    unit: str = "short"
    empty: str = "no data: is the scrape set up? (docs/metrics.md)"
    base: str = "green"
    steps: tuple[tuple[float, str], ...] = ()
    words: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    least: float | None = None
    most: float | None = None
    decimals: int | None = None
    stacked: bool = False
    hidden: tuple[str, ...] = ()
    width: int = 8
    height: int = 8


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard: the values of a label of a series."""

    name: str
    label: str
    query: str
    several: bool = True


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard; `name` is that of its file and the end of its uid."""

    name: str
    title: str
    purpose: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]


JOBS: Final = "internlm2_operator_job_phase"
NAMESPACE: Final = Variable("namespace", "Namespace", f"label_values({JOBS}, training_namespace)")
JOB: Final = Variable("job", "Job", f'label_values({JOBS}{{training_namespace=~"$namespace"}}, training_job)')

GOOD, WARN, BAD, COLD, PLAIN = "green", "orange", "red", "blue", "text"
# Series that mean the same wherever they are, by name.
OF_SERIES: Final = {
    "productive": GOOD, "redo": WARN, "fault": BAD, "start": COLD, "queue": "purple",
    "ready": GOOD, "cordoned": WARN, "not_ready": BAD, "active": GOOD, "spare": COLD, "wanted": "gray",
}  # fmt: skip
PHASES: Final = {
    1: ("Pending", "light-purple"),
    2: ("Queued", "purple"),
    3: ("Starting", COLD),
    4: ("Running", GOOD),
    5: ("Recovering", WARN),
    6: ("Suspended", "gray"),
    7: ("Succeeded", "dark-green"),
    8: ("Failed", BAD),
}


def phase_code(series: str) -> str:
    """Return the number in PHASES of each job's phase; `series` is that of the phase, with its closing brace."""
    parts = (f'{series[:-1]}, phase="{word}"}} * {code}' for code, (word, _) in PHASES.items())
    return f"sum by (training_namespace, training_job) ({' or '.join(parts)})"
