"""Batches of a packed corpus: what a step trains on is a function of seed and step alone."""

import fcntl
import functools
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
import torch

from internlm2_trainer import storage
from internlm2_trainer.order import Indices, assign, sample_at
from internlm2_trainer.packing import DataRefused, Index, Shard, read_index
from internlm2_trainer.storage import PIECE_BYTES, Missing, Store, retrying

__all__ = ["Batch", "Corpus", "DataRefused", "assign", "open_corpus"]

IGNORED_LABEL: Final = -100


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
    """A corpus cut into `samples` windows of `sequence_length` tokens that overlap by their labels' one token."""

    def __init__(
        self,
        index: Index,
        tokens: Sequence[npt.NDArray[Any]],
        ends: npt.NDArray[np.int64],
        *,
        sequence_length: int,
        global_samples: int,
        seed: int,
    ) -> None:
        self.index = index
        self.samples = (index.tokens - 1) // sequence_length
        self._tokens = tokens
        self._firsts = np.cumsum([0, *(len(part) for part in tokens)])
        self._ends = ends
        self._length = sequence_length
        self._global_samples = global_samples
        self._seed = seed

    def batch(self, step: int, index: Sequence[int] | Indices) -> Batch:
        """Return the samples at positions `index` of step `step`'s global batch."""
        positions = step * self._global_samples + np.asarray(index, dtype=np.int64)
        rows = [self._sample(int(s)) for s in sample_at(positions, count=self.samples, seed=self._seed)]
        return Batch(*(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)))

    def _sample(self, sample: int) -> tuple[Indices, Indices, Indices, Indices]:
        start = sample * self._length
        stop = start + self._length
        tokens = self._read(start, stop + 1)
        ends = self._ends[np.searchsorted(self._ends, start, side="right") : np.searchsorted(self._ends, stop, "right")]
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


def open_corpus(url: str, *, sequence_length: int, global_samples: int, seed: int, cache_dir: str | Path) -> Corpus:
    """Open a corpus that `tokenize` wrote; shards of S3 are downloaded once a cache folder, under a lock.

    `global_samples` is the number of samples of a global batch.

    Raises:
        DataRefused: no corpus there, damaged, or shorter than one sample.
    """
    store = storage.open_store(url)
    index = read_index(store)
    if index.tokens <= sequence_length:
        wrong = f"has {index.tokens} tokens, fewer than one sample of {sequence_length} + 1"
        raise DataRefused(url, wrong=wrong, right="add text or lower sequenceLength")
    folder = _local(store, index, Path(cache_dir))
    tokens = [_mapped(folder, shard, index.dtype, url) for shard in index.shards]
    firsts = np.cumsum([0, *(shard.tokens for shard in index.shards)])
    ends = [np.load(folder / shard.ends_name, allow_pickle=False) for shard in index.shards]
    joined = np.concatenate([first + end for first, end in zip(firsts[:-1], ends, strict=True)])
    return Corpus(index, tokens, joined, sequence_length=sequence_length, global_samples=global_samples, seed=seed)


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
