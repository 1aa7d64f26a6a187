"""How long messages take: shapes of the model, not figures."""

import pytest

from internlm2_spec import gpus
from internlm2_spec.cluster import Cluster, Group

A100 = next(gpu for gpu in gpus.GPUS if gpu.name == "A100-80GB")
TWO_NODES = Cluster.of(A100, 2, 8, network_gbit=400)
GB = 1e9


@pytest.mark.parametrize(
    ("size", "stride", "nodes"),
    [(1, 1, 1), (8, 1, 1), (2, 4, 1), (4, 2, 1), (2, 8, 2), (16, 1, 2), (4, 4, 2)],
)
def test_a_group_lies_on_as_few_nodes_as_its_stride_lets_it(size: int, stride: int, nodes: int) -> None:
    assert Group(size, stride, TWO_NODES).nodes == nodes


def test_a_group_of_one_waits_for_nothing() -> None:
    alone = Group(1, 1, TWO_NODES)
    assert alone.gather(GB) == alone.reduce(GB) == alone.exchange(GB) == alone.send(GB) == 0.0


def test_a_node_s_network_is_shared_by_the_groups_that_cross_it() -> None:
    """One ring through all 16 GPUs has the whole port of a node, each of 8 pairs across nodes an eighth of it."""
    assert Group(16, 1, TWO_NODES).bandwidth == pytest.approx(8 * Group(2, 8, TWO_NODES).bandwidth)
    assert Group(8, 1, TWO_NODES).bandwidth > Group(16, 1, TWO_NODES).bandwidth


def test_reducing_moves_twice_what_gathering_does() -> None:
    group = Group(8, 1, TWO_NODES)
    assert group.reduce(10 * GB) == pytest.approx(2 * group.gather(10 * GB), rel=0.01)


def test_small_messages_cost_their_hops() -> None:
    """A ring of 1,024 has a hundred times the hops of one of 8."""
    large = Cluster.of(A100, 128, 8)
    assert Group(1024, 1, large).gather(1e3) > 50 * Group(8, 1, large).gather(1e3)
