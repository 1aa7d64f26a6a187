"""Which cordons end by themselves."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.health.cordon import OPERATOR
from internlm2_operator.health.history import History
from internlm2_operator.health.node import CheckNote, FaultNote, NodeRecord
from internlm2_operator.health.signals import Kind, Signal, Source
from internlm2_operator.health.uncordon import decide_uncordon, kept_because, settled_until
from internlm2_operator.health.verdict import Action
from tests.examples import few

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)


def after(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


NOTE = FaultNote("Xid95", ("XID 95",), T0, T0, T0, by=OPERATOR, action=Action.CORDON_RESET.value)
PASSED = CheckNote(after(10), "quick", passed=True)


def node(*, note: dict[str, Any] | None = None, **changes: Any) -> NodeRecord:
    base = NodeRecord(
        "n1", True, T0, 8,
        fault=dataclasses.replace(NOTE, **(note or {})),
        check=PASSED,
        unschedulable=True,
        history=History().cordoned("Xid95", "cordon-reset", T0),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def xid(code: int, at: datetime, name: str = "n1") -> Signal:
    return Signal(Kind.XID, Source.DRIVER, name, at, f"XID {code}", xid=code)


def test_a_node_that_passed_its_check_is_uncordoned_and_its_past_says_so() -> None:
    made = decide_uncordon(node(), (), after(11))
    assert made is not None
    assert (made.node, made.settled) == ("n1", after(10))
    (past,) = made.history.faults
    assert (past.cause, past.at, past.lifted) == ("Xid95", T0, after(11))
    assert made.history.score(after(11)) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("checked", "reset", "settled"),
    [(10, None, 10), (10, 5, 10), (10, 10.5, 10.5), (60, None, 11)],
    ids=["the check", "a word of before it", "a word after it", "a check of a clock that is ahead"],
)
def test_until_when_all_is_over(checked: float, reset: float | None, settled: float) -> None:
    there = node(check=CheckNote(after(checked), "full", passed=True), reset=None if reset is None else after(reset))
    made = decide_uncordon(there, (), after(11))
    assert made is not None
    assert made.settled == after(settled)


def test_a_past_that_was_taken_away_begins_anew() -> None:
    made = decide_uncordon(node(history=History()), (), after(11))
    assert made is not None
    assert [(f.cause, f.lifted) for f in made.history.faults] == [("Xid95", after(11))]


KEPT = {
    "no cordon of ours": (node(fault=None), "it is not the operator's"),
    "somebody wrote our annotation": (node(note={"by": "bob"}), "it is not the operator's"),
    "it was cordoned before": (
        node(note={"before": True}),
        "somebody else had cordoned the node before: a person lifts it",
    ),
    "hardware is exchanged by a person": (
        node(note={"action": "cordon-replace"}),
        "cordon-replace needs a person, who lifts it",
    ),
    "a note of an older operator": (node(note={"action": ""}), "what mends it needs a person, who lifts it"),
    "no check": (node(check=None), "no check of the node has ended since"),
    "a check of before the cordon": (
        node(check=CheckNote(after(-1), "full", passed=True)),
        "no check of the node has ended since",
    ),
    "a failed check": (node(check=CheckNote(after(10), "full", passed=False)), "the last check of the node failed"),
    "a node that is silent": (node(ready=False), "the node is not ready"),
}


@pytest.mark.parametrize(("there", "why"), KEPT.values(), ids=KEPT)
def test_what_stays(there: NodeRecord, why: str) -> None:
    assert kept_because(there) == why
    assert decide_uncordon(there, (), after(11)) is None


@pytest.mark.parametrize("action", ["cordon", "cordon-reset", "cordon-reboot"])
def test_what_a_check_lifts(action: str) -> None:
    assert kept_because(node(note={"action": action})) is None


LIFTED = History().cordoned("Xid95", "cordon-reset", T0).lifted(after(11))
TAKEN_OFF = {
    "a cordon of ours": (node(), T0, None),
    "its note is gone": (node(fault=None), T0, after(9)),
    "and the cordon, too": (node(fault=None, unschedulable=False), T0, after(9)),
    "and the history": (node(fault=None, history=History()), T0, after(9)),
    "nobody saw it go": (node(fault=None), None, T0),
    "somebody said that it is mended": (node(fault=None, reset=after(1)), T0, None),
    "somebody said so, and nobody saw it go": (node(fault=None, reset=T0), None, None),
    "somebody said so of a fault before": (node(fault=None, reset=after(-1)), T0, after(9)),
    "it was another machine's": (node(fault=None, history=History(), created=after(5)), T0, None),
    "an older one was seen, nobody saw the last": (node(fault=None, reset=after(-30)), after(-60), after(9)),
    "the clock that cordoned was ahead": (node(fault=None), after(30), after(30)),
    "the operator lifted it": (node(fault=None, history=LIFTED), None, None),
    "the operator lifted it a moment ago": (node(fault=None, history=LIFTED, reset=after(5)), T0, None),
    "a node that never was cordoned": (node(fault=None, history=History()), None, None),
}


@pytest.mark.parametrize(("there", "known", "until"), TAKEN_OFF.values(), ids=TAKEN_OFF)
def test_what_a_person_settles_who_takes_the_note_off(
    there: NodeRecord, known: datetime | None, until: datetime | None
) -> None:
    assert settled_until(there, known, after(9)) == until
    if until is not None:
        assert settled_until(dataclasses.replace(there, reset=until), known, after(10)) is None, "once is enough"


SINCE = {
    "what it was cordoned for is over": ([xid(95, T0), xid(79, after(9))], True),
    "a fault after the check is not": ([xid(79, after(10.5))], False),
    "a suspicion after the check is not, either": ([xid(62, after(10.5))], False),
    "a fault of another node is its own": ([xid(79, after(10.5), "n2")], True),
    "a program's code is a program's": ([xid(13, after(10.5))], True),
}


@pytest.mark.parametrize(("signals", "lifted"), SINCE.values(), ids=SINCE)
def test_what_was_said_since_the_check(signals: list[Signal], lifted: bool) -> None:
    assert (decide_uncordon(node(), signals, after(11)) is not None) is lifted


@few
@given(
    st.fixed_dictionaries(
        {
            "by": st.sampled_from([OPERATOR, "", "bob"]),
            "before": st.booleans(),
            "action": st.sampled_from([*map(str, Action), "", "what"]),
            "cordoned_at": st.integers(-20, 20).map(after),
        }
    ),
    st.none() | st.builds(CheckNote, st.integers(-20, 20).map(after), st.just("quick"), st.booleans()),
    st.booleans(),
    st.booleans(),
)
def test_what_is_not_ours_alone_is_never_lifted(
    note: dict[str, Any], check: CheckNote | None, ready: bool, ours: bool
) -> None:
    there = node(note=note, check=check, ready=ready) if ours else node(fault=None, check=check, ready=ready)
    if decide_uncordon(there, (), after(30)) is not None:
        assert there.fault is not None
        assert (there.fault.by, there.fault.before) == (OPERATOR, False)
        assert there.fault.action in ("cordon", "cordon-reset", "cordon-reboot")
        assert check is not None
        assert check.passed
        assert check.at > there.fault.cordoned_at
