"""A seed is a run: dealt evenly, the same again, and never two machines at once."""

from collections import Counter
from itertools import pairwise

import pytest

from lab.chaos.deck import DECK, deal
from lab.faults import KINDS
from lab.settings import LabError


def test_a_seed_deals_the_same_run_and_another_seed_another() -> None:
    assert deal(7, 100) == deal(7, 100)
    assert deal(7, 100) != deal(8, 100)
    assert deal(7, 50) == deal(7, 100)[:50], "a longer run begins like a shorter one"


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_comes_about_equally_often_within_its_bounds(seed: int) -> None:
    plan = deal(seed, 100)
    times = Counter(planned.name for planned in plan)
    assert set(times) == set(DECK)
    assert max(times.values()) - min(times.values()) <= 1
    for planned in plan:
        bounds = planned.card.seconds
        assert (planned.seconds is None) == (bounds is None)
        assert bounds is None or planned.seconds is None or bounds[0] <= planned.seconds <= bounds[1]


@pytest.mark.parametrize("seed", range(20))
def test_some_come_early_but_never_a_second_machine(seed: int) -> None:
    plan = deal(seed, 100)
    early = [(before, planned) for before, planned in pairwise(plan) if planned.early]
    assert not plan[0].early
    assert len(early) >= 5
    assert not [pair for pair in early if pair[0].card.repaired and pair[1].card.repaired]


def test_every_card_is_a_fault_of_the_lab_and_one_that_ends_can_be_undone() -> None:
    assert {card.fault for card in DECK.values()} <= set(KINDS)
    assert not [name for name, card in DECK.items() if card.seconds and not KINDS[card.fault].lasting]
    assert not [name for name, card in DECK.items() if card.cordoned and not card.guilty]


def test_a_kind_that_is_not_there_is_named() -> None:
    with pytest.raises(LabError, match="--kinds: 'meteor' is not known; use some of process-kill"):
        deal(1, 3, ["node-kill", "meteor"])
