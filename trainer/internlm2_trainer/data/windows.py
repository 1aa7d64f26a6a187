"""Samples of a packed corpus: windows over the documents that a source's length rule keeps."""

import fcntl
import functools
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
import torch

from internlm2_spec.config import DataSource
from internlm2_trainer import storage
from internlm2_trainer.data.order import Indices
from internlm2_trainer.data.packing import DataRefused, Index, Shard, read_index
from internlm2_trainer.storage import PIECE_BYTES, Missing, Store, retrying

__all__ = ["Batch", "Corpus", "DataRefused", "Kept", "batch", "open_corpus"]

IGNORED_LABEL: Final = -100
Row = tuple[Indices, Indices, Indices, Indices]


@dataclass(frozen=True, slots=True)
class Batch:
    """B samples of S tokens, all int64 [B, S].

    `labels` are the next tokens, -100 where the next token begins another document. `positions` count
    from 0 at each document's (or the sample's) start, `documents` number the documents of a sample.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    documents: torch.Tensor


class Corpus:
    """The documents of a corpus that pass a length rule, end to end, cut into windows of S = `sequence_length` tokens.

    Windows overlap by the one token that is only a label. A document that a window cuts goes on in the next one,
    from position 0; what is left of the corpus after the last whole window is not read.
    """

    def __init__(self, index: Index, tokens: Sequence[npt.NDArray[Any]], kept: "Kept", *, sequence_length: int) -> None:
        self.index = index
        self.samples = (kept.tokens - 1) // sequence_length
        self._kept = kept
        self._tokens = tokens
        self._firsts = np.cumsum([0, *(len(part) for part in tokens)])
        self._length = sequence_length

    def sample(self, number: int) -> Row:
        """Return one window: tokens, labels, positions and documents, each int64 [S]."""
        start = number * self._length
        stop = start + self._length
        tokens = np.concatenate([self._read(*span) for span in self._kept.spans(start, stop + 1)])
        ends = self._kept.ends
        ends = ends[np.searchsorted(ends, start, side="right") : np.searchsorted(ends, stop, "right")]
        places = np.arange(self._length, dtype=np.int64)
        documents = np.searchsorted(ends - start, places, side="right").astype(np.int64)
        firsts = np.concatenate([[0], ends - start])
        labels = tokens[1:].copy()
        labels[ends - start - 1] = IGNORED_LABEL
        return tokens[:-1], labels, places - firsts[documents], documents

    def _read(self, start: int, stop: int) -> Indices:
        """Return tokens [start, stop) of the concatenated shards."""
        shard = int(np.searchsorted(self._firsts, start, side="right")) - 1
        pieces = []
        while start < stop:
            first = int(self._firsts[shard])
            piece = self._tokens[shard][start - first : stop - first]
            pieces.append(piece.astype(np.int64))
            start, shard = start + len(piece), shard + 1
        return np.concatenate(pieces)


class Kept:
    """The documents that a length rule keeps: where they lie in the shards, and where they end end to end.

    `document_ends` are those of all documents in the concatenated shards, int64, ascending.
    """

    def __init__(self, document_ends: Indices, *, at_least: int = 1, at_most: int | None = None) -> None:
        starts = np.concatenate([[0], document_ends[:-1]])
        lengths = document_ends - starts
        chosen = (lengths >= at_least) & (lengths <= (at_most if at_most is not None else lengths.max(initial=0)))
        self.ends = np.cumsum(lengths[chosen])
        self.tokens = int(self.ends[-1]) if len(self.ends) else 0
        # Neighbours that were both kept are read in one piece.
        begins = chosen & ~np.concatenate([[False], chosen[:-1]])
        self._raw = starts[begins]
        self._firsts = (self.ends - lengths[chosen])[begins[chosen]]

    def spans(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield where tokens [start, stop) of the kept documents lie in the concatenated shards."""
        piece = int(np.searchsorted(self._firsts, start, side="right")) - 1
        while start < stop:
            last = piece + 1 == len(self._firsts)
            end = stop if last else min(stop, int(self._firsts[piece + 1]))
            shift = int(self._raw[piece] - self._firsts[piece])
            yield start + shift, end + shift
            start, piece = end, piece + 1


def batch(rows: Sequence[Row]) -> Batch:
    """Return windows as one batch, in their order."""
    return Batch(*(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)))


def open_corpus(source: DataSource, *, sequence_length: int, cache_dir: str | Path) -> Corpus:
    """Open a corpus that `tokenize` wrote; shards of S3 are downloaded once a cache folder, under a lock.

    Raises:
        DataRefused: no corpus there, damaged, or shorter than one sample.
    """
    store = storage.open_store(source.url)
    index = read_index(store)
    folder = _local(store, index, Path(cache_dir))
    tokens = [_mapped(folder, shard, index.dtype, source.url) for shard in index.shards]
    firsts = np.cumsum([0, *(shard.tokens for shard in index.shards)])
    ends = [np.load(folder / shard.ends_name, allow_pickle=False) for shard in index.shards]
    joined = np.concatenate([first + end for first, end in zip(firsts[:-1], ends, strict=True)])
    kept = Kept(joined, at_least=source.min_document_tokens, at_most=source.max_document_tokens)
    if kept.tokens <= sequence_length:
        raise _too_short(source, index, kept, sequence_length)
    return Corpus(index, tokens, kept, sequence_length=sequence_length)


def _too_short(source: DataSource, index: Index, kept: Kept, sequence_length: int) -> DataRefused:
    wrong, right = f"has {kept.tokens} tokens", "add text or lower sequenceLength"
    if kept.tokens < index.tokens:
        to = f"to {source.max_document_tokens}" if source.max_document_tokens else "or more"
        wrong += f" in documents of {source.min_document_tokens} {to} tokens ({len(kept.ends)} of {index.documents})"
        right += ", or widen minDocumentTokens and maxDocumentTokens"
    return DataRefused(source.url, wrong=f"{wrong}, fewer than one sample of {sequence_length} + 1", right=right)


def _mapped(folder: Path, shard: Shard, dtype: str, url: str) -> npt.NDArray[Any]:
    try:
        tokens = np.memmap(folder / shard.tokens_name, dtype=np.dtype(dtype).newbyteorder("<"), mode="r")
    except (OSError, ValueError) as error:
        wrong = f"{shard.tokens_name} cannot be read ({error})"
        raise DataRefused(url, wrong=wrong, right="run `tokenize` again") from None
    if len(tokens) != shard.tokens:
        wrong = f"{shard.tokens_name} has {len(tokens)} tokens, not {shard.tokens}"
        raise DataRefused(url, wrong=wrong, right="run `tokenize` again")
    return tokens


def _local(store: Store, index: Index, cache_dir: Path) -> Path:
    """Return the folder that holds the shards: the corpus itself on file://, a download's otherwise."""
    parts = urlsplit(store.url)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    folder = cache_dir / sha256(f"{store.url}\n{index.to_json()}".encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one rank of a pod downloads, the others find the files
        for shard in index.shards:
            _download(store, shard.tokens_name, shard.tokens_sha256, folder)
            _download(store, shard.ends_name, shard.ends_sha256, folder)
    return folder


def _download(store: Store, name: str, expected_sha256: str, folder: Path) -> None:
    if (folder / name).exists():
        return
    descriptor, temporary = tempfile.mkstemp(dir=folder)
    try:
        with open(descriptor, "wb") as file:
            digest = _copy(store, name, file)
        if digest != expected_sha256:
            raise DataRefused(f"{store.url}/{name}", wrong="has another SHA-256", right="run `tokenize` again")
        os.replace(temporary, folder / name)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _copy(store: Store, name: str, file: Any) -> str:
    total, at = sha256(), 0
    try:
        while piece := retrying(functools.partial(store.read, name, at, PIECE_BYTES)):
            file.write(piece)
            total.update(piece)
            at += len(piece)
            if len(piece) < PIECE_BYTES:
                break
    except Missing:
        raise DataRefused(f"{store.url}/{name}", wrong="is missing", right="run `tokenize` again") from None
    return total.hexdigest()
