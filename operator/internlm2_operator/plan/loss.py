"""Which members of an attempt are lost, and to what."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.health.node import NODE_NOT_READY, not_ready
from internlm2_operator.plan.exits import End, exit_of
from internlm2_operator.plan.snapshot import PodPhase, PodRecord
from internlm2_operator.plan.view import View

# A watch may show the pods of an attempt one by one; a slot that is still missing after this is lost.
SETTLED: Final = timedelta(seconds=10)
# The cordon of a node that fell silent is made side by side with this decision. Waiting a moment for
# it puts the evidence on the node before the pods that prove it are removed.
CORDON_FIRST: Final = timedelta(seconds=5)
# A pinned pod that the scheduler has not accepted for so long will not start: its node is taken.
UNSCHEDULED: Final = timedelta(seconds=120)


@dataclass(frozen=True, slots=True)
class Loss:
    """One member that is not coming back, or with `whole` the attempt itself, whose pods all live.

    `end` is None when the pod did not end by itself.
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

    @property
    def by_node(self) -> bool:
        return self.verdict == "node"

    @property
    def symptom(self) -> bool:
        """A member that only followed another one down."""
        return self.end is End.PEER


def losses(view: View, now: datetime) -> tuple[Loss, ...]:
    """Return the lost members of the attempt in slot order; members that are done are not lost."""
    found = (_loss(view, slot, now) for slot in view.slots)
    return tuple(loss for loss in found if loss is not None)


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
        return Loss(
            slot,
            pod,
            ended.cause,
            _blame(ended.end),
            pod.finished or now,
            (ended.evidence,),
            pod.node or "",
            end=ended.end,
        )
    if pod.phase is PodPhase.PENDING and not pod.waiting and now - pod.created > UNSCHEDULED:
        return Loss(
            slot, pod, "Unschedulable", "unknown", pod.created, (pod.message or "not scheduled",), pod.node or ""
        )
    return None


def awaits_cordon(view: View, pod: PodRecord, now: datetime) -> bool:
    """Say whether the pod's node fell silent a moment ago and its cordon is on the way."""
    node = view.nodes.get(pod.node or "")
    if node is None or node.ready or node.fault is not None or view.job.spec.health.mode == "Observe":
        return False
    return now - node.ready_since < CORDON_FIRST


def _blame(end: End) -> str:
    return "user" if end in (End.USER, End.DATA) else "unknown"


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
    return Loss(slot, None, "PodLost", "unknown", now, (f"the pod of slot {slot} does not exist any more",))
