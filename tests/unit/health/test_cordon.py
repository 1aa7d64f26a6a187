"""Which verdicts become cordons."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internlm2_operator.health.cordon import Cordon, Hold, HoldReason, Limits, Mode, Stake, decide_cordon
from internlm2_operator.health.diagnose import diagnose
from internlm2_operator.health.history import History
from internlm2_operator.health.node import FaultNote, HeldNote, NodeRecord
from internlm2_operator.health.signals import Kind, Signal, Source
from internlm2_operator.health.verdict import Action, Blame, Confidence, Verdict
from tests.examples import few

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMITS = Limits()


def verdict(node: str, *, hard: bool = True, ago: float = 0, cordon: bool = True) -> Verdict:
    at = T0 - timedelta(seconds=ago)
    blame = Blame.NODE if cordon else Blame.UNKNOWN
    confidence = Confidence.CERTAIN if hard else Confidence.AGREED
    return Verdict(
        blame, "Xid79", node, ("XID 79",), Action.CORDON_REBOOT, "one signal", confidence, gpu="GPU-0", signal_at=at
    )


def node(name: str, *, cordoned_ago: float | None = None, rack: str = "", **changes: Any) -> NodeRecord:
    at = T0 - timedelta(seconds=cordoned_ago or 0)
    fault = None if cordoned_ago is None else FaultNote("Xid79", (), at, at, at)
    labels = (("rack", rack),) if rack else ()
    base = NodeRecord(name, True, T0, 2, fault=fault, labels=labels)
    return dataclasses.replace(base, **changes)


def nodes(count: int) -> list[NodeRecord]:
    return [node(f"n{i:03d}") for i in range(count)]


def cordoned(decisions: tuple[Cordon | Hold, ...]) -> list[str]:
    return [d.node for d in decisions if isinstance(d, Cordon)]


def test_cordon_carries_who_when_and_the_evidence() -> None:
    (made,) = decide_cordon([verdict("n1", ago=3)], [node("n1")], {}, LIMITS, T0)
    assert isinstance(made, Cordon)
    assert made.note == FaultNote(
        "Xid79",
        ("XID 79",),
        T0 - timedelta(seconds=3),
        T0,
        T0,
        gpu="GPU-0",
        by="internlm2-operator",
        rule="one signal",
        action="cordon-reboot",
    )


NOTHING = {
    "a verdict without a cordon": ([verdict("n1", cordon=False)], [node("n1")]),
    "a node that we cordoned already": ([verdict("n1")], [node("n1", cordoned_ago=3600)]),
    "a node that does not exist": ([verdict("n9")], [node("n1")]),
    "the silence of a node that was announced to go": (
        [dataclasses.replace(verdict("n1"), cause="NodeNotReady")],
        [node("n1", notice="taint x of y")],
    ),
}


@pytest.mark.parametrize(("verdicts", "known"), NOTHING.values(), ids=NOTHING.keys())
def test_nothing_is_done_about(verdicts: list[Verdict], known: list[NodeRecord]) -> None:
    assert decide_cordon(verdicts, known, {}, LIMITS, T0) == ()


@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_cordon_of_somebody_else_is_noted_so_that_ours_can_be_lifted_alone(before: bool, ready: bool) -> None:
    (made,) = decide_cordon([verdict("n1")], [node("n1", ready=ready, unschedulable=before)], {}, LIMITS, T0)
    assert isinstance(made, Cordon)
    assert made.note.before is before


MODES = {
    "a node whose jobs all observe is only reported": ([Mode.OBSERVE, Mode.OBSERVE], []),
    "one job that enforces is enough": ([Mode.OBSERVE, Mode.ENFORCE], ["n1"]),
    "a node without jobs is enforced": ([], ["n1"]),
}


@pytest.mark.parametrize(("modes", "want"), MODES.values(), ids=MODES.keys())
def test_mode(modes: list[Mode], want: list[str]) -> None:
    decisions = decide_cordon([verdict("n1")], [node("n1")], {"n1": list(map(Stake, modes))}, LIMITS, T0)
    assert cordoned(decisions) == want
    assert want or decisions[0] == Hold(
        "n1",
        HoldReason.OBSERVE,
        "Xid79: not cordoned, every job on the node has health.mode Observe",
        HeldNote("ObserveMode", "Xid79", T0, "cordon-reboot", "one signal", ("XID 79",)),
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


RACKS = {
    "two of ten behind one switch": (40, "rack", ["n000", "n001", "n004"]),
    "three of thirty": (120, "rack", ["n000", "n001", "n004", "n008"]),
    "nodes without the label are only counted in the cluster": (40, "switch", ["n000", "n001", "n004", "n008"]),
}


@pytest.mark.parametrize(("count", "label", "want"), RACKS.values(), ids=RACKS)
def test_breaker_holds_for_each_rack_too(count: int, label: str, want: list[str]) -> None:
    known = [node(f"n{i:03d}", rack=f"r{i % 4}") for i in range(count)]
    asked = [verdict(f"n{i:03d}", ago=40 - i) for i in (0, 1, 4, 8)]
    decisions = decide_cordon(asked, known, {}, Limits(label=label), T0)
    assert cordoned(decisions) == want
    said = [d.message for d in decisions if isinstance(d, Hold)]
    assert said == (["Xid79: not cordoned, 2 cordons in 300 s are the limit for 10 nodes of r0"] * (4 - len(want)))


def test_node_uncordoned_a_moment_ago_still_counts_for_the_breaker() -> None:
    back = History().cordoned("Xid79", "cordon-reset", T0 - timedelta(seconds=60)).lifted(T0)
    known = [node("n1", history=back), node("n2", cordoned_ago=10), node("n3")]
    assert cordoned(decide_cordon([verdict("n3")], known, {}, LIMITS, T0)) == []
    assert cordoned(decide_cordon([verdict("n3")], known[1:], {}, LIMITS, T0)) == ["n3"]


NEEDED = {
    "a suspicion takes no node that a job needs": (False, 3, ["n000", "n001", "n002"], []),
    "what is certain does": (True, 3, ["n000", "n001", "n002"], ["n000"]),
    "with one node more there is room": (False, 3, ["n000", "n001", "n002", "n003"], ["n000"]),
    "a node of ours that is cordoned is none": (False, 3, ["n000", "n001", "n002", "n009"], []),
}


@pytest.mark.parametrize(("hard", "needs", "reach", "want"), NEEDED.values(), ids=NEEDED)
def test_what_a_job_needs(hard: bool, needs: int, reach: list[str], want: list[str]) -> None:
    stakes = {"n000": [Stake(Mode.ENFORCE, needs, frozenset(reach))]}
    known = [*nodes(4), node("n009", cordoned_ago=9999)]
    decisions = decide_cordon([verdict("n000", hard=hard)], known, stakes, LIMITS, T0)
    assert cordoned(decisions) == want
    assert [d.reason for d in decisions if isinstance(d, Hold)] == ([] if want else [HoldReason.NEEDED])


def test_two_suspicions_at_once_do_not_share_the_one_node_that_can_be_spared() -> None:
    stake = [Stake(Mode.ENFORCE, 3, frozenset(n.name for n in nodes(4)))]
    asked = [verdict("n000", hard=False, ago=2), verdict("n001", hard=False, ago=1)]
    decisions = decide_cordon(asked, nodes(4), {"n000": stake, "n001": stake}, LIMITS, T0)
    assert cordoned(decisions) == ["n000"]


def test_what_the_breaker_held_back_for_long_is_dropped() -> None:
    lost = Signal(Kind.XID, Source.DRIVER, "n1", T0, "XID 79", xid=79)
    for minutes, want in ((29, ["n1"]), (31, [])):
        now = T0 + timedelta(minutes=minutes)
        assert cordoned(decide_cordon([diagnose([lost], "n1", now)], [node("n1")], {}, LIMITS, now)) == want


def test_a_fault_of_a_node_that_was_announced_to_go_is_one() -> None:
    assert cordoned(decide_cordon([verdict("n1")], [node("n1", notice="taint x of y")], {}, LIMITS, T0)) == ["n1"]


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
    limits = Limits(percent=percent, label="rack")
    known = [node(f"n{i:03d}", cordoned_ago=100 if i in fresh else None, rack=str(i % 3)) for i in range(count)]
    made = cordoned(decide_cordon([verdict(f"n{i:03d}", hard=h, ago=a) for i, h, a in asked], known, {}, limits, T0))
    assert len(made) == len(set(made))
    for where in (known, *([n for n in known if dict(n.labels)["rack"] == rack] for rack in "012")):
        before = sum(n.fault is not None for n in where)
        after = before + sum(n.name in made for n in where)
        assert after <= max(before, 2, len(where) * percent // 100)
