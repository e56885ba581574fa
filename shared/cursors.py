"""Where a list goes on: an opaque text that fits only the list it was given out for."""

import base64
import hashlib
import json
import re

from shared.errors import BadCursor

_ID = re.compile("[a-z]{3}_[a-z0-9_]{1,100}")  # of a job or an asset, with room to spare
_LATEST = 2**63  # what a column of SQLite holds
_DIGEST = 12  # bytes: enough that no edit passes by chance; it guards against mistakes, not theft


def encode_cursor(created_at: int, id: str, *, of: str) -> str:
    """Name the last item of a page of the list `of`."""
    place = json.dumps([created_at, id], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_digest(place, of) + place).decode().rstrip("=")


def decode_cursor(cursor: str, *, of: str) -> tuple[int, str]:
    """Read the last item of the page before; raises BadCursor."""
    try:
        given = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:
        given = b""
    place = given[_DIGEST:]
    # The text is compared as well: base64 reads several spellings as the same bytes.
    spelled = base64.urlsafe_b64encode(given).decode().rstrip("=")
    found = _read(place) if spelled == cursor and given[:_DIGEST] == _digest(place, of) else None
    if found is None:
        raise BadCursor("this cursor does not belong to this list; leave it out to start anew")
    return found


def _read(place: bytes) -> tuple[int, str] | None:
    """Read a place, which anybody may have made up: the digest has no key."""
    try:
        match json.loads(place):
            case [int(created_at), str(last)] if abs(created_at) < _LATEST and _ID.fullmatch(last):
                return created_at, last
    except (ValueError, RecursionError):
        pass
    return None


def _digest(place: bytes, of: str) -> bytes:
    return hashlib.sha256(of.encode() + b"\0" + place).digest()[:_DIGEST]
