"""Which nodes an attempt takes, and which slot each gets."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.api.topology import TopologySpec
from internlm2_operator.health.node import NodeRecord
from internlm2_operator.plan.constraints import Constraints
from internlm2_operator.plan.placement import Placement, place, refill
from internlm2_operator.plan.topology import RACK, slots
from internlm2_spec.config import Parallel, Zero
from tests.examples import few
from tests.unit.plan.world import GPUS, node

PACK, SPREAD = TopologySpec(policy="Pack"), TopologySpec(policy="Spread")


def racks(**sizes: int) -> list[NodeRecord]:
    """Return nodes by rack: `racks(a=2)` makes a-0 and a-1 on rack a; rack `none` is no label."""
    return [
        node(f"{rack}-{i}", labels=((RACK, rack),) if rack != "none" else ())
        for rack, size in sizes.items()
        for i in range(size)
    ]


def placed(nodes: list[NodeRecord], size: int, topology: TopologySpec | None, spares: int = 0) -> tuple[str, ...]:
    made = place(nodes, gpus=GPUS, sizes=(size,), spares=spares, wanted=Constraints(), topology=topology)
    assert isinstance(made, Placement)
    return made.nodes


def on(names: tuple[str, ...]) -> dict[str, int]:
    """Return how many nodes lie on each rack."""
    return dict(Counter(name.partition("-")[0] for name in names))


CHOICES = {
    "Pack takes the smallest rack that is enough": (racks(a=8, b=3, c=4), 3, PACK, {"b": 3}),
    "Pack fills the largest rack first when none is enough": (racks(a=3, b=4, c=2), 5, PACK, {"b": 4, "c": 1}),
    "Pack leaves nodes without the label for last": (racks(a=2, none=9), 3, PACK, {"a": 2, "none": 1}),
    "Spread takes as many from each rack": (racks(a=4, b=4, c=4), 6, SPREAD, {"a": 2, "b": 2, "c": 2}),
    "Spread takes more where a rack is used up": (racks(a=1, b=4, c=4), 7, SPREAD, {"a": 1, "b": 3, "c": 3}),
    "without a topology names decide": (racks(a=1, b=1, c=3), 3, None, {"a": 1, "b": 1, "c": 1}),
}


@pytest.mark.parametrize(("nodes", "size", "topology", "wanted"), CHOICES.values(), ids=CHOICES.keys())
def test_choice(nodes: list[NodeRecord], size: int, topology: TopologySpec | None, wanted: dict[str, int]) -> None:
    assert on(placed(nodes, size, topology)) == wanted


@pytest.mark.parametrize("topology", [None, PACK, SPREAD])
def test_spare_waits_on_another_rack_than_most_members(topology: TopologySpec | None) -> None:
    members, spare = placed(racks(a=4, b=2), 3, topology, 1)[:3], placed(racks(a=4, b=2), 3, topology, 1)[3]
    assert on(members)["a"] > on(members).get("b", 0)
    assert spare.startswith("b")


def test_spare_stays_beside_the_members_when_there_is_no_other_rack() -> None:
    assert placed(racks(a=4), 3, None, 1)[3] == "a-3"


REPLACED = {"Pack": (PACK, "b-9"), "Spread": (SPREAD, "c-9"), "no topology": (None, "a-9")}


@pytest.mark.parametrize(("topology", "best"), REPLACED.values(), ids=REPLACED.keys())
def test_replacement_keeps_to_the_policy(topology: TopologySpec | None, best: str) -> None:
    held = racks(a=1, b=2)
    free = [node(f"{rack}-9", labels=((RACK, rack),)) for rack in "abc"]
    taken = {n.name for n in held}
    assert refill([*held, *free], gpus=GPUS, slots=[5], taken=taken, wanted=Constraints(), topology=topology) == {
        5: best
    }


SLOTS = {
    "without a pipeline slots follow the nodes": (Parallel(tensor=2), 4, 2, [0, 1, 2, 3]),
    "each pipeline is placed whole before the next": (Parallel(pipeline=2), 4, 2, [0, 2, 1, 3]),
    "nodes of a ZeRO group stay together": (
        Parallel(pipeline=2, zero=Zero(shard=4)), 8, 2, [0, 1, 4, 5, 2, 3, 6, 7]
    ),
    "a pipeline inside a node changes nothing": (Parallel(pipeline=4, zero=Zero(shard=4)), 2, 8, [0, 1]),
}  # fmt: skip


@pytest.mark.parametrize(("parallel", "size", "gpus", "wanted"), SLOTS.values(), ids=SLOTS.keys())
def test_slots(parallel: Parallel, size: int, gpus: int, wanted: list[int]) -> None:
    assert slots(parallel, size, gpus) == wanted


def test_stages_of_one_pipeline_lie_on_one_rack() -> None:
    made = place(racks(a=2, b=2), gpus=GPUS, sizes=(4,), spares=0, wanted=Constraints(), parallel=Parallel(pipeline=2))
    assert isinstance(made, Placement)
    # Ranks of slots 0 and 2 are the two stages of one pipeline, as are those of 1 and 3.
    assert [on((made.nodes[i], made.nodes[i + 2])) for i in range(2)] == [{"a": 2}, {"b": 2}]


layouts = st.builds(
    lambda pp, tp, shard: Parallel(pipeline=pp, tensor=tp, zero=Zero(shard=shard)),
    st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 8]),
)  # fmt: skip


@few
@given(layouts, st.integers(1, 24), st.sampled_from([1, 2, 8]))
def test_every_slot_is_given_once(parallel: Parallel, size: int, gpus: int) -> None:
    given_out = slots(parallel, size, gpus)
    assert sorted(given_out) == list(range(size))
    assert given_out[0] == 0


sizes = st.lists(st.integers(0, 6), min_size=1, max_size=5)
policies = st.sampled_from([None, PACK, SPREAD])


@few
@given(sizes, st.integers(1, 12), st.integers(0, 3), policies, st.randoms(use_true_random=False))
def test_placement_is_blind_to_the_order_of_nodes(
    counts: list[int], size: int, spares: int, topology: TopologySpec | None, chance: random.Random
) -> None:
    nodes = racks(**dict(zip("abcde", counts, strict=False)))
    wanted = {"gpus": GPUS, "sizes": (size,), "spares": spares, "wanted": Constraints(), "topology": topology}
    first = place(nodes, **wanted)  # type: ignore[arg-type]  # fields by name
    assert first == place(chance.sample(nodes, len(nodes)), **wanted)  # type: ignore[arg-type]
    if isinstance(first, Placement):
        assert len(set(first.nodes)) == len(first.nodes) >= size


@few
@given(sizes, st.integers(1, 12))
def test_packed_lies_on_as_few_racks_as_can_be_and_spread_on_as_many(counts: list[int], size: int) -> None:
    there = {rack: count for rack, count in zip("abcde", counts, strict=False) if count}
    if sum(there.values()) < size:
        return
    packed, spread = on(placed(racks(**there), size, PACK)), on(placed(racks(**there), size, SPREAD))
    largest = sorted(there.values(), reverse=True)
    fewest = next(n for n in range(1, len(largest) + 1) if sum(largest[:n]) >= size)
    assert len(packed) == fewest
    assert len(spread) == min(size, len(there))
    most = max(spread.values())
    assert all(spread.get(rack, 0) >= min(count, most - 1) for rack, count in there.items())
