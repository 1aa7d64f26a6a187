"""When an attempt stands still without anybody having fallen.

The trainer finds a hang by itself, after the time that it states with its progress, and ends with the stacks. From
outside it is found for those that cannot: every process of a pod is stopped, or all wait in a meeting that never
comes about. Each phase and each way to be silent has its own patience, learned where there is something to learn from.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.plan.attempt import next_attempt
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.faults import record
from internlm2_operator.plan.loss import Loss
from internlm2_operator.plan.snapshot import Heard, PodPhase
from internlm2_operator.plan.view import View, moment
from internlm2_spec.contract import HANG, Progress, TrainPhase

# From outside, a restart in place looks like a stall until the new processes have their imports
# done, and a dead node until Kubernetes says so: nothing below this is called a stall by silence alone.
RESTART_ALLOWANCE: Final = 180.0
# A trainer that answers ends itself at its limit: it shows its stacks, its agent settles, others say the same.
OWN_END: Final = 60.0
# A pod is mute when it has been for so long. While it was, one that answers should have ended by itself.
MUTE: Final = 15.0
WITNESS: Final = 5.0  # since it last answered
STEPS: Final = 10  # of the speed that was reported last, where a trainer states no limit
# Start-up takes as long as image and network make it; a trainer states no limit before it has begun.
NOT_STARTED: Final = 900.0
# A stated limit is a user's word: it holds between these.
LEAST: Final = 10.0
MOST: Final = 3600.0


def restart_stalled(view: View, now: datetime) -> Decision | None:
    """Start over when every pod runs and none has moved for long."""
    if not view.status.size or view.running < len(view.members) or view.running < view.status.size:
        return None
    if view.heard is not None and not all(pod.name in view.heard for pod in view.members.values()):
        return None  # this operator has just started, and has not asked everybody yet
    heard = {name: heard for name, heard in (view.heard or {}).items() if name in view.progress}  # spares never answer
    still = min(_since_ready(view, now), _still(view, now))
    limit = patience(view.progress.values(), heard.values(), view.status.size, view.stage.global_batch_tokens)
    if still <= limit:
        return None
    since = now - timedelta(seconds=still)
    message = f"no step, load or restart since {since.isoformat()}"
    mute = [pod for pod in view.members.values() if is_mute(heard.get(pod.name))]
    said = tuple(f"pod {pod.name} on {pod.node} takes connections and does not answer" for pod in mute)
    culprit = mute[0].node if len(mute) == 1 else None
    cause = HANG if culprit else "Stalled"
    loss = Loss(0, None, cause, "unknown", since, (message, *said[:15]), culprit or "", whole=True)
    faults = record(view.status.faults, view, (loss,), "new attempt", now)
    status = next_attempt(view.status, infrastructure=1, faults=faults)
    return Decision("Stalled", message, status, requeue_seconds=0, announce=True, warning=True)


def is_mute(heard: Heard | None) -> bool:
    """Say whether a pod is there and has said nothing for long."""
    return heard is not None and heard.mute and heard.silent >= MUTE


def patience(said: Collection[Progress], heard: Collection[Heard], size: int, batch_tokens: int) -> float:
    """Return the seconds without any movement that are too many, for an attempt of `size` nodes that said this last."""
    if len(said) < size:
        return NOT_STARTED
    limit = max(_limit(each, batch_tokens) for each in said)
    answers = [each for each in heard if each.silent < WITNESS]
    mute = any(map(is_mute, heard))
    if mute and answers:
        return limit + MUTE  # who answers sees no step, and has not ended: all wait for the mute one
    if heard and all(each.stopped and is_mute(each) for each in heard) and all(each.limit_seconds for each in said):
        return limit  # there is a way to each of them, and none runs: nobody else can find it
    if mute or (heard and len(answers) == len(heard)):
        # Nobody answers: stopped, or in a meeting that a stopped one never comes to, or it is we who are cut off.
        # All answer: they find it themselves.
        return limit + OWN_END
    return max(RESTART_ALLOWANCE, limit + OWN_END)


def _limit(said: Progress, batch_tokens: int) -> float:
    if said.limit_seconds is not None:
        return min(MOST, max(LEAST, said.limit_seconds))
    if said.phase is not TrainPhase.STEP or said.first_step_time is None or not said.tokens_per_second:
        return NOT_STARTED - OWN_END
    return STEPS * batch_tokens / said.tokens_per_second - OWN_END


def _since_ready(view: View, now: datetime) -> float:
    started = max(p.created for p in view.members.values() if p.phase is PodPhase.RUNNING)
    return (now - started).total_seconds()


def _still(view: View, now: datetime) -> float:
    """Return the seconds since any trainer said something new; by their clocks where it was not noted."""
    if view.heard is not None:
        return min(heard.still for heard in view.heard.values())
    return (now - moment(max(map(_moved, view.progress.values()), default=0.0))).total_seconds()


def _moved(said: Progress) -> float:
    return max(said.started_time, said.step_time, said.checkpoint_time or 0.0)
