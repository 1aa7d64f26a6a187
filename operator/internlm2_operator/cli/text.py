"""What `status` and `faults` print. Pure: jobs in, lines out."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import Fault, FaultTimes
from internlm2_operator.cli.answer import UNKNOWN, Answer, ago, columns, figure
from internlm2_spec.contract import API_GROUP, KIND

_COLUMNS: Final = ("NAME", "PHASE", "STAGE", "NODES", "STEP", "LOSS", "MFU", "RESTARTS", "LAST-FAULT", "AGE")
_MORE: Final = ("ATTEMPT", "TOKENS/S", "CHECKPOINT", "SAVED", "REASON")


def job_name(job: InternLM2Job) -> str:
    """Return what `kubectl get -o name` prints."""
    return f"{KIND.lower()}.{API_GROUP}/{job.name}"


def jobs(found: Sequence[InternLM2Job], now: datetime, *, everywhere: bool) -> Answer:
    """Return all jobs as a table."""
    short, wide = table(found, now, everywhere=everywhere), table(found, now, everywhere=everywhere, more=True)
    return Answer(
        lines=tuple(columns(short)) if found else ("no jobs",),
        wide=tuple(columns(wide)) if found else None,
        data=[described(job) for job in found],
        names=tuple(job_name(job) for job in found),
    )


def table(
    found: Sequence[InternLM2Job], now: datetime, *, everywhere: bool, more: bool = False
) -> list[tuple[str, ...]]:
    """Return the heading, and a row of each job, sorted by their keys."""
    rows = [(*("NAMESPACE",) * everywhere, *_COLUMNS, *_MORE * more)]
    for job in sorted(found, key=lambda j: j.key):
        where = (job.namespace,) * everywhere
        rows.append((*where, *_row(job, now), *(_more(job, now) if more else ())))
    return rows


def described(job: InternLM2Job) -> dict[str, object]:
    return {"namespace": job.namespace, "name": job.name, "status": job.status.to_object()}


def _row(job: InternLM2Job, now: datetime) -> tuple[str, ...]:
    status = job.status
    return (
        job.name, status.phase, status.stage or UNKNOWN, str(status.nodes.active), figure(status.step),
        figure(status.loss), figure(status.mfu), str(status.restarts.infrastructure),
        status.faults[-1].cause if status.faults else UNKNOWN, ago(job.created, now),
    )  # fmt: skip


def _more(job: InternLM2Job, now: datetime) -> tuple[str, ...]:
    status, saved = job.status, job.status.checkpoint
    return (
        str(status.attempt), figure(status.tokens_per_second, ".0f"), figure(saved.step if saved else None),
        ago(saved.time if saved else None, now), (_blocking(job) or (UNKNOWN,))[0],
    )  # fmt: skip


def _blocking(job: InternLM2Job) -> tuple[str, str] | None:
    """Return reason and message of the first condition that says why the job does not go on."""
    for kind in ("Validated", "Scheduled", "Progressing"):
        known = job.status.condition(kind)
        if known is not None and known.status == "False":
            return known.reason, known.message
    return None


def status(job: InternLM2Job) -> Iterator[str]:
    """Yield where a job stands: summary first, then each condition in its own words."""
    now = job.status
    yield f"{job.key}: {now.phase}, stage {now.stage or UNKNOWN}, attempt {now.attempt}"
    loss, speed = figure(now.loss, ".4f"), figure(now.tokens_per_second, ".0f")
    yield f"  step {figure(now.step)}, loss {loss}, tokens/s {speed}, MFU {figure(now.mfu, '.1%')}"
    saved = now.checkpoint
    yield f"  checkpoint: step {saved.step} at {_when(saved.time)}" if saved else "  checkpoint: none yet"
    yield f"  nodes: {now.nodes.active} active, {now.nodes.ready} ready, {now.nodes.spare} spare"
    yield f"  restarts: {now.restarts.counted} counted, {now.restarts.infrastructure} by infrastructure"
    for condition in now.conditions:
        yield f"  {condition.type}={condition.status} {condition.reason}: {condition.message}".rstrip(": ")


def faults(job: InternLM2Job) -> Iterator[str]:
    """Yield the faults of a job, oldest first, each with its evidence and the seconds of every arrow."""
    if not job.status.faults:
        yield f"{job.key}: no faults"
    for fault in job.status.faults:
        yield from _fault(fault)


def _fault(fault: Fault) -> Iterator[str]:
    state = "closed" if fault.times.closed else "open"
    yield f"{fault.id} {fault.cause} on {fault.node or 'no node'} {fault.gpu}".rstrip() + f": {state}"
    yield f"  verdict {fault.verdict}; {fault.action or 'no action'}; steps lost {figure(fault.steps_lost)}"
    for name in FaultTimes.model_fields:
        at = getattr(fault.times, name)
        if at is not None:
            after = f" (+{fault.seconds[name]:.1f} s)" if name in fault.seconds else ""
            yield f"  {name:<12}{_when(at)}{after}"
    for line in fault.evidence:
        yield f"  evidence: {line}"


def _when(at: datetime | None) -> str:
    return at.isoformat(timespec="milliseconds") if at else UNKNOWN


def one(job: InternLM2Job) -> Answer:
    """Return where a job stands."""
    return Answer(lines=tuple(status(job)), data=described(job), names=(job_name(job),))


def all_faults(job: InternLM2Job) -> Answer:
    """Return the faults of a job; `-o name` prints their ids."""
    return Answer(
        lines=tuple(faults(job)),
        data=[fault.to_object() for fault in job.status.faults],
        names=tuple(fault.id for fault in job.status.faults),
    )
