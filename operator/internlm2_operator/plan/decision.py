"""What one decision says. The first that speaks wins; everything after it is bookkeeping."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from internlm2_operator.api.status import JobStatus, Phase
from internlm2_operator.plan.actions import Action
from internlm2_operator.plan.view import View


@dataclass(frozen=True, slots=True)
class Decision:
    """`status` holds what is wanted from now on: stage, attempt, size, replacements, faults, counters.

    `phase` overrides the phase that follows from what is seen. `announce` sends the message as an
    event, `warning` as one that a person should read. `blocked` says that the job would not start
    even if it had nodes, so it holds up nobody who waits for some.
    """

    reason: str  # CamelCase
    message: str
    status: JobStatus
    actions: tuple[Action, ...] = ()
    requeue_seconds: float | None = None
    phase: Phase | None = None
    announce: bool = False
    warning: bool = False
    blocked: bool = False


Decide = Callable[[View, datetime], Decision | None]


def again(seconds: float, until: datetime | None, now: datetime) -> float:
    """Return when to look again: after `seconds`, or at `until` if that comes first."""
    return seconds if until is None else max(0.0, min(seconds, (until - now).total_seconds()))
