"""Stop a job that is suspended: its pods checkpoint and leave, nothing is lost."""

from datetime import datetime

from internlm2_operator.api.status import Phase
from internlm2_operator.plan.attempt import next_attempt
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.view import View


def stop_suspended(view: View, _: datetime) -> Decision | None:
    """Want no pods; the attempt after this one starts when `suspend` is false again."""
    if not view.job.spec.suspend:
        return None
    if view.status.size:
        message = "suspend is true: pods write a checkpoint and stop"
        return Decision("Suspending", message, next_attempt(view.status), requeue_seconds=0, announce=True)
    if view.leaving:
        return Decision("Suspending", "pods write a checkpoint and stop", view.status, requeue_seconds=1)
    return Decision("Suspended", "suspend is true and every pod is gone", view.status, phase=Phase.SUSPENDED)
