"""When a stage or a job is over. Success is proved by the final manifest, never by exit codes."""

from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.api.status import Fault, Phase, arrow_seconds
from internlm2_operator.plan.actions import DeleteJob
from internlm2_operator.plan.attempt import next_attempt
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.exits import End, exit_of
from internlm2_operator.plan.faults import open_faults, record
from internlm2_operator.plan.loss import Loss
from internlm2_operator.plan.view import View

# The store is asked at once when pods finish and every few seconds after that.
PROOF_WITHIN: Final = timedelta(seconds=60)


def keep_finished(view: View, now: datetime) -> Decision | None:
    """A job that ended stays as it is, until its time to live is over."""
    ended, lives = view.status.completion_time, view.job.spec.ttl_seconds_after_finished
    if ended is None:
        return None
    if lives is None:
        return Decision("Finished", "the job has ended", view.status)
    left = (ended + timedelta(seconds=lives) - now).total_seconds()
    if left > 0:
        return Decision("Finished", f"the job has ended and is deleted in {left:.0f} s", view.status,
                        requeue_seconds=left)  # fmt: skip
    return Decision("Expired", f"the job ended {lives} s ago", view.status, (DeleteJob(),))


def complete_stage(view: View, now: datetime) -> Decision | None:
    """Go on to the next stage, or end the job, when the final manifest of this one exists."""
    verified = view.checkpoint.verified if view.checkpoint else None
    if verified is None or verified < view.stage.steps:
        return None
    status = view.status.model_copy(update={"faults": _all_closed(view.status.faults, now), "step": verified})
    index = view.status.stage_index + 1
    if index == len(view.job.spec.stages):
        done = status.model_copy(update={"completion_time": now})
        message = f"the final checkpoint of every stage exists, the last at step {verified}"
        return Decision("Succeeded", message, done, phase=Phase.SUCCEEDED, requeue_seconds=0, announce=True)
    name = view.job.spec.stages[index].name
    started = next_attempt(status, stage_index=index, stage=name, step=None, loss=None, checkpoint=None)
    message = f"stage {view.stage.name} is complete at step {verified}; stage {name} starts"
    return Decision("StageComplete", message, started, requeue_seconds=0, announce=True)


def prove_completion(view: View, now: datetime) -> Decision | None:
    """Members say that they are done: wait for the manifest, and try again when it does not come."""
    done = [p for p in view.unwell if (e := exit_of(p)) is not None and e.end is End.DONE]
    if not done:
        return None
    since = min(p.finished or p.created for p in done)
    if view.checkpoint is not None and view.checkpoint.problem:
        return Decision("CompletionUnproved", f"the store does not answer: {view.checkpoint.message}", view.status,
                        requeue_seconds=5)  # fmt: skip
    if now - since < PROOF_WITHIN:
        message = f"pods are done, waiting for the manifest of step {view.stage.steps}"
        return Decision("WaitingForManifest", message, view.status, requeue_seconds=2)
    message = f"every pod ended with 0, but no manifest of step {view.stage.steps} exists"
    loss = Loss(0, None, "CompletionUnproved", "unknown", since, (message,), whole=True)
    faults = record(view.status.faults, view, (loss,), "new attempt", now)
    status = next_attempt(view.status, infrastructure=1, faults=faults)
    return Decision("CompletionUnproved", message, status, requeue_seconds=0, announce=True, warning=True)


def _all_closed(faults: tuple[Fault, ...], now: datetime) -> tuple[Fault, ...]:
    """Close what is still open: there is no step left to wait for."""
    opened = open_faults(faults)
    return tuple(_closed(f, now) if f in opened else f for f in faults)


def _closed(fault: Fault, now: datetime) -> Fault:
    times = fault.times.model_copy(update={"closed": now})
    return fault.model_copy(update={"times": times, "seconds": arrow_seconds(times)})
