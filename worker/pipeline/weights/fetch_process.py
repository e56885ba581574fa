"""The process that fetches weights into shared memory, while another one imports torch.

It knows neither torch nor Flask. It ends when it is done, when the weights are refused, and when
the process that started it is gone.
"""

import os
import shutil
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NoReturn

import numpy as np

from shared.errors import WeightsError
from shared.manifest import Role
from worker.pipeline.driver import has_card
from worker.pipeline.weights.crc import Octets
from worker.pipeline.weights.fetch import Wanted, fetch_files
from worker.pipeline.weights.layout import ORDER
from worker.pipeline.weights.opening import Opened, open_weights
from worker.pipeline.weights.place import open_place
from worker.pipeline.weights.rooms import Copy, Direct, Ring, Room
from worker.pipeline.weights.shared_memory import grow
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

ABANDONED = 75  # exit status


def main(pipe: int) -> None:
    """Serve one fetch, over the open file that a parent has given."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's is for the parent, which ends us
    _Fetching(Connection(pipe)).run()


class _Fetching:
    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()  # all connections tell of the slots that they filled
        self._leaving = threading.Lock()
        self._ring: Ring | None = None

    def run(self) -> None:
        begin: Begin = self._pipe.recv()
        self._folder = begin.folder
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            place = open_place(
                begin.place,
                folder=begin.folder,
                endpoint=begin.endpoint,
                connections=begin.connections,
            )
            opened, wanted = open_weights(place)
            self._fetch(begin, opened, wanted, place.connections)
        except WeightsError as error:
            with suppress(BrokenPipeError):
                self._tell(Refused(error))
        except BrokenPipeError:
            self._leave()

    def _fetch(
        self, begin: Begin, opened: Opened, wanted: Sequence[Wanted], connections: int
    ) -> None:
        through_ring = has_card() if begin.through_ring is None else begin.through_ring
        roles = [file.role for file in opened.files]
        room = self._make_room(begin, opened, roles) if through_ring else _arenas(begin, opened)
        self._tell(Judged(opened=opened, through_ring=through_ring))
        told = 0

        def on_bytes(received: int) -> None:
            nonlocal told
            if received != told:
                told = received
                self._tell(Advanced(received))

        def on_whole(file: int) -> None:
            if file + 1 == len(roles) or roles[file + 1] is not roles[file]:
                self._tell(Whole(roles[file]))

        done = fetch_files(
            wanted,
            room,
            connections=connections,
            range_bytes=begin.range_bytes,
            on_bytes=on_bytes,
            on_whole=on_whole,
        )
        self._tell(Ended(done))

    def _make_room(self, begin: Begin, opened: Opened, roles: Sequence[Role]) -> Room:
        def hand_over(slot: int, file: int, copies: tuple[Copy, ...]) -> None:
            self._tell(Filled(slot, roles[file], copies))

        octets = grow(begin.ring, begin.slots * begin.range_bytes)
        self._ring = Ring(octets, slot_bytes=begin.range_bytes, hand_over=hand_over)
        return self._ring

    def _tell(self, message: Told) -> None:
        with self._lock:
            send(self._pipe, message)

    def _listen(self) -> None:
        """Hear which slots are free again, until nobody is there any more."""
        while True:
            try:
                slot: int = self._pipe.recv()
            except (EOFError, OSError):
                self._leave()
            assert self._ring is not None
            self._ring.free(slot)

    def _leave(self) -> NoReturn:
        """End at once: the parent is gone, and cannot remove what it made."""
        self._leaving.acquire()  # for ever: whoever else notices waits for the end
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(ABANDONED)  # threads in the middle of a request are not waited for


def _arenas(begin: Begin, opened: Opened) -> Direct:
    sizes = opened.layout.arena_bytes
    arenas: dict[Role, Octets] = {
        role: grow(begin.arenas[role], sizes[role]) for role in ORDER if role in sizes
    }
    nothing = np.empty(0, np.uint8)
    return Direct([arenas.get(file.role, nothing) for file in opened.files])
