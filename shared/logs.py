"""Logs are events: one JSON object a line, a fixed message with varying fields.

Prompts and keys never reach one: code passes ids, counts and durations as `extra`.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Write a record as Cloud Logging reads it: severity, message, time and the extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Make one line."""
        event: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "severity": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        event |= {k: v for k, v in record.__dict__.items() if k not in _OWN}
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str, ensure_ascii=False)


def start_logging(level: str) -> None:
    """Send this process's events to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("waitress").setLevel(max(logging.getLogger().level, logging.WARNING))
    logging.getLogger("urllib3").setLevel(logging.ERROR)
