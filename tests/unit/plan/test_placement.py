"""Where pods go."""

import dataclasses

import pytest

from internlm2_operator.api.topology import TopologySpec
from internlm2_operator.health.node import NodeRecord, Taint
from internlm2_operator.plan.constraints import Constraints
from internlm2_operator.plan.placement import Placement, Shortage, fits, place, refill
from tests.unit.plan.world import T0, node, note

WANTED = Constraints((("pool", "gpu"),))
UNFIT = {
    "a node that is not ready": node("n1", ready=False),
    "a node that somebody cordoned": node("n1", unschedulable=True),
    "a node with a taint": node("n1", taints=(Taint("dedicated", "others", "NoSchedule"),)),
    "a node that we cordoned": node("n1", fault=note()),
    "a node with too few free GPUs": node("n1", used=1),
    "a node without the selected label": node("n1", labels=()),
}


@pytest.mark.parametrize("unfit", UNFIT.values(), ids=UNFIT.keys())
def test_unfit_node_gets_no_pod(unfit: NodeRecord) -> None:
    labels = (("pool", "gpu"),) if unfit != node("n1") else ()
    assert not fits(dataclasses.replace(unfit, labels=labels), 2, WANTED)


def test_fit_node_is_the_control_of_the_table() -> None:
    assert fits(node("n1", labels=(("pool", "gpu"),)), 2, WANTED)


def test_slots_follow_topology_before_names() -> None:
    nodes = [node(f"n{i}", labels=(("topology.kubernetes.io/zone", zone),)) for i, zone in enumerate("bab")]
    placed = place(nodes, gpus=2, sizes=(3,), spares=0, wanted=Constraints())
    assert placed == Placement(size=3, nodes=("n1", "n0", "n2"))


def test_nodes_of_the_former_attempt_are_preferred() -> None:
    placed = place([node("n1"), node("n2")], gpus=2, sizes=(1,), spares=0, wanted=Constraints(), preferred={"n2"})
    assert placed == Placement(size=1, nodes=("n2",))


def test_largest_size_comes_before_spares() -> None:
    placed = place([node(f"n{i}") for i in range(4)], gpus=2, sizes=(1, 2, 4), spares=1, wanted=Constraints())
    assert placed == Placement(size=4, nodes=("n0", "n1", "n2", "n3"))


def test_shortage_names_what_is_missing() -> None:
    short = place([node("n1")], gpus=2, sizes=(2, 4), spares=1, wanted=Constraints())
    assert isinstance(short, Shortage)
    assert short.missing == 1


RACKS = (("topology.kubernetes.io/rack", "r1"),), (("topology.kubernetes.io/rack", "r2"),)
DOUBTS = {
    "others are free": (4, 2, {"n0": 0.5, "n1": 1000.0}, {"n2", "n3"}),
    "the least first": (4, 3, {"n0": 0.5, "n1": 1000.0}, {"n0", "n2", "n3"}),
    "a job is never refused": (2, 2, {"n0": 0.5, "n1": 1000.0}, {"n0", "n1"}),
    "the best of the bad": (3, 2, {"n0": 2.0, "n1": 1.0, "n2": 0.5}, {"n1", "n2"}),
}


@pytest.mark.parametrize("topology", [None, TopologySpec(), TopologySpec(policy="Spread")], ids=str)
@pytest.mark.parametrize(("count", "size", "doubts", "want"), DOUBTS.values(), ids=DOUBTS)
def test_doubted_nodes_are_taken_last(
    count: int, size: int, doubts: dict[str, float], want: set[str], topology: TopologySpec | None
) -> None:
    nodes = [node(f"n{i}", labels=RACKS[i % 2]) for i in range(count)]
    placed = place(nodes, gpus=2, sizes=(size,), spares=0, wanted=Constraints(), topology=topology, doubts=doubts)
    assert set(placed.nodes if isinstance(placed, Placement) else ()) == want
    refilled = refill(
        nodes, gpus=2, slots=range(size), taken=(), wanted=Constraints(), topology=topology, doubts=doubts
    )
    assert set(refilled.values()) == want


def test_a_doubted_node_is_no_spare_while_others_are_free() -> None:
    nodes = [node(f"n{i}") for i in range(4)]
    placed = place(nodes, gpus=2, sizes=(2,), spares=1, wanted=Constraints(), preferred={"n2"}, doubts={"n2": 1000.0})
    assert placed == Placement(size=2, nodes=("n0", "n1", "n3"))


def test_refill_never_doubles_up_on_a_node() -> None:
    nodes = [node("n1"), node("n2"), node("n3", ready_since=T0)]
    assert refill(nodes, gpus=2, slots=[2, 1], taken={"n1"}, wanted=Constraints()) == {1: "n2", 2: "n3"}
