"""How two checkpoints differ, tensor by tensor, whatever layouts they were saved under."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from internlm2_spec.manifest import Manifest, Tensor, elements
from internlm2_trainer.checkpoint import shards
from internlm2_trainer.checkpoint.address import Step


@dataclass(frozen=True, slots=True)
class Difference:
    """One tensor that is not the same. `differing` elements of `count` differ, by at most `largest`.

    `reason` says why values were not compared: "only in the first", "shape [4] and [5]", "type F32 and BF16".
    """

    name: str
    reason: str = ""
    count: int = 0
    differing: int = 0
    largest: float = 0.0


def differences(
    one: tuple[Step, Manifest], other: tuple[Step, Manifest], *, noticed: Callable[[int], None] = lambda _: None
) -> Iterator[Difference]:
    """Yield the tensors that differ, by name. Two whole tensors are in memory at a time."""
    first, second = one[1].tensors, other[1].tensors
    for name in sorted(first.keys() | second.keys()):
        reason = _incomparable(first.get(name), second.get(name))
        if reason:
            yield Difference(name, reason)
            continue
        found = _compared(name, _whole(*one, name), _whole(*other, name))
        noticed(2 * elements(first[name].shape))
        if found.differing:
            yield found


def _incomparable(one: Tensor | None, other: Tensor | None) -> str:
    if one is None or other is None:
        return "only in the second" if one is None else "only in the first"
    if one.shape != other.shape:
        return f"shape {list(one.shape)} and {list(other.shape)}"
    return "" if one.dtype == other.dtype else f"type {one.dtype} and {other.dtype}"


def _whole(step: Step, manifest: Manifest, name: str) -> torch.Tensor:
    saved = manifest.tensors[name]
    tensor = torch.empty(saved.shape, dtype=shards.DTYPES[saved.dtype])
    shards.load(step.store, step.folder, manifest, {name: tensor})
    return tensor


def _compared(name: str, one: torch.Tensor, other: torch.Tensor) -> Difference:
    """Compare bits: NaN equals the same NaN, and 0.0 is not -0.0."""
    apart = (one.reshape(-1, 1).view(torch.uint8) != other.reshape(-1, 1).view(torch.uint8)).any(dim=1)
    differing = int(apart.sum())
    largest = (one.double() - other.double()).abs().max().item() if differing else 0.0
    return Difference(name, "", one.numel(), differing, largest)
