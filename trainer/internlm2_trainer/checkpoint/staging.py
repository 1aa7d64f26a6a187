"""The flat buffer that a save copies a rank's state to, so that the training can go on, and back from it."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch

from internlm2_spec.manifest import elements
from internlm2_trainer.checkpoint import region, shards
from internlm2_trainer.checkpoint.region import Region

# Every box starts at a cache line, which suits any element size.
ALIGNMENT: Final = 64


@dataclass(frozen=True, slots=True)
class Box:
    """A rank's part of one tensor: where it lies in the buffer, and in the tensor of shape `whole`."""

    start: int
    dtype: torch.dtype
    region: Region
    whole: tuple[int, ...]
    stored: bool  # whether this rank is the one of its replicas that stores it

    @property
    def size(self) -> int:
        return elements(self.region.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Where everything lies in a buffer of `size` bytes.

    `key` is the same for two ranks that hold the same boxes of the same tensors: their buffers are exchangeable.
    """

    boxes: dict[str, Box]
    size: int
    key: str


def arrange(state: Mapping[str, torch.Tensor], rank: int, *, replicas: bool) -> Arrangement:
    """Lay out what a rank holds of a state; without `replicas` only what it stores."""
    boxes: dict[str, Box] = {}
    at = 0
    for name in sorted(state):
        tensor = state[name]
        place = region.held(tensor)[1]
        stored = region.writes(name, tensor, rank)
        if not place.empty and (stored or replicas):
            boxes[name] = box = Box(at, tensor.dtype, place, tuple(tensor.shape), stored)
            at += -(-box.size // ALIGNMENT) * ALIGNMENT
    told = [
        [name, shards.NAMES[b.dtype], b.whole, b.region.offset, b.region.shape] for name, b in boxes.items()
    ]  # not `stored`: it depends on the rank
    return Arrangement(boxes, max(at, ALIGNMENT), hashlib.sha256(json.dumps(told).encode()).hexdigest())


def fill(buffer: torch.Tensor, arrangement: Arrangement, state: Mapping[str, torch.Tensor]) -> None:
    """Copy the state's local parts into the buffer; on a GPU, wait until they are there."""
    for name, view in _views(buffer, arrangement):
        view.copy_(region.held(state[name])[0].detach(), non_blocking=True)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@torch.no_grad()
def empty(buffer: torch.Tensor, arrangement: Arrangement, state: Mapping[str, torch.Tensor]) -> None:
    """Copy the buffer into the state's local parts."""
    for name, view in _views(buffer, arrangement):
        region.held(state[name])[0].copy_(view)


def stored(buffer: torch.Tensor, arrangement: Arrangement) -> dict[str, shards.Staged]:
    """Return the boxes that this rank stores, sharing the buffer's memory."""
    return {
        name: shards.Staged(view, arrangement.boxes[name].whole, arrangement.boxes[name].region)
        for name, view in _views(buffer, arrangement)
        if arrangement.boxes[name].stored
    }


def _views(buffer: torch.Tensor, arrangement: Arrangement) -> Iterator[tuple[str, torch.Tensor]]:
    for name, box in arrangement.boxes.items():
        yield name, buffer[box.start : box.start + box.size].view(box.dtype).view(box.region.shape)
