"""One JSON object per line on standard output: what people and the demo read."""

import json
import math
import sys


def say(**fields: object) -> None:
    """Write one line and flush it, in one call so that lines of several ranks do not mix."""
    sys.stdout.write(json.dumps({key: _plain(value) for key, value in fields.items()}) + "\n")
    sys.stdout.flush()


def _plain(value: object) -> object:
    """JSON has no NaN or infinity: spell them as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
