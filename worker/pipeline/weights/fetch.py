"""Fetch files' bytes straight into memory, over several connections, each byte checked.

The ranges are asked for in the wanted order, so that what is needed first is there first. What has
come of a file is vouched for only when its checksum is that of the manifest.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

import numpy as np

from shared.errors import FetchCanceled, WeightsDamaged
from worker.pipeline.weights.board import Board
from worker.pipeline.weights.crc import Octets, combined, extend, from_text, to_text
from worker.pipeline.weights.ranges import Plan, Span, plan, whole
from worker.pipeline.weights.readers import read_ranges
from worker.pipeline.weights.rooms import Direct, Room
from worker.pipeline.weights.sources import Source
from worker.pipeline.weights.turns import Patience

CONNECTIONS = 16  # benchmarks/fetch.py
RANGE_BYTES = 8 * 2**20
TICK = 0.05  # seconds between two looks at the caller's wish
REMEDY = "start again; if that does not help, upload the file again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a fetch did; of several files together there is no checksum."""

    bytes: int
    seconds: float
    connections: int
    retries: int
    hedges: int
    crc32c: str | None = None

    @property
    def bytes_per_second(self) -> float:
        """How fast the bytes came."""
        return self.bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is wanted of one file, None for all of it, and the manifest's checksum.

    `known` are its first bytes: they were read before, and are checked with the rest.
    """

    source: Source
    spans: Sequence[Span] | None = None
    crc32c: str | None
    known: bytes = b""


def fetch(
    source: Source,
    into: "Octets | memoryview | bytearray",
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
    """Fill a buffer with a file's spans, or with all of it; see `fetch_files`."""
    target = np.frombuffer(into, dtype=np.uint8)
    _check_room(target, whole(source.size) if spans is None else spans)
    done = fetch_files(
        [Wanted(source=source, spans=spans, crc32c=crc32c)],
        Direct([target]),
        connections=connections,
        range_bytes=range_bytes,
        patience=patience,
        on_bytes=on_bytes,
        on_ready=on_ready,
        canceled=canceled,
    )
    return replace(done, crc32c=crc32c)


def fetch_files(
    files: Sequence[Wanted],
    room: Room,
    *,
    connections: int = CONNECTIONS,
    range_bytes: int = RANGE_BYTES,
    patience: Patience | None = None,
    on_bytes: Callable[[int], None] = lambda received: None,
    on_ready: Callable[[int], None] = lambda spans: None,
    on_whole: Callable[[int], None] = lambda file: None,
    canceled: Callable[[], bool] = lambda: False,
) -> Fetched:
    """Bring what is wanted of several files to its room; all callbacks come from this thread.

    The files share the connections. `on_ready` tells how many of all spans, from the first on, are
    in their places; `on_whole` tells of each file once that its checksum is right. Given the
    manifest's `crc32c`, what lies between a file's spans is read and checked, too; None checks
    nothing. Raises WeightsDamaged if a file is another or changes, WeightsUnreachable if a range
    does not come however often it is asked for, FetchCanceled soon after `canceled`; then nothing
    is written any more.
    """
    began = time.monotonic()
    for file in files:
        _check_keeper(file.source, file.crc32c)
    plans = [_planned(file, range_bytes) for file in files]
    ranges = [(number, each) for number, plan in enumerate(plans) for each in plan.ranges]
    names = [file.source.name for file in files]
    board = Board(ranges, patience or Patience(), names=names, room=room)
    whole_after = list(accumulate(len(plan.ranges) for plan in plans))
    ready_after = _ready_after(plans, whole_after)
    vouched = 0

    def report() -> None:
        nonlocal vouched
        complete = board.complete  # before the bytes: what is whole is counted by then
        on_bytes(board.received)
        on_ready(bisect_right(ready_after, complete))
        while vouched < len(files) and whole_after[vouched] <= complete:
            _vouch(files[vouched], board.checksums(vouched))
            on_whole(vouched)
            vouched += 1

    threads = max(1, min(connections, len(ranges)))
    _run(
        board,
        partial(read_ranges, board, [file.source for file in files], room),
        threads,
        report,
        canceled,
    )
    return Fetched(
        bytes=board.received,
        seconds=time.monotonic() - began,
        connections=threads,
        retries=board.retries,
        hedges=board.hedges,
    )


def _planned(file: Wanted, range_bytes: int) -> Plan:
    size = file.source.size
    return plan(
        whole(size) if file.spans is None else file.spans,
        size=size,
        range_bytes=range_bytes,
        all_of_it=file.crc32c is not None,
        known=len(file.known),
    )


def _ready_after(plans: Sequence[Plan], whole_after: Sequence[int]) -> list[int]:
    before = [0, *whole_after]
    return [
        before[number] + ranges
        for number, plan in enumerate(plans)
        for ranges in plan.complete_after
    ]


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


def _vouch(file: Wanted, parts: Sequence[tuple[int, int]]) -> None:
    file.source.check_unchanged()
    if file.crc32c is None:
        return
    known = np.frombuffer(file.known, np.uint8)
    found = to_text(combined([(extend(0, known), known.size), *parts]))
    if found != file.crc32c:
        raise WeightsDamaged(
            f"{file.source.name}: what came has the crc32c {found}, the manifest says "
            f"{file.crc32c}; {REMEDY}"
        )


def _run(
    board: Board,
    read: Callable[[], None],
    threads: int,
    report: Callable[[], None],
    canceled: Callable[[], bool],
) -> None:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fetch")
    readers = [pool.submit(read) for _ in range(threads)]
    for reader in readers:
        reader.add_done_callback(lambda _: board.wake())
    try:
        while not board.finished:
            board.wait(TICK)
            for reader in readers:
                if reader.done():
                    reader.result()
            if canceled():
                raise FetchCanceled("the fetch was canceled")
            board.break_off_endless()
            report()
        report()
    finally:
        board.stop()
        # not waited for: one may be about to connect, and then finds nothing to do
        pool.shutdown(wait=False)
