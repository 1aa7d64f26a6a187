"""Weights leave as a released folder and come home as a checkpoint of one step, a file at a time.

Only the file that is being written is ever in memory, and the pieces that are on their way into it. Which
layout saved a checkpoint does not matter, nor which one will load what was imported.
"""

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar

import torch

from internlm2_spec.architecture import Architecture
from internlm2_spec.config import Refused
from internlm2_spec.contract import MANIFEST_NAME, step_prefix
from internlm2_spec.manifest import (
    Manifest,
    Slice,
    StoredObject,
    Tensor,
    check_tiling,
    elements,
    published,
    to_json,
)
from internlm2_trainer.checkpoint import shards
from internlm2_trainer.checkpoint.region import Region
from internlm2_trainer.storage import Conflict, Store, digest, retrying
from internlm2_trainer.weights import huggingface, naming
from internlm2_trainer.weights.naming import Foreign, Format
from internlm2_trainer.weights.released import INDEX, SINGLE, Folder

_T = TypeVar("_T")

Precision: TypeAlias = Literal["bf16", "fp32"]
DTYPES: Final[dict[Precision, torch.dtype]] = {"bf16": torch.bfloat16, "fp32": torch.float32}

# What readers of the format ask for: "weights of PyTorch".
METADATA: Final = {"format": "pt"}

# A checkpoint has no epoch before its first step, and no attempt that made this one.
STEP: Final = 0
ATTEMPT: Final = 0
OBJECT_BYTES: Final = 2**30


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint that is exported: where it is, and what its manifest says."""

    store: Store
    folder: str
    manifest: Manifest
    architecture: Architecture


def export(
    source: Source,
    destination: Store,
    *,
    format: Format,
    precision: Precision,
    file_bytes: int,
    tokenizer: Mapping[str, bytes],
    noticed: Callable[[int], None] = lambda _: None,
) -> int:
    """Write a released folder and return the bytes of its weights. The same weights give the same bytes.

    `config.json` is written last: a folder without it is not finished. `file_bytes` bounds the tensors of one
    file, unless one tensor alone is larger.

    Raises:
        Refused: the destination is not empty; the checkpoint lacks a tensor, or the format a place for one.
    """
    _check_empty(destination)
    tensors = naming.tensors(source.architecture, format)
    width = DTYPES[precision].itemsize
    files = pack(tensors, size=lambda tensor: elements(tensor.shape) * width, limit=file_bytes)
    names = _file_names(len(files))
    for name, members in zip(names, files, strict=True):
        noticed(_write_file(source, destination, name, members, DTYPES[precision]))
    total = sum(elements(tensor.shape) for tensor in tensors) * width
    if len(files) > 1:
        place = {tensor.name: name for name, members in zip(names, files, strict=True) for tensor in members}
        _write_json(destination, INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(place.items()))})
    for name, body in tokenizer.items():
        retrying(functools.partial(destination.put, name, [memoryview(body)]))
    _write_json(destination, huggingface.GENERATION, huggingface.generation_json())
    described = huggingface.config_json(source.architecture, format, str(DTYPES[precision]).removeprefix("torch."))
    try:
        retrying(lambda: destination.create(huggingface.CONFIG, _json(described)))
    except Conflict:
        raise _used(destination) from None
    return total


def import_folder(
    folder: Folder,
    source: Store,
    run: Store,
    *,
    stage: str,
    now: float,
    object_bytes: int = OBJECT_BYTES,
    noticed: Callable[[int], None] = lambda _: None,
) -> Manifest:
    """Publish a released folder's weights, in the types that they have, as step 0 of a stage.

    Raises:
        Refused: the stage has a checkpoint already.
    """
    if published([entry.key for entry in retrying(lambda: run.list(f"{stage}/"))], stage):
        raise _taken(stage)
    order = [rows.tensor for each in naming.tensors(folder.described.architecture, "internlm2") for rows in each.rows]
    objects: list[StoredObject] = []
    saved: dict[str, Tensor] = {}
    for names in pack(order, size=folder.bytes, limit=object_bytes):
        stored, slices = _write_object(folder, source, run, step_prefix(stage, STEP), names)
        objects.append(stored)
        saved |= slices
        noticed(stored.size)
    extra = {"tokens": 0, "updates": 0, **folder.described.architecture.to_extra()}
    manifest = Manifest(stage, STEP, ATTEMPT, 1, now, tuple(objects), saved, extra)
    check_tiling(manifest)
    key = f"{step_prefix(stage, STEP)}/{MANIFEST_NAME}"
    try:
        retrying(lambda: run.create(key, to_json(manifest).encode()))
    except Conflict:
        raise _taken(stage) from None
    return manifest


def pack(items: Iterable[_T], *, size: Callable[[_T], int], limit: int) -> list[list[_T]]:
    """Cut a sequence, in order, into groups of at most `limit`; an item that is larger stands alone."""
    groups: list[list[_T]] = []
    room = 0
    for item in items:
        if not groups or size(item) > room:
            groups.append([])
            room = limit
        groups[-1].append(item)
        room -= size(item)
    return groups


def _write_file(source: Source, destination: Store, name: str, members: list[Foreign], dtype: torch.dtype) -> int:
    """Write one file of a released folder and return its bytes. Its tensors die with this call."""
    shapes = naming.own_shapes(source.architecture)
    staged: dict[str, shards.Staged] = {}
    targets: list[shards.Target] = []
    for member in members:
        memory = torch.empty(member.shape, dtype=dtype)
        staged[member.name] = whole(memory)
        at = 0
        for rows in member.rows:
            shape = shapes[rows.tensor.removeprefix(naming.PREFIX)]
            box = Region((rows.start, *(0 for _ in shape[1:])), (rows.count, *shape[1:]))
            targets.append(shards.Target(rows.tensor, shape, memory.narrow(0, at, rows.count), box))
            at += rows.count
    shards.fill(source.store, source.folder, source.manifest, targets)
    parts, _ = shards.encode(staged, METADATA)
    retrying(lambda: destination.put(name, parts))
    return sum(map(len, parts))


def _write_object(
    folder: Folder, source: Store, run: Store, prefix: str, names: list[str]
) -> tuple[StoredObject, dict[str, Tensor]]:
    """Write one object of a checkpoint; return it, and the tensors that it holds whole."""
    staged: dict[str, shards.Staged] = {}
    for name in names:
        tensor = folder.manifest.tensors[name]
        staged[name] = whole(torch.empty(tensor.shape, dtype=shards.DTYPES[tensor.dtype]))
    targets = [shards.Target(name, s.shape, s.tensor, s.region) for name, s in staged.items()]
    shards.fill(source, "", folder.manifest, targets)
    parts, starts = shards.encode(staged)
    sha256 = digest(parts)
    # Named by what is in it: an import that is repeated writes the same objects, and two at a time never mix.
    stored = StoredObject(f"{ATTEMPT}-0-{sha256[:16]}.safetensors", sum(map(len, parts)), sha256)
    retrying(lambda: run.put(f"{prefix}/{stored.name}", parts))
    return stored, {
        name: Tensor(
            shards.NAMES[s.tensor.dtype], s.shape, (Slice(stored.name, starts[name], s.region.offset, s.shape),)
        )
        for name, s in staged.items()
    }


def whole(memory: torch.Tensor) -> shards.Staged:
    """Return a tensor that no rank has a part of, as `shards.encode` takes it."""
    shape = tuple(memory.shape)
    return shards.Staged(memory, shape, Region((0,) * len(shape), shape))


def _file_names(count: int) -> list[str]:
    if count == 1:
        return [SINGLE]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _check_empty(destination: Store) -> None:
    keys = [entry.key for entry in retrying(lambda: destination.list(""))]
    if huggingface.CONFIG in keys:
        raise _used(destination)
    if keys:
        wrong = f"holds {len(keys)} files and no {huggingface.CONFIG}"
        raise Refused(destination.url, wrong=wrong, right="name an empty folder, or delete what a killed export left")


def _used(destination: Store) -> Refused:
    return Refused(destination.url, wrong="holds a model already", right="name an empty folder; nothing is overwritten")


def _taken(stage: str) -> Refused:
    return Refused("--stage", wrong=f"{stage} has a checkpoint already", right="give the weights a stage of their own")


def _write_json(destination: Store, name: str, value: dict[str, object]) -> None:
    retrying(lambda: destination.put(name, [memoryview(_json(value))]))


def _json(value: dict[str, object]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
