"""Which verdicts become cordons."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internlm2_operator.health.cordon import Cordon, Hold, HoldReason, Limits, Mode, decide_cordon
from internlm2_operator.health.node import FaultNote, NodeRecord
from internlm2_operator.health.verdict import Blame, Verdict
from tests.examples import few

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMITS = Limits()


def verdict(node: str, *, hard: bool = True, ago: float = 0, cordon: bool = True) -> Verdict:
    at = T0 - timedelta(seconds=ago)
    return Verdict(Blame.NODE, "Xid79", node, ("XID 79",), cordon=cordon, hard=hard, gpu="GPU-0", signal_at=at)


def node(name: str, *, cordoned_ago: float | None = None, schedulable: bool = True) -> NodeRecord:
    at = T0 - timedelta(seconds=cordoned_ago or 0)
    fault = None if cordoned_ago is None else FaultNote("Xid79", (), at, at, at)
    return NodeRecord(name, True, T0, schedulable, 2, fault=fault)


def nodes(count: int) -> list[NodeRecord]:
    return [node(f"n{i:03d}") for i in range(count)]


def cordoned(decisions: tuple[Cordon | Hold, ...]) -> list[str]:
    return [d.node for d in decisions if isinstance(d, Cordon)]


def test_cordon_carries_who_when_and_the_evidence() -> None:
    (made,) = decide_cordon([verdict("n1", ago=3)], [node("n1")], {}, LIMITS, T0)
    assert isinstance(made, Cordon)
    assert made.note == FaultNote(
        "Xid79", ("XID 79",), T0 - timedelta(seconds=3), T0, T0, gpu="GPU-0", by="internlm2-operator"
    )


NOTHING = {
    "a verdict without a cordon": ([verdict("n1", cordon=False)], [node("n1")]),
    "a node that we cordoned already": ([verdict("n1")], [node("n1", cordoned_ago=3600)]),
    "a node that does not exist": ([verdict("n9")], [node("n1")]),
}


@pytest.mark.parametrize(("verdicts", "known"), NOTHING.values(), ids=NOTHING.keys())
def test_nothing_is_done_about(verdicts: list[Verdict], known: list[NodeRecord]) -> None:
    assert decide_cordon(verdicts, known, {}, LIMITS, T0) == ()


def test_cordon_of_somebody_else_is_noted_so_that_ours_can_be_lifted_alone() -> None:
    (made,) = decide_cordon([verdict("n1")], [node("n1", schedulable=False)], {}, LIMITS, T0)
    assert isinstance(made, Cordon)
    assert made.note.before


MODES = {
    "a node whose jobs all observe is only reported": ([Mode.OBSERVE, Mode.OBSERVE], []),
    "one job that enforces is enough": ([Mode.OBSERVE, Mode.ENFORCE], ["n1"]),
    "a node without jobs is enforced": ([], ["n1"]),
}


@pytest.mark.parametrize(("modes", "want"), MODES.values(), ids=MODES.keys())
def test_mode(modes: list[Mode], want: list[str]) -> None:
    decisions = decide_cordon([verdict("n1")], [node("n1")], {"n1": modes}, LIMITS, T0)
    assert cordoned(decisions) == want
    assert want or decisions[0] == Hold(
        "n1", "Xid79", HoldReason.OBSERVE, "Xid79: not cordoned, every job on the node has health.mode Observe"
    )


def test_breaker_lets_two_through_and_holds_the_third() -> None:
    decisions = decide_cordon([verdict(f"n{i:03d}") for i in range(3)], nodes(4), {}, LIMITS, T0)
    assert cordoned(decisions) == ["n000", "n001"]
    assert [d.reason for d in decisions if isinstance(d, Hold)] == [HoldReason.BREAKER]


def test_breaker_counts_notes_on_nodes_and_forgets_them_after_its_window() -> None:
    known = [node("n1", cordoned_ago=10), node("n2", cordoned_ago=299), node("n3")]
    assert cordoned(decide_cordon([verdict("n3")], known, {}, LIMITS, T0)) == []
    later = T0 + timedelta(seconds=2)
    assert cordoned(decide_cordon([verdict("n3")], known, {}, LIMITS, later)) == ["n3"]


def test_hard_verdicts_come_before_soft_ones_and_old_signals_before_new() -> None:
    asked = [verdict("n000", hard=False, ago=60), verdict("n001", ago=1), verdict("n002", ago=9)]
    assert cordoned(decide_cordon(asked, nodes(4), {}, LIMITS, T0)) == ["n002", "n001"]


def test_note_survives_its_annotation() -> None:
    kept = dataclasses.replace(node("n1", cordoned_ago=5).fault or FaultNote("", (), T0, T0, T0), evidence=("a", "b"))
    assert FaultNote.from_json(kept.to_json()) == kept


@pytest.mark.parametrize("text", ["", "cordoned by Bob", "{}", "[]", '{"cause": "Xid79"}'])
def test_foreign_annotation_proves_no_cordon_of_ours(text: str) -> None:
    assert FaultNote.from_json(text) is None


fewer = settings(few, max_examples=50)


@fewer
@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 59), st.booleans(), st.integers(0, 900)), max_size=30),
    st.sets(st.integers(0, 59)),
    st.integers(0, 20),
)
def test_breaker_is_never_exceeded(
    count: int, asked: list[tuple[int, bool, int]], fresh: set[int], percent: int
) -> None:
    limits = Limits(percent=percent)
    known = [node(f"n{i:03d}", cordoned_ago=100 if i in fresh else None) for i in range(count)]
    recent = sum(n.fault is not None for n in known)
    made = cordoned(decide_cordon([verdict(f"n{i:03d}", hard=h, ago=a) for i, h, a in asked], known, {}, limits, T0))
    assert len(made) == len(set(made))
    assert len(made) <= max(0, max(2, count * percent // 100) - recent)
