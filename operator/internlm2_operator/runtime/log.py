"""One JSON object a line on stderr, for people with jq and for log collectors alike."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

_EXTRA: Final = ("job", "node", "action", "seconds", "cause", "reason", "trail")


class JsonLines(logging.Formatter):
    """Formats a record with those of our extra fields that it carries."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {key: getattr(record, key) for key in _EXTRA if hasattr(record, key)}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def configure(level: int) -> None:
    """Send every logger to stderr as JSON lines; kopf's own talk only from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(max(level, logging.WARNING))
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
