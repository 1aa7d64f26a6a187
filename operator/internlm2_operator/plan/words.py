"""What conditions say about a start and about faults, for a person who reads `kubectl describe` and nothing else."""

from collections.abc import Sequence
from datetime import UTC
from typing import Final

from internlm2_operator.api.status import Fault
from internlm2_operator.plan.view import View

# Of many faults that are open at once the newest are told; all are in `status.faults`.
_TOLD: Final = 3


def start(view: View) -> str:
    """Tell how far a start has come."""
    trained = sum(progress.first_step_time is not None for progress in view.progress.values())
    return (
        f"{view.running} of {len(view.slots)} pods run, {min(len(view.progress), view.status.size)} of"
        f" {view.status.size} trainers answer, {min(trained, view.status.size)} have done a step"
    )


def recovery(opened: Sequence[Fault]) -> str:
    """Tell the open faults: what, where, since when, what was done about it, and what is waited for."""
    more = len(opened) - _TOLD
    told = [_open(fault) for fault in opened[-_TOLD:]]
    return " | ".join([*told, f"and {more} earlier, see status.faults"] if more > 0 else told)


def health(faults: Sequence[Fault]) -> str:
    """Tell the last fault of a job without an open one."""
    if not faults:
        return "no fault so far"
    last = faults[-1]
    seconds = f" after {last.seconds['total']:.0f} s" if "total" in last.seconds else ""
    lost = f" and {last.steps_lost} steps done twice" if last.steps_lost else ""
    return f"the last fault, {_where(last)}, was over{seconds}{lost}"


def _open(fault: Fault) -> str:
    since = f" since {fault.times.signal.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if fault.times.signal else ""
    cordoned = ", node cordoned" if fault.cordoned else ""
    return f"{_where(fault)}{since}: {fault.action or 'nothing done yet'}{cordoned}; {_awaited(fault)}"


def _where(fault: Fault) -> str:
    return f"{fault.cause} on {fault.node}" if fault.node else fault.cause


def _awaited(fault: Fault) -> str:
    if fault.times.replacement is None:
        return "waits for all pods to run"
    if fault.times.resume is None:
        return "waits for the checkpoint to be loaded"
    return "waits for the first step"
