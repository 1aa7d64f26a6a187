"""One JSON object per line on standard output: what people and the demo read."""

import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

ERASE: Final = "\r\x1b[2K"  # to the start of the line, and empty it

# Set while a terminal shows progress instead: see `screen`.
listener: Callable[[Mapping[str, Any]], None] | None = None


def say(**fields: object) -> None:
    """Write one line and flush it, in one call so that lines of several ranks do not mix."""
    if listener is not None:
        listener(fields)
        return
    start = ERASE if sys.stdout.isatty() else ""  # another process may draw there
    sys.stdout.write(start + json.dumps({key: _plain(value) for key, value in fields.items()}) + "\n")
    sys.stdout.flush()


def _plain(value: object) -> object:
    """JSON has no NaN or infinity: spell them as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
