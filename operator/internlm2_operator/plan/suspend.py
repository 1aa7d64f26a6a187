"""Stop a job that is suspended: its pods checkpoint and leave, nothing is lost."""

from datetime import datetime

from internlm2_operator.api.status import ElasticStatus, Phase
from internlm2_operator.plan.attempt import next_attempt
from internlm2_operator.plan.check_gate import put_off
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.view import View


def stop_suspended(view: View, _: datetime) -> Decision | None:
    """Want no pods; the attempt after this one starts when `suspend` is false again."""
    if not view.job.spec.suspend:
        return None
    if view.status.size:
        message = "suspend is true: pods write a checkpoint and stop"
        # The size that it had is no claim after a pause.
        status = next_attempt(view.status, elastic=ElasticStatus())
        return Decision("Suspending", message, status, requeue_seconds=0, announce=True, blocked=True)
    if view.leaving:
        return Decision("Suspending", "pods write a checkpoint and stop", view.status, requeue_seconds=1, blocked=True)
    told = "suspend is true and every pod is gone"
    return Decision("Suspended", told, put_off(view.status), phase=Phase.SUSPENDED)
