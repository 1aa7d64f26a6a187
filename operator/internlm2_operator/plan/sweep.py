"""Remove the pods that nobody wants any more."""

from internlm2_operator.plan.actions import DeletePod
from internlm2_operator.plan.snapshot import PodRecord
from internlm2_operator.plan.view import View, alive


def sweep(view: View) -> tuple[DeletePod, ...]:
    """Return one deletion for each pod that the written status does not ask for.

    A decision changes the status first; its pods go one plan later. So the record of a fault is
    safe before the pod that shows it is removed, and an operator that dies in between repeats both.
    """
    return tuple(d for pod in view.leaving if (d := _deletion(view, pod)) is not None)


def _deletion(view: View, pod: PodRecord) -> DeletePod | None:
    if _kept_for_its_logs(view, pod):
        return None
    if pod.deleting and pod.grace == 0:
        return None  # only a finalizer of somebody else holds the object, and nothing waits for it
    if view.dead(pod):
        # Its kubelet cannot confirm anything: the object is removed without it.
        return DeletePod(name=pod.name, uid=pod.uid, grace_seconds=0, force=True)
    if pod.deleting:
        return None
    # A member of a broken attempt cannot finish a step, so it cannot checkpoint either.
    return DeletePod(name=pod.name, uid=pod.uid, grace_seconds=None if _in_peace(view, pod) else 1)


def _kept_for_its_logs(view: View, pod: PodRecord) -> bool:
    """Say whether the pod shows why its job failed; those that still run are removed."""
    complete = view.status.condition("Complete")
    failed = view.status.completion_time is not None and (complete is None or complete.status != "True")
    return failed and not alive(pod)


def _in_peace(view: View, pod: PodRecord) -> bool:
    """Say whether the pod may take its own time: to write a checkpoint, or because it is done anyway."""
    status = view.status
    asked = view.job.spec.suspend or status.elastic.stopping is not None or status.preempted_by != ""
    return asked or view.status.completion_time is not None or pod.stage != view.status.stage_index
