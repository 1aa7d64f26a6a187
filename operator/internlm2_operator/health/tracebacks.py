"""A rank's log as entries: what Python writes about one exception is one of them, however many lines it takes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

# The frames next to the error, and the error: what a person reads of a traceback.
MAX_KEPT: Final = 40

_HEAD: Final = "Traceback (most recent call last):"
# A frame; of a SyntaxError, which has no head, it ends after the number. faulthandler's frames have no comma there.
_FRAME: Final = re.compile(r'\s+File ".*", line \d+(?:, in .*)?$')
_CHAINED: Final = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)
# `ValueError: words`, `KeyboardInterrupt`, `torch.OutOfMemoryError: words`, `socket.timeout: words`; not `loss: 2.1`.
_ERROR: Final = re.compile(r"(?:(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*|_*[A-Z]\w*)(?:: .*|:)?$")
_LEVELS: Final = re.compile(r"(?:DEBUG|INFO|NOTE|WARN|WARNING|ERROR|CRITICAL|FATAL)\b")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line, or one traceback.

    `errors` are the last lines of the exceptions of a chain, in the order in which they were raised; of a plain line
    it is the line. `frame` is the innermost frame of the last exception, empty for a plain line.
    """

    at: datetime
    errors: tuple[str, ...]
    lines: tuple[str, ...]
    frame: str = ""

    @property
    def traceback(self) -> bool:
        return bool(self.frame)


@dataclass(slots=True)
class _Block:
    """A traceback that is being read."""

    at: datetime
    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    frame: str = ""
    open: bool = True  # the error of the newest exception has not come yet
    chained: bool = False

    def entry(self) -> Entry:
        return Entry(self.at, tuple(self.errors), tuple(self.lines[-MAX_KEPT:]), self.frame)


def gather(lines: Iterable[tuple[datetime, str]]) -> list[Entry]:
    """Return the entries of one rank's clean lines, which are in order.

    Lines of other threads between those of a traceback stay entries of their own. A traceback whose head was cut
    off counts from its first frame; one whose error never came says nothing.
    """
    entries: list[Entry] = []
    block: _Block | None = None
    for at, text in lines:
        if text.endswith(_HEAD) or (_FRAME.match(text) and not (block and block.open)):
            if block is None or not block.chained:
                _close(block, entries)
                block = _Block(at)
            block.open, block.chained, block.frame = True, False, ""
        if block is None or not _take(block, text):
            entries.append(Entry(at, (text,), (text,)))
    _close(block, entries)
    return sorted(entries, key=lambda entry: entry.at)


def _take(block: _Block, text: str) -> bool:
    """Take a line into the block, and say whether it belongs there."""
    if block.open:
        if _FRAME.match(text):
            block.frame = text.strip()
        elif block.frame and _ERROR.match(text) and not _LEVELS.match(text):
            block.errors.append(text)
            block.open = False
        elif text and not text[0].isspace() and not text.endswith(_HEAD):
            return False
    elif text in _CHAINED:
        block.chained = True
    elif text.strip():
        return False
    block.lines.append(text)
    return True


def _close(block: _Block | None, entries: list[Entry]) -> None:
    if block is not None and block.errors:
        entries.append(block.entry())
