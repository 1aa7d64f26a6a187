"""Reasons not to start pods yet. Nothing crashes in a loop; the job starts by itself when they are gone."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.api.status import Fault, Phase
from internlm2_operator.plan.decision import Decision, again
from internlm2_operator.plan.faults import open_faults
from internlm2_operator.plan.view import View

LOOK_AGAIN: Final = 10.0
DATA_REFUSED: Final = "DataRefused"
_FIRST_WAIT: Final = {DATA_REFUSED: 15.0}  # seconds; doubled for each further fault that is still open
_LONGEST_WAIT: Final = {DATA_REFUSED: 300.0}
# So many faults may be open at once before the infrastructure is given time to recover.
_AT_ONCE: Final = 3


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
        return Decision("LookingAtStore", "the checkpoint store was not asked yet", view.status, requeue_seconds=1)
    return None


def wait_for_backoff(view: View, now: datetime) -> Decision | None:
    """Hold the next attempt back after data was refused, or after many faults in a row without a step."""
    until = backoff_until(view.status.faults)
    if view.status.size or until is None or until <= now:
        return None
    last = open_faults(view.status.faults)[-1]
    message = f"{last.cause}: {'; '.join(last.evidence) or last.node}; next try at {until.isoformat()}"
    phase = Phase.PENDING if last.cause == DATA_REFUSED else None
    reason = "DataMissing" if last.cause == DATA_REFUSED else "BackingOff"
    return Decision(reason, message, view.status, requeue_seconds=again(LOOK_AGAIN, until, now), phase=phase)


def backoff_until(faults: Sequence[Fault]) -> datetime | None:
    """Return when the next pods may be made. Derived from the open faults, so a restart forgets nothing."""
    opened = open_faults(faults)
    if not opened:
        return None
    cause, since = opened[-1].cause, opened[-1].times.verdict
    row = sum(f.cause == DATA_REFUSED for f in opened) if cause == DATA_REFUSED else len(opened) - _AT_ONCE
    if row <= 0 or since is None:
        return None
    seconds = _FIRST_WAIT.get(cause, 1.0) * 2.0 ** (row - 1)
    return since + timedelta(seconds=min(seconds, _LONGEST_WAIT.get(cause, 60.0)))


def _blocked(view: View, reason: str, message: str) -> Decision:
    known = view.status.condition("Progressing")
    news = known is None or known.reason != reason
    return Decision(
        reason, message, view.status, requeue_seconds=LOOK_AGAIN, phase=Phase.PENDING, announce=news, warning=news
    )
