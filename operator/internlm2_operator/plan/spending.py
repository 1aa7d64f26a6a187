"""What the GPUs of a job are spent on at a moment: the accounts from which ETTR and lost GPU-hours are read.

ETTR is the effective training time ratio: the part of a job's GPU time that goes to steps which are never done again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import Fault
from internlm2_operator.plan.faults import open_faults
from internlm2_operator.plan.view import STEPPING
from internlm2_spec.contract import Progress
from internlm2_spec.metrics import SpentOn

_LATE: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Spending:
    """So many GPUs are spent on this; `cause` is that of the fault which is to blame, empty where there is none."""

    gpus: int
    on: SpentOn
    cause: str = ""


def spending(job: InternLM2Job, progress: Iterable[Progress], highest_step: int | None) -> Spending | None:
    """Return what the job's GPUs are spent on now, None for a job that has none and waits for none.

    `progress` is the last word of its pods, `highest_step` the highest step of the stage that was heard of. A job that
    has lost its nodes is charged those of its newest attempt: that is what its owner does without.
    """
    status = job.status
    size = status.size or status.elastic.size
    if status.start_time is None or status.completion_time is not None or not size:
        return None
    gpus = size * job.spec.nodes.gpus_per_node
    if hurt := oldest(open_faults(status.faults)):
        return Spending(gpus, SpentOn.FAULT, hurt.cause)
    if not status.size:
        return None if job.spec.suspend else Spending(gpus, SpentOn.QUEUE)
    progressing = status.condition("Progressing")
    if progressing is None or progressing.status != "True":
        return Spending(gpus, SpentOn.START)
    if _again(progress, highest_step):
        return Spending(gpus, SpentOn.REDO, _redone_for(status.faults))
    return Spending(gpus, SpentOn.PRODUCTIVE)


def oldest(faults: Iterable[Fault]) -> Fault | None:
    """Return the fault whose signal came first; those without one come last."""
    return min(faults, key=lambda f: (f.times.signal or _LATE, f.id), default=None)


def _again(progress: Iterable[Progress], highest_step: int | None) -> bool:
    """Say whether the newest processes do steps once more; a dead pod's last word stays until its object is gone."""
    newest = max((p for p in progress if p.phase in STEPPING), key=lambda p: (p.started_time, p.step), default=None)
    return newest is not None and highest_step is not None and newest.step < highest_step


def _redone_for(faults: tuple[Fault, ...]) -> str:
    """Return the cause of the newest fault that lost steps, empty when none did: a rollback is no fault."""
    return next((f.cause for f in reversed(faults) if f.steps_lost), "")
