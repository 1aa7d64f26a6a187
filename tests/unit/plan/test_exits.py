"""How a pod's end is read."""

import dataclasses

import pytest

from internlm2_operator.plan.exits import End, exit_of, fingerprint, signal_of
from internlm2_operator.plan.snapshot import PodPhase, PodRecord
from internlm2_spec.contract import FailureClass, Termination
from tests.unit.plan.world import T0, bug, peer

POD = PodRecord("p", "default", "demo", "u", 0, 1, 0, 0, "n1", PodPhase.FAILED, T0, finished=T0, reason="Error")
ENDS = {
    "exit 64 is the user's": (64, "Error", None, End.USER, "ConfigRefused"),
    "exit 65 is missing or broken data": (65, "Error", None, End.WAITING, "DataRefused"),
    "exit 70 is a bug": (70, "Error", bug(), End.USER, "ProgramError"),
    "exit 1 with a user's termination is a bug": (1, "Error", bug(), End.USER, "ProgramError"),
    "exit 75 stopped on request": (75, "Error", None, End.STOPPED, "Stopped"),
    "exit 76 failed the node check": (76, "Error", None, End.LOST, "NodeCheckFailed"),
    "exit 77 hung": (77, "Error", None, End.LOST, "Hang"),
    "a lost peer is a symptom": (1, "Error", peer(), End.PEER, "PeerLost"),
    "a spare that was told to end follows, whatever the code": (
        70,
        "Error",
        Termination(FailureClass.PEER, "RendezvousClosed", 70),
        End.PEER,
        "PeerLost",
    ),
    "exit 137 is infrastructure": (137, "Error", None, End.LOST, "ProcessKilled"),
    "out of memory is the user's by the kubelet's word": (137, "OOMKilled", None, End.USER, "OOMKilled"),
    "a refused admission never started": (None, "OutOfnvidia.com/gpu", None, End.LOST, "NodeFull"),
}


@pytest.mark.parametrize(("code", "reason", "said", "end", "cause"), ENDS.values(), ids=ENDS.keys())
def test_end(code: int | None, reason: str, said: Termination | None, end: End, cause: str) -> None:
    ended = exit_of(dataclasses.replace(POD, exit_code=code, reason=reason, termination=said))
    assert ended is not None
    assert (ended.end, ended.cause) == (end, cause)


SUSPECTS = {
    "a killed process suspects its node": (137, "Error", None, True),
    "a full memory does not": (137, "OOMKilled", None, False),
    "an eviction does not": (None, "Evicted", None, False),
    "a user's bug does not": (70, "Error", bug(), False),
    "a lost peer does not": (1, "Error", peer(), False),
}


@pytest.mark.parametrize(("code", "reason", "said", "suspects"), SUSPECTS.values(), ids=SUSPECTS.keys())
def test_suspicion(code: int | None, reason: str, said: Termination | None, suspects: bool) -> None:
    pod = dataclasses.replace(POD, exit_code=code, reason=reason, termination=said)
    assert (signal_of(pod) is not None) is suspects


TAIL = "\n".join(
    [
        '{"event": "agent-started", "time": 1}',
        "Memory cgroup out of memory: Killed process 4242 (python) total-vm:104857600kB",
        "Killed",
    ]
)
EVIDENCE = {
    "of a traceback reason and message": (
        bug(traceback='  File "train.py", line 3, in step\nRuntimeError: CUDA error: device-side assert triggered'),
        "Error", "", "pod p exit 1 Error: Bug ValueError",
    ),
    "of a pod that left no word the last line of its log": (None, "Error", TAIL, "pod p exit 1 Error: Killed"),
    "of the kubelet all it says": (
        None, "Evicted", "No space left on device", "pod p exit 1 Evicted: No space left on device",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("said", "reason", "message", "evidence"), EVIDENCE.values(), ids=EVIDENCE)
def test_evidence(said: Termination | None, reason: str, message: str, evidence: str) -> None:
    pod = dataclasses.replace(POD, exit_code=1, reason=reason, message=message, termination=said)
    ended = exit_of(pod)
    assert ended is not None
    assert ended.evidence.startswith(evidence)


def test_log_that_blames_the_node_raises_no_suspicion_of_its_own() -> None:
    """A user writes the log: with it or without, a counted failure speaks against no node."""
    lie = bug(traceback="NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.")
    assert signal_of(dataclasses.replace(POD, exit_code=70, termination=lie)) is None


def test_living_pod_has_no_end() -> None:
    assert exit_of(dataclasses.replace(POD, phase=PodPhase.RUNNING)) is None


def test_fingerprint_tells_tracebacks_apart() -> None:
    one, two = (
        dataclasses.replace(POD, exit_code=70, termination=bug(traceback=text)) for text in ("ValueError", "KeyError")
    )
    assert fingerprint(one) == fingerprint(one)
    assert fingerprint(one) != fingerprint(two)
