"""Failures of the user's code or data: counted or waited for, and when the job has failed for good."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from internlm2_operator.api.status import JobStatus, Phase, UserFailure
from internlm2_operator.plan.attempt import next_attempt
from internlm2_operator.plan.causes import cause
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.exits import End, fingerprint
from internlm2_operator.plan.faults import record
from internlm2_operator.plan.loss import Loss, blame, losses
from internlm2_operator.plan.view import View


def answer_user_failure(view: View, now: datetime) -> Decision | None:
    """Start again, within the limits of failurePolicy. A faulty node explains a traceback before the user does."""
    lost = losses(view, now)
    own = [loss for loss in lost if loss.end in (End.USER, End.WAITING)]
    if not own or any(loss.by_node for loss in lost):
        return None
    first = _told_by_store(view, min(own, key=lambda loss: (not loss.first, loss.signal_at, loss.slot)))
    faults = record(view.status.faults, view, (first,), "new attempt", now)
    if first.end is End.WAITING:
        message = f"{first.cause}: {first.evidence[0]}; {first.row.cure}"
        status = next_attempt(view.status, faults=faults)
        return Decision(first.cause, message, status, requeue_seconds=0, announce=True, warning=True)
    return _counted(view, first, view.status.model_copy(update={"faults": faults}), now)


def _told_by_store(view: View, first: Loss) -> Loss:
    """A trainer that was refused while the store refuses the operator, too, is not to blame: that is waited for."""
    problem = view.checkpoint.problem if view.checkpoint else ""
    if first.cause != "ConfigRefused" or not problem:
        return first
    return replace(first, cause=problem, verdict=blame(cause(problem)), end=End.WAITING)


def _counted(view: View, first: Loss, status: JobStatus, now: datetime) -> Decision:
    policy = view.job.spec.failure_policy
    failure = _failure(first, now)
    window = timedelta(seconds=policy.window_seconds)
    recent = tuple(f for f in status.restarts.recent if now - f.time < window)
    equal = 1 + _equal(failure, recent)
    restarts = status.restarts.model_copy(update={"counted": status.restarts.counted + 1, "recent": (*recent, failure)})
    status = status.model_copy(update={"restarts": restarts})
    if equal >= first.row.repeats:
        where = "" if failure.step is None else f" at step {failure.step}"
        return _failed("RepeatedFailure", f"{first.cause}{where} {equal} times", first, status, now)
    if len(recent) + 1 > policy.max_restarts:
        words = f"{len(recent) + 1} failures within {policy.window_seconds} s, maxRestarts is {policy.max_restarts}"
        return _failed("TooManyFailures", words, first, status, now)
    message = f"failure {len(recent) + 1} of at most {policy.max_restarts}: {first.evidence[0]}; {first.row.cure}"
    return Decision(first.cause, message, next_attempt(status), requeue_seconds=0, announce=True, warning=True)


def _equal(failure: UserFailure, recent: Iterable[UserFailure]) -> int:
    return sum((f.step, f.fingerprint) == (failure.step, failure.fingerprint) for f in recent)


def _failed(reason: str, words: str, first: Loss, status: JobStatus, now: datetime) -> Decision:
    said = first.pod.termination if first.pod else None
    # The end of a traceback names the error; the condition keeps 1,024 characters.
    told = (said.traceback or said.message) if said else first.evidence[0]
    head = f"{words}; {first.row.cure}; exit {first.pod.exit_code if first.pod else None}: "
    ended = status.model_copy(update={"completion_time": now})
    return Decision(
        reason,
        head + told[-(1000 - len(head)) :],
        ended,
        phase=Phase.FAILED,
        requeue_seconds=0,
        announce=True,
        warning=True,
    )


def _failure(first: Loss, now: datetime) -> UserFailure:
    if first.pod is None:
        return UserFailure(time=now)
    said = None if first.row.by_kubernetes else first.pod.termination
    return UserFailure(time=now, step=said.step if said else None, fingerprint=fingerprint(first.pod))
