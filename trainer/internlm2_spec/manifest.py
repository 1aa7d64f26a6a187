"""The checkpoint manifest, and which checkpoint of a listing is the newest: shared by both halves.

A step exists when its `manifest.json` does. The manifest names every object of the step with size and
SHA-256, and says for every tensor which object holds which slice at which byte: a reader with another
layout needs nothing else to fetch exactly the bytes that it lacks.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from internlm2_spec.contract import MANIFEST_FORMAT, MANIFEST_NAME, step_of

# Bytes an element, by the names that the safetensors format gives to types.
ELEMENT_BYTES: Final = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "F16": 2, "BF16": 2, "I32": 4, "F32": 4, "I64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One file of a step: its name inside the step's folder, size in bytes, SHA-256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Slice:
    """A box of a tensor, stored row-major from byte `start` of an object.

    `offset` and `shape` have one entry a dimension, in elements of the global tensor.
    """

    object: str
    start: int
    offset: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A global tensor: type in safetensors spelling, shape, and the slices that tile it."""

    dtype: str
    shape: tuple[int, ...]
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One finished checkpoint. `time` is seconds since the epoch; `extra` is the trainer's own JSON."""

    stage: str
    step: int
    attempt: int
    world: int
    time: float
    objects: tuple[StoredObject, ...]
    tensors: dict[str, Tensor]
    extra: dict[str, Any]


def to_json(manifest: Manifest) -> str:
    """Return the text that `parse_manifest` reads; objects are named once, slices refer by number.

    It ends with the SHA-256 of everything before it: a manifest vouches for the shards, so something has to
    vouch for the manifest.
    """
    number = {stored.name: i for i, stored in enumerate(manifest.objects)}
    tensors = {
        name: [t.dtype, t.shape, [[number[s.object], s.start, s.offset, s.shape] for s in t.slices]]
        for name, t in sorted(manifest.tensors.items())
    }
    data = {
        "format": MANIFEST_FORMAT,
        "stage": manifest.stage,
        "step": manifest.step,
        "attempt": manifest.attempt,
        "world": manifest.world,
        "time": manifest.time,
        "extra": manifest.extra,
        "objects": [[o.name, o.size, o.sha256] for o in manifest.objects],
        "tensors": tensors,
    }
    return _compact(data | {"sha256": _digest(data)})


def parse_manifest(text: str) -> Manifest:
    """Parse a manifest.

    Raises:
        ValueError: not a manifest of this version, one that was changed, or one whose slices do not tile its tensors.
    """
    try:
        data = json.loads(text)
        # Manifests of the first release have none.
        if (written := data.pop("sha256", None)) is not None and written != _digest(data):
            raise ValueError("it has another SHA-256")
        if data["format"] != MANIFEST_FORMAT:
            raise ValueError(f"format {data['format']!r} is not {MANIFEST_FORMAT!r}")
        objects = tuple(StoredObject(str(name), int(size), str(digest)) for name, size, digest in data["objects"])
        manifest = Manifest(
            stage=str(data["stage"]),
            step=int(data["step"]),
            attempt=int(data["attempt"]),
            world=int(data["world"]),
            time=float(data["time"]),
            objects=objects,
            tensors={str(name): _tensor(entry, objects) for name, entry in data["tensors"].items()},
            extra=dict(data["extra"]),
        )
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"not a checkpoint manifest: {type(error).__name__} {error}") from error
    check_tiling(manifest)
    return manifest


def check_tiling(manifest: Manifest) -> None:
    """Raise ValueError when a tensor's slices hold more or fewer elements than the tensor, or leave its object."""
    sizes = {stored.name: stored.size for stored in manifest.objects}
    for name, tensor in manifest.tensors.items():
        if (held := sum(elements(s.shape) for s in tensor.slices)) != elements(tensor.shape):
            raise ValueError(f"{name}: slices hold {held} of {elements(tensor.shape)} elements")
        for part in tensor.slices:
            end = part.start + elements(part.shape) * ELEMENT_BYTES[tensor.dtype]
            if not 0 <= part.start <= end <= sizes[part.object]:
                raise ValueError(f"{name}: bytes {part.start} to {end} are not in {part.object}")


def elements(shape: Iterable[int]) -> int:
    """Return how many elements a box has; 1 for a scalar's empty shape."""
    count = 1
    for size in shape:
        count *= size
    return count


def published(keys: Iterable[str], stage: str) -> list[int]:
    """Return the steps of a stage that have a manifest, newest first; foreign keys are ignored.

    `keys` are relative to the checkpoint URL.
    """
    steps = set()
    for key in keys:
        folder, _, name = key.rpartition("/")
        parent, _, leaf = folder.rpartition("/")
        if name == MANIFEST_NAME and parent == stage and (step := step_of(leaf)) is not None:
            steps.add(step)
    return sorted(steps, reverse=True)


def kept(steps: Sequence[int], *, keep: int, keep_every: int) -> frozenset[int]:
    """Return which of a stage's steps retention leaves: the newest `keep`, and multiples of `keep_every` for ever.

    `keep_every` 0 keeps none for ever. At least one step stays, whatever `keep` says.
    """
    newest = sorted(steps, reverse=True)[: max(1, keep)]
    return frozenset(newest) | {step for step in steps if keep_every and step % keep_every == 0}


def lacking(manifest: Manifest, sizes: Mapping[str, int], folder: str) -> str | None:
    """Return what a listing (key -> bytes) lacks of a manifest's objects, None when all are there in full."""
    for stored in manifest.objects:
        size = sizes.get(f"{folder}/{stored.name}")
        if size is None:
            return f"{stored.name} is missing"
        if size != stored.size:
            return f"{stored.name} has {size} bytes, not {stored.size}"
    return None


def _compact(data: dict[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":"))


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(_compact(data).encode()).hexdigest()


def _tensor(entry: Any, objects: tuple[StoredObject, ...]) -> Tensor:
    dtype, shape, slices = entry
    if dtype not in ELEMENT_BYTES:
        raise ValueError(f"type {dtype!r} is not known")
    return Tensor(
        dtype=dtype,
        shape=tuple(map(int, shape)),
        slices=tuple(
            Slice(objects[number].name, int(start), tuple(map(int, offset)), tuple(map(int, box)))
            for number, start, offset, box in slices
        ),
    )
