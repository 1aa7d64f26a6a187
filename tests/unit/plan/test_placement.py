"""Where pods go."""

import dataclasses

import pytest

from internlm2_operator.health.node import NodeRecord
from internlm2_operator.plan.placement import Placement, Shortage, fits, place, refill
from tests.unit.plan.world import T0, node, note

UNFIT = {
    "a node that is not ready": node("n1", ready=False),
    "a node that somebody cordoned": node("n1", schedulable=False),
    "a node that we cordoned": node("n1", fault=note()),
    "a node with too few free GPUs": node("n1", used=1),
    "a node without the selected label": node("n1", labels=()),
}


@pytest.mark.parametrize("unfit", UNFIT.values(), ids=UNFIT.keys())
def test_unfit_node_gets_no_pod(unfit: NodeRecord) -> None:
    labels = (("pool", "gpu"),) if unfit != node("n1") else ()
    assert not fits(dataclasses.replace(unfit, labels=labels), 2, {"pool": "gpu"})


def test_fit_node_is_the_control_of_the_table() -> None:
    assert fits(node("n1", labels=(("pool", "gpu"),)), 2, {"pool": "gpu"})


def test_slots_follow_topology_before_names() -> None:
    nodes = [node(f"n{i}", labels=(("topology.kubernetes.io/zone", zone),)) for i, zone in enumerate("bab")]
    placed = place(nodes, gpus=2, sizes=(3,), spares=0, selector={})
    assert placed == Placement(size=3, nodes=("n1", "n0", "n2"))


def test_nodes_of_the_former_attempt_are_preferred() -> None:
    placed = place([node("n1"), node("n2")], gpus=2, sizes=(1,), spares=0, selector={}, preferred={"n2"})
    assert placed == Placement(size=1, nodes=("n2",))


def test_largest_size_comes_before_spares() -> None:
    placed = place([node(f"n{i}") for i in range(4)], gpus=2, sizes=(1, 2, 4), spares=1, selector={})
    assert placed == Placement(size=4, nodes=("n0", "n1", "n2", "n3"))


def test_shortage_names_what_is_missing() -> None:
    short = place([node("n1")], gpus=2, sizes=(2, 4), spares=1, selector={})
    assert isinstance(short, Shortage)
    assert short.missing == 1


def test_refill_never_doubles_up_on_a_node() -> None:
    nodes = [node("n1"), node("n2"), node("n3", ready_since=T0)]
    assert refill(nodes, gpus=2, slots=[2, 1], taken={"n1"}, selector={}) == {1: "n2", 2: "n3"}
