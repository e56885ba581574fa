"""A fetch under way in a process of its own, as the process sees it that will draw.

    with Fetching("gs://bucket/kontext") as fetching:
        import torch  # meanwhile the headers are judged, and the tensors come
        fetching.opened()

Needs no torch: what the bytes are copied to on a device is given to it later.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Protocol, Self

from shared.errors import WeightsError, WeightsUnreachable
from shared.manifest import Role
from worker.pipeline.weights import shared_memory
from worker.pipeline.weights.crc import Octets
from worker.pipeline.weights.fetch import RANGE_BYTES, Fetched
from worker.pipeline.weights.layout import ORDER
from worker.pipeline.weights.opening import Opened
from worker.pipeline.weights.telling import (
    Advanced,
    Begin,
    Ended,
    Filled,
    Judged,
    Refused,
    Told,
    Whole,
    send,
)

SLOTS = 64  # of 8 MiB: half a GiB, which a link of 1 GB/s fills while torch is imported
LOOK = 0.001  # seconds between two looks at copies that are under way
TELL = 0.2  # seconds between two looks at how far it has come
CODE = "import sys; from worker.pipeline.weights.fetch_process import main; main(int(sys.argv[1]))"


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


class Fetching:
    """See the module; `close`, or the end of the block, ends it wherever it is."""

    def __init__(
        self,
        place: str,
        *,
        endpoint: str | None = None,
        connections: int | None = None,
        through_ring: bool | None = None,
        slots: int = SLOTS,
        range_bytes: int = RANGE_BYTES,
    ) -> None:
        """Start at once; weights for a device go through the ring, None looks if there is one."""
        self.place, self.slot_bytes = place, range_bytes
        self._changed = threading.Condition()
        self._judged: Judged | None = None
        self._fetched: Fetched | None = None
        self._failed: Exception | None = None
        self._landing: Landing | None = None
        self._whole: set[Role] = set()
        self._bytes, self._closed = 0, False
        self._folder = Path(tempfile.mkdtemp(prefix="illo-weights-"))
        self._files = {name: shared_memory.create(name) for name in ("ring", *ORDER)}
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, our own words
                [sys.executable, "-c", CODE, str(theirs.fileno())],
                pass_fds=[theirs.fileno(), *self._files.values()],
                stdin=subprocess.DEVNULL,
            )
        begin = Begin(
            place=place,
            endpoint=endpoint,
            connections=connections,
            folder=self._folder,
            arenas={role: self._files[role] for role in ORDER},
            ring=self._files["ring"],
            slots=slots,
            range_bytes=range_bytes,
            through_ring=through_ring,
        )
        with suppress(OSError):  # it died at once, which the listener hears
            send(self._pipe, begin)
        self._listener = threading.Thread(target=self._listen, name="fetching", daemon=True)
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The fetch process."""
        return self._process.pid

    @property
    def through_ring(self) -> bool:
        """Whether the bytes come through the ring; known once the weights are opened."""
        assert self._judged
        return self._judged.through_ring

    def opened(self) -> Opened:
        """Wait until headers and small files were judged.

        Raises WeightsMissing, WeightsDamaged, WrongWeights or WeightsUnreachable.
        """
        self._wait(lambda: self._judged is not None)
        assert self._judged
        return self._judged.opened

    def wait_for(
        self, role: Role, *, on_bytes: Callable[[int], None] = lambda received: None
    ) -> None:
        """Wait until all of a model's bytes are in their places and are the manifest's.

        Tells how many bytes of all models have come, whenever more have. Raises as `opened` does.
        """
        told = 0
        while True:
            there = self._wait(lambda: role in self._whole, seconds=TELL)
            if self._bytes != told:
                told = self._bytes
                on_bytes(told)
            if there:
                return

    def fetched(self) -> Fetched:
        """Wait for the end, and tell what the fetch did. Raises as `opened` does."""
        self._wait(lambda: self._fetched is not None)
        assert self._fetched
        return self._fetched

    def arena(self, role: Role) -> Octets:
        """Map the memory that a model's bytes come to, where they do not go through the ring."""
        return shared_memory.mapped(self._files[role], self.opened().layout.arena_bytes[role])

    def ring(self) -> Octets:
        """Map the ring."""
        return shared_memory.mapped_whole(self._files["ring"])

    def land(self, landing: Landing) -> None:
        """Say who takes the bytes out of the ring; until then it fills up and waits."""
        with self._changed:
            self._landing = landing
            self._changed.notify_all()

    def close(self) -> None:
        """End the process, whatever it does, and remove its small files; arenas stay mapped."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._process.kill()
        self._process.wait()
        self._listener.join()
        self._pipe.close()
        for file in self._files.values():
            shared_memory.close(file)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self, ready: Callable[[], bool], *, seconds: float | None = None) -> bool:
        with self._changed:
            self._changed.wait_for(
                lambda: ready() or self._failed is not None or self._closed, seconds
            )
            if ready():
                return True
            if self._failed is not None:
                raise self._failed
            if self._closed:
                raise WeightsUnreachable(f"{self.place}: the fetch was ended; start again")
            return False

    def _listen(self) -> None:
        try:
            while self._fetched is None and self._failed is None:
                self._hear(self._receive())
        except (EOFError, OSError):
            self._fail(self._death())
        except RuntimeError as error:  # torch's, when it cannot copy
            self._fail(error)

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
                    self._judged = message
                case Advanced(count):
                    self._bytes = count
                case Whole(role):
                    self._whole.add(role)
                case Ended(fetched):
                    self._fetched = fetched
                case Refused(error):
                    self._failed = error
            self._changed.notify_all()

    def _take(self, filled: Filled) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._landing is not None or self._closed)
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

    def _death(self) -> WeightsError:
        status = self._process.wait()
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return WeightsUnreachable(
            f"{self.place}: the process that fetches ended before it was done ({how}); start "
            "again, and look for its reason in the log or in the system's"
        )
