"""Rules of rank logs from a ConfigMap: what is in force after each edit, and what is told."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from internlm2_operator.cluster import errors
from internlm2_operator.cluster.gateway import Object
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.observed import Observed
from internlm2_operator.runtime.rules import MAX_TEXT, RuleSource
from tests.unit.health.test_rulebook import rows

META = {"name": "rules", "namespace": "system", "uid": "u"}
GOOD = {"rules.yaml": rows()}


class Server:
    """Holds one ConfigMap, or none; an exception in its place is what the API server answers."""

    def __init__(self) -> None:
        self.held: dict[str, str] | Exception | None = None
        self.version = 0
        self.events: list[Object] = []

    async def config_map(self, namespace: str, name: str) -> Object:
        assert (namespace, name) == ("system", "rules")
        if isinstance(self.held, Exception):
            raise self.held
        return {"metadata": META | {"resourceVersion": str(self.version)}, "data": self.held}

    async def record_event(self, body: Object) -> None:
        self.events.append(body)


def after(edits: Sequence[dict[str, str] | Exception | None], *, looks: int = 1) -> tuple[Observed, Metrics, Server]:
    """Return what is known after each edit was looked at so many times."""
    server, observed, metrics = Server(), Observed(), Metrics()

    async def follow() -> None:
        source = RuleSource(server, observed, metrics, namespace="system", name="rules")  # type: ignore[arg-type]
        for server.version, server.held in enumerate(edits):
            for _ in range(looks):
                try:
                    await source.step()
                except errors.Retry:
                    continue

    asyncio.run(follow())
    return observed, metrics, server


def value(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"internlm2_operator_{name}")


Edits = list[dict[str, str] | Exception | None]
IN_FORCE: dict[str, tuple[Edits, list[str]]] = {
    "the rules of the text": ([GOOD], ["feeder-stopped"]),
    "those of a later text": ([GOOD, {"rules.yaml": rows(name="other")}], ["other"]),
    "none without a ConfigMap": ([errors.NotFound("no")], []),
    "none once it is deleted": ([GOOD, errors.NotFound("no")], []),
    "the last good ones after a mistake": ([GOOD, {"rules.yaml": rows(cause="no camel")}], ["feeder-stopped"]),
    "the last good ones while the API server is away": ([GOOD, errors.Retry("away")], ["feeder-stopped"]),
    "those of the text that mends a mistake": ([{"rules.yaml": "["}, GOOD], ["feeder-stopped"]),
}


@pytest.mark.parametrize(("edits", "names"), IN_FORCE.values(), ids=IN_FORCE)
def test_in_force_are(edits: Edits, names: list[str]) -> None:
    observed, metrics, _ = after(edits)
    assert [rule.name for rule in observed.rulebook.further] == names
    assert value(metrics, "log_rules") == len(names)


MISTAKES: dict[str, tuple[dict[str, str] | None, str]] = {
    "a field": (
        {"rules.yaml": rows(weight="grave")},
        "ConfigMap system/rules: rules.yaml: rules[feeder-stopped].weight: 'grave' is not right; use one of cause",
    ),
    "another key": ({"rules": rows()}, "ConfigMap system/rules: rules.yaml: is missing; write the rules under this"),
    "no data at all": (None, "ConfigMap system/rules: rules.yaml: is missing"),
    "a text that is too long": (
        {"rules.yaml": json.dumps({"rules": []}) + " " * MAX_TEXT}, f"characters; write {MAX_TEXT} at most",
    ),
    "a pattern that would fit any line": ({"rules.yaml": rows(pattern="x*")}, "fits an empty line, and so any; write"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_once_by_an_event_and_a_metric(
    data: dict[str, str] | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, metrics, server = after([data], looks=3)
    (event,) = server.events
    assert words in event["message"]
    assert (event["reason"], event["type"], event["involvedObject"]["kind"]) == (
        "LogRulesRefused", "Warning", "ConfigMap",
    )  # fmt: skip
    assert value(metrics, "log_rules_refused") == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert words in caplog.text


def test_mended_rules_end_the_complaint() -> None:
    _, metrics, server = after([{"rules.yaml": "["}, GOOD], looks=2)
    assert (value(metrics, "log_rules_refused"), len(server.events)) == (0, 1)


def test_nothing_of_a_chart_without_rules_is_a_mistake() -> None:
    held: dict[str, Any] = {"rules.yaml": "rules: []\n"}
    observed, metrics, server = after([held])
    assert (observed.rulebook.further, value(metrics, "log_rules_refused"), server.events) == ((), 0, [])
