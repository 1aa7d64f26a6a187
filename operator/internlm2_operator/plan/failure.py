"""Failures of the user's code or data: counted or waited for, and when the job has failed for good."""

from datetime import datetime, timedelta

from internlm2_operator.api.status import JobStatus, Phase, UserFailure
from internlm2_operator.plan.attempt import next_attempt
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.exits import End, fingerprint
from internlm2_operator.plan.faults import record
from internlm2_operator.plan.loss import Loss, losses
from internlm2_operator.plan.view import View


def answer_user_failure(view: View, now: datetime) -> Decision | None:
    """Start again, within the limits of failurePolicy. A faulty node explains a traceback before the user does."""
    lost = losses(view, now)
    own = [loss for loss in lost if loss.end in (End.USER, End.DATA)]
    if not own or any(loss.by_node for loss in lost):
        return None
    first = min(own, key=lambda loss: (loss.signal_at, loss.slot))
    faults = record(view.status.faults, view, (first,), "new attempt", now)
    if first.end is End.DATA:
        message = f"the data was refused: {first.evidence[0]}"
        status = next_attempt(view.status, faults=faults)
        return Decision("DataRefused", message, status, requeue_seconds=0, announce=True, warning=True)
    return _counted(view, first, view.status.model_copy(update={"faults": faults}), now)


def _counted(view: View, first: Loss, status: JobStatus, now: datetime) -> Decision:
    policy = view.job.spec.failure_policy
    failure = _failure(first, now)
    window = timedelta(seconds=policy.window_seconds)
    recent = tuple(f for f in status.restarts.recent if now - f.time < window)
    repeated = any((f.step, f.fingerprint) == (failure.step, failure.fingerprint) for f in recent)
    restarts = status.restarts.model_copy(update={"counted": status.restarts.counted + 1, "recent": (*recent, failure)})
    status = status.model_copy(update={"restarts": restarts})
    if repeated:
        return _failed("RepeatedFailure", f"the same failure at step {failure.step} twice", first, status, now)
    if len(recent) + 1 > policy.max_restarts:
        words = f"{len(recent) + 1} failures within {policy.window_seconds} s, maxRestarts is {policy.max_restarts}"
        return _failed("TooManyFailures", words, first, status, now)
    message = f"failure {len(recent) + 1} of at most {policy.max_restarts}: {first.evidence[0]}"
    return Decision("UserFailure", message, next_attempt(status), requeue_seconds=0, announce=True, warning=True)


def _failed(reason: str, words: str, first: Loss, status: JobStatus, now: datetime) -> Decision:
    said = first.pod.termination if first.pod else None
    # The end of a traceback names the error; the condition keeps 1,024 characters.
    told = (said.traceback or said.message) if said else first.evidence[0]
    head = f"{words}; exit {first.pod.exit_code if first.pod else None}: "
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
    said = first.pod.termination
    return UserFailure(time=now, step=said.step if said else None, fingerprint=fingerprint(first.pod))
