"""Whether every query can be right: it parses, and each metric and label that it names is in the catalogue."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import promql_parser as promql

from internlm2_spec import metrics as catalogue
from internlm2_spec.metrics import Metric

# What Grafana puts in, as far as a parser must see something.
VARIABLES: Final = {"$__rate_interval": "1m", "$__range": "3h", "$namespace": ".*", "$job": ".*"}
_SUFFIXES: Final = ("_bucket", "_sum", "_count")
_OF_A_RULE: Final = re.compile(r"\$labels\.(\w+)")
_OF_A_LEGEND: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_LABEL_VALUES: Final = re.compile(r"label_values\((.+), (\w+)\)")


@dataclass(frozen=True, slots=True)
class Asked:
    """One query, where it stands, and the labels that its answer is told by."""

    where: str
    expr: str
    shown: frozenset[str] = frozenset()


class Unknown(ValueError):
    """A query names what is not there."""


def known() -> dict[str, frozenset[str]]:
    """Return the labels of every series of the catalogue, with those of the scrape."""
    every = (*catalogue.TRAINER, *catalogue.OPERATOR, *catalogue.AGENT)
    return {name: labels for metric in every for name, labels in _series(metric)}


def _series(metric: Metric) -> Iterator[tuple[str, frozenset[str]]]:
    labels = frozenset((*metric.labels, *catalogue.SCRAPE_LABELS))
    if metric.kind != "histogram":
        yield metric.name, labels
        return
    for suffix in _SUFFIXES:
        yield metric.name + suffix, labels | ({"le"} if suffix == "_bucket" else set())


def of_dashboard(text: str) -> Iterator[Asked]:
    """Yield every query of a dashboard's JSON, those of its variables first."""
    board = json.loads(text)
    for variable in board["templating"]["list"]:
        if (found := _LABEL_VALUES.fullmatch(str(variable.get("query", "")))) is not None:
            yield Asked(f"{board['title']}: variable {variable['name']}", found[1], frozenset({found[2]}))
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            shown = frozenset(_OF_A_LEGEND.findall(target.get("legendFormat", "")))
            yield Asked(f"{board['title']}: {panel['title']}", target["expr"], shown)


def of_rules(groups: Mapping[str, Any]) -> Iterator[Asked]:
    """Yield the query of every alert."""
    for group in groups["groups"]:
        for rule in group["rules"]:
            told = " ".join(rule["annotations"].values())
            yield Asked(f"alert {rule['alert']}", rule["expr"], frozenset(_OF_A_RULE.findall(told)))


def wrong(asked: Iterable[Asked], series: Mapping[str, frozenset[str]]) -> list[str]:
    """Return what is wrong with the queries, one line each."""
    return [f"{one.where}: {said}" for one in asked if (said := _wrong(one, series))]


def _wrong(asked: Asked, series: Mapping[str, frozenset[str]]) -> str:
    text = asked.expr
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    try:
        labels = labels_of(promql.parse(text), series)
    except ValueError as error:  # the parser's own, and ours
        return f"{error} in {asked.expr}"
    if missing := asked.shown - labels:
        return f"{', '.join(sorted(missing))}: shown, and no label of the answer of {asked.expr}"
    return ""


def labels_of(expr: promql.Expr, series: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Return the labels that the answer may have.

    Raises:
        Unknown: a metric is not in the catalogue, or something is asked for by a label that cannot be there.
    """
    match expr:
        case promql.VectorSelector():
            return _selected(expr, series)
        case promql.MatrixSelector():
            return _selected(expr.vector_selector, series)
        case promql.AggregateExpr():
            return _aggregated(expr, labels_of(expr.expr, series))
        case promql.BinaryExpr():
            return _joined(expr, series)
        case promql.Call():
            return _called(expr, series)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return labels_of(expr.expr, series)
        case _:
            return frozenset()


def _selected(selector: promql.VectorSelector, series: Mapping[str, frozenset[str]]) -> frozenset[str]:
    labels = series.get(selector.name or "")
    if labels is None:
        raise Unknown(f"{selector.name}: no metric of the catalogue")
    _need((matcher.name for matcher in selector.matchers.matchers), labels, f"{selector.name} has")
    return labels


def _aggregated(expr: promql.AggregateExpr, labels: frozenset[str]) -> frozenset[str]:
    if expr.modifier is None:
        return frozenset()
    _need(expr.modifier.labels, labels, "aggregated are")
    if expr.modifier.type == promql.AggModifierType.By:
        return frozenset(expr.modifier.labels)
    return labels - set(expr.modifier.labels)


def _joined(expr: promql.BinaryExpr, series: Mapping[str, frozenset[str]]) -> frozenset[str]:
    left, right = labels_of(expr.lhs, series), labels_of(expr.rhs, series)
    modifier = expr.modifier
    if modifier is not None and modifier.matching is not None:
        _need(modifier.matching.labels, left, "on the left are")
        _need(modifier.matching.labels, right, "on the right are")
    union = str(expr.op) == "or"
    scalar = isinstance(expr.lhs, promql.NumberLiteral) or _is_scalar(expr.lhs)
    return left | right if union or scalar else left


def _is_scalar(expr: promql.Expr) -> bool:
    return isinstance(expr, promql.Call) and expr.func.name in ("time", "scalar", "vector")


def _called(expr: promql.Call, series: Mapping[str, frozenset[str]]) -> frozenset[str]:
    labels = frozenset[str]().union(*(labels_of(argument, series) for argument in expr.args))
    match expr.func.name:
        case "label_replace":
            made, _, source = (argument.val for argument in expr.args[1:4])
            _need([source] if source else [], labels, "replaced from are")
            return labels | {made}
        case "histogram_quantile":
            _need(["le"], labels, "the histogram has")
            return labels - {"le"}
        case "absent" | "scalar" | "time" | "vector":
            return frozenset()
        case _:
            return labels


def _need(names: Iterable[str], labels: frozenset[str], what: str) -> None:
    if missing := [name for name in names if name not in labels]:
        raise Unknown(f"{', '.join(missing)}: no such label; {what} {', '.join(sorted(labels)) or 'none'}")
