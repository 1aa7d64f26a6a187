"""Whose fault an ended process is."""

import pytest
from torch.distributed import DistNetworkError, DistStoreError

from internlm2_spec.config import Refused
from internlm2_spec.contract import ExitCode, FailureClass, Termination
from internlm2_spec.standstill import Cluster
from internlm2_trainer.loop.guard import Diverged
from internlm2_trainer.pod import ending
from internlm2_trainer.pod.forks import ServerLost


@pytest.mark.parametrize(
    ("error", "failure", "code"),
    [
        (Refused("parallel.tensor", wrong="3", right="use 1"), FailureClass.USER, ExitCode.CONFIG),
        (Refused("data.url", wrong="gone", right="make it"), FailureClass.USER, ExitCode.DATA),
        (ZeroDivisionError("x"), FailureClass.USER, ExitCode.BUG),
        (RuntimeError("[gloo/tcp/pair.cc:545] Read error: Connection reset by peer"), FailureClass.PEER, 1),
        (DistNetworkError("gone"), FailureClass.PEER, 1),
        (DistStoreError("gone"), FailureClass.PEER, 1),
        (RuntimeError("CUDA error: uncorrectable ECC error"), FailureClass.INFRASTRUCTURE, 1),
        (ServerLost(), FailureClass.INFRASTRUCTURE, 1),
        (RuntimeError("shape mismatch"), FailureClass.USER, ExitCode.BUG),
        (Diverged("the loss spiked to nan"), FailureClass.USER, ExitCode.BUG),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_an_error_is_blamed_on_whom_it_concerns(error: Exception, failure: FailureClass, code: int) -> None:
    end = ending.explain(error, rank=3, step=7)

    assert (end.failure, end.exit_code, end.rank, end.step) == (failure, code, 3, 7)


def test_a_refusal_is_one_line_without_traceback() -> None:
    end = ending.explain(Refused("parallel.tensor", wrong="3 does not divide", right="use 1, 2, 4"))

    assert end.message == "parallel.tensor: 3 does not divide; use 1, 2, 4"
    assert end.traceback == ""


def test_the_first_failure_that_is_more_than_a_lost_peer_is_to_blame() -> None:
    peer = Termination(FailureClass.PEER, "PeerLost", 1, rank=0)
    bug = Termination(FailureClass.USER, "ValueError", ExitCode.BUG, rank=2)

    assert ending.blame([peer, bug]).reason == "ValueError"
    assert ending.blame([peer, bug]).first_failing_rank == 2
    assert ending.blame([peer]).reason == "PeerLost"
    assert ending.blame([peer]).first_failing_rank is None, "the rank that failed is elsewhere"


def test_of_ranks_that_hang_the_one_that_waits_for_nobody_is_to_blame() -> None:
    waiting = [Termination(FailureClass.PEER, "Hang", ExitCode.HANG, rank=rank) for rank in (0, 2)]
    stuck = Termination(FailureClass.INFRASTRUCTURE, "Hang", ExitCode.HANG, rank=1)

    end = ending.blame([waiting[0], stuck, waiting[1]])

    assert (end.exit_code, end.failure, end.rank) == (ExitCode.HANG, FailureClass.INFRASTRUCTURE, 1)
    assert end.first_failing_rank == 1
    assert ending.blame(waiting).first_failing_rank is None


def test_a_loss_that_is_not_finite_has_a_reason_of_its_own() -> None:
    """The operator's table of causes knows it by this name: Diverged, not one more bug."""
    assert ending.explain(Diverged("the loss spiked to nan at step 7"), step=7).reason == "Diverged"


def test_a_node_tells_where_its_ranks_stood_and_who_lost_its_peers_over_it() -> None:
    reads, waits = Cluster((1,), "step", place="source"), Cluster((0,), "step", waits=True, place="reduce")
    ends = [
        Termination(FailureClass.PEER, "Hang", ExitCode.HANG, rank=0, stood=(waits,)),
        Termination(FailureClass.INFRASTRUCTURE, "Hang", ExitCode.HANG, rank=1, stood=(reads,)),
        Termination(FailureClass.PEER, "PeerLost", 1, rank=2),
        Termination(FailureClass.PEER, "PeerLost", 1, rank=0),  # after its own word, when rank 1 was gone
        Termination(FailureClass.INFRASTRUCTURE, "RankKilled", 1, rank=3),
    ]
    assert ending.stood(ends) == (waits, reads, Cluster((2,), waits=True))
