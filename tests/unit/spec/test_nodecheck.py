"""Which nodes a check names. The simulation is `bench.nodecheck`'s, which tries every pairing of up to 12."""

import json
import math
from dataclasses import replace

import pytest

from bench.nodecheck import MEETING_FAULTS, Fault, choices, every_pairing, named, names, simulate, somewhere
from internlm2_spec import nodecheck
from internlm2_spec.nodecheck import Check, Ended, Failure, Local, Meeting, Part, Report, State, Verdict

H100 = "NVIDIA H100 80GB HBM3"
GOOD, UNKNOWN, SLOW, BROKEN = State


def local(node: str, compute: float = 1e12, device: str = "cpu", **told: object) -> Local:
    return replace(Local(node, device, compute=compute, memory=1e10), **told)  # type: ignore[arg-type]


def verdicts(check: Check) -> dict[str, Verdict]:
    return {verdict.node: verdict for verdict in nodecheck.report(check).verdicts}


def of(*locals_: Local) -> dict[str, Verdict]:
    return verdicts(Check(tuple(each.node for each in locals_), locals_))


# --- in simulation: every bad node, and no good one ---


@pytest.mark.parametrize("count", range(2, 11))
def test_every_choice_of_bad_nodes_is_named_and_nobody_else(count: int) -> None:
    nodes, bad = names(count), 0
    for seed, faults in enumerate(choices(nodes)):
        assert named(simulate(nodes, faults, seed=seed)) == faults.keys(), faults
        bad += len(faults)
    assert bool(bad) == (count >= 4)


@pytest.mark.parametrize("count", range(4, 9))
def test_whoever_meets_whom_first(count: int) -> None:
    tried = 0
    for seed, (faults, first) in enumerate(every_pairing(count)):
        assert named(simulate(names(count), faults, seed=seed, first=first)) == faults.keys(), (faults, first)
        tried += 1
    assert tried == {4: 15, 5: 50, 6: 75, 7: 525, 8: 2205}[count]


@pytest.mark.parametrize("seed", range(60))
def test_up_to_1024_nodes_with_faults_in_random_places(seed: int) -> None:
    nodes, faults = somewhere(seed)
    check = simulate(nodes, faults, seed=seed)

    assert named(check) == faults.keys()
    assert len(check.rounds) <= 4


@pytest.mark.parametrize("kind", MEETING_FAULTS)
def test_two_bad_nodes_that_meet_first_are_both_named(kind: Fault) -> None:
    nodes = names(8)
    check = simulate(nodes, {nodes[2]: kind, nodes[3]: kind})

    assert named(check) == set(nodes[2:4])
    assert kind is Fault.SLOW_COMPUTE or check.rounds[0][1].members == tuple(nodes[2:4])


@pytest.mark.parametrize("kind", [Fault.SLOW_NIC, Fault.BROKEN_COLLECTIVE, Fault.HANG])
def test_without_the_second_round_the_partner_is_not_told_apart(kind: Fault) -> None:
    """The control: one round leaves two suspects for one fault, and names neither."""
    nodes = names(8)
    check = simulate(nodes, {nodes[2]: kind})
    found = verdicts(replace(check, rounds=check.rounds[:1]))

    assert [node for node in nodes if found[node].state is not GOOD] == nodes[2:4]
    assert named(replace(check, rounds=check.rounds[:1])) == set()
    assert named(check) == {nodes[2]}


def test_one_score_for_compute_and_network_would_hide_a_network_five_times_too_slow() -> None:
    """The control: milliseconds added up as DLRover does, with its own figures for one matmul and one all-reduce."""
    matmul, reduce = 20.0, 3.0
    assert matmul + 5 * reduce < 2 * (matmul + reduce)


def test_three_nodes_tell_which_of_them_is_broken() -> None:
    """A triple fails as one; pairs that have not met find the two good ones."""
    check = simulate(names(3), {"n0002": Fault.BROKEN_COLLECTIVE})

    assert named(check) == {"n0002"}
    assert [[m.members for m in each] for each in check.rounds] == [
        [("n0000", "n0001", "n0002")], [("n0000", "n0001")], [("n0002", "n0000")],
    ]  # fmt: skip


def test_of_two_nodes_that_fail_together_nobody_is_named() -> None:
    found = verdicts(simulate(names(2), {"n0001": Fault.HANG}))

    assert [v.state for v in found.values()] == [UNKNOWN, UNKNOWN]
    assert "no known-good node to tell who is at fault" in found["n0000"].findings[0].what


# --- what measurements of its own say against a node ---

RATES = {
    "a known GPU below 0.7 of the published": (H100, [794e12, 500e12], {1: SLOW}),
    "a known GPU alone": (H100, [500e12], {0: SLOW}),
    "a known GPU above it, far from the others": (H100, [790e12, 560e12, 790e12], {}),
    "most of a known GPU miss it: the median is what counts": (H100, [400e12, 410e12, 150e12], {2: SLOW}),
    "an unknown device below half of the median": ("cpu", [1e12, 1.1e12, 0.9e12, 0.4e12], {3: SLOW}),
    "an unknown device a little slow": ("cpu", [1e12, 1.1e12, 0.6e12], {}),
    "an unknown device alone": ("cpu", [1.0], {}),
    "of two the faster is the measure": ("cpu", [1e12, 0.3e12], {1: SLOW}),
    "no number": ("cpu", [1e12, math.nan, 1e12], {1: BROKEN}),
    "nothing": ("cpu", [1e12, 0.0, math.inf], {1: BROKEN, 2: BROKEN}),
}


@pytest.mark.parametrize(("device", "rates", "bad"), RATES.values(), ids=RATES)
def test_compute_is_held_to_the_published_or_to_the_median(
    device: str, rates: list[float], bad: dict[int, State]
) -> None:
    nodes = names(len(rates))
    found = of(*(local(node, rate, device) for node, rate in zip(nodes, rates, strict=True)))

    assert {nodes.index(v.node): v.state for v in found.values() if v.state is not GOOD} == bad


def test_a_device_is_compared_with_its_own_kind() -> None:
    found = of(*(local(f"fast{i}", 10e12, "cpu-a") for i in range(3)), *(local(f"slow{i}", 1e12) for i in range(3)))
    assert {v.state for v in found.values()} == {GOOD}


OWN = {
    "wrong bytes": ({"wrong_bytes": 1200}, Part.MEMORY, BROKEN, "1,200 bytes came back other than they were written"),
    "slow memory": ({"memory": 4e9}, Part.MEMORY, SLOW, "4 GB/s, 0.40 of the nodes' median 10 GB/s; at least 0.5 is"),
    "slow links": ({"intra_node": 2e10}, Part.INTRA_NODE, SLOW, "20 GB/s, 0.20 of the nodes' median 100 GB/s"),
    "a hang": ({"failures": (Failure(Part.COMPUTE, Ended.HUNG, "device 3"),)}, Part.COMPUTE, BROKEN,
               "did not end in time: device 3"),
    "a failure": ({"failures": (Failure(Part.INTRA_NODE, Ended.FAILED),)}, Part.INTRA_NODE, BROKEN, "failed"),
}  # fmt: skip


@pytest.mark.parametrize(("told", "part", "state", "said"), OWN.values(), ids=OWN)
def test_each_part_is_judged_by_itself(told: dict[str, object], part: Part, state: State, said: str) -> None:
    bad = replace(local("bad", intra_node=1e11), **told)  # type: ignore[arg-type]
    found = of(*(local(node, intra_node=1e11) for node in names(3)), bad)

    assert {node for node, v in found.items() if v.state is not GOOD} == {"bad"}
    (finding,) = found["bad"].findings
    assert (finding.part, finding.state) == (part, state)
    assert finding.what.startswith(said)


def test_who_was_slow_measures_itself_again_and_the_better_counts_and_every_error() -> None:
    first = [*(local(node, intra_node=1e11) for node in names(3)), local("x", 1e11, intra_node=1e11, wrong_bytes=1)]
    assert nodecheck.to_repeat(first) == ["x"]
    assert nodecheck.to_repeat(first[:3]) == []

    both = first[3].with_second(local("x", 1e12, intra_node=1e10, wrong_bytes=2))
    assert both == local("x", 1e12, intra_node=1e11, wrong_bytes=3)
    hung = first[3].with_second(Local("x", failures=(Failure(Part.COMPUTE, Ended.HUNG),)))
    assert (hung.compute, len(hung.failures)) == (1e11, 1)


@pytest.mark.parametrize(
    ("device", "state"), [(H100, SLOW), ("NVIDIA H100 PCIe", GOOD)], ids=["NVSwitch", "no NVSwitch"]
)
def test_links_of_a_lone_node_are_held_to_what_is_published_only_where_a_switch_makes_them_so(
    device: str, state: State
) -> None:
    assert of(local("a", 790e12, device, intra_node=2e10))["a"].state is state


def test_who_fails_alone_meets_nobody() -> None:
    nodes = names(5)
    check = simulate(nodes, {nodes[1]: Fault.WRONG_BYTES})

    assert {node for meeting in check.rounds[0] for node in meeting.members} == set(nodes) - {nodes[1]}


# --- whom meetings speak against, and whom not ---


def met(*rounds: list[Meeting], domains: dict[str, str] | None = None) -> Check:
    nodes = tuple(sorted({node for each in rounds for meeting in each for node in meeting.members}))
    return Check(nodes, tuple(map(local, nodes)), tuple(map(tuple, rounds)), domains or {})


def pair(members: str, bus: float | None = 10.0, ended: Ended = Ended.OK) -> Meeting:
    return Meeting(tuple(members), ended, bus if ended is Ended.OK else None)


def test_slow_once_is_not_slow() -> None:
    """A partner of a broken node, whose next meeting is slow, meets one more."""
    check = met([pair("ab", ended=Ended.HUNG), pair("cd"), pair("ef")], [pair("ac", ended=Ended.HUNG), pair("bd", 3.0)])
    assert nodecheck.settled(check) == (["c", "d", "e", "f"], ["a"], ["b"])
    assert nodecheck.next_round(check) == (("b", "c"),)

    assert nodecheck.settled(check.after([pair("bc", 9.0)]))[1] == ["a"]
    assert nodecheck.settled(check.after([pair("bc", 3.0)]))[1] == ["a", "b"]


def test_a_path_that_failed_once_between_good_nodes_is_told() -> None:
    check = met([pair("ab", ended=Ended.FAILED), pair("cd")], [pair("ac"), pair("bd")])

    assert nodecheck.report(check).paths == (("a", "b"),)
    assert {v.state for v in verdicts(check).values()} == {GOOD}


def test_a_switch_whose_nodes_all_failed_is_blamed_and_they_are_not() -> None:
    rounds = (
        [pair("ac", ended=Ended.FAILED), pair("bd", ended=Ended.FAILED), pair("ef"), pair("gh")],
        [pair(each, ended=Ended.FAILED if each[0] in "ab" else Ended.OK) for each in ("ae", "bf", "cg", "dh")],
    )
    one = met(*rounds, domains={"a": "leaf-1", "b": "leaf-1"})
    assert {node: v.state for node, v in verdicts(one).items() if v.state is not GOOD} == {"a": UNKNOWN, "b": UNKNOWN}
    assert "so did all 2 nodes of leaf-1: look at its switch" in verdicts(one)["a"].findings[0].what

    control = met(*rounds, domains={"a": "leaf-1", "b": "leaf-1", "c": "leaf-1"})
    assert {node for node, v in verdicts(control).items() if v.state is BROKEN} == {"a", "b"}
    lone = met(*rounds, domains={"a": "leaf-1"})
    assert {node for node, v in verdicts(lone).items() if v.state is BROKEN} == {"a", "b"}


def test_where_most_nodes_fail_with_the_few_good_ones_the_network_is_blamed() -> None:
    check = simulate(names(8), dict.fromkeys(names(8)[:6], Fault.BROKEN_COLLECTIVE))

    assert named(check) == set()
    assert "6 of 8 nodes failed alike: look at the network" in verdicts(check)["n0000"].findings[0].what


def test_a_node_that_never_came_is_not_known() -> None:
    found = verdicts(Check(("a", "b"), (local("a"),)))

    assert (found["a"].state, found["b"].state) == (GOOD, UNKNOWN)


# --- as others read it ---


def test_a_report_and_a_measurement_survive_json() -> None:
    nodes = names(8)
    report = nodecheck.report(simulate(nodes, {nodes[0]: Fault.SLOW_NIC, nodes[5]: Fault.WRONG_BYTES}))
    measured = Local("a", failures=(Failure(Part.MEMORY, Ended.HUNG, "why"),))

    assert Report.from_json(report.to_json()) == report
    assert json.loads(report.to_json())["verdicts"][0]["state"] == "slow"
    assert Local.from_json(measured.to_json()) == measured


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"failures": [3]}', '{"verdicts": [1], "paths": []}'])
def test_other_text_is_refused(text: str) -> None:
    for kind in (Report, Local):
        with pytest.raises(ValueError, match=r"not a |Expecting"):
            kind.from_json(text)
