"""A fetch under way in a process of its own, as the process sees it that will draw.

    with Fetching("gs://bucket/kontext") as fetching:
        import torch  # meanwhile the headers are judged, and the tensors come
        fetching.opened()

Needs no torch: what the bytes are copied to on a device is given to it later.
"""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Pipe
from typing import Self

from shared.cloud_folders import read_cloud_folder
from shared.errors import WeightsError, WeightsUnreachable
from shared.manifest import Role
from worker.pipeline.weights import shared_memory
from worker.pipeline.weights.crc import Octets
from worker.pipeline.weights.fetch import RANGE_BYTES, Fetched
from worker.pipeline.weights.hearing import Hearing, Landing
from worker.pipeline.weights.layout import ORDER
from worker.pipeline.weights.opening import Opened
from worker.pipeline.weights.small_folder import SmallFolder
from worker.pipeline.weights.telling import Begin, send

SLOTS = 64  # of 8 MiB: half a GiB, which a link of 1 GB/s fills while torch is imported
TELL = 0.2  # seconds between two looks at how far it has come
CODE = "import sys; from worker.pipeline.weights.fetch_process import main; main(int(sys.argv[1]))"


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
        far = read_cloud_folder(place) is not None
        self._folder = SmallFolder() if far else None
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
            folder=self._folder.path if self._folder else None,
            arenas={role: self._files[role] for role in ORDER},
            ring=self._files["ring"],
            slots=slots,
            range_bytes=range_bytes,
            through_ring=through_ring,
        )
        with suppress(OSError):  # it died at once, which the listener hears
            send(self._pipe, begin)
        self._hearing = Hearing(self._pipe, place=place, death=self._death)
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
        judged = self._hearing.judged
        assert judged
        return judged.through_ring

    def opened(self) -> Opened:
        """Wait until headers and small files were judged.

        Raises WeightsMissing, WeightsDamaged, WrongWeights or WeightsUnreachable.
        """
        self._hearing.wait(lambda: self._hearing.judged is not None)
        judged = self._hearing.judged
        assert judged
        return judged.opened

    def wait_for(
        self, role: Role, *, on_bytes: Callable[[int], None] = lambda received: None
    ) -> None:
        """Wait until all of a model's bytes are in their places and are the manifest's.

        Tells how many bytes of all models have come, whenever more have. Raises as `opened` does.
        """
        told, hearing = 0, self._hearing
        while True:
            there = hearing.wait(lambda: role in hearing.whole, seconds=TELL)
            if hearing.bytes != told:
                told = hearing.bytes
                on_bytes(told)
            if there:
                return

    def fetched(self) -> Fetched:
        """Wait for the end, and tell what the fetch did. Raises as `opened` does."""
        self._hearing.wait(lambda: self._hearing.fetched is not None)
        assert self._hearing.fetched
        return self._hearing.fetched

    def arena(self, role: Role) -> Octets:
        """Map the memory that a model's bytes come to, where they do not go through the ring."""
        return shared_memory.mapped(self._files[role], self.opened().layout.arena_bytes[role])

    def ring(self) -> Octets:
        """Map the ring."""
        return shared_memory.mapped_whole(self._files["ring"])

    def land(self, landing: Landing) -> None:
        """Say who takes the bytes out of the ring; until then it fills up and waits."""
        self._hearing.land(landing)

    def close(self) -> None:
        """End the process, whatever it does, and remove its small files; arenas stay mapped."""
        if not self._hearing.stop():
            return
        self._process.kill()
        if self._hearing.fetched is None:
            self._listener.join()
        # else nothing more comes, and unmapping its gigabytes is nothing to wait for
        self._pipe.close()
        for file in self._files.values():
            shared_memory.close(file)
        if self._folder is not None:
            self._folder.remove()

    def _listen(self) -> None:
        self._hearing.listen()
        self._process.wait()

    def _death(self) -> WeightsError:
        status = self._process.wait()
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return WeightsUnreachable(
            f"{self.place}: the process that fetches ended before it was done ({how}); start "
            "again, and look for its reason in the log or in the system's"
        )
