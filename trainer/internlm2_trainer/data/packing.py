"""The packed form of a corpus: token shards, where their documents end, and the index that names them.

`index.json` is written last, so a corpus without it is unfinished. A shard is a plain little-endian
array of token ids; its ends are an .npy array of int64, one past the last token of each document.
"""

import functools
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from internlm2_spec.config import Refused
from internlm2_spec.contract import ExitCode
from internlm2_trainer.storage import Missing, Store, digest, retrying

CORPUS_FORMAT: Final = "internlm2-corpus/1"
INDEX_NAME: Final = "index.json"
SHARD_TOKENS: Final = 2**26


class DataRefused(Refused):
    """Data that cannot be trained on."""

    exit_code = ExitCode.DATA


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard: file names, sizes in tokens and documents, SHA-256 of both files."""

    tokens_name: str
    ends_name: str
    tokens: int
    documents: int
    tokens_sha256: str
    ends_sha256: str


@dataclass(frozen=True, slots=True)
class Index:
    """A whole corpus. `dtype` is uint16 or uint32; `tokenizer_sha256` says which model made the ids."""

    dtype: str
    vocab: int
    tokens: int
    documents: int
    tokenizer_sha256: str
    shards: tuple[Shard, ...]

    def to_json(self) -> str:
        return json.dumps({"format": CORPUS_FORMAT, **asdict(self)}, indent=1)


def parse_index(text: str, url: str) -> Index:
    """Parse `index.json`. Raise DataRefused when it is not one of this version."""
    try:
        data: dict[str, Any] = json.loads(text)
        if data.pop("format") != CORPUS_FORMAT:
            raise ValueError("another format")
        return Index(**data | {"shards": tuple(Shard(**shard) for shard in data["shards"])})
    except (ValueError, TypeError, KeyError, AttributeError):
        wrong = f"{INDEX_NAME} is not a corpus index of this version"
        raise DataRefused(f"{url}/{INDEX_NAME}", wrong=wrong, right="run `tokenize` again") from None


def read_index(store: Store) -> Index:
    """Read a corpus's index. Raise DataRefused when there is none."""
    try:
        return parse_index(retrying(lambda: store.get(INDEX_NAME)).body.decode("utf-8", "replace"), store.url)
    except Missing:
        right = "write the corpus with `internlm2_trainer tokenize --output`, or correct data.url"
        raise DataRefused(store.url, wrong=f"has no {INDEX_NAME}", right=right) from None


def write(
    store: Store,
    documents: Iterable[list[int]],
    *,
    vocab: int,
    tokenizer_sha256: str,
    shard_tokens: int = SHARD_TOKENS,
) -> Index:
    """Write documents as shards of about `shard_tokens`, in order, each document whole; then the index."""
    dtype = np.dtype("<u2" if vocab <= 2**16 else "<u4")
    shards = []
    for number, group in enumerate(_groups(documents, shard_tokens)):
        tokens = np.fromiter((token for document in group for token in document), dtype=dtype)
        ends = np.cumsum([len(document) for document in group], dtype=np.int64)
        shards.append(_write_shard(store, f"shard-{number:05d}", tokens, ends))
    index = Index(
        dtype=dtype.name,
        vocab=vocab,
        tokens=sum(shard.tokens for shard in shards),
        documents=sum(shard.documents for shard in shards),
        tokenizer_sha256=tokenizer_sha256,
        shards=tuple(shards),
    )
    retrying(lambda: store.put(INDEX_NAME, [memoryview(index.to_json().encode())]))
    return index


def _groups(documents: Iterable[list[int]], shard_tokens: int) -> Iterator[list[list[int]]]:
    group: list[list[int]] = []
    size = 0
    for document in documents:
        if group and size + len(document) > shard_tokens:
            yield group
            group, size = [], 0
        group.append(document)
        size += len(document)
    if group:
        yield group


def _write_shard(store: Store, name: str, tokens: npt.NDArray[Any], ends: npt.NDArray[np.int64]) -> Shard:
    file = io.BytesIO()
    np.save(file, ends, allow_pickle=False)
    bodies = {f"{name}.bin": memoryview(tokens.tobytes()), f"{name}.ends.npy": memoryview(file.getvalue())}
    for key, body in bodies.items():
        retrying(functools.partial(store.put, key, [body]))
    tokens_name, ends_name = bodies
    return Shard(
        tokens_name=tokens_name,
        ends_name=ends_name,
        tokens=len(tokens),
        documents=len(ends),
        tokens_sha256=digest([bodies[tokens_name]]),
        ends_sha256=digest([bodies[ends_name]]),
    )
