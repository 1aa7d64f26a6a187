"""Who meets whom in a node check."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_spec import pairing

NODES = tuple(f"n{i}" for i in range(9))


@pytest.mark.parametrize(
    ("count", "pairs"),
    [
        (0, ()),
        (1, ()),
        (2, (("n0", "n1"),)),
        (3, (("n0", "n1", "n2"),)),
        (4, (("n0", "n1"), ("n2", "n3"))),
        (5, (("n0", "n1"), ("n2", "n3", "n4"))),
    ],
)
def test_neighbours_meet_in_pairs_and_an_odd_one_makes_a_triple(count: int, pairs: pairing.Pairs) -> None:
    assert pairing.first_round(NODES[:count], {}) == pairs


@given(st.lists(st.integers(0, 3), min_size=2, max_size=40))
def test_everyone_meets_somebody_once_and_as_many_pairs_cross_domains_as_can(places: list[int]) -> None:
    nodes = [f"n{i}" for i in range(len(places))]
    domains = {node: f"leaf-{place}" for node, place in zip(nodes, places, strict=True)}

    groups = pairing.first_round(nodes, domains)

    assert sorted(node for group in groups for node in group) == sorted(nodes)
    assert sorted(map(len, groups), reverse=True)[1:] == [2] * (len(groups) - 1)
    inside = sum(domains[group[0]] == domains[group[1]] for group in groups)
    largest = max(Counter(places).values())
    assert inside <= max(0, largest - len(places) // 2)


def test_a_suspect_meets_a_good_node_of_its_own_domain_first_and_one_it_has_not_met() -> None:
    domains = {"a": "leaf-1", "b": "leaf-2", "g": "leaf-2", "h": "leaf-2", "i": "leaf-1"}
    met = (("b", "g"),)

    assert pairing.with_good(["a", "b"], ["g", "h", "i"], domains, met) == (("a", "i"), ("b", "h"))
    assert pairing.with_good(["a", "b"], ["g", "h", "i"], {}, met) == (("a", "g"), ("b", "h"))


def test_a_good_node_serves_one_suspect_a_round() -> None:
    assert pairing.with_good(["a", "b", "c"], ["g"], {}, ()) == (("a", "g"),)


def test_strangers_are_suspects_that_have_not_met_as_a_pair() -> None:
    assert pairing.strangers(["a", "b", "c"], (("a", "b", "c"),)) == (("a", "b"),)
    assert pairing.strangers(["a", "b", "c"], (("a", "b"),)) == (("a", "c"),)
    assert pairing.strangers(["a", "b"], (("a", "b"),)) == ()
