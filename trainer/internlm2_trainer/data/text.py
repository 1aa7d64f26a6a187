"""Text files as documents: found in a fixed order, UTF-8 or refused with the line."""

from collections.abc import Sequence
from pathlib import Path

from internlm2_spec.config import Refused
from internlm2_spec.contract import ExitCode
from internlm2_trainer.data.packing import DataRefused

__all__ = ["DataRefused", "exit_code", "files", "read", "refuse_empty"]


def files(inputs: Sequence[Path]) -> list[Path]:
    """Return the files named, and the *.txt of the folders named, sorted within each.

    Raises:
        DataRefused: one is not there, or a folder has no text.
    """
    found: list[Path] = []
    for path in inputs:
        if not path.exists():
            raise DataRefused(str(path), wrong="does not exist", right="name a text file or a folder of *.txt")
        inside = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
        if not inside:
            raise DataRefused(str(path), wrong="has no *.txt", right="put one document a file there")
        found += inside
    return found


def read(path: Path) -> str:
    """Return a document. Raise DataRefused with the line when it is not UTF-8."""
    try:
        body = path.read_bytes()
    except OSError as error:
        raise DataRefused(str(path), wrong=str(error.strerror), right="name a file that can be read") from None
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        wrong = f"byte 0x{body[error.start]:02x} is not UTF-8"
        raise DataRefused(f"{path}:{line}", wrong=wrong, right="convert the file to UTF-8") from None


def refuse_empty(inputs: Sequence[Path], documents: Sequence[str]) -> None:
    """Raise DataRefused when no document has any text."""
    if not any(document.strip() for document in documents):
        first = files(inputs)[0]
        wrong = f"the corpus is empty: no text in {len(documents)} file(s)"
        raise DataRefused(f"{first}:1", wrong=wrong, right="name files with text")


def exit_code(error: Refused) -> int:
    """Return the contract's exit code of a mistake: data or storage say their own, the rest is configuration."""
    return int(getattr(error, "exit_code", ExitCode.CONFIG))
