"""What a job that waits for nodes is told: its place in line, what it lacks, and whom it waits for."""

from typing import Final

from internlm2_operator.api.status import JobStatus, Phase
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.placement import Shortage
from internlm2_operator.plan.queue import Place, Quota, Turn
from internlm2_operator.plan.view import View

# A job is woken when its turn comes; only its message grows old meanwhile, the less to the point the further back.
LOOK_AGAIN: Final = 10.0
LOOK_AGAIN_AT_LEAST: Final = 60.0


def queued(view: View, short: Shortage, status: JobStatus) -> Decision:
    """Let a job wait that finds too few nodes."""
    queue, place = view.snapshot.queue, view.snapshot.queue.place
    position = f"position {queue.position} of {queue.length}: " if queue.length > 1 and queue.position else ""
    told = _place(view, short, place) if place else _shortage(view, short)
    return _queued(view, "Queued", position + told, status)


def over_quota(view: View, needed: int, allowed: int) -> Decision:
    """Let a job wait whose pods the API server would not let in."""
    place = view.snapshot.queue.place
    quota = place.quota if place and place.quota else Quota("of the namespace")
    message = (
        f"ResourceQuota {quota.name} of namespace {view.job.namespace} leaves room for {allowed} nodes,"
        f" the smallest legal size is {needed}; raise it or wait until other pods of the namespace are gone"
    )
    return _queued(view, "Quota", message, view.status)


def _queued(view: View, reason: str, message: str, status: JobStatus) -> Decision:
    if view.status.preempted_by:
        reason, message = "Preempted", f"stopped for {view.status.preempted_by} after a checkpoint; {message}"
    again = min(LOOK_AGAIN_AT_LEAST, LOOK_AGAIN * max(1, view.snapshot.queue.position))
    return Decision(reason, message, status, requeue_seconds=again, phase=Phase.QUEUED)


def _place(view: View, short: Shortage, place: Place) -> str:
    names = ", ".join(place.others[:3]) + (f" and {len(place.others) - 3} more" if len(place.others) > 3 else "")
    match place.turn:
        case Turn.MAKING_ROOM if names:
            return f"{short.needed} nodes are needed; to make room {names} stop after a checkpoint"
        case Turn.BEHIND:
            return f"{short.needed} nodes are needed; those that could serve are kept for {names}, which is ahead"
        case Turn.TOO_LARGE:
            gpus = f"{view.job.spec.nodes.gpus_per_node} {view.job.spec.nodes.resource_name}"
            return (
                f"the smallest legal size is {short.needed} nodes and only {place.exist} exist that have {gpus}"
                " and fit template.nodeSelector; others do not wait for this job"
            )
        case _:
            return _shortage(view, short)


def _shortage(view: View, short: Shortage) -> str:
    gpus = view.job.spec.nodes.gpus_per_node
    return (
        f"{short.missing} more nodes with {gpus} free {view.job.spec.nodes.resource_name} are needed:"
        f" {short.free} are healthy and free, the smallest legal size is {short.needed}"
    )
