"""When the pods of an attempt are given up for those of a new one."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from internlm2_operator.api.status import JobStatus
from internlm2_operator.plan.cause import Kind
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.exits import End, exit_of
from internlm2_operator.plan.faults import record, trained
from internlm2_operator.plan.hang import told_together
from internlm2_operator.plan.loss import Loss, losses
from internlm2_operator.plan.view import View

# Members that stop together end within the time of one checkpoint; the last one publishes it.
STOP_TOGETHER: Final = timedelta(seconds=30)
# Members that only followed somebody down wait this long for the one that fell: Kubernetes takes up
# to 50 s to call a node dead, and before that its slot 0 would be placed on it again.
CAUSE_SHOWS_WITHIN: Final = timedelta(seconds=60)


def next_attempt(status: JobStatus, *, infrastructure: int = 0, **changes: Any) -> JobStatus:
    """Return the status that wants the next attempt: not placed yet, new names, new rendezvous."""
    restarts = status.restarts.model_copy(update={"infrastructure": status.restarts.infrastructure + infrastructure})
    wanted = {"attempt": status.attempt + 1, "size": 0, "replacements": (), "restarts": restarts}
    return status.model_copy(update=wanted | changes)


def start_new_attempt(view: View, now: datetime) -> Decision | None:
    """Give the attempt up when torchrun cannot re-form it: no store, or nobody left."""
    lost = losses(view, now)
    if (waiting := _wait_for_stop(view, lost, now) or _wait_for_cause(view, lost, now)) is not None:
        return waiting
    reason = _given_up(view, lost)
    if reason is None:
        return None
    blamed = told_together(view, roots(lost))
    where = ", ".join(dict.fromkeys(f"{loss.cause} on {loss.node or f'slot {loss.slot}'}" for loss in blamed))
    message = f"attempt {view.status.attempt} is given up: {reason}" + (f" ({where})" if where else "")
    faults = record(view.status.faults, view, blamed, "new attempt", now)
    status = next_attempt(view.status, infrastructure=infrastructure(blamed), faults=faults)
    return Decision("NewAttempt", message, status, requeue_seconds=0, announce=bool(blamed), warning=bool(blamed))


def roots(lost: Sequence[Loss]) -> tuple[Loss, ...]:
    """Return the losses that explain the others: every faulty node, else the first that was nobody's follower.

    Who was first is told by the words that all left behind, where they tell, else by the time of the end.
    """
    if by_node := tuple(loss for loss in lost if loss.by_node):
        return by_node
    own = [loss for loss in lost if not loss.symptom] or list(lost)
    # Members that stopped were told to by the one that was drained, preempted or deleted.
    return tuple(sorted(own, key=lambda loss: (loss.cause == "Stopped", not loss.first, loss.signal_at, loss.slot))[:1])


def infrastructure(blamed: Sequence[Loss]) -> int:
    """Return by how much these losses raise the number of the infrastructure's failures: once, if one is its."""
    return int(any(loss.row.kind is Kind.INFRASTRUCTURE for loss in blamed))


def _given_up(view: View, lost: Sequence[Loss]) -> str | None:
    if not view.status.size:
        return None
    gone = {loss.slot for loss in lost}
    if 0 in gone:
        return "slot 0, which holds the rendezvous store, is lost"
    few = len(_staying(view, gone)) < view.status.size
    if few and any(loss.end is End.STOPPED for loss in lost):
        return "pods were asked to stop by somebody else"
    if few and any(loss.symptom for loss in lost):
        return "members lost their peers"
    return None


def _staying(view: View, gone: set[int]) -> list[int]:
    return [slot for slot in view.members if slot not in gone]


def _wait_for_stop(view: View, lost: Sequence[Loss], now: datetime) -> Decision | None:
    """Some members stopped after a checkpoint: let the others finish theirs. A spare stops alone."""
    stopped = [loss.signal_at for loss in lost if loss.end is End.STOPPED and trained(view, loss)]
    if not stopped or now - min(stopped) >= STOP_TOGETHER:
        return None
    if all(exit_of(p) is not None or view.at_fault(p) for p in view.members.values()):
        return None
    return Decision("Stopping", "members stop after a checkpoint", view.status, requeue_seconds=1)


def _wait_for_cause(view: View, lost: Sequence[Loss], now: datetime) -> Decision | None:
    """Every loss is a follower's: somebody else ended the rendezvous, or fell and does not show yet."""
    gone = {loss.slot for loss in lost}
    staying = _staying(view, gone)
    if not lost or not all(loss.symptom for loss in lost) or not staying:
        return None
    # With the store and enough members left, torchrun goes on without the follower.
    if 0 not in gone and len(staying) >= view.status.size and not any(_told_to_end(loss) for loss in lost):
        return None
    if now - min(loss.signal_at for loss in lost) >= CAUSE_SHOWS_WITHIN:
        return None
    message = "members ended because a peer went away; waiting to see which"
    return Decision("WaitingForCause", message, view.status, requeue_seconds=2)


def _told_to_end(loss: Loss) -> bool:
    """Say whether the member left because another one closed the rendezvous for good."""
    said = loss.pod.termination if loss.pod else None
    return said is not None and said.reason == "RendezvousClosed"
