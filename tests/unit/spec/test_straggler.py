"""Whom the comparison of ranks names, and whom it must not."""

import random
from collections.abc import Callable, Sequence

import pytest

from internlm2_spec import straggler
from internlm2_spec.straggler import HOLDS, WINDOW, Slow, Slowness, Suspicion, judge, links, look

COMPUTE, DATA, LINK = Slowness.COMPUTE, Slowness.DATA, Slowness.COMMUNICATION
RANKS = 8
Step = dict[Slowness, list[float]]


def step(chance: random.Random, *, noise: float = 0.03) -> Step:
    """Return what 8 ranks of a step of a second tell: 80 ms of computation, 5 ms of waiting for data, a probe."""
    return {
        COMPUTE: [0.08 * chance.lognormvariate(0, noise) for _ in range(RANKS)],
        DATA: [0.005 * chance.lognormvariate(0, 0.3) for _ in range(RANKS)],
        LINK: [0.001 * chance.lognormvariate(0, 0.2) for _ in range(RANKS)],
    }


def seen(
    change: Callable[[int, Step], object] = lambda *_: None, *, windows: int = 6, groups: Sequence[int] = (0,) * RANKS,
    noise: float = 0.03, seed: int = 0,
) -> list[Slow | None]:  # fmt: skip
    """Return who is named after each window of steps that `change` alters by their number."""
    chance, suspicion, named = random.Random(seed), Suspicion(), []
    for window in range(windows):
        steps = [step(chance, noise=noise) for _ in range(WINDOW)]
        for number, each in enumerate(steps):
            change(window * WINDOW + number, each)
        suspicion = judge(suspicion, look(steps, [1.0] * WINDOW), groups)
        named.append(suspicion.named)
    return named


def slowed(rank: int, what: Slowness, factor: float, *, until: int = 10**9) -> Callable[[int, Step], object]:
    def change(number: int, each: Step) -> None:
        if number < until:
            each[what][rank] *= factor

    return change


def who(named: Slow | None) -> tuple[int, Slowness] | None:
    return named.who if named else None


@pytest.mark.parametrize(
    ("what", "factor"), [(COMPUTE, 1.35), (DATA, 30.0), (LINK, 4.0)], ids=["computes", "reads", "its link"]
)
def test_a_slow_rank_is_named_with_what_it_is_slow_in_after_some_windows(what: Slowness, factor: float) -> None:
    named = seen(slowed(5, what, factor))
    assert [who(each) for each in named] == [None] * (HOLDS - 1) + [(5, what)] * (7 - HOLDS)
    last = named[-1]
    assert last is not None
    assert last.ratio == pytest.approx(factor, rel=0.25)
    assert last.seconds > 0


@pytest.mark.parametrize("seed", range(40))
def test_noise_names_nobody(seed: int) -> None:
    assert seen(windows=20, noise=0.1, seed=seed) == [None] * 20


def test_wild_steps_of_any_rank_name_nobody_where_a_mean_would() -> None:
    """One step in ten of some rank is a hundred times as long."""
    chance, worst = random.Random(7), 0.0

    def change(_: int, each: Step) -> None:
        nonlocal worst
        if chance.random() < 0.1:
            rank = chance.randrange(RANKS)
            each[COMPUTE][rank] *= 100
            worst = max(worst, each[COMPUTE][rank])

    assert seen(change, windows=40) == [None] * 40
    assert worst / WINDOW > 1.2 * 0.08  # the control: the mean of such a window is far above the bar


def test_a_rank_that_is_slow_for_a_short_time_is_not_named() -> None:
    assert seen(slowed(2, COMPUTE, 2.0, until=(HOLDS - 1) * WINDOW)) == [None] * 6


def test_a_named_rank_stays_until_it_is_clearly_well_again() -> None:
    """Between the bars nothing changes: 1.35 times is named, 1.15 is not enough to be, and enough to stay."""

    def change(number: int, each: Step) -> None:
        each[COMPUTE][5] *= 1.35 if number < 3 * WINDOW else 1.15 if number < 8 * WINDOW else 1.0

    named = [who(each) for each in seen(change, windows=14, noise=0.005)]
    slow = (5, COMPUTE)
    assert named == [None] * 2 + [slow] * (6 + HOLDS - 1) + [None] * (14 - 10)
    assert set(map(who, seen(slowed(5, COMPUTE, 1.15), windows=14, noise=0.005))) == {None}


def test_another_rank_takes_the_name_over_once_the_first_is_well() -> None:
    def change(number: int, each: Step) -> None:
        each[COMPUTE][1 if number < 5 * WINDOW else 6] *= 1.5

    named = [who(each) for each in seen(change, windows=12)]
    assert (named[4], named[-1]) == ((1, COMPUTE), (6, COMPUTE))


def test_two_ranks_of_a_slow_node_do_not_hide_each_other() -> None:
    def change(_: int, each: Step) -> None:
        each[COMPUTE][4] *= 1.5
        each[COMPUTE][5] *= 1.6

    assert who(seen(change)[-1]) == (5, COMPUTE)


def test_stages_of_a_pipeline_are_compared_among_themselves() -> None:
    """The first half has twice the layers."""

    def change(_: int, each: Step) -> None:
        each[COMPUTE] = [seconds * (2 if rank < 4 else 1) for rank, seconds in enumerate(each[COMPUTE])]

    halves = [rank // 4 for rank in range(RANKS)]
    assert seen(change, groups=halves) == [None] * 6

    def and_slow(number: int, each: Step) -> None:
        change(number, each)
        each[COMPUTE][6] *= 1.5

    assert who(seen(and_slow, groups=halves)[-1]) == (6, COMPUTE)
    assert who(seen(and_slow)[-1]) is None  # the control: among all of them it is hidden


def test_data_that_is_late_by_little_of_a_step_is_nobodys_fault() -> None:
    assert seen(slowed(3, DATA, 5.0)) == [None] * 6  # 25 ms of a second


@pytest.mark.parametrize("ranks", [1, 2])
def test_few_ranks(ranks: int) -> None:
    steps = [{COMPUTE: [0.1] * (ranks - 1) + [0.2]}] * WINDOW
    suspicion = Suspicion()
    for _ in range(HOLDS):
        suspicion = judge(suspicion, look(steps, [1.0] * WINDOW), [0] * ranks)
    assert who(suspicion.named) == (None if ranks == 1 else (1, COMPUTE))


LINKS = {
    "a node of two ranks, in and out": ([1, 0.1, 9, 0.1, 8, 0.1, 1, 0.1], 2, [1, 1, 8, 1, 1, 1, 1, 1]),
    "one way alone is nobody's": ([1, 0.1, 9, 0.1, 1, 0.1, 1, 0.1], 2, [1] * 8),
    "a rank of one node": ([1, 9, 8, 9, 1, 1], 6, [1, 1, 8, 1, 1, 1]),
    "a node of one rank": ([9, 8, 1, 1, 1, 9], 1, [8, 1, 1, 1, 1, 1]),
    "of two ends of one way neither": ([1, 9, 8, 1, 1, 1], 1, [1] * 6),
}


@pytest.mark.parametrize(("exchanged", "ranks_of_node", "expected"), LINKS.values(), ids=LINKS.keys())
def test_a_link_is_its_nodes_when_all_it_takes_part_in_is_slow(
    exchanged: list[float], ranks_of_node: int, expected: list[float]
) -> None:
    assert links(exchanged, ranks_of_node) == expected


def test_ten_thousand_ranks_are_compared_in_one_pass() -> None:
    """Each look sorts a few times; comparing each rank with all others would take ten thousand times as long."""
    seconds = [0.1] * 9_999 + [0.2]
    found = straggler.standing_out(straggler.Look({COMPUTE: seconds}, 1.0), [0] * 10_000)
    assert found is not None
    assert found.rank == 9_999
