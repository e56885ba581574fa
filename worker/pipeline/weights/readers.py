"""What each of a fetch's connections does: take a range, receive it, check it while it comes."""

from collections.abc import Iterator, Sequence

import numpy as np

from worker.pipeline.weights.board import Board
from worker.pipeline.weights.crc import Octets, extend
from worker.pipeline.weights.rooms import Room
from worker.pipeline.weights.sources import FAULTS, Connection, Source
from worker.pipeline.weights.turns import Turn

PIECE_BYTES = 512 * 1024  # received and checked at once, while it is still in the cache


def read_ranges(board: Board, sources: Sequence[Source], room: Room) -> None:
    """Read one range after the other, as the board gives them, until there are no more."""
    open_to: dict[int, Connection] = {}

    def connect(file: int) -> Connection:
        if file not in open_to:
            # files come one after the other: who turns to the next is done with the one before
            _close_all(open_to)
            open_to[file] = sources[file].connect()
        return open_to[file]

    try:
        while (turn := board.take(connect)) is not None:
            try:
                _read_range(board, turn, room)
            finally:
                board.leave(turn)
    finally:
        _close_all(open_to)


def _close_all(connections: dict[int, Connection]) -> None:
    while connections:
        connections.popitem()[1].close()


def _read_range(board: Board, turn: Turn, room: Room) -> None:
    beside = np.empty(turn.range.stop - turn.start, np.uint8) if turn.hedge else None
    places = room.places(turn.file, turn.range, turn.start) if beside is None else iter([beside])

    def settle() -> None:
        if beside is not None:
            _copy(beside, room.places(turn.file, turn.range, turn.start))
        room.filled(turn.file, turn.range)

    try:
        turn.connection.begin(turn.start, turn.range.stop)
        crc = _receive(board, turn, turn.connection, places)
    except FAULTS as fault:
        turn.connection.close()
        board.fail(turn, fault)
        return
    if crc is not None:
        board.finish(turn, crc, settle)
    if turn.stopped:
        turn.connection.close()  # it was broken off, or has bytes left that nobody wants


def _receive(
    board: Board, turn: Turn, connection: Connection, places: Iterator[Octets]
) -> int | None:
    """Fill the places one after the other; gives the checksum, None if they are not wanted."""
    if not board.enter(turn):
        return None
    crc = turn.crc
    for piece in _pieces(places):
        filled = 0
        while filled < piece.size:
            count = connection.read_into(piece[filled:].data)
            crc = extend(crc, piece[filled : filled + count])
            filled += count
            if not board.advance(turn, count, crc):
                return None
    return crc


def _pieces(places: Iterator[Octets]) -> Iterator[Octets]:
    for place in places:
        for at in range(0, place.size, PIECE_BYTES):
            yield place[at : at + PIECE_BYTES]


def _copy(beside: Octets, places: Iterator[Octets]) -> None:
    at = 0
    for place in places:
        place[:] = beside[at : at + place.size]
        at += place.size
