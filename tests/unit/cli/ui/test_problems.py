"""Failures as answers: the code, the API server's words, what to do."""

import pytest

from internlm2_operator.cli.ui import problems
from internlm2_operator.cluster import errors
from internlm2_spec.config import Refused

CASES = {
    "refused token": (errors.from_status(401, {"message": "Unauthorized"}), 401, "does not know the token", "password"),
    "not allowed": (
        errors.from_status(403, {"reason": "Forbidden", "message": "nodes is forbidden"}), 403, "nodes is forbidden",
        "Name a namespace",
    ),
    "not there": (errors.from_status(404, {"message": 'jobs "x" not found'}), 404, 'jobs "x" not found', ""),
    "away": (errors.Retry("GET /: refused"), 503, "GET /: refused", "Try again"),
    "newer job": (Refused("spec.x", wrong="unknown", right="upgrade"), 501, "spec.x: unknown; upgrade", ""),
}  # fmt: skip


@pytest.mark.parametrize(("error", "code", "said", "cure"), CASES.values(), ids=CASES)
def test_a_failure_is_told(error: errors.ClusterError | Refused, code: int, said: str, cure: str) -> None:
    answer, page = problems.problem(error, shared=True)
    assert answer == code
    assert said in page.said
    assert cure in page.cure


def test_alone_the_cure_is_the_login_of_kubectl() -> None:
    assert "as for kubectl" in problems.problem(errors.Unknown("401"), shared=False)[1].cure
