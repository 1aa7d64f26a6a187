"""What a watch takes for which arrow."""

from typing import Any

import pytest

from bench.health.listener import CORDONED, ENDED, SAID, SUSPECTED, happened
from internlm2_spec.contract import ANNOTATION_FAULT, ANNOTATION_HELD


def thing(*, status: dict[str, Any] | None = None, notes: tuple[str, ...] = (), **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "n", "annotations": dict.fromkeys(notes, "{}")}, "spec": spec, "status": status or {}}


def healthy(status: str) -> dict[str, Any]:
    return {"conditions": [{"type": "Ready", "status": "False"}, {"type": "GPUHealthy", "status": status}]}


CASES = {
    "a condition that speaks of a fault": (thing(status=healthy("False")), [SAID]),
    "a condition without a fault": (thing(status=healthy("True")), []),
    "a pod that failed": (thing(status={"phase": "Failed"}), [ENDED]),
    "a pod that runs": (thing(status={"phase": "Running"}), []),
    "a suspicion": (thing(notes=(ANNOTATION_HELD,)), [SUSPECTED]),
    "a cordon of ours": (thing(notes=(ANNOTATION_FAULT,), unschedulable=True), [CORDONED]),
    "a cordon of somebody else": (thing(unschedulable=True), []),
    "a node that has nothing yet": ({"metadata": {"name": "n"}, "spec": {}}, []),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_so(case: str) -> None:
    seen, expected = CASES[case]
    assert list(happened(seen)) == expected
