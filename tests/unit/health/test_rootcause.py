"""One line of a crowd of ranks tells why all fell."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.health.rootcause import BEHIND, FABRIC, SILENT, UNKNOWN_CAUSE, RankLine, RootCause, pick
from internlm2_operator.health.rulebook import Rulebook, parse
from internlm2_operator.health.verdict import Blame
from tests.examples import few

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
RANKS = range(8)

NCCL_TIMEOUT = "[Rank {rank}] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=271, OpType=ALLREDUCE)"
LATE = NCCL_TIMEOUT.replace("271", "198")
REMOTE = "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely."
RESET = "RuntimeError: [gloo/transport/tcp/pair.cc:545] Read error [10.1.2.3]:4711: Connection reset by peer"
SIGTERM = "W1126 03:14:20 api.py:1029] Sending process 217 closing signal SIGTERM"
XID_45 = "NVRM: Xid (PCI:0000:3b:00): 45, pid=4242, name=python, Ch 00000010"
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of 79.10 GiB"
ECC = "RuntimeError: CUDA error: uncorrectable ECC error encountered"
ASSERT = "RuntimeError: CUDA error: device-side assert triggered"
PORT = "transport/net_ib.cc:93 NCCL WARN NET/IB : mlx5_2:1 Got async event : port error"
IB_12 = "NCCL WARN NET/IB : Got completion from peer 10.1.2.3<54862> with status=12 opcode=0 len=0 vendor err 129"
STORE = "internlm2_trainer.storage.StoreUnavailable: s3://runs/a: SlowDown 503"
WAITS = "rank {rank} made no progress for 61 s after step 40; it waits for other ranks in optim.reduce, line 9"
STANDS = "rank {rank} made no progress for 61 s after step 40; it is in data.source.micro_batch, line 71"
OTHER_PLACE = 'File "data.py", line 1, in read'
PREFIXED = "\n".join(f"[default1]:[rank3]: {line}" for line in (f"  {OTHER_PLACE}", OOM))
STEP = '{"step": 41, "loss": 2.1, "lossHex": "0x1.0cp1", "gradNorm": 0.3}'


def home(rank: int) -> str:
    """Two ranks a node: n0 to n3."""
    return f"n{rank // 2}"


def say(seconds: float, rank: int, text: str) -> list[RankLine]:
    """Return what a rank writes, one line after another by a millisecond."""
    lines = text.replace("{rank}", str(rank)).splitlines()
    return [RankLine(T0 + timedelta(seconds=seconds, milliseconds=i), home(rank), rank, x) for i, x in enumerate(lines)]


def crowd(seconds: float, text: str, ranks: Iterable[int] = RANKS) -> list[RankLine]:
    """Return what many ranks write, one after another by ten milliseconds."""
    return [line for i, rank in enumerate(ranks) for line in say(seconds + i / 100, rank, text)]


def without(*ranks: int) -> list[int]:
    return [rank for rank in RANKS if rank not in ranks]


def traceback(error: str, place: str = 'File "train.py", line 12, in step') -> str:
    return f"Traceback (most recent call last):\n  {place}\n    run()\n{error}"


NO_CAUSE = (SILENT, BEHIND, UNKNOWN_CAUSE)


@dataclass(frozen=True, slots=True)
class Case:
    """A crowd, and what is said of it: blame, cause, rule, rank; `common` to all ranks."""

    lines: Sequence[RankLine]
    blame: Blame
    cause: str
    rule: str
    rank: int | None
    common: bool = False


CASES = {
    "an out-of-memory before seven timeouts": Case(
        [*say(0, 3, traceback(OOM)), *crowd(600, NCCL_TIMEOUT, without(3))],
        Blame.USER, "OutOfMemory", "cuda-out-of-memory", 3,
    ),
    "an out-of-memory after seven timeouts, by a late clock": Case(
        [*say(700, 3, traceback(OOM)), *crowd(600, NCCL_TIMEOUT, without(3))],
        Blame.USER, "OutOfMemory", "cuda-out-of-memory", 3,
    ),
    "an ECC error before lost peers": Case(
        [*say(5, 6, traceback(ECC)), *crowd(5.2, REMOTE, without(6))],
        Blame.NODE, "DeviceError", "cuda-ecc", 6,
    ),
    "an exception of the program before connections that are reset": Case(
        [*say(1, 2, traceback("ZeroDivisionError: division by zero")), *crowd(1.05, RESET, without(2))],
        Blame.USER, "ProgramError", "python-exception", 2,
    ),
    "the same exception on all ranks is the program's": Case(
        crowd(3, traceback("KeyError: 'labels'")), Blame.USER, "ProgramError", "python-exception", 0, common=True,
    ),
    "the same exception but for numbers is the same": Case(
        crowd(3, traceback("IndexError: rank {rank} has 7 of 8 samples")),
        Blame.USER, "ProgramError", "python-exception", 0, common=True,
    ),
    "one exception from two places is not": Case(
        [*crowd(3, traceback("KeyError: 'x'"), without(7)), *say(3, 7, traceback("KeyError: 'x'", OTHER_PLACE))],
        Blame.USER, "ProgramError", "python-exception", 0,
    ),
    "the same traceback on all ranks of all nodes speaks against no node": Case(
        crowd(3, traceback("RuntimeError: Error 802: system not yet initialized")),
        Blame.USER, "FabricManagerDown", "cuda-not-ready", 0, common=True,
    ),
    "the same line of the driver on all ranks is no traceback": Case(
        crowd(3, "Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost."),
        Blame.NODE, "GpuLost", "gpu-lost", 0, common=True,
    ),
    "a disk that is full for all ranks of several nodes is a volume of theirs": Case(
        crowd(3, "OSError: [Errno 28] No space left on device: '/ckpt/rank{rank}.pt'"),
        Blame.USER, "DiskFull", "disk-full", 0, common=True,
    ),
    "one that is full for a node's may be the node's": Case(
        [*crowd(3, "OSError: [Errno 28] No space left on device: '/ckpt/rank{rank}.pt'", [2, 3]),
         *crowd(4, REMOTE, without(2, 3))],
        Blame.UNKNOWN, "DiskFull", "disk-full", 2,
    ),
    "a crash of all ranks is the program's": Case(
        crowd(3, "Fatal Python error: Segmentation fault"), Blame.USER, "ProcessCrashed", "rank-crashed", 0, common=True
    ),
    "of a chain the last that the table knows": Case(
        say(0, 0, f"{traceback('FileNotFoundError: [Errno 2] No such file or directory: x')}\n\nDuring handling of the "
                  f"above exception, another exception occurred:\n\n{traceback(OOM)}"),
        Blame.USER, "OutOfMemory", "cuda-out-of-memory", 0,
    ),
    "the same traceback on all ranks of the one node may be the node's": Case(
        crowd(3, traceback("RuntimeError: Error 802: system not yet initialized"), [0, 1]),
        Blame.NODE, "FabricManagerDown", "cuda-not-ready", 0, common=True,
    ),
    "the same exception hours apart is not common": Case(
        [*say(0, 0, traceback("KeyError: 'x'")), *crowd(7200, traceback("KeyError: 'x'"), without(0))],
        Blame.USER, "ProgramError", "python-exception", 0,
    ),
    "a store that is away is nobody's, though all ranks say so": Case(
        crowd(0, traceback(STORE)), Blame.NONE, "StoreUnavailable", "trainer-store", 0, common=True,
    ),
    "first in time of two causes": Case(
        [*say(0, 5, traceback(ECC)), *say(4, 1, traceback("ValueError: x")), *crowd(5, REMOTE, without(1, 5))],
        Blame.NODE, "DeviceError", "cuda-ecc", 5,
    ),
    "between nodes less than the tolerance is no order: the table before any exception": Case(
        [*say(0, 1, traceback("RuntimeError: lost")), *say(0.9, 5, traceback(ECC))],
        Blame.NODE, "DeviceError", "cuda-ecc", 5,
    ),
    "between nodes less than the tolerance is no order: the lowest rank": Case(
        [*say(0, 6, traceback(ASSERT)), *say(0.9, 2, traceback(OOM))],
        Blame.USER, "OutOfMemory", "cuda-out-of-memory", 2,
    ),
    "between nodes more than the tolerance is an order": Case(
        [*say(0, 6, traceback(ASSERT)), *say(1.1, 2, traceback(OOM))],
        Blame.USER, "DeviceAssert", "cuda-device-assert", 6,
    ),
    "on one node every millisecond counts": Case(
        [*say(0, 7, traceback(ASSERT)), *say(0.5, 6, traceback(OOM))],
        Blame.USER, "DeviceAssert", "cuda-device-assert", 7,
    ),
    "on one node at the same time: the table before any other exception": Case(
        [*say(0, 6, traceback("RuntimeError: lost")), *say(0, 7, traceback(OOM))],
        Blame.USER, "OutOfMemory", "cuda-out-of-memory", 7,
    ),
    "on one node at the same time: the lowest rank": Case(
        [*say(0, 7, traceback(ASSERT)), *say(0, 6, traceback(OOM))],
        Blame.USER, "OutOfMemory", "cuda-out-of-memory", 6,
    ),
    "a port that fails before completions without an answer": Case(
        [*say(0, 4, PORT), *crowd(20, IB_12, without(4))], Blame.FABRIC, "LinkDown", "ib-port-error", 4,
    ),
    "completions without an answer on all nodes are the fabric": Case(
        crowd(0, IB_12), Blame.FABRIC, FABRIC, "ib-completion", None, common=True,
    ),
    "those of all nodes but one name nobody: it may have gone": Case(
        [*crowd(0, IB_12, without(0, 1)), *crowd(0, REMOTE, (0, 1))], Blame.UNKNOWN, UNKNOWN_CAUSE, "nccl-remote", None,
    ),
    "timeouts on all ranks name nobody": Case(
        crowd(600, NCCL_TIMEOUT), Blame.UNKNOWN, UNKNOWN_CAUSE, "nccl-watchdog-timeout", None,
    ),
    "timeouts on all ranks but one name the silent one": Case(
        [*say(0, 4, "loading shard 7"), *crowd(600, NCCL_TIMEOUT, without(4))],
        Blame.UNKNOWN, SILENT, "nccl-watchdog-timeout", 4,
    ),
    "a rank without any line is silent": Case(
        crowd(600, NCCL_TIMEOUT, without(4)), Blame.UNKNOWN, SILENT, "nccl-watchdog-timeout", 4,
    ),
    "a rank whose timeout is of an earlier collective than the others' is behind": Case(
        [*say(0, 5, LATE), *crowd(0.2, NCCL_TIMEOUT, without(5))],
        Blame.UNKNOWN, BEHIND, "nccl-watchdog-timeout", 5,
    ),
    "two ranks that are behind are not named": Case(
        [*crowd(0, LATE, [5, 6]), *crowd(0.2, NCCL_TIMEOUT, without(5, 6))],
        Blame.UNKNOWN, UNKNOWN_CAUSE, "nccl-watchdog-timeout", None,
    ),
    "where the others are not at one collective nobody is behind": Case(
        [*say(0, 5, LATE), *say(0, 6, NCCL_TIMEOUT.replace("271", "272")), *crowd(0.2, NCCL_TIMEOUT, without(5, 6))],
        Blame.UNKNOWN, UNKNOWN_CAUSE, "nccl-watchdog-timeout", None,
    ),
    "collectives of several groups are not compared": Case(
        [*crowd(0, f"[PG ID 1 PG GUID 7 Rank 5]{LATE}", [5]), *crowd(0.2, NCCL_TIMEOUT, without(5))],
        Blame.UNKNOWN, UNKNOWN_CAUSE, "nccl-watchdog-timeout", None,
    ),
    "an absurd size after a timeout is no cause": Case(
        [*crowd(0, NCCL_TIMEOUT), *say(2, 0, f"{OOM[:40]} Tried to allocate more than 1EB memory.")],
        Blame.UNKNOWN, UNKNOWN_CAUSE, "nccl-watchdog-timeout", None,
    ),
    "two silent ranks are not named": Case(
        crowd(600, NCCL_TIMEOUT, without(4, 5)), Blame.UNKNOWN, UNKNOWN_CAUSE, "nccl-watchdog-timeout", None,
    ),
    "SIGTERM from the agent on all ranks names nobody": Case(
        crowd(0, SIGTERM), Blame.UNKNOWN, UNKNOWN_CAUSE, "torchrun-sigterm", None,
    ),
    "XID 45 follows what another rank did": Case(
        [*say(0, 1, XID_45), *say(2, 3, traceback(ASSERT))], Blame.USER, "DeviceAssert", "cuda-device-assert", 3,
    ),
    "XID 45 alone names nobody": Case(
        crowd(0, XID_45), Blame.UNKNOWN, UNKNOWN_CAUSE, "xid-sympathetic", None,
    ),
    "a traceback whose error is a lost peer is a symptom": Case(
        [*crowd(0, traceback(RESET), without(5)), *say(3, 5, "Fatal Python error: Segmentation fault")],
        Blame.UNKNOWN, "ProcessCrashed", "rank-crashed", 5,
    ),
    "an exception raised for a lost peer is one, too": Case(
        [
            *crowd(0, f"{traceback(RESET)}\n\nDuring handling of the above exception, another exception occurred:\n\n"
                   f"{traceback('RuntimeError: step failed')}", without(5)),
            *say(3, 5, "Fatal Python error: Segmentation fault"),
        ],
        Blame.UNKNOWN, "ProcessCrashed", "rank-crashed", 5,
    ),
    "the hang that waits for nobody": Case(
        [*crowd(0, WAITS, without(3)), *say(1, 3, STANDS)], Blame.UNKNOWN, "Hang", "trainer-hangs", 3,
    ),
    "the hang where all wait but one that says nothing": Case(
        crowd(0, WAITS, without(3)), Blame.UNKNOWN, SILENT, "trainer-waits", 3,
    ),
    "an error that was survived is not the cause": Case(
        [*say(0, 2, traceback("TimeoutError: retried")), *say(30, 0, STEP), *say(50, 5, traceback(OOM))],
        Blame.USER, "OutOfMemory", "cuda-out-of-memory", 5,
    ),
    "an error next to the last step was not survived": Case(
        [*say(29.5, 2, traceback("ValueError: x")), *say(30, 0, STEP), *crowd(31, REMOTE, without(2))],
        Blame.USER, "ProgramError", "python-exception", 2,
    ),
    "torchrun's summary is not the cause": Case(
        [*say(0, 1, traceback(OOM)), *say(1, 0, "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ")],
        Blame.USER, "OutOfMemory", "cuda-out-of-memory", 1,
    ),
    "a kernel's out-of-memory before the killed rank": Case(
        [
            *say(0, 2, "Memory cgroup out of memory: Killed process 4242 (python) total-vm:104857600kB"),
            *say(0.1, 2, "failed (exitcode: -9) local_rank: 0 (pid: 4242) of binary: python"),
            *crowd(1, REMOTE, without(2)),
        ],
        Blame.USER, "OOMKilled", "kernel-oom-cgroup", 2,
    ),
    "a configuration that all ranks refuse": Case(
        crowd(0, "parallel.tensor: 16 does not divide kvHeads 8; use 1, 2, 4 or 8"),
        Blame.USER, "ConfigRefused", "trainer-refused", 0, common=True,
    ),
    "launchers' prefixes do not matter": Case(
        [*say(0, 3, PREFIXED), *crowd(9, REMOTE)],
        Blame.USER, "OutOfMemory", "cuda-out-of-memory", 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_crowd(case: Case) -> None:
    found = pick(case.lines)
    assert found is not None
    assert (found.blame, found.cause, found.rule, found.rank) == (case.blame, case.cause, case.rule, case.rank)
    assert found.common is case.common
    assert found.node == ("" if case.rank is None or (case.cause == SILENT and not says(case)) else home(case.rank))
    assert any(case.rule in line for line in found.evidence), "the hit is named"


def says(case: Case) -> bool:
    return any(line.rank == case.rank for line in case.lines)


def test_logs_without_a_fault_have_no_root_cause() -> None:
    assert pick([]) is None
    assert pick([*crowd(0, "loading shard 7"), *say(1, 0, STEP)]) is None


def test_evidence_shows_the_rule_the_end_of_the_traceback_and_the_others() -> None:
    found = pick([*say(0, 3, traceback(ASSERT)), *crowd(600, NCCL_TIMEOUT, without(3))])
    assert found is not None
    assert found.evidence == (
        f"log rule cuda-device-assert: rank 3 on n1 at 2026-03-01T12:00:00+00:00: {ASSERT}",
        "Traceback (most recent call last):",
        '  File "train.py", line 12, in step',
        "    run()",
        "besides: nccl-watchdog-timeout 7 times",
    )


def test_a_known_world_tells_of_ranks_beyond_the_last_that_spoke() -> None:
    lines = crowd(0, NCCL_TIMEOUT, range(7))
    without_world, with_world = pick(lines), pick(lines, world=8)
    assert without_world is not None
    assert with_world is not None
    assert (without_world.rank, with_world.rank) == (None, 7)


def test_silent_rank_is_where_its_neighbours_are() -> None:
    lines = [replace(line, node="n0" if line.rank < 5 else "n1") for line in crowd(0, NCCL_TIMEOUT, without(2))]
    at_edge = [replace(line, node="n0" if line.rank < 2 else "n1") for line in lines]
    assert [found.node for found in (pick(lines), pick(at_edge)) if found] == ["n0", ""]


def test_further_rules_name_what_the_table_does_not_know() -> None:
    text = "rules: [{name: feeder, pattern: feeder stopped, blame: fabric, cause: Feeder, weight: cause}]"
    lines = [*say(0, 3, traceback("RuntimeError: feeder stopped")), *crowd(600, NCCL_TIMEOUT, without(3))]
    found = pick(lines, Rulebook(parse(text, path="log-rules")))
    assert found is not None
    assert (found.rule, found.cause, found.blame, found.rank) == ("feeder", "Feeder", Blame.FABRIC, 3)


crowds = st.sampled_from([case.lines for case in CASES.values()])


@few
@given(lines=crowds, random=st.randoms(use_true_random=False))
def test_order_of_the_lines_does_not_matter(lines: Sequence[RankLine], random: Random) -> None:
    shuffled = list(lines)
    random.shuffle(shuffled)
    assert pick(shuffled) == pick(lines)


# At a quarter of a second no rank of the crowds is in the middle of a traceback.
symptoms = st.lists(
    st.tuples(
        st.integers(-3600, 3600).map(lambda seconds: seconds + 0.25),
        st.sampled_from(RANKS),
        st.sampled_from([NCCL_TIMEOUT, REMOTE, RESET, SIGTERM, XID_45, IB_12]),
    ),
    max_size=12,
)
caused = st.sampled_from([case.lines for case in CASES.values() if case.cause not in NO_CAUSE])


def named(found: RootCause | None) -> object:
    """What a root cause says, without what it says of the others."""
    return None if found is None else replace(found, evidence=found.evidence[:1])


@few
@given(lines=caused, more=symptoms)
def test_symptoms_never_change_a_cause(lines: Sequence[RankLine], more: list[tuple[float, int, str]]) -> None:
    there = {line.rank for line in lines}
    added = [line for at, rank, text in more if rank in there for line in say(at, rank, text)]
    assert named(pick([*lines, *added])) == named(pick(lines))


@few
@given(more=symptoms.filter(bool))
def test_symptoms_alone_are_never_a_cause(more: list[tuple[float, int, str]]) -> None:
    found = pick(list(itertools.chain.from_iterable(say(at, rank, text) for at, rank, text in more)))
    assert found is not None
    assert found.blame is Blame.UNKNOWN
    assert found.cause in NO_CAUSE
