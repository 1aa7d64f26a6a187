"""What a pod of a check says, and whose pods are believed."""

from datetime import UTC, datetime
from typing import Any

import pytest

from internlm2_operator.cluster.check_records import check_pod, is_check
from internlm2_operator.manifests import check_pod as manifest
from internlm2_operator.plan.check import Check, Depth, MakePod
from internlm2_operator.plan.snapshot import Outcome, PodPhase
from internlm2_spec import contract
from internlm2_spec.contract import FailureClass, Termination

OWN = "internlm2-system"
T0 = datetime(2026, 11, 25, 12, tzinfo=UTC)
CHECK = Check(("a", "b"), Depth.QUICK, "nvidia.com/gpu", T0, "why")


def raw(*, rank: int = 0, namespace: str = OWN, **status: Any) -> dict[str, Any]:
    """Return the pod as the API server holds it."""
    body = manifest.check_pod(MakePod(CHECK, rank, CHECK.nodes[rank], 8), namespace=namespace, image="i")
    body["metadata"] |= {"uid": "u", "creationTimestamp": "2026-11-25T12:00:00Z"}
    return body | {"status": {"phase": "Pending"} | status}


def ended(code: int, message: str, name: str = "check") -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "message": message, "finishedAt": "2026-11-25T12:01:00Z"}}
    phase = "Succeeded" if code == 0 else "Failed"
    return raw(phase=phase, containerStatuses=[{"name": name, "state": state}])


def said(failure: FailureClass, code: int) -> str:
    return Termination(failure, "Reason", code, message="compute: slow").to_json()


def test_a_pod_of_a_check_is_read_back() -> None:
    found = check_pod(raw(phase="Running", podIP="10.0.0.1"), OWN)
    assert found is not None
    assert (found.id, found.rank, found.node, found.gpus, found.ip, found.phase) == (
        CHECK.id, 0, "a", 8, "10.0.0.1", PodPhase.RUNNING,
    )  # fmt: skip
    assert (found.outcome, Check.from_json(found.members)) == (None, CHECK)
    other = check_pod(raw(rank=1), OWN)
    assert other is not None
    assert (other.rank, other.node, other.members) == (1, "b", "")


DONE, BAD = FailureClass.DONE, FailureClass.INFRASTRUCTURE
ENDS = {
    "0 and its word: passed": (ended(0, said(DONE, 0)), Outcome.PASSED),
    "76 and its word: failed": (ended(76, said(BAD, 76)), Outcome.FAILED),
    "1 and its word: unknown": (ended(1, said(BAD, 1)), Outcome.UNKNOWN),
    "0 without a word: an image without the trainer": (ended(0, ""), Outcome.UNKNOWN),
    "76 without a word": (ended(76, "Killed"), Outcome.UNKNOWN),
    "76 with the word of another end": (ended(76, said(BAD, 1)), Outcome.UNKNOWN),
    "76 that is the user's": (ended(76, said(FailureClass.USER, 76)), Outcome.UNKNOWN),
    "137: out of memory, or evicted": (ended(137, ""), Outcome.UNKNOWN),
    "the word of a container that a mesh put beside it": (ended(76, said(BAD, 76), "proxy"), Outcome.UNKNOWN),
    "never started": (raw(phase="Failed", reason="OutOfnvidia.com/gpu"), Outcome.UNKNOWN),
}


@pytest.mark.parametrize(("body", "want"), ENDS.values(), ids=ENDS)
def test_end(body: dict[str, Any], want: Outcome) -> None:
    found = check_pod(body, OWN)
    assert found is not None
    assert found.outcome is want
    assert found.finished is not None


def test_what_the_check_found_out_is_kept() -> None:
    found = check_pod(ended(76, said(BAD, 76)), OWN)
    assert found is not None
    assert found.said == "compute: slow"
    assert found.finished == datetime(2026, 11, 25, 12, 1, tzinfo=UTC)


def with_labels(**labels: str) -> dict[str, Any]:
    body = ended(76, said(BAD, 76))
    body["metadata"]["labels"] |= {key.replace("_", "/"): value for key, value in labels.items()}
    return body


FORGED = {
    "in the namespace of a user": raw(namespace="team-a"),
    "of a job in the operator's own namespace": with_labels(**{contract.LABEL_JOB: "job"}),
    "without its label": raw() | {"metadata": raw()["metadata"] | {"labels": {}}},
}


@pytest.mark.parametrize("body", FORGED.values(), ids=FORGED)
def test_a_pod_that_only_looks_like_one_is_none(body: dict[str, Any]) -> None:
    assert check_pod(body, OWN) is None
    assert not is_check(body, OWN)


def test_a_rank_that_is_no_number_is_no_pod_of_ours() -> None:
    assert check_pod(with_labels(**{contract.LABEL_RANK: "-1"}), OWN) is None
