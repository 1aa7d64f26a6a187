"""Checks of nodes: who is checked with whom, who comes when, what is noted, and that nobody has to wait for them."""

import dataclasses
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.plan.check import (
    AT_ONCE,
    JOIN,
    KEPT,
    LIMIT,
    Asked,
    Check,
    Depth,
    MakePod,
    RemovePod,
    WriteNote,
    answers,
    under_check,
)
from internlm2_operator.plan.snapshot import Outcome, PodPhase
from internlm2_operator.plan.suspects import Suspect
from tests.examples import few
from tests.unit.plan.checks import Cluster, checked, ended, nodes_of, suspected, verdicts
from tests.unit.plan.world import T0, after, note

HELD = note()
QUICK = LIMIT[Depth.QUICK]


def asked(*nodes: str, job: str = "default/demo", label: str = "") -> Asked:
    return Asked(job, nodes, Depth.QUICK, T0, "first start", label=label)


def test_the_annotation_of_a_check_reads_back() -> None:
    check = Check(("a", "b"), Depth.FULL, "x/gpu", T0, "why", job="ns/j", label="rack")
    assert Check.from_json(check.to_json()) == check


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nodes": 1}', '{"asked": "now", "depth": "quick"}'])
def test_other_text_is_no_check(text: str) -> None:
    assert Check.from_json(text) is None


# --- who with whom ---

PARTNERS = {
    "two known-good nodes, which come first: rank 0 hosts the store": ({}, [("b", "c", "a")]),
    "one where one is free": ({"c": {"used": 1}, "d": {"used": 8}}, [("b", "a")]),
    "nobody where none is free": ({n: {"used": 8} for n in "bcd"}, [("a",)]),
    "no node that is cordoned": ({"b": {"unschedulable": True}, "c": {"fault": HELD}}, [("d", "a")]),
    "no node that is not ready": ({"b": {"ready": False}}, [("c", "d", "a")]),
    "no node of another shape": ({"b": {"gpus": 4}}, [("c", "d", "a")]),
    "no node that failed a check": ({"b": {"check": checked(False, T0)}}, [("c", "d", "a")]),
    "those that passed one before others": ({"d": {"check": checked(True, T0)}}, [("d", "b", "a")]),
}


@pytest.mark.parametrize(("changes", "want"), PARTNERS.values(), ids=PARTNERS)
def test_a_suspect_meets(changes: dict[str, dict[str, object]], want: list[tuple[str, ...]]) -> None:
    cluster = Cluster(nodes_of("a", "b", "c", "d"), suspects=suspected("a"))
    for name, change in changes.items():
        cluster = cluster.with_node(name, **change)
    assert cluster.acted().members() == want


def test_suspects_do_not_vouch_for_each_other_and_no_node_is_in_two_checks() -> None:
    cluster = Cluster(nodes_of(*"abcde"), suspects=suspected("a", "b")).acted()
    assert cluster.members() == [("c", "d", "a"), ("e", "b")]


def test_the_nodes_that_a_job_waits_for_are_no_partners() -> None:
    cluster = Cluster(nodes_of(*"abcd"), suspects=suspected("a"), asked=(asked("b", "c"),)).acted()
    assert cluster.members() == [("b", "c"), ("d", "a")]


def test_a_suspect_that_somebody_uses_waits() -> None:
    """What is in use cannot be measured, and a part of a node that is well proves nothing about the rest."""
    cluster = Cluster(nodes_of("a", "b", "c"), suspects=suspected("a")).with_node("a", used=4)
    assert cluster.decided() == ()
    assert cluster.with_node("a", used=0).acted().members() == [("b", "c", "a")]


def test_a_cordoned_suspect_is_checked() -> None:
    cluster = Cluster(nodes_of("a", "b", "c"), suspects=suspected("a")).with_node("a", fault=HELD, unschedulable=True)
    assert cluster.acted().members() == [("b", "c", "a")]


def test_no_more_suspects_at_once_than_allowed() -> None:
    names = [f"n{i}" for i in range(AT_ONCE + 3)]
    cluster = Cluster(nodes_of(*names), suspects=suspected(*names))
    assert len(cluster.acted().members()) == AT_ONCE
    assert len(cluster.run(40).members()) == len(names)


# --- one check from begin to end ---


def test_the_others_come_once_rank_0_has_an_ip() -> None:
    cluster = Cluster(nodes_of(*"abc"), suspects=suspected("a")).acted()
    assert list(cluster.live) == ["b"]
    assert cluster.decided() == ()
    made = cluster.later(1).decided()
    assert [(m.rank, m.node, m.store, m.gpus) for m in made if isinstance(m, MakePod)] == [
        (1, "c", "10.0.0.1", 8),
        (2, "a", "10.0.0.1", 8),
    ]


def test_each_node_is_told_its_switch_where_the_job_names_the_label() -> None:
    nodes = nodes_of("a", labels=(("rack", "r1"),)) | nodes_of("b", labels=(("rack", "r2"),))
    cluster = Cluster(nodes, asked=(asked("a", "b", label="rack"),)).run(3)
    assert [(s.node, s.domain) for s in cluster.history if isinstance(s, MakePod)] == [("a", "r1"), ("b", "r2")]


def test_a_failed_suspect_is_noted_and_its_partners_too() -> None:
    cluster = Cluster(nodes_of(*"abc"), suspects=suspected("a"), bad=frozenset("a")).run(6)
    assert verdicts(cluster, "abc") == {"a": False, "b": True, "c": True}
    (said,) = [s.note for s in cluster.history if isinstance(s, WriteNote) and s.node == "a"]
    assert said.evidence == ("quick check with 2 other nodes: failed", "asked for: Xid48: Suspected")


def test_what_was_found_is_noted_once() -> None:
    cluster = Cluster(nodes_of(*"abc"), suspects=suspected("a")).run(30)
    assert sum(isinstance(s, WriteNote) for s in cluster.history) == 3
    assert cluster.members() == [("b", "c", "a")]


def test_an_older_result_does_not_replace_a_newer_one() -> None:
    cluster = Cluster(nodes_of("a"), suspects=suspected("a")).run(2).finished()
    newer = cluster.with_node("a", check=checked(True, cluster.now + timedelta(seconds=1)))
    assert [s for s in newer.decided() if isinstance(s, WriteNote)] == []
    assert [s.node for s in cluster.decided() if isinstance(s, WriteNote)] == ["a"]


def test_unknown_proves_nothing_and_is_tried_again_later() -> None:
    cluster = Cluster(nodes_of("a"), suspects=suspected("a"), odd=frozenset("a")).run(5)
    assert (verdicts(cluster, "a"), len(cluster.members())) == ({"a": None}, 1)
    assert len(cluster.run(int(KEPT.total_seconds() / 10) + 2).members()) == 2


def test_ended_pods_stay_for_who_reads_their_logs_and_then_go() -> None:
    cluster = Cluster(nodes_of("a"), suspects=suspected("a")).run(4)
    assert [p.outcome for p in cluster.pods] == [Outcome.PASSED]
    assert cluster.later(KEPT.total_seconds() + 1).acted().pods == ()


# --- nobody waits for a check ---


def test_a_check_goes_where_a_pod_comes() -> None:
    """The store of rank 0 goes with it, so all of them go; elsewhere only that node's part does."""
    cluster = Cluster(nodes_of(*"abc"), suspects=suspected("a")).acted().later(1).acted().later(1)
    head = cluster.with_node("b", used=8).decided()
    assert {s.name[-4:] for s in head if isinstance(s, RemovePod)} == {"0000", "0001", "0002"}
    part = cluster.with_node("c", used=1).decided()
    assert [s.name[-4:] for s in part if isinstance(s, RemovePod)] == ["0001"]


def test_a_node_is_not_taken_again_while_somebody_uses_it() -> None:
    cluster = Cluster(nodes_of(*"abc"), suspects=suspected("a")).acted().later(1).acted().later(1)
    cluster = cluster.with_node("c", used=8).acted().later(1).acted()
    assert sorted(cluster.live) == ["a", "b"]


def test_a_dead_node_is_not_waited_for() -> None:
    cluster = Cluster(nodes_of("a"), suspects=suspected("a")).acted().with_node("a", ready=False)
    assert [s.force for s in cluster.decided() if isinstance(s, RemovePod)] == [True]


def test_a_check_ends_when_its_time_is_over() -> None:
    cluster = Cluster(nodes_of("a"), suspects=suspected("a"), mute=frozenset("a")).acted()
    assert cluster.later(QUICK.total_seconds()).decided() == ()
    assert [type(s) for s in cluster.later(QUICK.total_seconds() + 1).decided()] == [RemovePod]


def test_nobody_joins_a_check_that_does_not_wait_for_it_any_more() -> None:
    cluster = Cluster(nodes_of(*"abc"), suspects=suspected("a"), mute=frozenset("b")).acted()
    late = dataclasses.replace(cluster, mute=frozenset()).later((JOIN * QUICK).total_seconds() + 1)
    assert late.live["b"].phase is PodPhase.RUNNING
    assert late.decided() == ()


def test_the_pods_of_a_job_that_waits_no_more_go() -> None:
    cluster = Cluster(nodes_of("a", "b"), asked=(asked("a", "b"),)).acted().later(1).acted()
    assert len(cluster.live) == 2
    assert dataclasses.replace(cluster, asked=()).acted().live == {}


def test_pods_without_their_rank_0_go() -> None:
    cluster = Cluster(nodes_of("a", "b"), asked=(asked("a", "b"),)).acted().later(1).acted()
    headless = dataclasses.replace(cluster, pods=tuple(p for p in cluster.pods if p.rank))
    assert [type(s) for s in headless.decided()] == [RemovePod]


# --- a job's nodes ---


def test_nodes_that_a_job_takes_instead_are_checked_with_those_that_passed() -> None:
    cluster = Cluster(nodes_of(*"abcd"), asked=(asked("a", "b", "c"),), bad=frozenset("c")).run(6)
    assert verdicts(cluster, "abc") == {"a": True, "b": True, "c": False}
    again = dataclasses.replace(cluster, asked=(asked("a", "b", "c", "d"),)).run(6)
    assert again.members() == [("a", "b", "c"), ("a", "b", "d")]
    assert verdicts(again, "d") == {"d": True}


def test_a_node_that_never_answers_leaves_the_others_their_answers() -> None:
    cluster = Cluster(nodes_of(*"abc"), asked=(asked("a", "b", "c"),), mute=frozenset("c")).run(3)
    only = dataclasses.replace(
        cluster, pods=tuple(ended(p, Outcome.PASSED, cluster.now) if p.node in "ab" else p for p in cluster.pods)
    ).acted()
    assert answers(only.nodes.values(), only.pods, T0) == {"a": Outcome.PASSED, "b": Outcome.PASSED}


def test_answers_of_before_do_not_count() -> None:
    nodes = nodes_of("a", check=checked(True, after(-1)))
    assert answers(nodes.values(), (), T0) == {}
    assert answers(nodes.values(), (), after(-1)) == {"a": Outcome.PASSED}


def test_a_jobs_own_check_is_no_reason_to_go_elsewhere() -> None:
    cluster = Cluster(nodes_of(*"abc"), asked=(asked("a"),), suspects=suspected("c")).acted()
    assert under_check(cluster.pods, "default/demo") == {"b", "c"}
    assert under_check(cluster.pods, "default/other") == {"a", "b", "c"}


# --- for any cluster ---

NAMES = [f"n{i}" for i in range(6)]


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    subset = st.frozensets(st.sampled_from(NAMES))
    nodes = nodes_of(*NAMES)
    cluster = Cluster(nodes, bad=draw(subset), odd=draw(subset), mute=draw(subset))
    for name in draw(subset):
        cluster = cluster.with_node(name, used=draw(st.integers(1, 8)))
    for name in draw(subset):
        cluster = cluster.with_node(name, fault=HELD, unschedulable=True)
    for name in draw(subset):
        cluster = cluster.with_node(name, ready=False)
    wanted = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
    ages = draw(st.lists(st.integers(0, 100), min_size=6, max_size=6))
    blamed = tuple(Suspect(n, T0 - timedelta(seconds=a), "x") for n, a in zip(NAMES, ages, strict=True) if a % 2)
    return dataclasses.replace(cluster, asked=(asked(*wanted),) if wanted else (), suspects=blamed)


@few
@given(clusters(), st.data())
def test_whatever_happens_no_node_has_two_checks_and_no_bad_word_is_false(
    cluster: Cluster, data: st.DataObject
) -> None:
    for _ in range(30):
        goes = any(isinstance(s, RemovePod) for s in cluster.decided())
        cluster = cluster.acted()
        held = [p.node for p in cluster.pods if p.outcome is None]
        assert len(held) == len(set(held))
        begins = any(isinstance(s, MakePod) and s.rank == 0 for s in cluster.decided())
        assert goes or not begins, "acting twice begins nothing new"
        cluster = cluster.later(20)
        if data.draw(st.booleans()):
            cluster = cluster.finished()
        name = data.draw(st.sampled_from(NAMES))
        cluster = cluster.with_node(name, used=data.draw(st.sampled_from([0, 8])))
        # Where a pod came, the next look takes the check away.
        free = cluster.seen().free
        crowded = {p.node for p in cluster.pods if p.outcome is None and free(p.node) < p.gpus}
        after_it = cluster.acted()
        assert crowded.isdisjoint(p.node for p in after_it.pods if p.outcome is None)
    for n, noted in verdicts(cluster, NAMES).items():
        assert noted is None or noted is (n not in cluster.bad)


@few
@given(clusters())
def test_nothing_is_left_once_nobody_asks(cluster: Cluster) -> None:
    idle = dataclasses.replace(cluster.run(10), asked=(), suspects=())
    assert idle.run(int((QUICK + KEPT).total_seconds() / 10) + 10).pods == ()
