"""Which nodes let a job's pods in."""

from typing import Any

import pytest

from internlm2_operator.health.node import Taint
from internlm2_operator.plan.constraints import admits, constraints
from tests.unit.plan.world import job, node

GPU = "nvidia.com/gpu"
OURS = Taint("team", "ours", "NoSchedule")

# Taints of a node, tolerations of a template, and whether a pod comes in.
TAINTS: dict[str, tuple[tuple[Taint, ...], list[dict[str, Any]], bool]] = {
    "no taint": ((), [], True),
    "a taint": ((OURS,), [], False),
    "one that is tolerated by value": ((OURS,), [{"key": "team", "value": "ours"}], True),
    "one whose effect is named": ((OURS,), [{"key": "team", "value": "ours", "effect": "NoSchedule"}], True),
    "another value": ((OURS,), [{"key": "team", "value": "others"}], False),
    "another effect": ((OURS,), [{"key": "team", "value": "ours", "effect": "NoExecute"}], False),
    "any value": ((OURS,), [{"key": "team", "operator": "Exists"}], True),
    "any key": ((OURS,), [{"operator": "Exists"}], True),
    "one of two": ((OURS, Taint("k", "", "NoExecute")), [{"key": "team", "operator": "Exists"}], False),
    "each by its own": (
        (OURS, Taint("k", "", "NoExecute")),
        [{"key": "team", "operator": "Exists"}, {"key": "k", "operator": "Exists"}],
        True,
    ),
    "tolerated for a while": (
        (Taint("k", "", "NoExecute"),),
        [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}],
        False,
    ),
    "what keeps pods without GPUs off": ((Taint(GPU, "present", "NoSchedule"),), [], True),
    "what throws pods with GPUs out": ((Taint(GPU, "present", "NoExecute"),), [], False),
    "other hardware": ((Taint("amd.com/gpu", "present", "NoSchedule"),), [], False),
}


@pytest.mark.parametrize(("taints", "tolerations", "in_"), TAINTS.values(), ids=TAINTS)
def test_taints_as_the_scheduler_reads_them(
    taints: tuple[Taint, ...], tolerations: list[dict[str, Any]], in_: bool
) -> None:
    wanted = constraints(job(template={"tolerations": tolerations}).spec)
    assert admits(node("n1", taints=taints), wanted) is in_


def test_labels_are_all_there_or_the_node_is_none_of_ours() -> None:
    wanted = constraints(job(template={"nodeSelector": {"pool": "a", "disk": "fast"}}).spec)
    assert admits(node("n1", labels=(("disk", "fast"), ("pool", "a"), ("zone", "x"))), wanted)
    assert not admits(node("n1", labels=(("pool", "a"),)), wanted)
