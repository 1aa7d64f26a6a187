"""Which member of an attempt fell first, by what all of them left behind."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from internlm2_operator.health.logrules import LogRule, Weight
from internlm2_operator.health.rulebook import Rulebook
from internlm2_operator.health.verdict import Blame
from internlm2_operator.plan.crowd import MAX_PODS, first_of
from internlm2_operator.plan.snapshot import PodPhase, PodRecord
from internlm2_spec.contract import FailureClass, Termination
from tests.unit.plan.world import T0, after, bug, peer, trained_world

NCCL = """[rank1]:[E1126 12:00:00.000 ProcessGroupNCCL.cpp:632] [Rank 1] Watchdog caught collective operation timeout: \
WorkNCCL(SeqNum=87, OpType=ALLREDUCE, Timeout(ms)=600000) ran for 600030 milliseconds before timing out."""
ECC = "RuntimeError: CUDA error: uncorrectable ECC error encountered"
ASSERT = bug(traceback='  File "train.py", line 3, in step\nRuntimeError: CUDA error: device-side assert triggered')
KILLED = Termination(FailureClass.INFRASTRUCTURE, "RankKilled", 1, "rank 3 ended by signal SIGKILL", rank=3)
CRASHED = Termination(
    FailureClass.INFRASTRUCTURE, "RankKilled", 1, "rank 1 ended by signal SIGSEGV", 1,
    traceback='Fatal Python error: Segmentation fault\n\nCurrent thread 0x1:\n  File "a.py", line 1 in f',
)  # fmt: skip


def end(slot: int, said: Termination | str, *, at: float = 0, code: int = 1, reason: str = "Error") -> PodRecord:
    """Return a pod that ended with a word of its trainer, or with the end of its log."""
    told = said if isinstance(said, Termination) else None
    return PodRecord(
        f"p{slot}", "default", "demo", f"u{slot}", 0, 1, slot, 0, f"n{slot}", PodPhase.FAILED, after(-100),
        finished=after(at), exit_code=code, reason=reason, termination=told, message="" if told else str(said),
    )  # fmt: skip


def fell(said: Termination, seconds: float) -> Termination:
    return dataclasses.replace(said, time=T0.timestamp() + seconds)


@dataclass(frozen=True, slots=True)
class Case:
    pods: Sequence[PodRecord]
    uid: str
    evidence: str


CASES = {
    "a traceback": Case([end(0, ASSERT)], "u0", "log rule cuda-device-assert: pod p0 on n0 at 2026-03-01T12:00:00"),
    "the rank that the trainer blames is named": Case([end(2, KILLED)], "u2", "log rule rank-killed: rank 3 of pod p2"),
    "the stacks of a crash": Case([end(1, CRASHED)], "u1", "log rule rank-crashed: rank 1 of pod p1 on n1"),
    "a cause goes before earlier timeouts of NCCL": Case(
        [end(0, NCCL, code=134), end(1, ECC, at=9), end(2, NCCL, code=134, at=1)], "u1",
        f"log rule cuda-ecc: pod p1 on n1 at 2026-03-01T12:00:09+00:00: {ECC}",
    ),
    "of two causes the earlier one": Case([end(0, ECC, at=5), end(1, KILLED)], "u1", "log rule rank-killed: rank 3 of"),
    "the rank's own time goes before that of its pod, which ends seconds later": Case(
        [end(0, fell(KILLED, 1.5), at=7), end(1, fell(CRASHED, 3.5), at=4)], "u0", "log rule rank-killed: rank 3 of",
    ),
    "a time that cannot be true is none": Case(
        [end(0, fell(KILLED, -9e9), at=7), end(1, fell(CRASHED, 3.5), at=4)], "u1", "log rule rank-crashed: rank 1 of",
    ),
    "neither is a number that none is": Case(
        [end(0, fell(KILLED, math.nan), at=7), end(1, fell(CRASHED, 3.5), at=4)], "u1", "log rule rank-crashed",
    ),
    "of one log the earlier line": Case([end(0, f"{ECC}\nFileNotFoundError: gone")], "u0", "log rule cuda-ecc: pod p0"),
    "a follower is never the cause, whatever its traceback says": Case(
        [end(0, dataclasses.replace(peer(), traceback="ValueError: gloo")), end(1, KILLED, at=9)], "u1",
        "log rule rank-killed",
    ),
    "timeouts alone name nobody": Case(
        [end(0, NCCL, code=134), end(1, NCCL, code=134)], "", "log rule nccl-watchdog-timeout: pod p0",
    ),
    "who left no word while all others wait": Case(
        [end(0, peer()), end(1, "", code=137), end(2, peer())], "u1", "pod p1 says nothing while all others wait",
    ),
    "of the kubelet's own words no rule": Case(
        [end(0, "No space left on device", reason="Evicted"), end(1, ECC, at=5)], "u1", "log rule cuda-ecc",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_first_is(case: Case) -> None:
    first = first_of(case.pods, Rulebook())
    assert first is not None
    assert first.uid == case.uid
    assert first.evidence[0].startswith(case.evidence)


SILENT = {
    "members that live": [dataclasses.replace(end(0, ASSERT), phase=PodPhase.RUNNING)],
    "members that stopped as they were told": [end(0, Termination(FailureClass.STOPPED, "Stopped", 75), code=75)],
    "members that are done": [dataclasses.replace(end(0, ASSERT), phase=PodPhase.SUCCEEDED)],
    "a log that tells of no fault": [end(0, "loading shard 7\nloading shard 8")],
    "nobody": [],
}  # fmt: skip


@pytest.mark.parametrize("pods", SILENT.values(), ids=SILENT)
def test_nothing_is_said_by(pods: Sequence[PodRecord]) -> None:
    assert first_of(pods, Rulebook()) is None


def test_the_order_of_the_pods_means_nothing() -> None:
    pods = CASES["a cause goes before earlier timeouts of NCCL"].pods
    assert first_of(pods, Rulebook()) == first_of(tuple(reversed(pods)), Rulebook())


def test_rules_that_the_cluster_adds_are_read() -> None:
    rule = LogRule("feeder", r"feeder \w+ stopped", Blame.UNKNOWN, "FeederStopped", Weight.CAUSE, "ours")
    pods = [end(0, "the feeder seven stopped"), end(1, peer())]
    first = first_of(pods, Rulebook((rule,)))
    assert first is not None
    assert (first.uid, first.evidence[0][:16]) == ("u0", "log rule feeder:")
    other = first_of(pods, Rulebook())
    assert other is None or "feeder:" not in other.evidence[0]


def test_a_cause_is_found_behind_any_number_of_followers() -> None:
    """Only so many pods are read, and those that follow come last."""
    pods = [end(slot, peer()) for slot in range(3 * MAX_PODS)]
    first = first_of([*pods, end(3 * MAX_PODS, KILLED, at=60)], Rulebook())
    assert first is not None
    assert first.uid == f"u{3 * MAX_PODS}"


def test_the_fault_of_an_attempt_is_the_one_that_fell_first_and_says_so() -> None:
    """Slot 0 aborts first, of a timeout; slot 1 had been killed before its agent could say so."""
    world = (
        trained_world().ended(0, 134, reason="Error", message=NCCL).later(3).ended(1, 137, termination=KILLED).settled()
    )
    (fault,) = world.job.status.faults
    assert (fault.cause, fault.cordoned) == ("ProcessKilled", False)
    assert any(line.startswith("log rule rank-killed: rank 3 of pod") for line in fault.evidence)
    assert any("besides: nccl-watchdog-timeout 1 times" in line for line in fault.evidence)
