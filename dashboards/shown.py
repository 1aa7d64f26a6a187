"""What a panel shows of its answer, before anything is drawn: words, colours, segments, rows."""

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dashboards.ask import Answer, Series, Window

Json = Mapping[str, Any]
_PLACE: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_TIMES: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BYTES: Final = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))
_SHORT: Final = ((1e12, "Tri"), (1e9, "Bil"), (1e6, "Mil"), (1e3, "K"))
_ROUND: Final = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0, 86400.0)
_AFTER: Final = {"ops": " ops/s", "reqps": " req/s"}


def words(value: float, unit: str, decimals: int | None = None) -> str:
    """Return a value in its unit, as Grafana writes it."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"
    match unit:
        case "percentunit":
            return f"{_number(100 * value, decimals)}%"
        case "s":
            return _scaled(value, _TIMES, "s", decimals)
        case "bytes":
            return _scaled(value, _BYTES, "B", decimals)
        case "short":
            return _scaled(value, _SHORT, "", decimals)
        case _:
            return _number(value, decimals) + _AFTER.get(unit, "")


def _scaled(value: float, scales: Sequence[tuple[float, str]], plain: str, decimals: int | None) -> str:
    for size, name in scales:
        if abs(value) >= size:
            return f"{_number(value / size, decimals)} {name}"
    return f"{_number(value, decimals)} {plain}".rstrip()


def _number(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def defaults(panel: Json) -> Json:
    found: Json = panel["fieldConfig"]["defaults"]
    return found


def text_of(value: float, field: Json) -> str:
    """Return what stands for a value: its mapping's word, or the value in its unit."""
    mapped = _mapped(value, field)
    return mapped["text"] if mapped else words(value, field.get("unit", "none"), field.get("decimals"))


def color_of(value: float, field: Json) -> str:
    """Return the colour of a value by name: its mapping's, or that of the last threshold that it reaches."""
    if mapped := _mapped(value, field):
        return str(mapped["color"])
    color = "text"
    for step in field["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = step["color"]
    return color


def _mapped(value: float, field: Json) -> Json | None:
    for mapping in field.get("mappings", ()):
        found: Json | None = mapping["options"].get(f"{value:g}")
        if found is not None:
            return found
    return None


def name_of(series: Series, legend: str) -> str:
    """Return the name of a series: its legend with the labels put in, or all labels where it has none."""
    if legend:
        return _PLACE.sub(lambda found: series.labels.get(found[1], ""), legend).strip()
    return ", ".join(f"{key}={value}" for key, value in sorted(series.labels.items())) or "value"


def named(answer: Answer) -> list[tuple[str, Series]]:
    """Return all series of a panel with their names, in the order of its queries."""
    return [
        (name_of(one, target.get("legendFormat", "")), one)
        for target, series in zip(answer.panel["targets"], answer.series, strict=True)
        for one in series
    ]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of time in which a series had one value."""

    start: float
    end: float
    value: float


def segments(series: Series, step: float) -> list[Segment]:
    """Return the stretches of one value; a point stands for the `step` seconds after it, and a gap stays one."""
    made: list[Segment] = []
    for time, value in series.points:
        if made and made[-1].value == value and time - made[-1].end < step / 2:
            made[-1] = Segment(made[-1].start, time + step, value)
        else:
            made.append(Segment(time, time + step, value))
    return made


def parts(series: Series, step: float) -> list[tuple[tuple[float, float], ...]]:
    """Return the points of a line, cut where a value is missing."""
    made: list[list[tuple[float, float]]] = []
    for before, point in itertools.pairwise((None, *series.points)):
        if point is None:
            continue
        if before is None or point[0] - before[0] > 1.5 * step:
            made.append([])
        made[-1].append(point)
    return [tuple(part) for part in made]


def table(answer: Answer) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the lines of a table: one line for each set of labels, one column for each query."""
    organize = next(t for t in answer.panel["transformations"] if t["id"] == "organize")["options"]
    fields = _value_fields(len(answer.series))
    lines: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
    for field, series in zip(fields, answer.series, strict=True):
        for one in series:
            lines.setdefault(tuple(sorted(one.labels.items())), {})[field] = one.last
    hidden = {name for name, out in organize["excludeByName"].items() if out}
    labels = [name for name in _keys(lines) if name not in hidden]
    shown = [field for field in fields if field not in hidden]
    heads = labels + [organize["renameByName"].get(field, field) for field in shown]
    columns = {field: field_of(answer.panel, organize["renameByName"].get(field, field)) for field in shown}
    rows = [
        [dict(key).get(label, "") for label in labels]
        + [text_of(values[field], columns[field]) if field in values else "" for field in shown]
        for key, values in sorted(lines.items())
    ]
    return heads, rows


def _value_fields(count: int) -> list[str]:
    return [f"Value #{chr(ord('A') + number)}" for number in range(count)] if count > 1 else ["Value"]


def _keys(lines: Iterable[tuple[tuple[str, str], ...]]) -> list[str]:
    return sorted({name for key in lines for name, _ in key})


def field_of(panel: Json, name: str) -> Json:
    """Return the settings of a column or series: the panel's, and what an override says of this one."""
    field = dict(defaults(panel))
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"] == {"id": "byName", "options": name}:
            field |= {entry["id"]: entry["value"] for entry in override["properties"]}
    return field


def ticks(window: Window) -> list[float]:
    """Return up to seven round times of a range."""
    apart = next((size for size in _ROUND if window.seconds / size <= 6), _ROUND[-1])
    first = math.ceil(window.start / apart) * apart
    return [at for number in range(7) if (at := first + number * apart) <= window.end]


def clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M")
