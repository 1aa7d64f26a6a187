"""How a pod ended, and whom that blames as far as one pod can tell."""

import enum
import hashlib
from dataclasses import dataclass
from typing import Final

from internlm2_operator.health.signals import Kind as SignalKind
from internlm2_operator.health.signals import Signal, Source
from internlm2_operator.plan.cause import Cause, Kind
from internlm2_operator.plan.recognise import end_of
from internlm2_operator.plan.snapshot import ENDED, PodPhase, PodRecord
from internlm2_spec.contract import ExitCode, FailureClass


class End(enum.StrEnum):
    """What a finished pod means for its job."""

    DONE = "done"  # claims to have finished the stage; the manifest proves it
    STOPPED = "stopped"  # on request, after a checkpoint
    USER = "user"  # counted
    WAITING = "waiting"  # something that it needs is not there: waits, not counted
    PEER = "peer"  # somebody else went away: a symptom
    LOST = "lost"  # by the infrastructure, or by somebody who took it away


@dataclass(frozen=True, slots=True)
class Exit:
    end: End
    row: Cause
    evidence: str

    @property
    def cause(self) -> str:
        return self.row.name


# The kubelet's reasons for a container that ran: its message is then what the container left, or the end of its log.
_BY_CONTAINER: Final = ("Error", "OOMKilled")

_ENDS: Final = {Kind.USER: End.USER, Kind.WAITING: End.WAITING}


def exit_of(pod: PodRecord) -> Exit | None:
    """Return how the pod ended, None while it lives."""
    if pod.phase not in ENDED:
        return None
    row = end_of(pod)
    return Exit(_end(pod, row), row, _evidence(pod))


def signal_of(pod: PodRecord) -> Signal | None:
    """Return a suspicion against the pod's node: it ended in a way that neither user nor kubelet explains."""
    ended = exit_of(pod)
    if ended is None or ended.end is not End.LOST or pod.node is None or not ended.row.suspects:
        return None
    return Signal(
        kind=SignalKind.POD_EXIT,
        source=Source.POD,
        node=pod.node,
        at=pod.finished or pod.created,
        detail=ended.evidence,
        job=f"{pod.namespace}/{pod.job}",
    )


def fingerprint(pod: PodRecord) -> str:
    """Return what makes two failures the same one: the last lines of the traceback, else the cause."""
    said, row = pod.termination, end_of(pod)
    text = row.name if said is None or row.by_kubernetes else f"{pod.exit_code} {said.traceback or said.message}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _end(pod: PodRecord, row: Cause) -> End:
    if pod.phase is PodPhase.SUCCEEDED:
        return End.DONE
    if row.name == "PeerLost":
        return End.PEER
    said = pod.termination
    if pod.exit_code == ExitCode.STOPPED or (said is not None and said.failure is FailureClass.STOPPED):
        return End.STOPPED
    return _ENDS.get(row.kind, End.LOST)


def _evidence(pod: PodRecord) -> str:
    said, left = pod.termination, left_by(pod)
    code = "" if pod.exit_code is None else f" exit {pod.exit_code}"
    because = f" {pod.disruption}" if pod.disruption else ""
    words = f"{said.reason} {said.message}".strip() if said else left.strip().rsplit("\n", 1)[-1] or pod.message
    return f"pod {pod.name}{code} {pod.reason}{because}: {words}".rstrip(": ")[:1024]


def left_by(pod: PodRecord) -> str:
    """Return what the pod's processes wrote last, as far as its end carries it, and nothing of the kubelet's words.

    That is the traceback, or else the message, of the rank that the trainer blames. Where the agent left no word, it
    is the end of the pod's log, which the kubelet keeps instead. Users write both: they explain, and prove nothing.
    """
    if said := pod.termination:
        return said.traceback or said.message
    return pod.message if pod.reason in _BY_CONTAINER else ""
