import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from internlm2_spec.manifest import elements
from internlm2_trainer.checkpoint.region import Region, overlap, shard_region, split_rows

MESHES = {
    "data 4": ((4,), (Shard(0),)),
    "tensor 2 on columns": ((2,), (Shard(1),)),
    "data 2 x tensor 2, same dimension": ((2, 2), (_StridedShard(0, split_factor=2), Shard(0))),
    "data 3 x tensor 2, same dimension": ((3, 2), (_StridedShard(0, split_factor=2), Shard(0))),
    "data 2 x tensor 2, two dimensions": ((2, 2), (Shard(0), Shard(1))),
    "replicate 2 x shard 2": ((2, 2), (Replicate(), Shard(0))),
}


@pytest.mark.parametrize("mesh", MESHES)
@given(rows=st.integers(0, 13), columns=st.integers(1, 7))
def test_the_boxes_of_a_mesh_tile_the_tensor(mesh: str, rows: int, columns: int) -> None:
    shape, placements = MESHES[mesh]
    coordinates = list(itertools.product(*map(range, shape)))
    boxes = {shard_region((rows, columns), shape, placements, place) for place in coordinates}
    solid = [box for box in boxes if not box.empty]
    assert sum(elements(box.shape) for box in solid) == rows * columns
    assert all(overlap(one, other) is None for one, other in itertools.combinations(solid, 2))


def test_fsdp_over_tensor_parallel_cuts_inside_the_tensor_parallel_part() -> None:
    mesh, placements = MESHES["data 2 x tensor 2, same dimension"]
    firsts = {place: shard_region((8, 1), mesh, placements, place).offset[0] for place in [(0, 0), (1, 0), (0, 1)]}
    assert firsts == {(0, 0): 0, (1, 0): 2, (0, 1): 4}


boxes = st.builds(
    Region, st.tuples(st.integers(0, 5), st.integers(0, 5)), st.tuples(st.integers(0, 5), st.integers(0, 5))
)


def cells(region: Region | None) -> set[tuple[int, ...]]:
    if region is None:
        return set()
    return set(itertools.product(*(range(a, a + n) for a, n in zip(region.offset, region.shape, strict=True))))


@given(one=boxes, other=boxes)
def test_an_overlap_has_the_cells_of_both(one: Region, other: Region) -> None:
    assert cells(overlap(one, other)) == cells(one) & cells(other)


@given(region=boxes, limit=st.integers(1, 20))
def test_split_rows_keeps_every_cell_in_pieces_under_the_limit_or_of_one_row(region: Region, limit: int) -> None:
    pieces = list(split_rows(region, limit))
    assert set().union(*map(cells, pieces)) == cells(region)
    assert all(elements(piece.shape) <= limit or piece.shape[0] == 1 for piece in pieces)
