"""The answers of a real Prometheus to the queries of a dashboard."""

import json
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

TIMEOUT: Final = 30.0
# Grafana takes four scrapes, so that a rate sees two of them even when one is missed.
SCRAPES_IN_A_RATE: Final = 4

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Window:
    """The range of a dashboard in seconds since the epoch, and the seconds from point to point and scrape to scrape."""

    start: float
    end: float
    step: float
    scrape: float

    @property
    def seconds(self) -> int:
        return round(self.end - self.start)


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer: (seconds since the epoch, value), ascending."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float:
        return self.points[-1][1]


@dataclass(frozen=True, slots=True)
class Answer:
    """A panel, and for each of its queries the series that it got."""

    panel: Json
    series: tuple[tuple[Series, ...], ...]


class Prometheus:
    """The queries of the HTTP API that a dashboard needs.

    Raises:
        OSError: it cannot be reached, or refuses a query.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def instant(self, expr: str, at: float) -> tuple[Series, ...]:
        found = self._get("query", query=expr, time=at)
        if found["resultType"] == "scalar":
            return (Series({}, (_point(found["result"]),)),)
        return tuple(Series(one["metric"], (_point(one["value"]),)) for one in found["result"])

    def over(self, expr: str, window: Window) -> tuple[Series, ...]:
        found = self._get("query_range", query=expr, start=window.start, end=window.end, step=window.step)
        return tuple(Series(one["metric"], tuple(map(_point, one["values"]))) for one in found["result"])

    def _get(self, what: str, **asked: object) -> Json:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            body: Json = json.loads(answer.read())["data"]
        return body


def _point(pair: Any) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


def resolve(expr: str, chosen: Mapping[str, str], window: Window) -> str:
    """Put in what Grafana would: the range, the window of a rate, and the chosen values of the variables."""
    values = {
        "$__rate_interval": f"{max(window.step, SCRAPES_IN_A_RATE * window.scrape):.0f}s",
        "$__range": f"{window.seconds}s",
    } | {f"${name}": value for name, value in chosen.items()}
    for name, value in values.items():
        expr = expr.replace(name, value)
    return expr


def answers(prometheus: Prometheus, board: Json, chosen: Mapping[str, str], window: Window) -> Iterator[Answer]:
    """Yield the answer of each panel that asks something, in the order of the dashboard."""
    for panel in board["panels"]:
        targets = panel.get("targets", ())
        if targets:
            yield Answer(panel, tuple(_ask(prometheus, target, chosen, window) for target in targets))


def _ask(prometheus: Prometheus, target: Json, chosen: Mapping[str, str], window: Window) -> tuple[Series, ...]:
    expr = resolve(target["expr"], chosen, window)
    return prometheus.instant(expr, window.end) if target.get("instant") else prometheus.over(expr, window)


def unanswered(panels: Iterable[Answer]) -> list[str]:
    """Return every query that got no data, one line each: panel, query."""
    return [
        f"{answer.panel['title']}: {target['expr']}"
        for answer in panels
        for target, series in zip(answer.panel["targets"], answer.series, strict=True)
        if not series
    ]
