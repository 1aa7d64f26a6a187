"""`train-tokenizer`: a SentencePiece model from text, the same bytes every time."""

import argparse
import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import sentencepiece

from internlm2_spec.config import Refused
from internlm2_trainer.data import text

# Control pieces: encoding never yields one, so text that spells `<|im_end|>` cannot end a turn. The first
# six are InternLM2's chat format; the seventh is the token whose output a reward model reads as the score.
SPECIALS: Final = (
    "<|im_start|>",
    "<|im_end|>",
    "<|action_start|>",
    "<|action_end|>",
    "<|interpreter|>",
    "<|plugin|>",
    "<|reward|>",
)
PIECES: Final = 2048
LONGEST_LINE_BYTES: Final = 16384


def train(lines: Iterable[str], *, pieces: int = PIECES) -> bytes:
    """Return a SentencePiece model like InternLM2's: BPE with byte fallback, nothing normalised, whitespace kept.

    unk is 0, bos 1, eos 2, and the special tokens follow. Lines are one-paragraph texts.

    Raises:
        ValueError: the text is too small for `pieces` pieces.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=pieces,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_digits=True,
            character_coverage=1.0,
            control_symbols=list(SPECIALS),
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            num_threads=1,
            max_sentence_length=LONGEST_LINE_BYTES,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(str(error).rsplit("] ", 1)[-1]) from error
    return model.getvalue()


def main(arguments: list[str]) -> int:
    """Train a tokenizer from the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="internlm2_trainer train-tokenizer", description=__doc__)
    parser.add_argument("--input", required=True, nargs="+", type=Path, help="text files, or folders of *.txt")
    parser.add_argument("--output", required=True, type=Path, help="the model file to write")
    parser.add_argument("--pieces", type=int, default=PIECES, help=f"vocabulary size (default {PIECES})")
    options = parser.parse_args(arguments)
    try:
        _train_files(options.input, options.output, options.pieces)
    except Refused as error:
        print(error, file=sys.stderr)
        return text.exit_code(error)
    return 0


def _train_files(inputs: list[Path], output: Path, pieces: int) -> None:
    documents = [text.read(path) for path in text.files(inputs)]
    text.refuse_empty(inputs, documents)
    try:
        model = train((line for document in documents for line in document.splitlines() if line), pieces=pieces)
    except ValueError as error:
        raise text.DataRefused("--pieces", wrong=str(error), right="ask for fewer pieces or add text") from None
    try:
        output.write_bytes(model)
    except OSError as error:
        raise Refused(
            "--output", wrong=f"{error.strerror}: {output}", right="name a file that can be written"
        ) from None
