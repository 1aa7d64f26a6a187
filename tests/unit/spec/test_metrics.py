"""Names of metrics follow Prometheus's rules."""

import re
from collections import Counter

import pytest

from internlm2_spec.metrics import (
    AGENT,
    CAUSES,
    OPERATOR,
    OPERATOR_PREFIX,
    PARTS,
    SCRAPE_LABELS,
    SPENT_ON,
    TRAIN_PREFIX,
    TRAINER,
    Cause,
    Metric,
    Part,
    SpentOn,
)

SUFFIX = {"seconds": "_seconds", "bytes": "_bytes", "ratio": "_ratio", "tokens per second": "_per_second", "": ""}
OTHER_UNITS = re.compile(r"(milliseconds|_ms|minutes|hours|_kb|_mb|_gb|kilobytes|percent)(_|$)")
RESERVED = ("_count", "_sum", "_bucket", "_created", "_info")


def wrong(metric: Metric) -> str | None:
    """Return which rule a metric breaks."""
    base = metric.name.removesuffix("_total")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", metric.name):
        return "characters"
    if (metric.kind == "counter") != metric.name.endswith("_total"):
        return "_total is for counters, and for each of them"
    if not base.endswith(SUFFIX[metric.unit]) or OTHER_UNITS.search(base):
        return "base unit at the end"
    if base.endswith(RESERVED) or metric.kind in base.split("_"):
        return "suffix of Prometheus's own, or the type in the name"
    if not (metric.meaning.endswith((".", ")")) and metric.meaning[0].isalnum()):
        return "help"
    if any(not re.fullmatch(r"[a-z][a-z_]*", label) or label in ("le", "quantile") for label in metric.labels):
        return "labels"
    # Pods of the operator are of no job.
    may = {"training_job"} if metric.name.startswith(OPERATOR_PREFIX) else set()
    if set(metric.labels) & (set(SCRAPE_LABELS) - may):
        return "a label of the scrape: Prometheus would rename it"
    return None


@pytest.mark.parametrize("metric", [*TRAINER, *OPERATOR, *AGENT], ids=lambda metric: metric.name)
def test_a_metric_keeps_the_rules(metric: Metric) -> None:
    assert wrong(metric) is None


@pytest.mark.parametrize(
    "metric",
    [
        Metric("x:steps", "gauge", "", "Steps."),
        Metric("x_steps", "counter", "", "Steps."),
        Metric("x_steps_total", "gauge", "", "Steps."),
        Metric("x_wait", "gauge", "seconds", "Wait."),
        Metric("x_wait_ms", "gauge", "", "Wait."),
        Metric("x_steps_count", "gauge", "", "Steps."),
        Metric("x_steps", "gauge", "", "steps"),
        Metric("x_steps", "gauge", "", "Steps.", ("le",)),
        Metric("x_steps", "gauge", "", "Steps.", ("node",)),
        Metric("x_steps", "gauge", "", "Steps.", ("training_job",)),
    ],
)
def test_a_metric_that_breaks_a_rule_is_found(metric: Metric) -> None:
    assert wrong(metric)


def test_names_are_unique_and_have_the_prefix_of_their_half() -> None:
    assert all(metric.name.startswith(TRAIN_PREFIX) for metric in TRAINER)
    assert all(metric.name.startswith(OPERATOR_PREFIX) for metric in OPERATOR)
    assert max(Counter(metric.name for metric in (*TRAINER, *OPERATOR)).values()) == 1


def test_every_part_and_cause_has_a_meaning() -> None:
    assert list(PARTS) == list(Part)
    assert list(CAUSES) == list(Cause)
    assert list(SPENT_ON) == list(SpentOn)
