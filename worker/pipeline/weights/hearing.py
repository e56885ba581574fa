"""What is known of a fetch in another process: its words are heard, and others wait for them."""

import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Protocol

from shared.errors import WeightsError, WeightsUnreachable
from shared.manifest import Role
from worker.pipeline.weights.fetch import Fetched
from worker.pipeline.weights.telling import (
    Advanced,
    Ended,
    Filled,
    Judged,
    Refused,
    Told,
    Whole,
    send,
)

LOOK = 0.001  # seconds between two looks at copies that are under way


class Landing(Protocol):
    """Takes bytes out of the ring's slots to where they belong."""

    def copy(self, filled: Filled) -> None:
        """Begin to copy what a slot holds."""

    @property
    def busy(self) -> bool:
        """Whether copies are under way."""

    def copied(self) -> list[int]:
        """Name the slots that have become free since the last call; it does not wait."""

    def finish(self) -> list[int]:
        """Wait for all copies, and name the slots that have become free."""


class Hearing:
    """Hears until the fetch has ended; `death` says why, if it ended without a word."""

    def __init__(self, pipe: Connection, *, place: str, death: Callable[[], WeightsError]) -> None:
        self.judged: Judged | None = None
        self.fetched: Fetched | None = None
        self.whole: set[Role] = set()
        self.bytes = 0
        self._pipe, self._place, self._death = pipe, place, death
        self._failed: Exception | None = None
        self._landing: Landing | None = None
        self._stopped = False
        self._changed = threading.Condition()

    def listen(self) -> None:
        """Hear one word after the other; run it in a thread of its own."""
        try:
            while self.fetched is None and self._failed is None:
                self._hear(self._receive())
        except (EOFError, OSError):
            self._fail(self._death())
        except RuntimeError as error:  # torch's, when it cannot copy
            self._fail(error)

    def wait(self, ready: Callable[[], bool], *, seconds: float | None = None) -> bool:
        """Wait until something is so, or for so long; raises what the fetch was refused with."""
        with self._changed:
            self._changed.wait_for(
                lambda: ready() or self._failed is not None or self._stopped, seconds
            )
            if ready():
                return True
            if self._failed is not None:
                raise self._failed
            if self._stopped:
                raise WeightsUnreachable(f"{self._place}: the fetch was ended; start again")
            return False

    def land(self, landing: Landing) -> None:
        """Say who takes the bytes out of the ring."""
        with self._changed:
            self._landing = landing
            self._changed.notify_all()

    def stop(self) -> bool:
        """Let nobody wait any more; False if that was said before."""
        with self._changed:
            before, self._stopped = self._stopped, True
            self._changed.notify_all()
            return not before

    def _receive(self) -> Told:
        while self._landing is not None and self._landing.busy and not self._pipe.poll(LOOK):
            self._give_back(self._landing.copied())
        message: Told = self._pipe.recv()
        return message

    def _hear(self, message: Told) -> None:
        if isinstance(message, Filled):
            self._take(message)
            return
        if isinstance(message, Whole) and self._landing is not None:
            self._give_back(self._landing.finish())
        with self._changed:
            match message:
                case Judged():
                    self.judged = message
                case Advanced(count):
                    self.bytes = count
                case Whole(role):
                    self.whole.add(role)
                case Ended(fetched):
                    self.fetched = fetched
                case Refused(error):
                    self._failed = error
            self._changed.notify_all()

    def _take(self, filled: Filled) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._landing is not None or self._stopped)
        if self._landing is not None:
            self._landing.copy(filled)
            self._give_back(self._landing.copied())

    def _give_back(self, slots: list[int]) -> None:
        with suppress(OSError):  # it needs none any more, or died: what it said last tells which
            for slot in slots:
                send(self._pipe, slot)

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._failed = error
            self._changed.notify_all()
