"""Every query of the dashboards and alerts names what is in the catalogue, and the check finds one that does not."""

import json
from typing import Any

import pytest
import yaml

from dashboards import check
from dashboards.__main__ import generated
from dashboards.check import Asked
from internlm2_spec import metrics as catalogue
from lab.settings import CHECKOUT

ALERTS = CHECKOUT / "charts/internlm2-operator/alerts/alerts.yaml"
TEXTS = generated()
SERIES = {"up_seconds": frozenset({"pod", "node"}), "h_bucket": frozenset({"pod", "le"}), "x_total": frozenset({"job"})}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_dashboard_asks_only_for_what_is_there(text: str) -> None:
    asked = list(check.of_dashboard(text))
    assert len(asked) > 15
    assert check.wrong(asked, check.known()) == []


def test_alerts_ask_only_for_what_is_there() -> None:
    asked = list(check.of_rules(yaml.safe_load(ALERTS.read_text())))
    assert len(asked) == 8
    assert check.wrong(asked, check.known()) == []


def test_every_metric_of_operator_and_trainer_has_a_panel_or_a_reason() -> None:
    """Who adds a metric either shows it or says here why not."""
    not_shown = {
        "internlm2_train_phase",  # the operator's phase of the job says more
        "internlm2_train_straggler_seconds",  # Work by what it is shows it for every rank
        "internlm2_operator_cordons_held_total",  # nodes_held says it as it is now
        "internlm2_agent_records_total",
        "internlm2_agent_records_lost_total",
        "internlm2_agent_condition_writes_total",
        "internlm2_agent_write_wait_seconds",
    }
    asked = " ".join(one.expr for text in TEXTS.values() for one in check.of_dashboard(text))
    every = (*catalogue.TRAINER, *catalogue.OPERATOR, *catalogue.AGENT)
    assert {metric.name for metric in every if metric.name not in asked} == not_shown


WRONG = {
    "no such metric": ("down_seconds", "", "down_seconds: no metric of the catalogue"),
    "a histogram without its suffix": ("h", "", "h: no metric"),
    "matched by a label that it lacks": ('up_seconds{slot="1"}', "", "slot: no such label; up_seconds has node, pod"),
    "inside a function": ('rate(x_total{node="a"}[5m])', "", "node: no such label"),
    "summed by a label that it lacks": ("sum by (slot) (up_seconds)", "", "slot: no such label"),
    "summed by a label that is gone": ("sum by (node) (sum by (pod) (up_seconds))", "", "node: no such label"),
    "joined on a label that the other lacks": ("up_seconds * on (node) x_total", "", "node: no such label"),
    "replaced from a label that it lacks": ('label_replace(up_seconds, "a", "$1", "b", ".*")', "", "b: no such label"),
    "shown by a label that is gone": ("sum by (pod) (up_seconds)", "node", "node: shown"),
    "a quantile without buckets": ("histogram_quantile(0.9, up_seconds)", "", "le: no such label"),
    "not PromQL": ("sum by (pod", "", "in sum by (pod"),
}  # fmt: skip


@pytest.mark.parametrize(("expr", "shown", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_query_is_found(expr: str, shown: str, said: str) -> None:
    (found,) = check.wrong([Asked("here", expr, frozenset(shown.split()))], SERIES)
    assert found.startswith("here: ")
    assert said in found


RIGHT = (
    Asked("", "sum by (pod) (rate(up_seconds[$__rate_interval]))", frozenset({"pod"})),
    Asked("", 'label_replace(up_seconds, "a", "$1", "pod", ".*")', frozenset({"a", "node"})),
    Asked("", "histogram_quantile(0.9, sum by (le, pod) (h_bucket))", frozenset({"pod"})),
    Asked("", "time() - max by (node) (up_seconds)", frozenset({"node"})),
    Asked("", "up_seconds * on () group_left sum(x_total) or x_total offset $__range", frozenset({"job", "node"})),
    Asked("", "quantile_over_time(0.5, max by (pod) (up_seconds)[6h:1m])", frozenset({"pod"})),
    Asked("", "absent(up_seconds == 1)"),
)


def test_a_right_query_is_not() -> None:
    assert check.wrong(RIGHT, SERIES) == []


def test_variables_are_checked_too() -> None:
    board: dict[str, Any] = json.loads(TEXTS["charts/internlm2-operator/dashboards/job.json"])
    for variable in board["templating"]["list"]:
        if variable["name"] == "job":
            variable["query"] = variable["query"].replace("training_job)", "trainingjob)")
    (found,) = check.wrong(check.of_dashboard(json.dumps(board)), check.known())
    assert "variable job" in found
