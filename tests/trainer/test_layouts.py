"""Every layout trains the same model as one process does, and the same layout twice the same bits."""

import pytest

from internlm2_spec.config import Stage
from tests import ranks
from tests.trainer import parity

TOLERANCE = 2e-5

LAYOUTS = {
    "dp2 over replicas": (2, parity.stage()),
    "dp2 over shards": (2, parity.stage(shard=2)),
    "dp4": (4, parity.stage(shard=4)),
    "tp2": (2, parity.stage(tensor=2)),
    "tp4": (4, parity.stage(tensor=4)),
    "dp2 x tp2": (4, parity.stage(tensor=2, shard=2)),
    "HSDP 2x2": (4, parity.stage(shard=2)),
    "ZeRO 1 with accumulation": (2, parity.stage(zero=1, shard=2, micro_batch=1)),
    "ZeRO 2 with accumulation": (2, parity.stage(zero=2, shard=2, micro_batch=1)),
    "ZeRO 3 with accumulation": (2, parity.stage(zero=3, shard=2, micro_batch=1)),
    "tp8 over 4 KV heads": (8, parity.stage(tensor=8)),
    "cp2 ring": (2, parity.stage(context=2)),
    "cp2 Ulysses": (2, parity.stage(context=2, ulysses=2)),
    "cp4 ring": (4, parity.stage(context=4)),
    "cp4 Ulysses": (4, parity.stage(context=4, ulysses=4)),
    "cp4 ring 2 x Ulysses 2": (4, parity.stage(context=4, ulysses=2)),
    "cp2 x tp2": (4, parity.stage(context=2, tensor=2)),
    "cp2 Ulysses x tp2": (4, parity.stage(context=2, ulysses=2, tensor=2)),
    "cp2 x dp2 over replicas": (4, parity.stage(context=2)),
    "cp2 x ZeRO 3 with accumulation": (4, parity.stage(context=2, zero=3, shard=2, micro_batch=1)),
    "cp2 x recompute": (2, parity.stage(context=2, recompute=True)),
    "cp2 x tp2 x dp2": (8, parity.stage(context=2, tensor=2, shard=2)),
    "recompute": (2, parity.stage(tensor=2, recompute=True)),
}


@pytest.fixture(scope="module")
def one_process() -> list[tuple[float, float]]:
    return train(1, parity.stage())


def train(world: int, stage: Stage) -> list[tuple[float, float]]:
    results: list[list[tuple[float, float]]] = ranks.run(world, parity.train, stage)
    assert all(result == results[0] for result in results), "ranks of one run disagree"
    return results[0]


@pytest.mark.parametrize(("world", "stage"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_trains_what_one_process_trains(
    world: int, stage: Stage, one_process: list[tuple[float, float]]
) -> None:
    steps = train(world, stage)

    for (loss, norm), (expected_loss, expected_norm) in zip(steps, one_process, strict=True):
        assert loss == pytest.approx(expected_loss, abs=TOLERANCE)
        assert norm == pytest.approx(expected_norm, rel=TOLERANCE)


def test_the_control_sees_another_learning_rate(one_process: list[tuple[float, float]]) -> None:
    assert abs(one_process[0][0] - one_process[-1][0]) > 100 * TOLERANCE


def test_the_same_layout_twice_is_bitwise_equal() -> None:
    stage = parity.stage(tensor=2, shard=2)

    assert train(4, stage) == train(4, stage)
