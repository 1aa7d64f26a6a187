"""When a node of the attempt is announced to go: a checkpoint first, then all go on elsewhere."""

from collections.abc import Sequence
from datetime import datetime

from internlm2_operator.plan import resize
from internlm2_operator.plan.causes import cause
from internlm2_operator.plan.decision import Decision
from internlm2_operator.plan.faults import record
from internlm2_operator.plan.loss import Loss, blame
from internlm2_operator.plan.replace import counted_up
from internlm2_operator.plan.snapshot import PodRecord
from internlm2_operator.plan.view import View, alive


def leave_before_maintenance(view: View, now: datetime) -> Decision | None:
    """Stop an attempt in peace whose node will go; a spare on such a node only moves.

    Whoever is being taken away already is `note_removal`'s.
    """
    if view.job.spec.health.mode == "Observe" or any(p.deleting for p in view.members.values()):
        return None
    going = [pod for pod in view.members.values() if alive(pod) and _announced(view, pod)]
    if not going:
        return None
    if view.stepping and not any(pod.name in view.progress for pod in going):
        return _spares(view, going)
    pod = going[0]
    words = f"node {pod.node} will go, says {_announced(view, pod)}"
    loss = Loss(pod.slot, pod, "Maintenance", blame(cause("Maintenance")), now, (words,), pod.node or "", whole=True)
    faults = record(view.status.faults, view, (loss,), "moved after a checkpoint", now)
    status = resize.stop_for(view, resize.best_size(view), now, faults=faults)
    message = f"{words}: pods write a checkpoint and stop, and the job goes on elsewhere"
    return Decision("Maintenance", message, status, requeue_seconds=0, announce=True)


def _spares(view: View, going: Sequence[PodRecord]) -> Decision:
    replacements = counted_up(view.status, (pod.slot for pod in going))
    where = ", ".join(f"{pod.node} ({_announced(view, pod)})" for pod in going)
    status = view.status.model_copy(update={"replacements": replacements})
    return Decision("SpareMoved", f"the spare leaves {where}", status, requeue_seconds=0, announce=True)


def _announced(view: View, pod: PodRecord) -> str:
    """Return what announces the end of the pod's node, while the node still lives and nothing else is wrong with it."""
    node = view.nodes.get(pod.node or "")
    return "" if node is None or view.at_fault(pod) else node.notice
