"""The status that goes out: what a decision wants, what is seen, and the conditions that tell both."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from internlm2_operator.api.job import UNREADABLE
from internlm2_operator.api.status import (
    CheckpointStatus,
    Condition,
    JobStatus,
    NodesStatus,
    Phase,
    set_condition,
)
from internlm2_operator.plan import check_gate, resize, straggling, words
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.faults import open_faults
from internlm2_operator.plan.view import STEPPING, View
from internlm2_spec.contract import Progress, step_prefix

FIGURES_EVERY: Final = timedelta(seconds=30)
# The figures of all jobs together cause ten writes a second at most: each costs an API server 20 ms of CPU, for it
# checks the whole object anew.
FIGURES_APART: Final = timedelta(seconds=0.1)
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
        "nodes": _nodes(view) if _same_pods(view, wanted) else NodesStatus(),
        "restarts": wanted.restarts.summed(),
        "observed_generation": view.job.generation,
        "queued_time": (view.status.queued_time or now) if _waits(wanted, decision) else None,
    }
    figures = _figures(view) if same_stage else {}
    if decision.phase is Phase.SUCCEEDED:
        figures.pop("step", None)  # the final checkpoint's is known; a trainer may end before it is asked once more
    seen["stragglers"] = straggling.noted(view, wanted, now)
    status = wanted.model_copy(update=seen | figures)
    return status.model_copy(update={"conditions": _conditions(view, status, decision, now)})


def settle(old: JobStatus, new: JobStatus, written: datetime | None, jobs: int, now: datetime) -> JobStatus:
    """Keep the old figures when nothing else changed and the last write is young.

    So steps and losses alone cause at most one write in 30 s, and fewer where there are more than 300 jobs.
    """
    kept = new.model_copy(update={name: getattr(old, name) for name in FIGURES})
    if kept == old and written is not None and now - written < max(FIGURES_EVERY, jobs * FIGURES_APART):
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
        step, time = lead.checkpoint_step, view.told(lead.checkpoint_time) if lead.checkpoint_time else None
    else:
        return None
    return CheckpointStatus(step=step, time=time, url=f"{base}/{step_prefix(view.stage.name, step)}")


def _same_pods(view: View, wanted: JobStatus) -> bool:
    """Say whether the pods that are seen are those that are wanted from now on."""
    return wanted.attempt == view.status.attempt and wanted.completion_time is None


def _nodes(view: View) -> NodesStatus:
    active = min(len(view.progress), view.status.size, view.running)
    return NodesStatus(active=active, ready=view.running, spare=view.running - active)


def _waits(wanted: JobStatus, decision: Decision) -> bool:
    """Say whether nodes are all that the job lacks: then the queue counts it in, also between two attempts."""
    held_back = decision.blocked or decision.phase in (Phase.PENDING, Phase.SUSPENDED)
    return not wanted.size and wanted.completion_time is None and not held_back


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
    fits = "every stage has a legal layout at nodes.min and at nodes.max"
    if view.job.refused:
        yield "Validated", "False", UNREADABLE, view.job.refused
    else:
        yield (
            ("Validated", "True", "Legal", fits) if legal else ("Validated", "False", decision.reason, decision.message)
        )
    if status.completion_time is not None:
        yield "Scheduled", "False", "Ended", "the job has ended"
    elif status.size:
        yield "Scheduled", "True", "Placed", f"attempt {status.attempt} has {status.size} nodes"
    else:
        yield "Scheduled", "False", decision.reason, decision.message
    if (checked := check_gate.told(view.snapshot, status)) is not None:
        yield "NodesChecked", "True" if checked[0] else "False", *checked[1:]
    yield _progressing(view, status, decision)
    full, reason, message = resize.told(view, status, decision)
    yield "FullSize", "True" if full else "False", reason, message
    yield _fresh(view, now)
    yield straggling.row(view, status)
    yield _recovering(status)
    yield from _complete(view, status, decision)


def _progressing(view: View, status: JobStatus, decision: Decision) -> Row:
    if status.phase is Phase.RUNNING and status.size:
        told = f"attempt {status.attempt} trains stage {status.stage} on {status.size} nodes"
        return "Progressing", "True", "Training", told
    if decision.reason == "Running":
        reason = "Recovering" if open_faults(status.faults) else "Starting"
        return "Progressing", "False", reason, words.start(view)
    return "Progressing", "False", decision.reason, decision.message


def _recovering(status: JobStatus) -> Row:
    opened = open_faults(status.faults)
    if status.completion_time is not None:
        return "Recovering", "False", "Ended", words.health(status.faults) if not opened else "the job has ended"
    if opened:
        return "Recovering", "True", "FaultOpen", words.recovery(opened)
    return "Recovering", "False", "NoFault", words.health(status.faults)


def _fresh(view: View, now: datetime) -> Row:
    store = view.checkpoint
    if store is None:
        return "CheckpointFresh", "Unknown", "NotLooked", "the checkpoint store was not asked yet"
    if store.problem:
        return "CheckpointFresh", "Unknown", store.problem, store.message
    passed = "; ".join(f"step {step} was passed over: {why}" for step, why in store.corrupt)
    if store.verified is None:
        url, every = view.job.spec.checkpoint.url, view.job.spec.checkpoint.every_steps
        none = f"stage {view.stage.name} has no checkpoint in {url} yet; one is made every {every} steps"
        return "CheckpointFresh", "False", "NoCheckpoint", passed or none
    if passed:
        return "CheckpointFresh", "False", "CorruptCheckpoint", passed
    old = store.time is not None and now - store.time > FRESH and view.stepping
    if old:
        told = f"status.checkpoint is older than {FRESH.seconds // 60} minutes: that much is lost if pods are"
        return "CheckpointFresh", "False", "Old", told
    return "CheckpointFresh", "True", "Verified", "status.checkpoint is the newest one that is whole"


def _complete(view: View, status: JobStatus, decision: Decision) -> Iterator[Row]:
    if status.completion_time is None:
        of = f"stage {status.stage} is number {status.stage_index + 1} of {len(view.job.spec.stages)}"
        yield "Complete", "False", "InProgress", of
    elif status.phase is Phase.SUCCEEDED:
        yield "Complete", "True", "StagesComplete", decision.message
    else:
        yield "Complete", "False", decision.reason, decision.message
        yield "Failed", "True", decision.reason, decision.message
