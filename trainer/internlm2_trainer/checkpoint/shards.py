"""The bytes of a checkpoint: a rank's boxes as one safetensors file, and back into any other boxes."""

import json
import posixpath
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import torch

from internlm2_spec.config import Refused
from internlm2_spec.manifest import ELEMENT_BYTES, Manifest, Slice, elements
from internlm2_trainer.checkpoint.region import Region, held, overlap, split_rows
from internlm2_trainer.storage import PIECE_BYTES, Store, read_exactly, retrying

DTYPES: Final = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}

# Ranges of an object closer than this are read as one: a request costs about what 1 MiB costs.
GAP_BYTES: Final = 2**20
READERS: Final = 8


@dataclass(frozen=True, slots=True)
class Staged:
    """A box copied to the CPU, with the shape of the tensor that it is a part of."""

    tensor: torch.Tensor
    shape: tuple[int, ...]
    region: Region


@dataclass(frozen=True, slots=True)
class Target:
    """Memory that a box of the checkpoint's tensor `name`, of shape `shape`, is read into."""

    name: str
    shape: tuple[int, ...]
    tensor: torch.Tensor
    region: Region


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bytes [start, stop) of an object that fill `common`, a part of the saved box `saved`, of `target`."""

    object: str
    start: int
    stop: int
    dtype: torch.dtype
    saved: Region
    common: Region
    target: torch.Tensor  # local part of the state
    place: Region  # box of `target`


def encode(
    staged: dict[str, Staged], metadata: Mapping[str, str] | None = None
) -> tuple[list[memoryview], dict[str, int]]:
    """Return a safetensors file as parts that share memory with the tensors, and each tensor's first byte."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offsets: dict[str, int] = {}
    parts: list[memoryview] = []
    # Wide types first, as the format's own writer does: every tensor is then aligned to its element.
    names = sorted(staged, key=lambda name: (-staged[name].tensor.element_size(), name))
    at = 0
    for name in names:
        tensor = staged[name].tensor
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        offsets[name], at = at, at + size
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    first = len(text).to_bytes(8, "little") + text
    return [memoryview(first), *parts], {name: len(first) + offset for name, offset in offsets.items()}


def load(store: Store, folder: str, manifest: Manifest, state: dict[str, torch.Tensor]) -> None:
    """Fill the state's local parts in place, reading only the byte ranges that overlap them.

    Raises:
        Refused: the checkpoint has no such tensor, or one of another shape.
    """
    fill(store, folder, manifest, [Target(name, tuple(t.shape), *held(t)) for name, t in state.items()])


def fill(store: Store, folder: str, manifest: Manifest, targets: Iterable[Target]) -> None:
    """Read boxes of tensors into memory, converted to its type where that is another one.

    Raises:
        Refused: the checkpoint has no such tensor, or one of another shape.
    """
    fetches = [fetch for target in targets for fetch in _fetches(target, manifest)]
    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(lambda batch: _apply(store, folder, batch), _batches(fetches)):
            pass


def _fetches(target: Target, manifest: Manifest) -> Iterable[Fetch]:
    path = f"checkpoint {manifest.stage} step {manifest.step}"
    saved = manifest.tensors.get(target.name)
    if saved is None:
        raise Refused(path, wrong=f"has no tensor {target.name}", right="load it into the model that wrote it")
    if saved.shape != target.shape:
        wrong = f"{target.name} has shape {list(saved.shape)}, the model {list(target.shape)}"
        raise Refused(path, wrong=wrong, right="load it into a model of the same sizes")
    for part in saved.slices:
        common = overlap(target.region, Region(part.offset, part.shape))
        for box in split_rows(common, PIECE_BYTES // ELEMENT_BYTES[saved.dtype]) if common else ():
            start, stop = _span(part, box, ELEMENT_BYTES[saved.dtype])
            saved_box = Region(part.offset, part.shape)
            yield Fetch(part.object, start, stop, DTYPES[saved.dtype], saved_box, box, target.tensor, target.region)


def _span(part: Slice, box: Region, width: int) -> tuple[int, int]:
    """Return the bytes of the object from the box's first to its last element."""
    first = last = 0
    for offset, size, low, count in zip(part.offset, part.shape, box.offset, box.shape, strict=True):
        first = first * size + low - offset
        last = last * size + low - offset + count - 1
    return part.start + first * width, part.start + (last + 1) * width


def _batches(fetches: list[Fetch]) -> list[list[Fetch]]:
    """Group fetches whose ranges are near each other in one object, so that small tensors share a request."""
    batches: list[list[Fetch]] = []
    for fetch in sorted(fetches, key=lambda fetch: (fetch.object, fetch.start)):
        last = batches[-1] if batches else None
        if (
            last
            and last[0].object == fetch.object
            and fetch.start - last[-1].stop <= GAP_BYTES
            and fetch.stop - last[0].start <= 2 * PIECE_BYTES
        ):
            last.append(fetch)
        else:
            batches.append([fetch])
    return batches


def _apply(store: Store, folder: str, batch: list[Fetch]) -> None:
    start, stop = batch[0].start, max(fetch.stop for fetch in batch)
    key = posixpath.join(folder, batch[0].object)  # a released folder is the store itself
    body = memoryview(retrying(lambda: read_exactly(store, key, start, stop - start)))
    for fetch in batch:
        _copy(fetch, bytearray(body[fetch.start - start : fetch.stop - start]))


def _copy(fetch: Fetch, body: bytearray) -> None:
    strides = [elements(fetch.saved.shape[dim + 1 :]) for dim in range(len(fetch.saved.shape))]
    source = torch.frombuffer(body, dtype=fetch.dtype).as_strided(fetch.common.shape, strides)
    with torch.no_grad():
        target = fetch.target
        for dim, (low, count) in enumerate(zip(fetch.common.offset, fetch.common.shape, strict=True)):
            target = target.narrow(dim, low - fetch.place.offset[dim], count)
        target.copy_(source)
