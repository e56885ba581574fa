"""Where the bytes of a fetch go: straight to their place, or through the slots of a ring."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from worker.pipeline.weights.crc import Octets
from worker.pipeline.weights.ranges import Range

UNWANTED_BYTES = 64 * 1024  # of what is only checked, at once


class Room(Protocol):
    """What a fetch asks of the memory that it fills."""

    def admit(self, file: int, range_: Range) -> bool:
        """Make room for a range, once; False if there is none at present. It does not wait."""

    def places(self, file: int, range_: Range, start: int) -> Iterator[Octets]:
        """Give the places of an admitted range's bytes from `start` on, in the file's order."""

    def filled(self, file: int, range_: Range) -> None:
        """Hear that all bytes of a range are in their places, and nobody writes there any more."""


class Direct:
    """See Room; every file has a buffer, whose places its spans name."""

    def __init__(self, buffers: Sequence[Octets]) -> None:
        self._buffers = buffers

    def admit(self, file: int, range_: Range) -> bool:
        """See Room.admit: there is always room."""
        return True

    def places(self, file: int, range_: Range, start: int) -> Iterator[Octets]:
        """See Room.places; what nobody wants goes to a place that is forgotten."""
        buffer, unwanted = self._buffers[file], np.empty(0, np.uint8)
        for span in range_.from_place(start):
            if span.at is not None:
                yield buffer[span.at : span.at + span.bytes]
                continue
            for place in range(0, span.bytes, UNWANTED_BYTES):
                size = min(UNWANTED_BYTES, span.bytes - place)
                if unwanted.size < size:
                    unwanted = np.empty(size, np.uint8)
                yield unwanted[:size]

    def filled(self, file: int, range_: Range) -> None:
        """See Room.filled: they are where they belong."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes of a slot, from `start` on, and where they belong."""

    start: int
    at: int
    bytes: int


class Ring:
    """See Room; a range lies in one slot of shared memory until somebody has copied it away.

    `hand_over` is told the slot, the file and what belongs where; it gives the slot back by `free`.
    """

    def __init__(
        self,
        octets: Octets,
        *,
        slot_bytes: int,
        hand_over: Callable[[int, int, tuple[Copy, ...]], None],
    ) -> None:
        self._slots = octets.reshape(-1, slot_bytes)
        self._free = list(range(len(self._slots)))[::-1]
        self._taken: dict[tuple[int, int], int] = {}
        self._hand_over = hand_over
        self._lock = threading.Lock()

    def admit(self, file: int, range_: Range) -> bool:
        """See Room.admit: while all slots are taken there is none."""
        with self._lock:
            if not self._free:
                return False
            self._taken[file, range_.start] = self._free.pop()
            return True

    def places(self, file: int, range_: Range, start: int) -> Iterator[Octets]:
        """See Room.places."""
        slot = self._slots[self._taken[file, range_.start]]
        yield slot[start - range_.start : range_.stop - range_.start]

    def filled(self, file: int, range_: Range) -> None:
        """See Room.filled: what is wanted of it is handed over."""
        with self._lock:
            slot = self._taken.pop((file, range_.start))
        copies = tuple(
            Copy(span.start - range_.start, span.at, span.bytes)
            for span in range_.spans
            if span.at is not None
        )
        if copies:
            self._hand_over(slot, file, copies)
        else:
            self.free(slot)

    def free(self, slot: int) -> None:
        """Take a slot back that was handed over."""
        with self._lock:
            self._free.append(slot)
