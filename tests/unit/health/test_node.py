"""The notes on a node survive their annotations, and nobody else's text becomes one."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from internlm2_operator.health.diagnose import CERTAIN_FOR, diagnose
from internlm2_operator.health.node import CheckNote, NodeRecord, domain, failed_check
from internlm2_operator.health.verdict import Action

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHECKED = CheckNote(AT, "full", passed=False, evidence=("rank 3: memory pattern",), uid="u1")


def test_a_check_survives_its_annotation() -> None:
    assert CheckNote.from_json(CHECKED.to_json()) == CHECKED


def node(**changes: Any) -> NodeRecord:
    return NodeRecord("n1", ready=True, ready_since=AT, gpus=8, **changes)


def test_a_failed_check_is_a_signal_that_cordons() -> None:
    signal = failed_check(node(check=CHECKED))
    assert signal is not None
    assert (signal.cause, signal.at, signal.source.trusted) == ("NodeCheckFailed", AT, True)
    verdict = diagnose([signal], "n1", AT)
    assert (verdict.cordon, verdict.cause, verdict.action) == (True, "NodeCheckFailed", Action.CORDON_REBOOT)
    assert not diagnose([signal], "n1", AT + CERTAIN_FOR + timedelta(seconds=1)).cordon


SILENT = {
    "no check": node(),
    "a passed check": node(check=CheckNote(AT, "quick", passed=True)),
    "a failed check, and the node was repaired since": node(check=CHECKED, reset=AT),
}


@pytest.mark.parametrize("record", SILENT.values(), ids=SILENT)
def test_anything_else_is_none(record: NodeRecord) -> None:
    assert failed_check(record) is None


FOREIGN = {
    "no JSON": "passed",
    "a list": "[]",
    "nothing in it": "{}",
    "a word for a truth value": '{"at": "2026-03-01T12:00:00+00:00", "depth": "full", "passed": "false"}',
    "a depth that does not exist": '{"at": "2026-03-01T12:00:00+00:00", "depth": "deep", "passed": true}',
    "a time of an unknown zone": '{"at": "2026-03-01T12:00:00", "depth": "full", "passed": true}',
    "a number for a time": '{"at": 5, "depth": "full", "passed": true}',
    "a number for evidence": '{"at": "2026-03-01T12:00:00+00:00", "depth": "full", "passed": true, "evidence": 1}',
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_anything_else_proves_no_health(text: str) -> None:
    assert CheckNote.from_json(text) is None


@pytest.mark.parametrize(("key", "want"), [("rack", "r1"), ("switch", ""), ("", "")])
def test_domain_of_a_node(key: str, want: str) -> None:
    assert domain(node(labels=(("rack", "r1"), ("zone", "z"))), key) == want
