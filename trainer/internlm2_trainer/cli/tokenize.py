"""`tokenize`: text files become a packed corpus on file:// or s3://."""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

import sentencepiece

from internlm2_spec.config import Refused
from internlm2_trainer import storage
from internlm2_trainer.data import packing, text

QUIET_SECONDS: Final = 5.0
REPORT_SECONDS: Final = 1.0


class Progress:
    """Says on `stream` how far and how long still, once a second after five quiet seconds."""

    def __init__(self, total_bytes: int, *, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = max(1, total_bytes)
        self._stream = stream
        self._clock = clock
        self._start = clock()
        self._next = self._start + QUIET_SECONDS

    def at(self, done_bytes: int) -> None:
        now = self._clock()
        if now >= self._next and done_bytes:
            self._next = now + REPORT_SECONDS
            left = (now - self._start) * (self._total - done_bytes) / done_bytes
            part = f"{100 * done_bytes // self._total}% of {self._total / 1e6:.1f} MB"
            print(f"tokenize: {part}, {left:.0f} s left", file=self._stream, flush=True)


def encode(model: sentencepiece.SentencePieceProcessor, document: str) -> list[int]:
    """Return bos, the document's ids, eos. Line by line: one long string takes quadratic time."""
    lines = document.splitlines(keepends=True)
    return [model.bos_id(), *(token for ids in model.encode(lines) for token in ids), model.eos_id()]


def tokenize(
    inputs: Sequence[Path], *, tokenizer: Path, output: str, shard_tokens: int, stream: TextIO
) -> packing.Index:
    """Write the corpus and return its index.

    Raises:
        Refused: text that is not UTF-8, no text, no tokenizer, or storage that cannot be written.
    """
    model, digest = _load_tokenizer(tokenizer)
    store = storage.open_store(output)
    paths = text.files(inputs)
    documents = [text.read(path) for path in paths]  # all read first: a bad file fails before anything is written
    text.refuse_empty(inputs, documents)
    progress = Progress(sum(map(len, documents)), stream=stream)

    def encoded() -> Iterator[list[int]]:
        done = 0
        for document in documents:
            if document.strip():
                yield encode(model, document)
            done += len(document)
            progress.at(done)

    return packing.write(store, encoded(), vocab=model.vocab_size(), tokenizer_sha256=digest, shard_tokens=shard_tokens)


def main(arguments: list[str]) -> int:
    """Tokenize from the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="internlm2_trainer tokenize", description=__doc__)
    parser.add_argument("--input", required=True, nargs="+", type=Path, help="text files, or folders of *.txt")
    parser.add_argument("--tokenizer", required=True, type=Path, help="SentencePiece model")
    parser.add_argument("--output", required=True, help="s3://bucket/prefix or file:///folder")
    parser.add_argument("--shard-tokens", type=int, default=packing.SHARD_TOKENS, help="tokens a shard, about")
    options = parser.parse_args(arguments)
    try:
        index = tokenize(
            options.input,
            tokenizer=options.tokenizer,
            output=options.output,
            shard_tokens=options.shard_tokens,
            stream=sys.stderr,
        )
    except Refused as error:
        print(error, file=sys.stderr)
        return text.exit_code(error)
    except storage.StoreUnavailable as error:
        print(f"{options.output}: {error}; try again when the storage answers", file=sys.stderr)
        return 1
    print(f"{options.output}: {index.documents} documents, {index.tokens} tokens, {len(index.shards)} shard(s)")
    return 0


def _load_tokenizer(path: Path) -> tuple[sentencepiece.SentencePieceProcessor, str]:
    try:
        body = path.read_bytes()
        model = sentencepiece.SentencePieceProcessor(model_proto=body)
    except (OSError, RuntimeError) as error:
        wrong = f"{path} is no SentencePiece model ({str(error).splitlines()[0]})"
        raise Refused("--tokenizer", wrong=wrong, right="name a .model file of train-tokenizer") from None
    return model, hashlib.sha256(body).hexdigest()
