"""Which members of an attempt are lost, and to what."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.health.node import NODE_NOT_READY, down_since, not_ready
from internlm2_operator.plan.cause import Cause, Kind
from internlm2_operator.plan.causes import cause
from internlm2_operator.plan.crowd import First, first_of
from internlm2_operator.plan.exits import End, exit_of
from internlm2_operator.plan.recognise import hindrance_of
from internlm2_operator.plan.snapshot import PodRecord
from internlm2_operator.plan.view import View

# A watch may show the pods of an attempt one by one; a slot that is still missing after this is lost.
SETTLED: Final = timedelta(seconds=10)
# The cordon of a node that fell silent is made side by side with this decision. Waiting a moment for
# it puts the evidence on the node before the pods that prove it are removed.
CORDON_FIRST: Final = timedelta(seconds=5)
# Action in the record of a removal that is under way.
AWAITED: Final = "waiting for the pods to write a checkpoint"


@dataclass(frozen=True, slots=True)
class Loss:
    """One member that is not coming back, or with `whole` the attempt itself, whose pods all live.

    `end` is None when the pod did not end by itself. `first` says that of those that ended this one explains the
    others, by what all of them left behind.
    """

    slot: int
    pod: PodRecord | None
    cause: str
    verdict: str
    signal_at: datetime
    evidence: tuple[str, ...]
    node: str = ""
    gpu: str = ""
    verdict_at: datetime | None = None
    cordoned_at: datetime | None = None
    end: End | None = None
    whole: bool = False
    first: bool = False

    @property
    def row(self) -> Cause:
        return cause(self.cause)

    @property
    def by_node(self) -> bool:
        return self.verdict == "node"

    @property
    def symptom(self) -> bool:
        """A member that only followed another one down."""
        return self.end is End.PEER


def losses(view: View, now: datetime) -> tuple[Loss, ...]:
    """Return the lost members of the attempt in slot order; members that are done are not lost."""
    found = [loss for slot in view.slots if slot not in view.well and (loss := _loss(view, slot, now)) is not None]
    first = first_of((loss.pod for loss in found if loss.pod and loss.end), view.snapshot.rulebook)
    return tuple(_explained(loss, first) if first and loss.pod and loss.end else loss for loss in found)


def _explained(loss: Loss, first: First) -> Loss:
    mine = loss.pod is not None and loss.pod.uid == first.uid
    return replace(loss, first=mine, evidence=(*loss.evidence, *first.evidence))


def _loss(view: View, slot: int, now: datetime) -> Loss | None:
    pod = view.members.get(slot)
    if pod is None:
        return _vanished(view, slot, now)
    ended = exit_of(pod)
    if ended is not None and ended.end is End.DONE:
        return None
    if view.at_fault(pod):
        return None if awaits_cordon(view, pod, now) else _by_node(view, pod, now)
    if ended is not None:
        said = (ended.evidence,)
        return Loss(slot, pod, ended.cause, blame(ended.row), pod.finished or now, said, pod.node or "", end=ended.end)
    return _stuck(view, pod) if pod.deleting else _hindered(pod, now)


def _stuck(view: View, pod: PodRecord) -> Loss | None:
    """Return the loss of a member whose kubelet, alive as it is, does not remove it."""
    if pod.gone_by is None or pod.uid not in view.stuck:
        return None
    words = f"pod {pod.name} should have been gone at {pod.gone_by.isoformat()}"
    return Loss(pod.slot, pod, "StuckTerminating", "unknown", pod.gone_by, (words,), pod.node or "")


def _hindered(pod: PodRecord, now: datetime) -> Loss | None:
    """Return the loss of a member that has failed to start for longer than its cause is worth waiting for."""
    row = hindrance_of(pod)
    if row is None or row.patience is None:
        return None
    if now - pod.created <= timedelta(seconds=row.patience):
        return None
    words = f"pod {pod.name} on {pod.node}: {pod.waiting or pod.reason or 'not scheduled'}: {pod.message}".rstrip(": ")
    return Loss(pod.slot, pod, row.name, blame(row), pod.created, (words,), pod.node or "")


def awaits_cordon(view: View, pod: PodRecord, now: datetime) -> bool:
    """Say whether the pod's node fell silent a moment ago and its cordon is on the way."""
    node = view.nodes.get(pod.node or "")
    if node is None or node.fault is not None or view.job.spec.health.mode == "Observe":
        return False
    down = down_since(node)
    return down is not None and timedelta(0) <= now - down < CORDON_FIRST


def blame(row: Cause) -> str:
    """Return the verdict of a fault that no node is to blame for."""
    return "unknown" if row.kind is Kind.INFRASTRUCTURE else row.kind.value


def _by_node(view: View, pod: PodRecord, now: datetime) -> Loss:
    node = view.nodes.get(pod.node or "")
    if node is not None and node.fault is not None:
        note = node.fault
        return Loss(
            pod.slot, pod, note.cause, "node", note.signal_at, note.evidence, node.name, note.gpu,
            verdict_at=note.verdict_at, cordoned_at=note.cordoned_at,
        )  # fmt: skip
    signal = not_ready(node) if node is not None else None
    if signal is None:
        return Loss(pod.slot, pod, "NodeGone", "node", now, (f"node {pod.node} does not exist",), pod.node or "")
    return Loss(pod.slot, pod, NODE_NOT_READY, "node", signal.at, (signal.detail,), signal.node)


def _vanished(view: View, slot: int, now: datetime) -> Loss | None:
    """A first pod of a member's slot that was deleted behind our back; replacements and spares may not exist yet."""
    settled = any(now - pod.created > SETTLED for pod in view.members.values())
    if not settled or slot >= view.status.size or view.status.replacement_of(slot):
        return None
    words = (f"the pod of slot {slot} does not exist any more",)
    known = (f for f in view.status.faults if f.times.closed is None and f.action == AWAITED)
    asked = next((f.times.signal for f in known), None)
    # Who was taken away has stopped by now, and the others are about to.
    end = None if asked is None else End.STOPPED
    return Loss(slot, None, "PodLost", blame(cause("PodLost")), asked or now, words, end=end)
