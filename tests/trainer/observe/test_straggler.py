"""A rank that is slow by itself is named by all, and comparing changes nothing."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import pytest
from torch import Tensor

from internlm2_spec import straggler
from internlm2_spec.straggler import Slow, Slowness
from internlm2_trainer.observe.link import Link
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


class SlowSource(parity.RandomSource):
    def micro_batch(self, batch: int, *, data_rank: int, data_world: int, micro_step: int) -> parity.Samples:
        time.sleep(DELAY_SECONDS)
        return super().micro_batch(batch, data_rank=data_rank, data_world=data_world, micro_step=micro_step)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a rank saw of a run: who was named after each step, and the steps' lengths."""

    named: list[Slow | None]
    step_seconds: list[float]


CASES = {
    "computes": (1, Slowness.COMPUTE), "reads": (2, Slowness.DATA), "sends": (3, Slowness.COMMUNICATION), "none": None,
}  # fmt: skip
LATENCY = 2  # steps until all know what a rank told of one
ENOUGH = straggler.HOLDS * straggler.WINDOW + LATENCY


@pytest.fixture(scope="module")
def named() -> dict[str, list[Seen]]:
    """What each of 4 ranks saw of each case: one rank that is slow in one thing, or none."""
    of_ranks = ranks.run(4, train_until_named)
    return {case: [of_rank[case] for of_rank in of_ranks] for case in CASES}


@pytest.mark.parametrize("case", [case for case, slow in CASES.items() if slow])
def test_after_some_windows_all_name_the_rank_and_what_it_is_slow_in(case: str, named: dict[str, list[Seen]]) -> None:
    for seen in named[case]:
        last = seen.named[-1]
        assert last is not None
        assert (last.rank, last.what) == CASES[case]
        assert last.ratio > 3
        assert set(seen.named[: straggler.WINDOW * (straggler.HOLDS - 1)]) == {None}


def test_nobody_is_called_that_slow_where_none_is(named: dict[str, list[Seen]]) -> None:
    """More than this can not be said on a machine that is busy: what noise does is in tests/unit/spec."""
    assert all(slow is None or slow.ratio < 3 for seen in named["none"] for slow in seen.named)


def test_steps_are_as_long_on_the_slow_rank_as_on_those_that_wait_for_it(named: dict[str, list[Seen]]) -> None:
    """Which is why nobody can be named by them."""
    medians = [statistics.median(seen.step_seconds) for seen in named["computes"]]
    assert max(medians) == pytest.approx(min(medians), rel=0.2)


def train_until_named(rank: int, _world: int) -> dict[str, Seen]:
    return {case: slowed(slow[1] if slow and slow[0] == rank else None) for case, slow in CASES.items()}


def slowed(what: Slowness | None) -> Seen:
    run = parity.trainer(parity.stage(shard=2))
    if what is Slowness.DATA:
        run.source = SlowSource(run.stage.parallel.micro_batch)
    if what is Slowness.COMPUTE:
        for layer in (layer for part in run.model.parts.values() for layer in part.model.layers.values()):
            layer.register_forward_pre_hook(lambda *_: time.sleep(DELAY_SECONDS / 4))
    if what is Slowness.COMMUNICATION:
        run.link = LateLink(run.device, ranks_of_node=1)
    seen = Seen([], [])
    for step in range(ENOUGH):
        started = time.perf_counter()
        run.step(step)
        seen.step_seconds.append(time.perf_counter() - started)
        seen.named.append(run.metrics.progress.slow)
    return seen


class LateLink(Link):
    """What this rank sends comes late, and so does what it is sent."""

    def exchange(self, sent: Tensor, received: Tensor) -> None:
        time.sleep(DELAY_SECONDS / 4)
        super().exchange(sent, received)


def train_with_a_slow_rank(rank: int, _world: int, slow_ranks: list[int | None]) -> list[dict[str, Any]]:
    return [outcome(slow=rank == slow) for slow in slow_ranks]


def outcome(*, slow: bool) -> dict[str, Any]:
    run = parity.trainer(parity.stage(shard=2))
    if slow:
        run.source = SlowSource(run.stage.parallel.micro_batch)
    steps = parity.steps(run, STEPS)
    value = run.metrics.registry.get_sample_value
    work = {name: value("internlm2_train_rank_work_seconds", {"statistic": name}) for name in ("min", "median", "max")}
    return {"steps": steps, "slowest": value("internlm2_train_slowest_rank"), **work}
