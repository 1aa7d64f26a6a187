"""Which row of the table a pod, or a refusal to make one, shows."""

from collections.abc import Mapping

from internlm2_operator.plan.cause import By, Cause
from internlm2_operator.plan.causes import TABLE, cause
from internlm2_operator.plan.snapshot import ENDED, PodPhase, PodRecord
from internlm2_spec.contract import FailureClass


def end_of(pod: PodRecord) -> Cause:
    """Return why a finished pod ended."""
    if pod.phase is PodPhase.SUCCEEDED:
        return cause("Done")
    return _first(_signs_of_end(pod), _message(pod)) or cause("ProcessExit")


def hindrance_of(pod: PodRecord) -> Cause | None:
    """Return why a pod that lives does not run, None for one that runs."""
    if pod.phase in ENDED or (pod.phase is PodPhase.RUNNING and not pod.waiting):
        return None
    return _first(_signs_of_waiting(pod), pod.message)


def refusal_of(message: str) -> Cause:
    """Return why the API server refused to make a pod."""
    return _first({By.API: message}, message) or cause("PodRefused")


def _signs_of_end(pod: PodRecord) -> Mapping[By, str]:
    said = pod.termination
    signs = {By.DISRUPTION: pod.disruption, By.KUBELET: pod.reason}
    if pod.deleting:
        signs[By.DELETED] = "by somebody else"
    # Reason and exit code of a follower tell what it saw of the one that fell, not of itself.
    if said is None or said.failure is not FailureClass.PEER:
        signs |= {By.TRAINER: said.reason if said else "", By.EXIT: str(pod.exit_code)}
    return signs | ({By.CLASS: str(said.failure)} if said else {})


def _signs_of_waiting(pod: PodRecord) -> Mapping[By, str]:
    if not pod.waiting:
        return {By.SCHEDULER: pod.reason}
    return {By.WAITING: pod.waiting} | ({} if pod.prepared else {By.SANDBOX: "False"})


def _first(signs: Mapping[By, str], message: str) -> Cause | None:
    """Return the first row that fits the sign that is believed most; a sign without a row says nothing."""
    for by in sorted(signs):
        for row in TABLE:
            if any(mark.by is by and mark.fits(signs[by], message) for mark in row.marks):
                return row
    return None


def _message(pod: PodRecord) -> str:
    return f"{pod.message} {pod.termination.message}" if pod.termination else pod.message
