"""Members that somebody else takes away: a drain, a preemption, a person."""

from datetime import datetime

from internlm2_operator.plan.cause import Kind
from internlm2_operator.plan.causes import cause
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.faults import open_faults, record
from internlm2_operator.plan.loss import AWAITED, Loss, blame
from internlm2_operator.plan.recognise import end_of
from internlm2_operator.plan.view import View, alive


def note_removal(view: View, now: datetime) -> Decision | None:
    """Record who takes a member that trains away, while its pod still says so.

    The trainers do the rest by themselves: told to stop, the member takes all others along into a
    checkpoint. A member is never deleted by the operator, which first stops to want it.
    """
    if any(cause(f.cause).kind is Kind.REQUEST for f in open_faults(view.status.faults)):
        return None
    # Without a grace it is gone already, and nobody was told to stop.
    going = [p for p in view.members.values() if p.deleting and p.grace != 0 and alive(p) and p.name in view.progress]
    going = [p for p in going if not view.at_fault(p)]
    if not going:
        return None
    pod = going[0]
    row = end_of(pod)
    words = f"pod {pod.name} on {pod.node} is being deleted: {pod.disruption or 'nobody said why'}: {pod.message}"
    loss = Loss(pod.slot, pod, row.name, blame(row), now, (words.rstrip(": "),), pod.node or "")
    faults = record(view.status.faults, view, (loss,), AWAITED, now)
    status = view.status.model_copy(update={"faults": faults})
    return Decision(row.name, words.rstrip(": "), status, requeue_seconds=0, announce=True)
