"""Wait for a change, in at most half of the server's threads."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

PAUSE = timedelta(milliseconds=200)

Seen = TypeVar("Seen")


class LongPolls:
    """The places in which requests may wait; one that finds none free is answered at once."""

    def __init__(
        self,
        *,
        places: int,
        closing: threading.Event,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = threading.BoundedSemaphore(places)
        self._closing = closing
        self._monotonic = monotonic

    def wait_until(
        self, arrived: Callable[[Seen], bool], look: Callable[[], Seen], *, timeout: timedelta
    ) -> Seen:
        """Look until what is seen has arrived, the time is up or the server closes.

        Returns what was seen last; what `look` raises comes through.
        """
        seen = look()
        if not timeout or arrived(seen) or not self._places.acquire(blocking=False):
            return seen
        try:
            deadline = self._monotonic() + timeout.total_seconds()
            while not arrived(seen) and self._monotonic() < deadline:
                if self._closing.wait(PAUSE.total_seconds()):
                    break
                seen = look()
            return seen
        finally:
            self._places.release()
