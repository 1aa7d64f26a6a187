"""`checkpoint export` and `checkpoint import`: weights leave as a released folder, and come home from one."""

import argparse
import dataclasses
import json
import re
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

from internlm2_spec.architecture import Architecture
from internlm2_spec.config import Refused
from internlm2_spec.contract import step_prefix
from internlm2_spec.presets import PRESETS, parameters
from internlm2_trainer.checkpoint import address, verify
from internlm2_trainer.cli.verbs import MIB, Group, Progress, add_verb
from internlm2_trainer.storage import Missing, Store, open_store
from internlm2_trainer.weights import huggingface, released
from internlm2_trainer.weights.naming import Format

SIZE: Final = re.compile(r"(\d+)(?:([KMGT])(i?)B|B)?")
POWERS: Final = {None: 0, "K": 1, "M": 2, "G": 3, "T": 4}
STAGE: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")

VOCABULARY: Final = "tokenizer.model"
# What readers of released folders look for, beside the vocabulary itself.
TOKENIZER_FILES: Final = (
    VOCABULARY, huggingface.TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", "tokenizer.json",
    "chat_template.jinja", "tokenization_internlm2.py", "tokenization_internlm2_fast.py",
)  # fmt: skip


def add_export(group: Group) -> None:
    """Add `export`."""
    example = "s3://bucket/run1/pretrain-4k/step-00000050 ./internlm2-7b --tokenizer ./tokenizer"
    verb = add_verb(group, "export", "write a step's weights as a released folder", run_export, example)
    verb.add_argument("url", metavar="URL", help="a step, or a run of one stage, of which the newest is taken")
    verb.add_argument("destination", metavar="FOLDER", help="an empty folder, or s3://BUCKET/PATH")
    verb.add_argument(
        "--format", choices=("internlm2", "llama"), default="internlm2",
        help="names and tensors of the released InternLM2 (the default), or of Llama, which every engine knows",
    )  # fmt: skip
    verb.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16", help="type of the weights (default bf16)")
    verb.add_argument(
        "--max-shard-size", default="2GB", metavar="SIZE", help="of one file, and so of the memory (default 2GB)"
    )
    verb.add_argument("--tokenizer", type=Path, metavar="DIR", help=f"folder with {VOCABULARY}, copied along")
    verb.add_argument(
        "--dynamic-ntk", type=float, metavar="FACTOR",
        help="let readers stretch the rotary base beyond the trained length; the released chat models have 2",
    )  # fmt: skip


def run_export(options: argparse.Namespace) -> int:
    """Write the folder and say what is in it."""
    limit = size_of(options.max_shard_size, "--max-shard-size")
    step = address.one_step(options.url)
    try:
        manifest = verify.read_manifest(step.store, step.stage, step.step)
    except (ValueError, Missing) as error:
        raise Refused(options.url, wrong=f"cannot be read ({error})", right="name another step") from None
    architecture = Architecture.from_extra(manifest.extra, options.url)
    if options.dynamic_ntk is not None:
        if options.dynamic_ntk < 1:
            raise Refused("--dynamic-ntk", wrong=f"{options.dynamic_ntk:g} is too small", right="use 1 or more")
        architecture = dataclasses.replace(architecture, dynamic_ntk=options.dynamic_ntk)
    tokenizer = tokenizer_files(options.tokenizer, options.format, architecture) if options.tokenizer else {}
    destination = store_of(options.destination)
    from internlm2_trainer.weights import convert

    source = convert.Source(step.store, step.folder, manifest, architecture)
    width = convert.DTYPES[options.dtype].itemsize
    progress = Progress(f"export {step.folder}", parameters(architecture.model) * width)
    started = time.monotonic()
    total = convert.export(
        source, destination, format=options.format, precision=options.dtype, file_bytes=limit, tokenizer=tokenizer,
        noticed=progress.add,
    )  # fmt: skip
    _tell(options, destination.url, total, time.monotonic() - started)
    return 0


def add_import(group: Group) -> None:
    """Add `import`."""
    example = "./internlm2-7b s3://bucket/run1 --preset internlm2-7b"
    verb = add_verb(group, "import", "make released weights the first step of a stage", run_import, example)
    verb.add_argument(
        "source", metavar="FOLDER", help="released InternLM2 or Llama weights: a folder or s3://BUCKET/PATH"
    )
    verb.add_argument("url", metavar="URL", help="the run, as in checkpoint.url")
    verb.add_argument(
        "--stage", default="imported", help="name of the stage, for a job's model.initFrom (default imported)"
    )
    verb.add_argument("--preset", choices=tuple(PRESETS), help="refuse weights that are not of this model")


def run_import(options: argparse.Namespace) -> int:
    """Publish the weights and say where."""
    if not STAGE.fullmatch(options.stage) or len(options.stage) > 32:
        right = "use at most 32 lower-case letters, digits and hyphens"
        raise Refused("--stage", wrong=f"{options.stage!r} is no name of a stage", right=right)
    source, run = store_of(options.source), open_store(options.url)
    folder = released.open_folder(source)
    architecture = folder.described.architecture
    if options.preset:
        huggingface.check_preset(architecture.model, options.preset, f"{source.url}/{huggingface.CONFIG}")
    from internlm2_trainer.weights import convert

    total = sum(map(folder.bytes, folder.manifest.tensors))
    published = f"{run.url.rstrip('/')}/{step_prefix(options.stage, convert.STEP)}"
    progress = Progress(f"import {published}", total)
    started = time.monotonic()
    convert.import_folder(folder, source, run, stage=options.stage, now=time.time(), noticed=progress.add)
    _tell(
        options, f"{run.url.rstrip('/')}/{step_prefix(options.stage, convert.STEP)}", total, time.monotonic() - started
    )
    return 0


def size_of(text: str, path: str) -> int:
    """Read a number of bytes: 2GB is 2 x 10^9, 2GiB is 2 x 2^30.

    Raises:
        Refused: it is not one.
    """
    match = SIZE.fullmatch(text.replace(" ", ""))
    if match is None or not int(match[1]):
        raise Refused(path, wrong=f"{text!r} is no size", right="write it like 2GB or 500MiB")
    return int(match[1]) * int((1024 if match[3] else 1000) ** POWERS[match[2]])


def store_of(place: str) -> Store:
    """Open a URL, or a folder of this machine by its path."""
    return open_store(place if "://" in place else f"file://{quote(str(Path(place).absolute()))}")


def tokenizer_files(folder: Path, format: Format, architecture: Architecture) -> dict[str, bytes]:
    """Read what is there of a tokenizer, and describe it where it comes without a description.

    Raises:
        Refused: there is no SentencePiece vocabulary, or one with more pieces than the model has rows for.
    """
    try:
        found = {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).is_file()}
    except OSError as error:
        raise Refused("--tokenizer", wrong=f"{folder} cannot be read ({error})", right="name another folder") from None
    if VOCABULARY not in found:
        raise Refused("--tokenizer", wrong=f"{folder} has no {VOCABULARY}", right="name the folder that has it")
    from sentencepiece import SentencePieceProcessor

    try:
        pieces = int(SentencePieceProcessor(model_proto=found[VOCABULARY]).vocab_size())
    except RuntimeError:
        wrong = f"{folder / VOCABULARY} is not a SentencePiece model"
        raise Refused("--tokenizer", wrong=wrong, right="fetch it again") from None
    if pieces > architecture.model.vocab:
        wrong = f"{folder / VOCABULARY} has {pieces} pieces, and the model {architecture.model.vocab} rows"
        raise Refused("--tokenizer", wrong=wrong, right="name the tokenizer that the model was trained with")
    described = json.dumps(huggingface.tokenizer_json(format), indent=2) + "\n"
    return {huggingface.TOKENIZER_CONFIG: described.encode()} | found


def _tell(options: argparse.Namespace, url: str, total: int, seconds: float) -> None:
    if options.json:
        print(json.dumps({"url": url, "bytes": total, "seconds": round(seconds, 3)}))
    else:
        print(f"{url}  {total / MIB:.1f} MiB, {total / MIB / max(seconds, 1e-9):.0f} MiB/s")
