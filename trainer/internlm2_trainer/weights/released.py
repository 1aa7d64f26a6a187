"""A folder of released weights, read as if it were a checkpoint of ours: headers only, no tensor."""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from internlm2_spec.config import Refused
from internlm2_spec.manifest import ELEMENT_BYTES, Manifest, Slice, StoredObject, Tensor, elements
from internlm2_trainer.storage import Missing, Store, retrying
from internlm2_trainer.weights import huggingface, naming
from internlm2_trainer.weights.huggingface import Described

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"

# A header of a released 20B model has 50 KiB; the format's own limit.
LARGEST_HEADER: Final = 100 * 10**6

# What a weight may be; an integer would be a quantised one, whose scales lie elsewhere.
WEIGHTS: Final = ("BF16", "F16", "F32", "F64")

# A table of the rotary frequencies, which old writers of Llama saved beside the weights.
COMPUTED: Final = ".rotary_emb.inv_freq"


@dataclass(frozen=True, slots=True)
class Folder:
    """A released folder. `manifest` has our tensors, as slices of its files."""

    described: Described
    manifest: Manifest

    def bytes(self, name: str) -> int:
        """Return the size of one of our tensors."""
        tensor = self.manifest.tensors[name]
        return elements(tensor.shape) * ELEMENT_BYTES[tensor.dtype]


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where one tensor of the folder lies."""

    object: str
    dtype: str
    shape: tuple[int, ...]
    start: int


def open_folder(store: Store) -> Folder:
    """Read `config.json` and the headers of the files that hold the weights.

    Raises:
        Refused: a file is missing, cut off or damaged; a tensor is missing, has another shape, or is unknown.
    """
    text = _text(store, huggingface.CONFIG)
    if text is None:
        wrong = f"has no {huggingface.CONFIG}"
        raise Refused(store.url, wrong=wrong, right="name a folder of released weights")
    described = huggingface.parse_config(text, f"{store.url}/{huggingface.CONFIG}")
    objects = _objects(store)
    entries: dict[str, _Entry] = {}
    for stored in objects:
        entries |= _header(store, stored)
    tensors = _ours(store.url, described, entries)
    return Folder(described, Manifest("released", 0, 0, 1, 0.0, objects, tensors, {}))


def _objects(store: Store) -> tuple[StoredObject, ...]:
    """Return the files that the index names, or the only one."""
    sizes = {entry.key: entry.size for entry in retrying(lambda: store.list(""))}
    names = {SINGLE}
    if (index := _text(store, INDEX)) is not None:
        try:
            names = set(map(str, json.loads(index)["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Refused(f"{store.url}/{INDEX}", wrong="is not an index", right="fetch it again") from None
    if lacking := sorted(names - sizes.keys()):
        right = "fetch it; weights are read from safetensors only"
        raise Refused(store.url, wrong=f"{lacking[0]} is missing", right=right)
    return tuple(StoredObject(name, sizes[name], "") for name in sorted(names))


def _header(store: Store, stored: StoredObject) -> dict[str, _Entry]:
    """Read the header of a safetensors file and check that it describes exactly the bytes that follow."""
    first = retrying(lambda: store.read(stored.name, 0, 8))
    length = int.from_bytes(first, "little")
    if len(first) < 8 or not 0 < length <= min(LARGEST_HEADER, stored.size - 8):
        raise _damaged(store, stored, "is not a safetensors file")
    try:
        header: dict[str, Any] = json.loads(retrying(lambda: store.read(stored.name, 8, length)))
        header.pop("__metadata__", None)
        entries = {name: _entry(stored.name, 8 + length, entry) for name, entry in header.items()}
        end = max((8 + length + int(entry["data_offsets"][1]) for entry in header.values()), default=8 + length)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise _damaged(store, stored, f"has a damaged header ({error})") from None
    if end != stored.size:
        raise _damaged(store, stored, f"has {stored.size} bytes, and its header is for {end}")
    return entries


def _entry(name: str, after: int, entry: dict[str, Any]) -> _Entry:
    dtype, shape = str(entry["dtype"]), tuple(map(int, entry["shape"]))
    start, stop = map(int, entry["data_offsets"])
    if dtype not in ELEMENT_BYTES:
        raise ValueError(f"type {dtype} is not known")
    if start < 0 or stop - start != elements(shape) * ELEMENT_BYTES[dtype]:
        raise ValueError(f"{dtype} {list(shape)} in {stop - start} bytes")
    return _Entry(name, dtype, shape, after + start)


def _damaged(store: Store, stored: StoredObject, wrong: str) -> Refused:
    return Refused(f"{store.url}/{stored.name}", wrong=wrong, right="fetch it again")


def _ours(url: str, described: Described, entries: dict[str, _Entry]) -> dict[str, Tensor]:
    """Return our tensors as slices of theirs: wqkv of a Llama model is three slices a KV head."""
    wanted = naming.tensors(described.architecture, described.format)
    unknown = [name for name in entries.keys() - {each.name for each in wanted} if not name.endswith(COMPUTED)]
    if unknown:
        wrong = f"{min(unknown)} is not a tensor of {described.format} with these sizes"
        raise Refused(url, wrong=wrong, right=f"correct {huggingface.CONFIG}, or use another folder")
    pieces = sorted((piece for each in wanted for piece in _pieces(url, each, entries)), key=lambda piece: piece[0])
    return {
        name: _tensor(url, name, [(dtype, part) for _, dtype, part in group])
        for name, group in itertools.groupby(pieces, key=lambda piece: piece[0][0])
    }


def _pieces(
    url: str, wanted: naming.Foreign, entries: dict[str, _Entry]
) -> Iterable[tuple[tuple[str, int], str, Slice]]:
    """Yield the slices of our tensors that one of theirs holds, with (name, first row) and type."""
    entry = entries.get(wanted.name)
    if entry is None:
        raise Refused(url, wrong=f"{wanted.name} is missing", right="fetch the folder again, or use another one")
    if entry.shape != wanted.shape:
        wrong = f"{wanted.name} has shape {list(entry.shape)}, and {list(wanted.shape)} by {huggingface.CONFIG}"
        raise Refused(url, wrong=wrong, right=f"correct {huggingface.CONFIG}, or use another folder")
    if entry.dtype not in WEIGHTS:
        right = f"save the weights as one of {', '.join(WEIGHTS)}"
        raise Refused(url, wrong=f"{wanted.name} has type {entry.dtype}", right=right)
    at, rest = entry.start, entry.shape[1:]
    for rows in wanted.rows:
        offset = (rows.start, *(0 for _ in rest))
        yield (rows.tensor, rows.start), entry.dtype, Slice(entry.object, at, offset, (rows.count, *rest))
        at += rows.count * elements(rest) * ELEMENT_BYTES[entry.dtype]


def _tensor(url: str, name: str, pieces: list[tuple[str, Slice]]) -> Tensor:
    dtypes = {dtype for dtype, _ in pieces}
    if len(dtypes) > 1:
        wrong = f"the parts of {name.removeprefix(naming.PREFIX)} have types {', '.join(sorted(dtypes))}"
        raise Refused(url, wrong=wrong, right="save them in one type")
    slices = tuple(part for _, part in pieces)
    return Tensor(dtypes.pop(), (sum(part.shape[0] for part in slices), *slices[0].shape[1:]), slices)


def _text(store: Store, key: str) -> str | None:
    try:
        return retrying(lambda: store.get(key)).body.decode()
    except Missing:
        return None
    except UnicodeDecodeError:
        raise Refused(f"{store.url}/{key}", wrong="is not text", right="fetch it again") from None
