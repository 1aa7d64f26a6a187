"""What is known about nodes, in a table and about one."""

import dataclasses
from typing import Any

import pytest

from internlm2_operator.cli import cordons, nodes
from internlm2_operator.health.cordon import OPERATOR
from internlm2_operator.health.history import History
from internlm2_operator.health.node import CheckNote, HeldNote, NodeRecord
from tests.unit.plan.world import T0, after, note

HOUR = 3600


def node(name: str, **changes: Any) -> NodeRecord:
    return dataclasses.replace(NodeRecord(name, True, T0, True, 8), **changes)


PAST = History().cordoned("Xid95", "cordon-reset", T0)
OURS = dataclasses.replace(note(), by=OPERATOR, action="cordon-reset")
NODES = (
    node("fine"),
    node("fine-again", history=History().cordoned("Xid95", "cordon-reset", after(-30 * 24 * HOUR))),
    node("old", history=PAST),
    node("back", history=PAST.lifted(after(HOUR))),
    node("doubted", held=HeldNote("Suspected", "Xid62", T0, "check")),
    node("watched", held=HeldNote("ObserveMode", "Xid79", T0, "cordon-reboot")),
    node("going", notice="taint ToBeDeletedByClusterAutoscaler of Cluster Autoscaler"),
    node("out", fault=OURS, history=PAST, unschedulable=True),
)


def test_what_takes_no_pods_comes_first_and_a_node_without_a_past_is_not_told() -> None:
    answer = nodes.told(NODES, after(2 * HOUR))
    assert [line.split()[:4] for line in answer.lines[1:]] == [
        ["out", "cordoned", "2h", "1.0"],
        ["going", "going", "-", "-"],
        ["watched", "held", "2h", "-"],
        ["doubted", "suspected", "2h", "-"],
        ["back", "probation", "60m", "1.0"],
        ["old", "mended", "-", "1.0"],
    ]
    assert answer.lines[1].endswith("Xid79; no check of the node has ended since")
    assert answer.lines[5].endswith("Xid95; for 23h more")
    assert answer.names[0] == "node/out"
    assert [entry["states"][0]["state"] for entry in answer.data][:2] == ["cordoned", "going"]


def test_nothing_known_is_said() -> None:
    assert nodes.told([node("fine")], T0).lines == ("nothing is known against any node",)


ABOUT = {
    "a check that failed, and what it measured": (
        {"check": CheckNote(T0, "full", passed=False, evidence=("rank 3: 40 % slower",))},
        ["its full check failed 2h ago", "check: rank 3: 40 % slower"],
    ),
    "a notice": ({"notice": "taint x of y"}, ["it will go: taint x of y"]),
    "what was only told": (
        {"held": HeldNote("ObserveMode", "Xid79", T0, evidence=("XID 79",))},
        ["not cordoned 2h ago: Xid79, ObserveMode", "evidence: XID 79"],
    ),
    "probation and past": (
        {"history": PAST.lifted(after(HOUR))},
        ["on probation for 23h more: a suspicion is enough for a cordon", "score 1.0: Xid95 2h ago"],
    ),
    "nothing": ({}, []),
}


@pytest.mark.parametrize(("changes", "want"), ABOUT.values(), ids=ABOUT)
def test_about_one_node(changes: dict[str, Any], want: list[str]) -> None:
    _, *rest = cordons.reason(node("n1", **changes), after(2 * HOUR)).lines
    assert rest == want
