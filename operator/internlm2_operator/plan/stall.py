"""When an attempt stands still without anybody having fallen."""

from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.plan.attempt import next_attempt
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.faults import record
from internlm2_operator.plan.loss import Loss
from internlm2_operator.plan.snapshot import PodPhase
from internlm2_operator.plan.view import View, moment
from internlm2_spec.contract import TrainPhase

# From outside, a restart in place looks like a stall until the new processes have their imports
# done, and a dead node until Kubernetes says so: nothing below this is called a stall.
RESTART_ALLOWANCE: Final = timedelta(seconds=180)
STEPS: Final = 10  # of the speed that was reported last
# Start-up, loading and checkpointing take as long as the store and the size of the model make them.
NOT_STEPPING: Final = timedelta(seconds=900)


def restart_stalled(view: View, now: datetime) -> Decision | None:
    """Start over when every pod runs and none has moved for long."""
    if not view.status.size or view.running < len(view.members) or view.running < view.status.size:
        return None
    last = max([_ready(view), *(_moved(view, name) for name in view.progress)])
    if now - last <= _patience(view):
        return None
    message = f"no step, load or restart since {last.isoformat()}"
    loss = Loss(0, None, "Stalled", "unknown", last, (message,), whole=True)
    faults = record(view.status.faults, view, (loss,), "new attempt", now)
    status = next_attempt(view.status, infrastructure=1, faults=faults)
    return Decision("Stalled", message, status, requeue_seconds=0, announce=True, warning=True)


def _ready(view: View) -> datetime:
    return max(p.created for p in view.members.values() if p.phase is PodPhase.RUNNING)


def _moved(view: View, name: str) -> datetime:
    seen = view.progress[name]
    return moment(max(seen.started_time, seen.step_time, seen.checkpoint_time or 0.0))


def _patience(view: View) -> timedelta:
    steps = [p for p in view.progress.values() if p.phase is TrainPhase.STEP and p.first_step_time is not None]
    speed = max((p.tokens_per_second or 0.0 for p in steps), default=0.0)
    if len(steps) < view.status.size or not speed:
        return NOT_STEPPING
    return max(RESTART_ALLOWANCE, timedelta(seconds=STEPS * view.stage.global_batch_tokens / speed))
