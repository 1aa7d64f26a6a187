"""When a job stops for one of higher priority: its pods checkpoint and leave, and it queues again."""

from datetime import datetime

from internlm2_operator.api.status import ElasticStatus
from internlm2_operator.plan.attempt import next_attempt
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.view import View


def make_way(view: View, _: datetime) -> Decision | None:
    """Give the attempt up for the job that the queue names. No failure: nothing is recorded, counted or waited for."""
    job = view.snapshot.queue.yields_to
    if job is None or not view.status.size:
        return None
    message = f"stops after a checkpoint to make room for {job}, and goes on by itself when nodes are free"
    # The size that it had is no claim after a pause.
    status = next_attempt(view.status, preempted_by=job.key, elastic=ElasticStatus())
    return Decision("Preempted", message, status, requeue_seconds=0, announce=True)
