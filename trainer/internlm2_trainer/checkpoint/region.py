"""Which box of a global tensor a rank holds, and which of the ranks that hold the same box writes it."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard

from internlm2_spec.manifest import elements


@dataclass(frozen=True, slots=True)
class Region:
    """A box of a tensor: first index and extent in each dimension."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def empty(self) -> bool:
        return elements(self.shape) == 0


def overlap(one: Region, other: Region) -> Region | None:
    """Return the common box of two boxes of the same tensor, None when they share no element."""
    low = tuple(max(a, b) for a, b in zip(one.offset, other.offset, strict=True))
    high = tuple(min(a + n, b + m) for a, n, b, m in zip(one.offset, one.shape, other.offset, other.shape, strict=True))
    common = Region(low, tuple(max(0, h - start) for start, h in zip(low, high, strict=True)))
    return None if common.empty else common


def split_rows(region: Region, limit: int) -> Iterator[Region]:
    """Cut a box along its first dimension into boxes of at most `limit` elements, or of one row."""
    rows = max(1, limit // max(1, elements(region.shape[1:]))) if region.shape else 1
    if not region.shape or region.shape[0] <= rows:
        yield region
        return
    for start in range(0, region.shape[0], rows):
        count = min(rows, region.shape[0] - start)
        yield Region((region.offset[0] + start, *region.offset[1:]), (count, *region.shape[1:]))


def shard_region(
    shape: tuple[int, ...],
    mesh_shape: tuple[int, ...],
    placements: tuple[Any, ...],
    coordinate: tuple[int, ...],
) -> Region:
    """Return the box that the member at `coordinate` of a mesh holds.

    A shard follows torch.chunk: ceil(n / k) each, the last ones shorter or empty. Mesh dimensions cut
    from left to right, except strided shards (FSDP over tensor parallel): their split factor says that
    later mesh dimensions have cut already, so they cut last.
    """
    offset, size = [0] * len(shape), list(shape)
    plain = [i for i, p in enumerate(placements) if isinstance(p, Shard) and not _strided(p)]
    strided = [i for i, p in enumerate(placements) if _strided(p)]
    for i in plain + strided[::-1]:
        dim = placements[i].dim % len(shape)
        chunk = -(-size[dim] // mesh_shape[i])
        start = min(size[dim], coordinate[i] * chunk)
        offset[dim] += start
        size[dim] = min(size[dim], start + chunk) - start
    return Region(tuple(offset), tuple(size))


def held(tensor: torch.Tensor) -> tuple[torch.Tensor, Region]:
    """Return a state tensor's local part and its box.

    Raises:
        ValueError: the tensor is a partial sum, or its local part is not the box that its placement says.
    """
    if not isinstance(tensor, DTensor):
        return tensor, Region((0,) * tensor.dim(), tuple(tensor.shape))
    local, mesh = tensor.to_local(), tensor.device_mesh
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        return local, Region((0,) * tensor.dim(), (0,) * tensor.dim())
    if not all(isinstance(p, Replicate | Shard) or _strided(p) for p in tensor.placements):
        raise ValueError(f"placement {tensor.placements} is neither replicated nor sharded")
    region = shard_region(tuple(tensor.shape), tuple(mesh.shape), tuple(tensor.placements), tuple(coordinate))
    if tuple(local.shape) != region.shape and not region.empty:
        raise ValueError(f"local shape {tuple(local.shape)} is not {region.shape} of {tensor.placements}")
    return local, region


def writes(name: str, tensor: torch.Tensor, rank: int) -> bool:
    """Say whether this rank stores its box of a tensor; exactly one of the ranks that hold it does.

    The name's hash picks among replicas, which spreads the bytes. A plain tensor is the same everywhere.
    """
    if not isinstance(tensor, DTensor):
        return rank == 0
    coordinate = tensor.device_mesh.get_coordinate()
    if coordinate is None:
        return False
    copies, mine = 1, 0
    for size, place, placement in zip(tensor.device_mesh.shape, coordinate, tensor.placements, strict=True):
        if isinstance(placement, Replicate):
            copies, mine = copies * size, mine * size + place
    return zlib.crc32(name.encode()) % copies == mine


def _strided(placement: Any) -> bool:
    return int(getattr(placement, "split_factor", 1)) > 1
