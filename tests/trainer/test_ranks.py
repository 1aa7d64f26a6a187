import pytest

from tests import ranks


def add_up(rank: int, world: int, offset: int) -> tuple[int, float]:
    import torch
    import torch.distributed as dist

    total = torch.tensor([float(rank + offset)])
    dist.all_reduce(total)
    return world, total.item()


def fail_on_the_last(rank: int, world: int) -> None:
    if rank == world - 1:
        raise ValueError("planted")


def test_every_rank_takes_part_and_answers_in_order() -> None:
    assert ranks.run(4, add_up, 10) == [(4, 46.0)] * 4


def test_an_error_on_one_rank_is_reported_with_its_traceback() -> None:
    with pytest.raises(ranks.RankFailed, match=r"(?s)rank 1:.*planted"):
        ranks.run(2, fail_on_the_last)
