"""Reasons not to start pods yet. Nothing crashes in a loop; the job starts by itself when they are gone."""

from datetime import datetime
from typing import Final

from internlm2_operator.api.status import Fault, Phase
from internlm2_operator.plan.attempt import next_attempt
from internlm2_operator.plan.backoff import wait_until
from internlm2_operator.plan.cause import Kind
from internlm2_operator.plan.causes import cause
from internlm2_operator.plan.decision import Decision, again
from internlm2_operator.plan.faults import record
from internlm2_operator.plan.loss import Loss, awaits_cordon, blame
from internlm2_operator.plan.recognise import hindrance_of, refusal_of
from internlm2_operator.plan.view import View

LOOK_AGAIN: Final = 10.0
# A spare that the API server refused is asked for again after this; those that train go on without it.
REFUSED_AGAIN: Final = 60.0


def wait_for_objects(view: View, _: datetime) -> Decision | None:
    """Hold an attempt back while its Secret, bucket or data is missing. Pods that run are left alone."""
    if view.status.size:
        return None
    if view.snapshot.missing:
        kind, name = view.snapshot.missing[0].split("/", 1)
        message = f"{kind} {name} does not exist in namespace {view.job.namespace}; create it"
        return _blocked(view, f"{kind.capitalize()}Missing", message)
    store = view.checkpoint
    if store is not None and store.problem:
        return _blocked(view, store.problem, store.message or f"checkpoint store: {store.problem}")
    if store is None and view.job.spec.checkpoint.url.startswith("s3://"):
        return Decision(
            "LookingAtStore", "the checkpoint store was not asked yet", view.status, requeue_seconds=1, blocked=True
        )
    return None


def wait_for_backoff(view: View, now: datetime) -> Decision | None:
    """Hold the next pods back while something is missing that was missing before, or after many faults in a row.

    An edit of the spec may be the cure: the attempt after it does not wait.
    """
    waiting = wait_until(view.status.faults, view.job.uid, now, elsewhere=bool(view.status.size))
    empty = not view.status.size or any(slot not in view.members for slot in view.slots)
    if waiting is None or not empty or view.edited:
        return None
    until, last = waiting
    own = cause(last.cause).kind is Kind.WAITING
    message = f"{_told(last)}; next try at {until.isoformat(timespec='seconds')}"
    reason = last.cause if own else "BackingOff"
    phase = Phase.PENDING if own and not view.status.size else None
    return Decision(reason, message, view.status, requeue_seconds=again(LOOK_AGAIN, until, now), phase=phase,
                    blocked=True)  # fmt: skip


def take_up_edit(view: View, _: datetime) -> Decision | None:
    """The spec was edited while pods could not start because of it: make them anew at once."""
    if not view.edited or view.running >= view.status.size:
        return None
    waiting = [row for p in view.members.values() if (row := hindrance_of(p)) is not None and row.edited]
    if not waiting:
        return None
    message = f"the spec was edited while pods waited: {waiting[0].name}"
    return Decision("SpecEdited", message, next_attempt(view.status), requeue_seconds=0, announce=True)


def answer_refusal(view: View, now: datetime) -> Decision | None:
    """The API server refused to make a pod: let go of an attempt that cannot be whole; a spare can wait."""
    refused = view.snapshot.refused
    if refused is None or refused.attempt != view.status.attempt or not view.status.size:
        return None
    row = refusal_of(refused.message)
    message = f"{refused.message}; {row.cure}"
    if len(view.members) >= view.status.size:
        left = REFUSED_AGAIN - (now - refused.at).total_seconds()
        complete = all(slot in view.members for slot in view.slots)
        if complete or left <= 0:
            return None
        return Decision(row.name, message, view.status, requeue_seconds=min(LOOK_AGAIN, left))
    loss = Loss(0, None, row.name, blame(row), refused.at, (refused.message,), whole=True)
    faults = record(view.status.faults, view, (loss,), "attempt given up", now)
    return Decision(
        row.name, message, next_attempt(view.status, faults=faults), requeue_seconds=0, announce=True, warning=True
    )


def wait_for_turn(view: View, _: datetime) -> Decision | None:
    """Many jobs start pods at once, as after a switch failed: leave the API server time for each."""
    if not view.snapshot.hold or not view.status.size or all(slot in view.members for slot in view.slots):
        return None
    message = f"many pods were made for all jobs a moment ago; next try in {view.snapshot.hold:.1f} s"
    return Decision("WaitingForTurn", message, view.status, requeue_seconds=view.snapshot.hold)


def tell_hindrance(view: View, now: datetime) -> Decision | None:
    """A member does not start: say why, and leave it to kubelet or scheduler, which try again."""
    if any(awaits_cordon(view, pod, now) for pod in view.unwell):
        return None
    found = [(p, row) for p in view.members.values() if (row := hindrance_of(p)) is not None and row.name not in _USUAL]
    if not found:
        return None
    pod, row = found[0]
    words = f"pod {pod.name} on {pod.node}: {pod.waiting or pod.reason}: {pod.message}".rstrip(": ")
    message = f"{words}; {row.cure}" if row.cure else words
    enough = view.running >= view.status.size
    news = _news(view, row.name) and not enough
    phase = None if enough else Phase.PENDING
    return Decision(
        row.name, message, view.status, requeue_seconds=LOOK_AGAIN, phase=phase, announce=news, warning=news
    )


# What every pod goes through, told only once it took too long.
_USUAL: Final = frozenset({"StartSlow", "SandboxNotReady", "NotStarted"})


def _told(fault: Fault) -> str:
    row = cause(fault.cause)
    words = f"{fault.cause}: {'; '.join(fault.evidence) or fault.node}"
    return f"{words}; {row.cure}" if row.cure else words


def _blocked(view: View, reason: str, message: str) -> Decision:
    news = _news(view, reason)
    return Decision(
        reason, message, view.status, requeue_seconds=LOOK_AGAIN, phase=Phase.PENDING, announce=news, warning=news
    )


def _news(view: View, reason: str) -> bool:
    """Say whether the job stands still for another reason than the one that is told already."""
    known = view.status.condition("Progressing")
    return known is None or known.reason != reason
