"""The alerts, by promtool: each fires when it should, its test fails without it, and a runbook tells what to do."""

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from lab.settings import CHECKOUT

pytestmark = pytest.mark.api

ALERTS: Final = CHECKOUT / "charts/internlm2-operator/alerts/alerts.yaml"
TESTS: Final = Path(__file__).with_name("alerts.yaml")
NAMES: Final = [rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def promtool(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *args], capture_output=True, text=True, timeout=60, check=False)


def failure_of(folder: Path, rules: dict[str, Any]) -> str:
    """Return what promtool finds wrong with these rules, empty when they pass the tests."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    (folder / "tests.yaml").write_text(TESTS.read_text().replace("ALERTS", "rules.yaml"))
    done = promtool("test", "rules", str(folder / "tests.yaml"))
    return "" if done.returncode == 0 else done.stdout + done.stderr


def changed(name: str, expr: str) -> dict[str, Any]:
    """Return the rules with another query in one of them, without patience."""
    rules: dict[str, Any] = yaml.safe_load(ALERTS.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            if rule["alert"] == name:
                rule |= {"expr": expr, "for": "0s"}
    return rules


def test_the_rules_are_legal_and_pass_their_tests(tmp_path: Path) -> None:
    assert promtool("check", "rules", str(ALERTS)).returncode == 0
    assert failure_of(tmp_path, yaml.safe_load(ALERTS.read_text())) == ""


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_that_never_fires_and_one_that_always_does_fail_their_test(name: str, tmp_path: Path) -> None:
    """The control of alerts.yaml: it has a firing case and one that must not fire of each."""
    never, always = (failure_of(tmp_path, changed(name, expr)) for expr in ("vector(1) > 1", "vector(1)"))
    assert f"alertname: {name}" in never
    assert f"alertname: {name}" in always


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_has_its_section_in_the_runbooks(name: str) -> None:
    heads = re.findall(r"^## (\S+)$", (CHECKOUT / "docs/runbooks.md").read_text(), re.MULTILINE)
    assert name in heads
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    (rule,) = [rule for rule in rules if rule["alert"] == name]
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
    assert rule["labels"]["severity"] in ("critical", "warning")


def test_runbooks_are_of_alerts_that_there_are() -> None:
    heads = re.findall(r"^## (\S+)$", (CHECKOUT / "docs/runbooks.md").read_text(), re.MULTILINE)
    assert sorted(heads) == sorted(NAMES)
