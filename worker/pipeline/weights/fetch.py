"""Fetch a file's bytes straight into memory, over several connections, each byte checked.

The ranges are asked for in the wanted order, so that what is needed first is there first. What has
come is vouched for only when `fetch` returns: then its checksum is that of the manifest.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from shared.errors import FetchCanceled, WeightsDamaged
from worker.pipeline.weights.board import Board
from worker.pipeline.weights.crc import Octets, extend, from_text, to_text
from worker.pipeline.weights.ranges import Range, Span, plan, whole
from worker.pipeline.weights.sources import FAULTS, Connection, Source
from worker.pipeline.weights.turns import Patience, Turn

CONNECTIONS = 16  # benchmarks/fetch.py
RANGE_BYTES = 8 * 2**20
PIECE_BYTES = 512 * 1024  # received and checked at once, while it is still in the cache
UNWANTED_BYTES = 64 * 1024  # of what is only checked, at once
TICK = 0.05  # seconds between two looks at the caller's wish
REMEDY = "start again; if that does not help, upload the file again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a fetch did."""

    bytes: int
    seconds: float
    connections: int
    retries: int
    hedges: int
    crc32c: str | None

    @property
    def bytes_per_second(self) -> float:
        """How fast the bytes came."""
        return self.bytes / self.seconds if self.seconds else 0.0


def fetch(
    source: Source,
    into: Octets | memoryview | bytearray,
    spans: Sequence[Span] | None = None,
    *,
    crc32c: str | None,
    connections: int = CONNECTIONS,
    range_bytes: int = RANGE_BYTES,
    patience: Patience | None = None,
    on_bytes: Callable[[int], None] = lambda received: None,
    on_ready: Callable[[int], None] = lambda spans: None,
    canceled: Callable[[], bool] = lambda: False,
) -> Fetched:
    """Fill a buffer with a file's spans, or with all of it; both callbacks come from this thread.

    `on_ready` tells how many of the spans, from the first on, are in the buffer. Given the
    manifest's `crc32c`, what lies between the spans is read and checked, too; None checks nothing.
    Raises WeightsDamaged if the file is another or changes, WeightsUnreachable if a range does not
    come however often it is asked for, FetchCanceled soon after `canceled`; then nothing is written
    any more.
    """
    began = time.monotonic()
    target = np.frombuffer(into, dtype=np.uint8)
    wanted = whole(source.size) if spans is None else tuple(spans)
    _check_room(target, wanted)
    _check_keeper(source, crc32c)
    planned = plan(wanted, size=source.size, range_bytes=range_bytes, all_of_it=crc32c is not None)
    board = Board(planned.ranges, patience or Patience(), name=source.name)

    def report() -> None:
        on_bytes(board.received)
        on_ready(planned.ready(board.complete))

    threads = max(1, min(connections, len(planned.ranges)))
    _run(board, source, target, threads, report, canceled)
    source.check_unchanged()
    found = to_text(board.checksum()) if crc32c is not None else None
    if found != crc32c:
        raise WeightsDamaged(
            f"{source.name}: what came has the crc32c {found}, the manifest says {crc32c}; {REMEDY}"
        )
    return Fetched(
        bytes=board.received,
        seconds=time.monotonic() - began,
        connections=threads,
        retries=board.retries,
        hedges=board.hedges,
        crc32c=found,
    )


def _check_room(target: Octets, wanted: Sequence[Span]) -> None:
    end = 0
    for at, size in sorted((span.at, span.bytes) for span in wanted if span.at is not None):
        if at < end or at + size > target.size:
            raise ValueError(f"{size} bytes at {at}: no place of their own in {target.size} bytes")
        end = at + size


def _check_keeper(source: Source, crc32c: str | None) -> None:
    if crc32c is None:
        return
    if from_text(crc32c) is None:
        raise WeightsDamaged(
            f"{source.name}: the manifest's crc32c is {crc32c!r:.40}, which is none; "
            "prepare the weights again"
        )
    # told before gigabytes are read; what comes is checked all the same
    if source.crc32c not in (None, crc32c):
        raise WeightsDamaged(
            f"{source.name}: is stored with the crc32c {source.crc32c}, the manifest says "
            f"{crc32c}; upload the file again"
        )


def _run(
    board: Board,
    source: Source,
    target: Octets,
    threads: int,
    report: Callable[[], None],
    canceled: Callable[[], bool],
) -> None:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fetch")
    readers = [pool.submit(_read_ranges, board, source, target) for _ in range(threads)]
    for reader in readers:
        reader.add_done_callback(lambda _: board.wake())
    try:
        while not board.finished:
            board.wait(TICK)
            for reader in readers:
                if reader.done():
                    reader.result()
            if canceled():
                raise FetchCanceled(f"{source.name}: the fetch was canceled")
            board.break_off_endless()
            report()
        report()
    finally:
        board.stop()
        # not waited for: one may be about to connect, and then finds nothing to do
        pool.shutdown(wait=False)


def _read_ranges(board: Board, source: Source, target: Octets) -> None:
    connection = source.connect()
    try:
        while (turn := board.take(connection)) is not None:
            try:
                _read_range(board, turn, target)
            finally:
                board.leave(turn)
    finally:
        connection.close()


def _read_range(board: Board, turn: Turn, target: Octets) -> None:
    beside = np.empty(turn.range.stop - turn.start, np.uint8) if turn.hedge else None
    places = _places(turn.range, turn.start, target) if beside is None else _pieces(beside)
    try:
        turn.connection.begin(turn.start, turn.range.stop)
        crc = _receive(board, turn, turn.connection, places)
    except FAULTS as fault:
        turn.connection.close()
        board.fail(turn, fault)
        return
    if crc is not None:
        board.finish(turn, crc, lambda: _copy(beside, turn, target))
    if turn.stopped:
        turn.connection.close()  # it was broken off, or has bytes left that nobody wants


def _receive(
    board: Board, turn: Turn, connection: Connection, places: Iterator[Octets]
) -> int | None:
    """Fill the places one after the other; gives the checksum, None if they are not wanted."""
    if not board.enter(turn):
        return None
    crc = turn.crc
    for place in places:
        filled = 0
        while filled < place.size:
            count = connection.read_into(place[filled:].data)
            crc = extend(crc, place[filled : filled + count])
            filled += count
            if not board.advance(turn, count, crc):
                return None
    return crc


def _places(range_: Range, start: int, target: Octets) -> Iterator[Octets]:
    """Give the places of a range's bytes from `start` on, in the order of the file."""
    unwanted = np.empty(0, np.uint8)
    for span in range_.from_place(start):
        if span.at is not None:
            yield from _pieces(target[span.at : span.at + span.bytes])
            continue
        for place in range(0, span.bytes, UNWANTED_BYTES):
            size = min(UNWANTED_BYTES, span.bytes - place)
            if unwanted.size < size:
                unwanted = np.empty(size, np.uint8)
            yield unwanted[:size]


def _pieces(octets: Octets) -> Iterator[Octets]:
    return (octets[at : at + PIECE_BYTES] for at in range(0, octets.size, PIECE_BYTES))


def _copy(beside: Octets | None, turn: Turn, target: Octets) -> None:
    assert beside is not None
    for span in turn.range.from_place(turn.start):
        if span.at is not None:
            at = span.start - turn.start
            target[span.at : span.at + span.bytes] = beside[at : at + span.bytes]
