"""The status that goes out: what a decision wants, what is seen, and the conditions that tell both."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from internlm2_operator.api.status import (
    CheckpointStatus,
    Condition,
    JobStatus,
    NodesStatus,
    Phase,
    set_condition,
)
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.faults import open_faults
from internlm2_operator.plan.view import STEPPING, View, moment
from internlm2_spec.contract import Progress, step_prefix

FIGURES_EVERY: Final = timedelta(seconds=30)
# Fields that move with every step: the fine grain is in Prometheus.
FIGURES: Final = ("step", "loss", "tokens_per_second", "mfu", "checkpoint")
# A checkpoint is fresh within so many of its own intervals; at least this long.
FRESH: Final = timedelta(minutes=10)

Truth = Literal["True", "False", "Unknown"]
Row = tuple[str, Truth, str, str]


def report(view: View, decision: Decision, now: datetime) -> JobStatus:
    """Return the whole status after `decision`. The same input gives the same status."""
    wanted = decision.status
    if view.status.completion_time is not None:
        return wanted
    same_stage = wanted.stage_index == view.status.stage_index
    seen: dict[str, Any] = {
        "phase": decision.phase or _phase(view, wanted),
        "stage": view.job.spec.stages[wanted.stage_index].name,
        "nodes": _nodes(view) if wanted.attempt == view.status.attempt else NodesStatus(),
        "observed_generation": view.job.generation,
    }
    figures = _figures(view) if same_stage else {}
    status = wanted.model_copy(update=seen | figures)
    return status.model_copy(update={"conditions": _conditions(view, status, decision, now)})


def settle(old: JobStatus, new: JobStatus, written: datetime | None, now: datetime) -> JobStatus:
    """Keep the old figures when nothing else changed and the last write is younger than FIGURES_EVERY.

    So steps and losses alone cause at most one write in 30 s.
    """
    kept = new.model_copy(update={name: getattr(old, name) for name in FIGURES})
    if kept == old and written is not None and now - written < FIGURES_EVERY:
        return old
    return new


def _figures(view: View) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    if (lead := _lead(view)) is not None and lead.phase in STEPPING:
        figures |= {"step": lead.step, "loss": lead.loss, "tokens_per_second": lead.tokens_per_second, "mfu": lead.mfu}
    if (saved := _checkpoint(view, lead)) is not None:
        figures["checkpoint"] = saved
    # Validation turns a loss that is not finite into None, which model_copy would not.
    return {key: getattr(checked, key) for checked in [JobStatus(**figures)] for key in figures}


def _lead(view: View) -> Progress | None:
    """Return the progress of the newest processes, rank 0 first."""
    return max(view.progress.values(), key=lambda p: (p.first_step_time or 0.0, -p.rank), default=None)


def _checkpoint(view: View, lead: Progress | None) -> CheckpointStatus | None:
    """Return the newest verified checkpoint; where the store cannot be seen from here, the trainer's word for it."""
    store, base = view.checkpoint, view.job.spec.checkpoint.url.rstrip("/")
    if store is not None and store.verified is not None:
        step, time = store.verified, store.time
    elif store is None and lead is not None and lead.checkpoint_step is not None:
        step, time = lead.checkpoint_step, moment(lead.checkpoint_time) if lead.checkpoint_time else None
    else:
        return None
    return CheckpointStatus(step=step, time=time, url=f"{base}/{step_prefix(view.stage.name, step)}")


def _nodes(view: View) -> NodesStatus:
    active = min(len(view.progress), view.status.size, view.running)
    return NodesStatus(active=active, ready=view.running, spare=view.running - active)


def _phase(view: View, wanted: JobStatus) -> Phase:
    if wanted.attempt != view.status.attempt or not wanted.size:
        return Phase.RECOVERING if open_faults(wanted.faults) else Phase.STARTING
    if open_faults(wanted.faults):
        return Phase.RECOVERING
    return Phase.RUNNING if view.stepping else Phase.STARTING


def _conditions(view: View, status: JobStatus, decision: Decision, now: datetime) -> tuple[Condition, ...]:
    conditions = view.status.conditions
    for kind, truth, reason, message in _rows(view, status, decision, now):
        conditions = set_condition(
            conditions, kind, status=truth, reason=reason, message=message, generation=view.job.generation, now=now
        )
    return conditions


def _rows(view: View, status: JobStatus, decision: Decision, now: datetime) -> Iterator[Row]:
    legal = decision.reason != "NoLegalSize"
    yield ("Validated", "True", "Legal", "") if legal else ("Validated", "False", decision.reason, decision.message)
    if status.size:
        yield "Scheduled", "True", "Placed", f"attempt {status.attempt} has {status.size} nodes"
    else:
        yield "Scheduled", "False", decision.reason, decision.message
    yield _progressing(view, status, decision)
    yield _fresh(view, now)
    opened = open_faults(status.faults)
    words = ", ".join(f"{f.cause} {f.node}".strip() for f in opened)
    yield ("Recovering", "True", "FaultOpen", words) if opened else ("Recovering", "False", "NoFault", "")
    yield from _complete(status, decision)


def _progressing(view: View, status: JobStatus, decision: Decision) -> Row:
    if status.phase is Phase.RUNNING and status.size:
        return "Progressing", "True", "Training", f"{status.size} nodes train stage {status.stage}"
    waiting = sorted({p.waiting for p in view.members.values() if p.waiting not in ("", "ContainerCreating")})
    if decision.reason == "Running":
        reason = waiting[0] if waiting else "Recovering" if open_faults(status.faults) else "Starting"
        told = next((p.message for p in view.members.values() if p.waiting == reason), "")
        return "Progressing", "False", reason, told
    return "Progressing", "False", decision.reason, decision.message


def _fresh(view: View, now: datetime) -> Row:
    store = view.checkpoint
    if store is None:
        return "CheckpointFresh", "Unknown", "NotLooked", ""
    if store.problem:
        return "CheckpointFresh", "Unknown", store.problem, store.message
    passed = "; ".join(f"step {step} was passed over: {why}" for step, why in store.corrupt)
    if store.verified is None:
        return "CheckpointFresh", "False", "NoCheckpoint", passed
    if passed:
        return "CheckpointFresh", "False", "CorruptCheckpoint", passed
    old = store.time is not None and now - store.time > FRESH and view.stepping
    return ("CheckpointFresh", "False" if old else "True", "Old" if old else "Verified", "")


def _complete(status: JobStatus, decision: Decision) -> Iterator[Row]:
    if status.completion_time is None:
        yield "Complete", "False", "InProgress", ""
    elif status.phase is Phase.SUCCEEDED:
        yield "Complete", "True", "StagesComplete", decision.message
    else:
        yield "Complete", "False", decision.reason, decision.message
        yield "Failed", "True", decision.reason, decision.message
