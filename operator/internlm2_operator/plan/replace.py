"""Give the slots of lost members to new pods. A lost slot 0 is decided by `start_new_attempt`, which comes first."""

from collections.abc import Iterable
from datetime import datetime

from internlm2_operator.api.status import JobStatus, Replacement
from internlm2_operator.plan.attempt import roots
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.faults import record
from internlm2_operator.plan.loss import losses
from internlm2_operator.plan.view import View


def replace_lost_member(view: View, now: datetime) -> Decision | None:
    """Want the next pod of each lost slot; a spare joins meanwhile, and the new pod becomes the spare.

    Only the numbers in the status change here: the pods of old numbers are removed and those of new
    ones made because the status asks for them, so a crash in between repeats nothing.
    """
    lost = losses(view, now)
    if not lost:
        return None
    blamed = roots(lost)
    slots = ", ".join(str(loss.slot) for loss in lost)
    where = ", ".join(f"{loss.cause} on {loss.node or 'an unknown node'}" for loss in blamed)
    message = f"slots {slots} are replaced: {where}"
    status = _counted_up(view.status, (loss.slot for loss in lost)).model_copy(
        update={"faults": record(view.status.faults, view, blamed, "member replaced", now)}
    )
    return Decision("MemberReplaced", message, status, requeue_seconds=0, announce=True, warning=True)


def _counted_up(status: JobStatus, slots: Iterable[int]) -> JobStatus:
    counts = {r.slot: r.count for r in status.replacements}
    slots = tuple(slots)
    counts |= {slot: counts.get(slot, 0) + 1 for slot in slots}
    replacements = tuple(Replacement(slot=slot, count=counts[slot]) for slot in sorted(counts))
    infrastructure = status.restarts.infrastructure + 1
    restarts = status.restarts.model_copy(update={"infrastructure": infrastructure})
    return status.model_copy(update={"replacements": replacements, "restarts": restarts})
