"""Seconds spent on each part of a work that goes back and forth between its parts."""

import threading
import time


class Stopwatch:
    """Counts for one part at a time; it may be read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}
        self._part: str | None = None
        self._since = 0.0

    def enter(self, part: str) -> None:
        """Count for this part from now on."""
        with self._lock:
            if part != self._part:
                self._count()
                self._part = part
                self._seconds.setdefault(part, 0.0)

    def seconds(self) -> dict[str, float]:
        """Tell how long each part has taken so far, in the order in which they began."""
        with self._lock:
            self._count()
            return {part: round(spent, 4) for part, spent in self._seconds.items()}

    def _count(self) -> None:
        now = time.monotonic()
        if self._part is not None:
            self._seconds[self._part] += now - self._since
        self._since = now
