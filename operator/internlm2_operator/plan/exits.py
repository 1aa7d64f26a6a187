"""How a pod ended, and whom that blames as far as one pod can tell."""

import enum
import hashlib
from dataclasses import dataclass
from typing import Final

from internlm2_operator.health.signals import Kind, Signal, Source
from internlm2_operator.plan.snapshot import PodPhase, PodRecord
from internlm2_spec.contract import ExitCode, FailureClass


class End(enum.StrEnum):
    """What a finished pod means for its job."""

    DONE = "done"  # claims to have finished the stage; the manifest proves it
    STOPPED = "stopped"  # on request, after a checkpoint
    USER = "user"  # counted
    DATA = "data"  # the data is not there or not readable: waits, not counted
    PEER = "peer"  # somebody else went away: a symptom
    INFRASTRUCTURE = "infrastructure"


@dataclass(frozen=True, slots=True)
class Exit:
    end: End
    cause: str  # CamelCase
    evidence: str


_USER: Final = {ExitCode.CONFIG: "ConfigRefused", ExitCode.BUG: "ProgramError"}
_CAUSES: Final = {ExitCode.NODE_CHECK: "NodeCheckFailed", ExitCode.HANG: "Hang"}
# Words of the kubelet for an ordinary end of a container: they name no cause.
_PLAIN: Final = frozenset({"", "Error", "Completed", "ContainerStatusUnknown"})
# The kubelet's own decisions say nothing about the health of the GPUs.
_KUBELET: Final = frozenset({"Evicted", "OOMKilled", "Preempting", "NodeShutdown", "Terminated"})


def exit_of(pod: PodRecord) -> Exit | None:
    """Return how the pod ended, None while it lives."""
    if pod.phase not in (PodPhase.SUCCEEDED, PodPhase.FAILED):
        return None
    said, code = pod.termination, pod.exit_code
    if pod.phase is PodPhase.SUCCEEDED:
        return Exit(End.DONE, "Done", _evidence(pod))
    if said is not None and said.failure is FailureClass.PEER:  # whatever code the others ended with
        return Exit(End.PEER, "PeerLost", _evidence(pod))
    if code == ExitCode.STOPPED:
        return Exit(End.STOPPED, "Stopped", _evidence(pod))
    if code == ExitCode.DATA:
        return Exit(End.DATA, "DataRefused", _evidence(pod))
    if code in (ExitCode.CONFIG, ExitCode.BUG) or (said is not None and said.failure is FailureClass.USER):
        return Exit(
            End.USER, _USER.get(ExitCode(code), "ProgramError") if code in _USER else "ProgramError", _evidence(pod)
        )
    return Exit(End.INFRASTRUCTURE, _infrastructure_cause(pod), _evidence(pod))


def signal_of(pod: PodRecord) -> Signal | None:
    """Return a suspicion against the pod's node: it ended in a way that neither user nor kubelet explains."""
    ended = exit_of(pod)
    if ended is None or ended.end is not End.INFRASTRUCTURE or pod.node is None or _by_kubelet(ended.cause):
        return None
    return Signal(
        kind=Kind.POD_EXIT,
        source=Source.POD,
        node=pod.node,
        at=pod.finished or pod.created,
        detail=ended.evidence,
        job=f"{pod.namespace}/{pod.job}",
    )


def fingerprint(pod: PodRecord) -> str:
    """Return what makes two failures of the user's code the same one: the last lines of the traceback."""
    said = pod.termination
    text = f"{pod.exit_code} {said.traceback or said.message if said else pod.message}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _by_kubelet(cause: str) -> bool:
    return cause in _KUBELET or cause.startswith(("OutOf", "Unexpected"))


def _infrastructure_cause(pod: PodRecord) -> str:
    if pod.exit_code in _CAUSES:
        return _CAUSES[ExitCode(pod.exit_code)]
    return "ProcessExit" if pod.reason in _PLAIN else _camel(pod.reason)


def _camel(reason: str) -> str:
    """Make a kubelet reason fit a condition: OutOfnvidia.com/gpu -> OutOfnvidiacomgpu."""
    return "".join(c for c in reason if c.isalnum())[:64] or "ProcessExit"


def _evidence(pod: PodRecord) -> str:
    said = pod.termination
    words = f"{said.reason} {said.message}".strip() if said else pod.message
    code = "" if pod.exit_code is None else f" exit {pod.exit_code}"
    return f"pod {pod.name}{code} {pod.reason}: {words}".rstrip(": ")[:1024]
