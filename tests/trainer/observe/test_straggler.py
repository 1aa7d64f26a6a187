"""A rank that is slow by itself is named by all, and comparing changes nothing."""

import time
from typing import Any

import pytest

from internlm2_trainer.observe.straggler import Spread, spread
from tests import ranks
from tests.trainer import parity

DELAY_SECONDS = 0.3  # a step on these sizes takes a tenth of it
STEPS = 4  # what a rank worked is known to all two steps later


def test_the_spread_of_what_ranks_worked() -> None:
    assert spread([2.0, 9.0, 1.0, 3.0]) == Spread(1.0, 2.5, 9.0, slowest_rank=1)
    assert spread([1.0, 1.0]).slowest_rank == 0


@pytest.fixture(scope="module")
def seen() -> list[list[dict[str, Any]]]:
    """What each of 4 ranks saw when rank 1, rank 2, then none was slow."""
    return ranks.run(4, train_with_a_slow_rank, [1, 2, None])


def test_every_rank_names_the_one_that_is_slow(seen: list[list[dict[str, Any]]]) -> None:
    assert [[case["slowest"] for case in of_rank[:2]] for of_rank in seen] == [[1.0, 2.0]] * 4


def test_the_others_wait_for_it_is_not_their_work(seen: list[list[dict[str, Any]]]) -> None:
    for of_rank in seen:
        assert of_rank[0]["max"] >= DELAY_SECONDS > of_rank[0]["median"] >= of_rank[0]["min"] > 0


def test_losses_are_the_same_whoever_is_slow(seen: list[list[dict[str, Any]]]) -> None:
    for first, *rest in zip(*(of_rank for of_rank in seen), strict=True):
        assert all(case["steps"] == first["steps"] for case in rest)
    assert all(case["steps"] == seen[0][0]["steps"] for case in seen[0])


class Slow(parity.RandomSource):
    def micro_batch(self, batch: int, *, data_rank: int, data_world: int, micro_step: int) -> parity.Samples:
        time.sleep(DELAY_SECONDS)
        return super().micro_batch(batch, data_rank=data_rank, data_world=data_world, micro_step=micro_step)


def train_with_a_slow_rank(rank: int, _world: int, slow_ranks: list[int | None]) -> list[dict[str, Any]]:
    return [outcome(slow=rank == slow) for slow in slow_ranks]


def outcome(*, slow: bool) -> dict[str, Any]:
    run = parity.trainer(parity.stage(shard=2))
    if slow:
        run.source = Slow(run.stage.parallel.micro_batch)
    steps = parity.steps(run, STEPS)
    value = run.metrics.registry.get_sample_value
    work = {name: value("internlm2_train_rank_work_seconds", {"statistic": name}) for name in ("min", "median", "max")}
    return {"steps": steps, "slowest": value("internlm2_train_slowest_rank"), **work}
