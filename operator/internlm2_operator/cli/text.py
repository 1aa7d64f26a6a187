"""What the verbs print. Pure: a job in, lines out."""

from collections.abc import Iterator
from datetime import datetime

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import Fault, FaultTimes

UNKNOWN = "-"


def status(job: InternLM2Job) -> Iterator[str]:
    """Yield where a job stands: summary first, then each condition in its own words."""
    now = job.status
    yield f"{job.key}: {now.phase}, stage {now.stage or UNKNOWN}, attempt {now.attempt}"
    yield f"  step {_or(now.step)}, loss {_or(now.loss, '.4f')}, tokens/s {_or(now.tokens_per_second, '.0f')}"
    saved = now.checkpoint
    yield f"  checkpoint: step {saved.step} at {_when(saved.time)}" if saved else "  checkpoint: none yet"
    yield f"  nodes: {now.nodes.active} active, {now.nodes.ready} ready, {now.nodes.spare} spare"
    yield f"  restarts: {now.restarts.counted} counted, {now.restarts.infrastructure} by infrastructure"
    for condition in now.conditions:
        yield f"  {condition.type}={condition.status} {condition.reason}: {condition.message}"


def faults(job: InternLM2Job) -> Iterator[str]:
    """Yield the faults of a job, oldest first, each with its evidence and the seconds of every arrow."""
    if not job.status.faults:
        yield f"{job.key}: no faults"
    for fault in job.status.faults:
        yield from _fault(fault)


def _fault(fault: Fault) -> Iterator[str]:
    state = "closed" if fault.times.closed else "open"
    yield f"{fault.id} {fault.cause} on {fault.node or 'no node'} {fault.gpu}".rstrip() + f": {state}"
    yield f"  verdict {fault.verdict}; {fault.action or 'no action'}; steps lost {_or(fault.steps_lost)}"
    for name in FaultTimes.model_fields:
        at = getattr(fault.times, name)
        if at is not None:
            after = f" (+{fault.seconds[name]:.1f} s)" if name in fault.seconds else ""
            yield f"  {name:<12}{_when(at)}{after}"
    for line in fault.evidence:
        yield f"  evidence: {line}"


def _when(at: datetime | None) -> str:
    return at.isoformat(timespec="milliseconds") if at else UNKNOWN


def _or(value: float | None, form: str = "") -> str:
    return UNKNOWN if value is None else format(value, form)
