"""Give the slots of lost members to new pods. A lost slot 0 is decided by `start_new_attempt`, which comes first."""

from collections.abc import Iterable
from datetime import datetime

from internlm2_operator.api.status import JobStatus, Replacement
from internlm2_operator.plan.attempt import infrastructure, roots
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.faults import record
from internlm2_operator.plan.hang import told_together
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
    blamed = told_together(view, roots(lost))
    slots = ", ".join(str(loss.slot) for loss in lost)
    where = ", ".join(f"{loss.cause} on {loss.node or 'an unknown node'}" for loss in blamed)
    message = f"slots {slots} are replaced: {where}"
    faults = record(view.status.faults, view, blamed, "member replaced", now)
    restarts = view.status.restarts
    restarts = restarts.model_copy(update={"infrastructure": restarts.infrastructure + infrastructure(blamed)})
    replacements = counted_up(view.status, (loss.slot for loss in lost))
    status = view.status.model_copy(update={"replacements": replacements, "restarts": restarts, "faults": faults})
    return Decision("MemberReplaced", message, status, requeue_seconds=0, announce=True, warning=True)


def counted_up(status: JobStatus, slots: Iterable[int]) -> tuple[Replacement, ...]:
    """Return the replacements of a status that wants another pod for each of these slots."""
    counts = {r.slot: r.count for r in status.replacements}
    counts |= {slot: counts.get(slot, 0) + 1 for slot in slots}
    return tuple(Replacement(slot=slot, count=counts[slot]) for slot in sorted(counts))
