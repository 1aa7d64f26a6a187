import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_trainer.data.order import assign, sample_at


@given(count=st.integers(1, 300), seed=st.integers(0, 2**63), epoch=st.integers(0, 5))
def test_an_epoch_has_every_sample_exactly_once(count: int, seed: int, epoch: int) -> None:
    positions = np.arange(epoch * count, (epoch + 1) * count)
    assert sorted(sample_at(positions, count=count, seed=seed)) == list(range(count))


@given(count=st.integers(1, 10**12), seed=st.integers(0, 2**31), position=st.integers(0, 10**12))
def test_a_sample_depends_on_its_position_alone(count: int, seed: int, position: int) -> None:
    alone = sample_at(np.array([position]), count=count, seed=seed)[0]
    among = sample_at(np.arange(position, position + 3), count=count, seed=seed)[0]
    assert alone == among
    assert 0 <= alone < count


def test_epochs_and_seeds_have_different_orders() -> None:
    orders = [
        tuple(sample_at(np.arange(epoch * 100, (epoch + 1) * 100), count=100, seed=seed))
        for epoch in (0, 1)
        for seed in (1, 2)
    ]
    assert len({*orders, tuple(range(100))}) == 5


def test_the_order_looks_random() -> None:
    order = sample_at(np.arange(10_000), count=10_000, seed=7)
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.05


@pytest.mark.parametrize(("world", "micro_batch"), [(1, 1), (1, 24), (2, 3), (4, 2), (8, 1), (24, 1)])
def test_every_position_of_a_batch_is_computed_once_at_any_world_size(world: int, micro_batch: int) -> None:
    positions = [
        int(position)
        for micro_step in range(24 // (world * micro_batch))
        for rank in range(world)
        for position in assign(24, data_rank=rank, data_world=world, micro_step=micro_step, micro_batch=micro_batch)
    ]
    assert sorted(positions) == list(range(24))


def test_a_micro_step_beyond_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="micro-step 2 is beyond a batch of 8 samples"):
        assign(8, data_rank=0, data_world=2, micro_step=2, micro_batch=2)
