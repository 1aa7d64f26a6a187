"""Which nodes are better left alone while others are free."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from internlm2_operator.health.history import History
from internlm2_operator.health.lemon import doubt, doubts, lemons, on_probation, probation_ends
from internlm2_operator.health.node import CheckNote, FaultNote, HeldNote, NodeRecord

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def node(name: str = "n1", **changes: Any) -> NodeRecord:
    return dataclasses.replace(NodeRecord(name, True, T0, True, 8), **changes)


def cordoned(*ago: float, lifted: float | None = None) -> History:
    history = History()
    for days in ago:
        history = history.cordoned("Xid79", "cordon-reboot", T0 - days * DAY)
    return history if lifted is None else history.lifted(T0 - lifted * DAY)


def held(hours: float) -> HeldNote:
    return HeldNote("ObserveMode", "Xid79", T0 - timedelta(hours=hours))


ORDER = {
    "a node without a past": node(),
    "a cordon long ago": node(history=cordoned(40)),
    "one a month ago": node(history=cordoned(21)),
    "one a week ago": node(history=cordoned(7)),
    "a lemon": node(history=cordoned(9, 6, 3)),
    "a suspicion of today": node(held=held(2)),
    "on probation": node(history=cordoned(0.5, lifted=0.2)),
    "a lemon on probation": node(history=cordoned(9, 6, 3, lifted=0.2)),
}


def test_the_order_in_which_nodes_are_taken() -> None:
    found = [doubt(there, T0) for there in ORDER.values()]
    assert found == sorted(found)
    assert found[:2] == [0.0, 0.0]
    assert len(set(found[1:])) == len(found) - 1


PROBATION = {
    "never cordoned": (History(), None),
    "uncordoned an hour ago": (cordoned(1, lifted=1 / 24), True),
    "uncordoned a day and an hour ago": (cordoned(2, lifted=25 / 24), False),
    "uncordoned by a person": (cordoned(1), None),
}


@pytest.mark.parametrize(("history", "want"), PROBATION.values(), ids=PROBATION)
def test_probation(history: History, want: bool | None) -> None:
    there = node(history=history)
    assert (probation_ends(there) is None) is (want is None)
    assert on_probation(there, T0) is bool(want)


def test_a_node_that_is_cordoned_is_not_on_probation() -> None:
    note = FaultNote("Xid79", (), T0, T0, T0)
    assert not on_probation(node(history=cordoned(0.5, lifted=0.2), fault=note), T0)


DOUBTED = {
    "since an hour": (held(1), None, True),
    "since a day": (held(24), None, False),
    "until it passes a check": (held(1), CheckNote(T0, "quick", passed=True), False),
    "a check of before proves nothing": (held(1), CheckNote(T0 - DAY, "quick", passed=True), True),
    "nor does one that failed": (held(1), CheckNote(T0, "quick", passed=False), True),
}


@pytest.mark.parametrize(("note", "check", "want"), DOUBTED.values(), ids=DOUBTED)
def test_what_was_found_without_a_cordon_counts(note: HeldNote, check: CheckNote | None, want: bool) -> None:
    assert (doubts([node(held=note, check=check)], T0) != {}) is want


def test_only_the_worst_nodes_are_told_and_none_without_a_past() -> None:
    known = [node(f"n{i:02d}", history=cordoned(*[1] * (i % 4))) for i in range(40)]
    found = lemons(known, 10, T0)
    assert [name for name, _ in found] == [f"n{i:02d}" for i in range(3, 40, 4)]
    assert lemons([node(), node(history=cordoned(60))], 10, T0) == []
