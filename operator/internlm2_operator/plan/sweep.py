"""Remove the pods that nobody wants any more."""

from internlm2_operator.api.status import JobStatus
from internlm2_operator.plan.actions import DeletePod
from internlm2_operator.plan.snapshot import PodRecord
from internlm2_operator.plan.view import View, alive, wanted


def sweep(view: View, status: JobStatus) -> tuple[DeletePod, ...]:
    """Return one deletion for each pod that `status` does not ask for, in name order.

    The pods of a job that failed keep their logs: only those that still run are removed.
    """
    failed = status.completion_time is not None and not _complete(view, status)
    pods = sorted((*view.members.values(), *view.leaving), key=lambda p: p.name)
    unwanted = (p for p in pods if not wanted(p, view.job, status) and not (failed and not alive(p)))
    return tuple(d for p in unwanted if (d := _deletion(view, p, gentle=_gentle(view, status))) is not None)


def _complete(view: View, status: JobStatus) -> bool:
    store = view.checkpoint
    known = status.condition("Complete")
    proved = store is not None and store.verified is not None and store.verified >= view.stage.steps
    return proved or (known is not None and known.status == "True")


def _gentle(view: View, status: JobStatus) -> bool:
    """Say whether pods may take their own time: to write a checkpoint, or because they are done anyway."""
    return view.job.spec.suspend or status.completion_time is not None or status.stage_index != view.status.stage_index


def _deletion(view: View, pod: PodRecord, *, gentle: bool) -> DeletePod | None:
    if view.dead(pod):
        # Its kubelet cannot confirm anything: the object is removed without it.
        return DeletePod(name=pod.name, uid=pod.uid, grace_seconds=0, force=True)
    if pod.deleting:
        return None
    # A member of a broken attempt cannot finish a step, so it cannot checkpoint either.
    return DeletePod(name=pod.name, uid=pod.uid, grace_seconds=None if gentle else 1)
