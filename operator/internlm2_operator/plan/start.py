"""Choose the size of an attempt, and make the pods that the status asks for."""

from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.api.status import Phase
from internlm2_operator.plan import capacity, resize
from internlm2_operator.plan.actions import CreatePod, EnsureConfigMap, EnsureService
from internlm2_operator.plan.attempt import next_attempt
from internlm2_operator.plan.check_gate import put_off, wait_for_check
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.faults import open_faults
from internlm2_operator.plan.placement import Placement, Shortage
from internlm2_operator.plan.view import View
from internlm2_operator.plan.waiting import over_quota, queued

# A member of a broken attempt has one second to end; a pod that still holds its GPUs after this is stuck.
HELD_TOO_LONG: Final = timedelta(seconds=60)


def place_waiting(view: View, now: datetime) -> Decision | None:
    """Fix the size of an attempt that has none yet; its pods are made from the status, one plan later.

    The size is written before the first pod exists, so an operator that dies in between neither
    forgets it nor makes pods of two sizes.
    """
    if view.status.size:
        return None
    if (stopping := resize.wait_for_stop(view, now)) is not None:
        return stopping
    legal = capacity.sizes(view.job)
    if not legal:
        nodes = view.job.spec.nodes
        message = f"no legal layout for any number of nodes from {nodes.min} to {nodes.max}; change nodes or parallel"
        return Decision("NoLegalSize", message, view.status, phase=Phase.PENDING)
    allowed = view.snapshot.queue.allowed
    if allowed is not None and allowed < min(legal):
        return over_quota(view, min(legal), allowed)
    legal = [size for size in legal if allowed is None or size <= allowed]
    at_once = capacity.placement(view, capacity.now_free(view), legal)
    soon = capacity.placement(view, capacity.soon_free(view), legal)
    if isinstance(soon, Shortage):
        return queued(view, soon, put_off(resize.lacking(view.status, now)))
    if (waiting := resize.wait_for_former_size(view, soon.size, now)) is not None:
        return waiting
    if isinstance(at_once, Shortage) or (at_once.size < soon.size and not _overdue(view, now)):
        return Decision("WaitingForPods", "pods of the former attempt still hold their GPUs", view.status,
                        requeue_seconds=1)  # fmt: skip
    if (checking := wait_for_check(view, at_once.nodes, now)) is not None:
        return checking
    status = view.status.model_copy(
        update={
            "attempt": max(1, view.status.attempt),
            "size": at_once.size,
            "elastic": resize.placed(view.status, view.job.spec.nodes.max, at_once.size, now),
            "preempted_by": "",
            "start_time": view.status.start_time or now,
        }
    )
    spares = len(at_once.nodes) - at_once.size
    message = f"attempt {status.attempt} of stage {view.stage.name} gets {at_once.size} nodes and {spares} spare"
    return Decision("Placed", message, status, requeue_seconds=0, announce=True)


def fill_slots(view: View, _: datetime) -> Decision | None:
    """Make the pods that are wanted and not there: all members of a new attempt at once, later any that fits."""
    empty = [slot for slot in view.slots if slot not in view.members]
    if not empty:
        return None
    where = _whole(view) if not view.members else capacity.refilled(view, capacity.now_free(view), empty)
    if where is None:
        message = "the nodes that were free are not any more"
        return Decision("PlaceLost", message, next_attempt(view.status), requeue_seconds=0)
    if not where:
        return None
    index = view.status.stage_index
    pods = tuple(_create(view, slot, node) for slot, node in sorted(where.items()))
    message = f"creating pods of slots {', '.join(str(p.slot) for p in pods)}"
    return Decision("CreatingPods", message, view.status, (EnsureService(), EnsureConfigMap(index), *pods),
                    requeue_seconds=5)  # fmt: skip


def _overdue(view: View, now: datetime) -> bool:
    """Say whether pods of the former attempt hold their GPUs for longer than any grace of ours explains."""
    said = [f.times.verdict for f in open_faults(view.status.faults) if f.times.verdict is not None]
    held = max([*said, *resize.stop_ends(view)], default=None)
    return held is not None and now - held > HELD_TOO_LONG


def _whole(view: View) -> dict[int, str] | None:
    placed = capacity.placement(view, capacity.now_free(view), (view.status.size,))
    return dict(enumerate(placed.nodes)) if isinstance(placed, Placement) else None


def _create(view: View, slot: int, node: str) -> CreatePod:
    status = view.status
    return CreatePod(
        stage=status.stage_index,
        attempt=status.attempt,
        slot=slot,
        replacement=status.replacement_of(slot),
        size=status.size,
        node=node,
    )
