"""Where a list goes on, as Firestore orders it: by an instant and an id."""

from datetime import UTC, datetime, timedelta

from shared.cursors import decode_cursor, encode_cursor
from shared.errors import BadCursor

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Place = tuple[datetime, str]


def cursor_of(place: Place, *, of: str) -> str:
    """Name the last item of a page of the list `of`."""
    at, id = place
    return encode_cursor((at - _EPOCH) // _MICROSECOND, id, of=of)


def place_of(cursor: str, *, of: str) -> Place:
    """Read the last item of the page before; raises BadCursor."""
    micros, id = decode_cursor(cursor, of=of)
    try:
        return _EPOCH + micros * _MICROSECOND, id
    except OverflowError:
        raise BadCursor("this cursor was not given out here; leave it out to start anew") from None
