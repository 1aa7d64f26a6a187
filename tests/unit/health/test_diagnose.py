"""From signals to a verdict."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.health.diagnose import CERTAIN_FOR, FATAL_REPEATS, diagnose
from internlm2_operator.health.node import NodeRecord, not_ready
from internlm2_operator.health.signals import Kind, Signal, Source
from internlm2_operator.health.verdict import Blame
from internlm2_operator.health.xid import TABLE, Act, rule_of
from tests.examples import few

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)


def xid(code: int, node: str = "n1", *, ago: float = 0, gpu: str = "GPU-0", job: str = "default/demo") -> Signal:
    at = T0 - timedelta(seconds=ago)
    return Signal(Kind.XID, Source.DRIVER, node, at, f"XID {code}", gpu=gpu, xid=code, job=job)


def seen(kind: Kind, source: Source, node: str = "n1", *, ago: float = 0) -> Signal:
    return Signal(kind, source, node, T0 - timedelta(seconds=ago), kind.value)


def nvlink(words: str, *, ago: float = 1) -> Signal:
    """Return a code of NVLink 5 with what the driver says of it."""
    return replace(xid(145, ago=ago), detail=words)


def note(cause: str, node: str, job: str) -> Signal:
    """Return what an agent notes of a node in rack r1."""
    noted = seen(Kind.CONDITION, Source.NODE, node)
    return replace(noted, job=job, domain="r1", reason=cause)


def recovered(words: str) -> Signal:
    return replace(xid(154, ago=1), detail=f"GPU recovery action changed from {words}")


def link(node: str = "n1", *, job: str = "default/demo", domain: str = "", ago: float = 1) -> Signal:
    """Return what a node's agent says of a port without a link."""
    down = seen(Kind.CONDITION, Source.NODE, node, ago=ago)
    return replace(down, job=job, domain=domain, reason="LinkDown")


def notice() -> Signal:
    return replace(seen(Kind.CONDITION, Source.NODE, ago=30), reason="Maintenance")


def pod_exit(node: str = "n1") -> Signal:
    return seen(Kind.POD_EXIT, Source.POD, node)


@dataclass(frozen=True, slots=True)
class Case:
    signals: list[Signal]
    blame: Blame
    cause: str
    cordon: bool = False


CASES = {
    "no signal is a healthy node": Case([], Blame.NONE, "Healthy"),
    "xid 79 alone cordons its node": Case([xid(79)], Blame.NODE, "Xid79", cordon=True),
    "xid 64 alone cordons its node": Case([xid(64)], Blame.NODE, "Xid64", cordon=True),
    "xid 95 alone cordons its node": Case([xid(95)], Blame.NODE, "Xid95", cordon=True),
    "a node that is not ready is cordoned": Case(
        [seen(Kind.NODE_NOT_READY, Source.NODE)], Blame.NODE, "NodeNotReady", cordon=True
    ),
    "a node that is not ready for long is still cordoned": Case(
        [seen(Kind.NODE_NOT_READY, Source.NODE, ago=86400)], Blame.NODE, "NodeNotReady", cordon=True
    ),
    "the xid before it explains a dead node": Case(
        [xid(79, ago=5), seen(Kind.NODE_NOT_READY, Source.NODE)], Blame.NODE, "Xid79", cordon=True
    ),
    "a GPU that is gone cordons": Case(
        [seen(Kind.GPU_MISSING, Source.PROMETHEUS)], Blame.NODE, "GpuMissing", cordon=True
    ),
    "silence while the exporter is down is unknown": Case(
        [seen(Kind.GPU_MISSING, Source.PROMETHEUS), seen(Kind.EXPORTER_DOWN, Source.PROMETHEUS)],
        Blame.UNKNOWN,
        "ExporterDown",
    ),
    "xid 31 is the program's": Case([xid(31)], Blame.USER, "Xid31"),
    "xid 31 and a killed pod are still the program's": Case([xid(31), pod_exit()], Blame.USER, "Xid31"),
    "xid 48 alone is a suspicion": Case([xid(48)], Blame.NODE, "Xid48"),
    "xid 48 with a row remap on the same GPU cordons": Case([xid(48), xid(63)], Blame.NODE, "Xid48", cordon=True),
    "xid 48 with a row remap on another GPU does not": Case([xid(48), xid(63, gpu="GPU-1")], Blame.NODE, "Xid48"),
    "xid 119 and a killed pod agree": Case([xid(119, ago=1), pod_exit()], Blame.NODE, "Xid119", cordon=True),
    "two xids of one source do not agree": Case([xid(119), xid(46)], Blame.NODE, "Xid46"),
    "a killed pod alone is a suspicion": Case([pod_exit()], Blame.UNKNOWN, "PodExit"),
    "a suspicion of five minutes ago is history": Case([xid(119, ago=301)], Blame.NONE, "Healthy"),
    "what the breaker held back is not forgotten at once": Case([xid(79, ago=301)], Blame.NODE, "Xid79", cordon=True),
    "an old xid is history": Case([xid(79, ago=1801)], Blame.NONE, "Healthy"),
    "signals about another node mean nothing": Case([xid(79, "n2")], Blame.NONE, "Healthy"),
    "xid 31 on every node of a job is the program's": Case(
        [xid(31, f"n{i}") for i in range(1, 5)], Blame.USER, "Xid31"
    ),
    "xid 74 on every node of a job is the fabric's, killed pods or not": Case(
        [*(xid(74, f"n{i}", ago=1) for i in range(1, 5)), pod_exit()], Blame.FABRIC, "Xid74"
    ),
    "row remaps on every node are recorded": Case([xid(63, f"n{i}") for i in range(1, 5)], Blame.NONE, "Healthy"),
    "an error that the link survived is recorded, killed pods or not": Case(
        [nvlink("RLW_RXPIPE Nonfatal XC0 i0 Link 13"), pod_exit()], Blame.UNKNOWN, "PodExit"
    ),
    "so is the metric of it, which has no words, however old the line is": Case(
        [nvlink("RLW_RXPIPE Nonfatal XC0 i0 Link 13", ago=310), nvlink("it rose", ago=290), pod_exit()],
        Blame.UNKNOWN,
        "PodExit",
    ),
    "a line of another hour says nothing of it": Case(
        [nvlink("RLW_RXPIPE Nonfatal XC0 i0 Link 13", ago=500), nvlink("it rose", ago=290), pod_exit()],
        Blame.NODE,
        "Xid145",
        cordon=True,
    ),
    "a recovery that nobody asks for is recorded, its metric, too": Case(
        [recovered("0x1 (GPU Reset Required) to 0x0 (None)"), xid(154), pod_exit()], Blame.UNKNOWN, "PodExit"
    ),
    "a recovery that is asked for is hard": Case(
        [xid(154), recovered("0x0 (None) to 0x1 (GPU Reset Required)")], Blame.NODE, "Xid154", cordon=True
    ),
    "a metric without a line is a suspicion": Case([nvlink("it rose"), pod_exit()], Blame.NODE, "Xid145", cordon=True),
    "what is recorded does not repeat": Case(
        [
            *(nvlink("RLW_RXPIPE Nonfatal XC0 i0 Link 13", ago=600 * n) for n in range(1, 5)),
            *(nvlink("it rose", ago=600 * n - 5) for n in range(1, 5)),
            nvlink("RLW_REMAP Fatal XC1 i0 Link 08", ago=2),
        ],
        Blame.NODE,
        "Xid145",
    ),
    "what is fatal does": Case(
        [nvlink("RLW_REMAP Fatal XC1 i0 Link 08", ago=600 * n) for n in range(5)],
        Blame.NODE,
        "Xid145",
        cordon=True,
    ),
    "one that it did not survive agrees with a killed pod": Case(
        [nvlink("RLW_REMAP Fatal XC1 i0 Link 08"), pod_exit()], Blame.NODE, "Xid145", cordon=True
    ),
    "of both the worse counts": Case(
        [nvlink("RLW_RXPIPE Nonfatal XC0 i0 Link 13"), nvlink("RLW_REMAP Fatal XC1 i0 Link 08"), pod_exit()],
        Blame.NODE,
        "Xid145",
        cordon=True,
    ),
    "a link of one node agrees with a killed pod": Case([link(), pod_exit()], Blame.NODE, "LinkDown", cordon=True),
    "links of two nodes of a job are the switch's": Case(
        [link(), link("n2", ago=30), pod_exit()], Blame.FABRIC, "LinkDown"
    ),
    "what else a node has is judged without them": Case(
        [link(ago=86400), link("n2", ago=86430), xid(79)], Blame.NODE, "Xid79", cordon=True
    ),
    "a node that is silent beside them, too": Case(
        [link(ago=86400), link("n2", ago=86430), seen(Kind.NODE_NOT_READY, Source.NODE)],
        Blame.NODE,
        "NodeNotReady",
        cordon=True,
    ),
    "one that falls silent because of them is the switch's": Case(
        [link(ago=45), link("n2", ago=46), seen(Kind.NODE_NOT_READY, Source.NODE)], Blame.FABRIC, "LinkDown"
    ),
    "one whose own link alone went is not": Case(
        [link(ago=45), seen(Kind.NODE_NOT_READY, Source.NODE)], Blame.NODE, "NodeNotReady", cordon=True
    ),
    "nor one that was silent before": Case(
        [link(ago=45), link("n2", ago=46), seen(Kind.NODE_NOT_READY, Source.NODE, ago=60)],
        Blame.NODE,
        "NodeNotReady",
        cordon=True,
    ),
    "and a suspicion that a killed pod bears out": Case(
        [link(ago=86400), link("n2", ago=86430), xid(119), pod_exit()], Blame.NODE, "Xid119", cordon=True
    ),
    "a suspicion beside them is the node's, to be checked": Case(
        [link(ago=86400), link("n2", ago=86430), xid(119)], Blame.NODE, "Xid119"
    ),
    "so is a link that goes down alone beside them": Case(
        [link(ago=86400), link("n2", ago=86430), link(ago=5), pod_exit()], Blame.NODE, "LinkDown", cordon=True
    ),
    "a killed pod beside them is the fabric's": Case(
        [link(ago=5), link("n2", ago=6), pod_exit()], Blame.FABRIC, "LinkDown"
    ),
    "links of two jobs behind one switch are, too": Case(
        [link(domain="leaf"), link("n2", job="default/other", domain="leaf"), pod_exit()], Blame.FABRIC, "LinkDown"
    ),
    "what users bring about on three nodes of a rack hides no fault": Case(
        [
            *(note("MemoryLimit", f"n{i}", f"default/job-{i}") for i in range(1, 4)),
            *(note("DiskFull", f"n{i}", f"default/job-{i}") for i in range(1, 4)),
            replace(xid(79), domain="r1"),
        ],
        Blame.NODE,
        "Xid79",
        cordon=True,
    ),
    "links of two jobs anywhere are not": Case(
        [link(), link("n2", job="default/other"), pod_exit()], Blame.NODE, "LinkDown", cordon=True
    ),
    "links an hour apart are not": Case(
        [link(), link("n2", ago=3600), pod_exit()], Blame.NODE, "LinkDown", cordon=True
    ),
    "a channel that is closed on a node that will go is no fault": Case([notice(), xid(45)], Blame.NONE, "Maintenance"),
    "a fault on a node that will go is one": Case([notice(), xid(79)], Blame.NODE, "Xid79", cordon=True),
    "an unknown code is only recorded": Case([xid(9999)], Blame.NONE, "Healthy"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_verdict(case: Case) -> None:
    verdict = diagnose(case.signals, "n1", T0)
    assert (verdict.blame, verdict.cause, verdict.cordon) == (case.blame, case.cause, case.cordon)


@pytest.mark.parametrize("code", [13, 31, 43])
def test_application_xids_never_cordon_alone(code: int) -> None:
    many = [xid(code, ago=i, gpu=f"GPU-{i}") for i in range(5)]
    assert not diagnose(many, "n1", T0).cordon
    assert rule_of(code).act is Act.RESTART


def test_every_rule_names_what_nvidia_says_and_its_source() -> None:
    assert all(rule.nvidia and rule.source and rule.name for rule in TABLE.values())
    assert {x for x, rule in TABLE.items() if rule.act is Act.CORDON} == {64, 79, 95, 167}


def test_silent_node_is_its_own_signal() -> None:
    node = NodeRecord("n1", ready=False, ready_since=T0, unschedulable=True, gpus=2)
    signal = not_ready(node)
    assert signal is not None
    assert (signal.kind, signal.at) == (Kind.NODE_NOT_READY, T0)


signals = st.lists(
    st.builds(
        Signal,
        kind=st.sampled_from(Kind),
        source=st.sampled_from(Source),
        node=st.sampled_from(["n1", "n2", "n3"]),
        at=st.integers(0, 600).map(lambda s: T0 - timedelta(seconds=s)),
        detail=st.just("seen"),
        gpu=st.sampled_from(["GPU-0", "GPU-1"]),
        xid=st.sampled_from([None, 13, 31, 43, 45, 48, 63, 64, 74, 79, 94, 119]),
        job=st.sampled_from(["", "default/demo"]),
    ),
    max_size=6,
)


def alone(signal: Signal) -> bool:
    """Say whether a signal cordons by itself, by the words of the fault table."""
    return diagnose([signal], signal.node, T0).cordon


@few
@given(signals)
def test_no_cordon_without_a_hard_signal_or_two_independent_ones(drawn: list[Signal]) -> None:
    verdict = diagnose(drawn, "n1", T0)
    mine = [s for s in drawn if s.node == "n1" and (s.kind is Kind.NODE_NOT_READY or T0 - s.at <= CERTAIN_FOR)]
    codes = {(s.xid, s.gpu) for s in mine if s.kind is Kind.XID}
    double_bit = any((48, g) in codes and {(63, g), (64, g)} & codes for _, g in codes)
    if verdict.cordon and len(drawn) < FATAL_REPEATS:
        assert any(map(alone, mine)) or double_bit or len({s.source for s in mine}) >= 2
    if verdict.certain and len(drawn) < FATAL_REPEATS:
        assert any(map(alone, mine)) or double_bit


@few
@given(signals, st.lists(st.sampled_from([source for source in Source if not source.trusted]), min_size=6))
def test_what_users_write_never_cordons_whatever_it_claims_to_be(drawn: list[Signal], writers: list[Source]) -> None:
    forged = [replace(signal, source=source) for signal, source in zip(drawn, writers, strict=False)]
    assert not diagnose(forged, "n1", T0).cordon


@few
@given(signals, st.randoms(use_true_random=False))
def test_verdict_is_blind_to_the_order_of_signals(drawn: list[Signal], chance) -> None:  # type: ignore[no-untyped-def]
    assert diagnose(drawn, "n1", T0) == diagnose(chance.sample(drawn, len(drawn)), "n1", T0)


@few
@given(signals)
def test_program_faults_alone_never_cordon(drawn: list[Signal]) -> None:
    theirs = [s for s in drawn if s.kind is Kind.XID and s.xid in (13, 31, 43, 45, 94)]
    assert not diagnose(theirs, "n1", T0).cordon


PROBATION = {
    "a suspicion convicts": ([xid(62)], "Xid62", "cordon-replace"),
    "what is certain is for the hardware, too": ([xid(95)], "Xid95", "cordon-replace"),
    "two sources": ([xid(62), pod_exit()], "Xid62", "cordon-replace"),
}
NO_SECOND_WORD = {
    "a program's code": [xid(13)],
    "a pod's end, which its user writes": [pod_exit()],
    "a rank that is slow": [seen(Kind.STALLED, Source.PROGRESS)],
    "all that a user can write": [pod_exit(), seen(Kind.STALLED, Source.PROGRESS), seen(Kind.RANK_LOG, Source.LOG)],
    "an exporter that is down": [seen(Kind.EXPORTER_DOWN, Source.PROMETHEUS)],
    "another node's suspicion": [xid(62, "n2")],
    "an old suspicion": [xid(62, ago=301)],
    "nothing": [],
}


@pytest.mark.parametrize(("signals", "cause", "action"), PROBATION.values(), ids=PROBATION)
def test_on_probation(signals: list[Signal], cause: str, action: str) -> None:
    verdict = diagnose(signals, "n1", T0, probation=True)
    assert (verdict.cordon, verdict.cause, verdict.action) == (True, cause, action)
    assert verdict.rule.endswith(", on probation")
    assert diagnose(signals, "n1", T0).action != action


@pytest.mark.parametrize("signals", NO_SECOND_WORD.values(), ids=NO_SECOND_WORD)
def test_what_convicts_nobody_on_probation_either(signals: list[Signal]) -> None:
    assert diagnose(signals, "n1", T0, probation=True) == diagnose(signals, "n1", T0)


@pytest.mark.parametrize(
    ("signals", "confidence"),
    [([xid(62)], "suspected"), ([pod_exit()], "hinted"), ([xid(31, ago=600), xid(31)], "hinted"), ([], "none")],
)
def test_a_suspicion_is_told_from_what_users_can_write(signals: list[Signal], confidence: str) -> None:
    assert diagnose(signals, "n1", T0).confidence == confidence
