"""Cursors of lists: they come back as they were given, and forged ones are refused."""

import base64
import hashlib

import pytest

from shared.cursors import decode_cursor, encode_cursor
from shared.errors import BadCursor


def forged(place: bytes, of: str = "jobs") -> str:
    """What anybody can make up who has read the code: the digest has no key."""
    digest = hashlib.sha256(of.encode() + b"\0" + place).digest()[:12]
    return base64.urlsafe_b64encode(digest + place).decode().rstrip("=")


def test_a_cursor_comes_back_as_it_was_given() -> None:
    assert decode_cursor(encode_cursor(17, "job_a", of="jobs"), of="jobs") == (17, "job_a")
    assert decode_cursor(forged(b'[17,"job_a"]'), of="jobs") == (17, "job_a")


@pytest.mark.parametrize(
    "place",
    [b"[1]", b"[1,2,3]", b"null", b"{}", b"x", b"", b'["1","job_a"]', b'[{"a":1},"job_a"]',
     b"[1,null]", b'[9223372036854775808,"job_a"]', b'[1.5,"job_a"]', b"[" * 5000,
     b'[1,"\\ud83d"]', b'[1,"job_\\ud83d"]', b'[1,"job_\\u0000"]', b'[1,"job_a\\n"]', b'[1,""]',
     b'[1,"job_a/b"]', b'[1,"__job__"]', b'[1,"job_' + b"a" * 101 + b'"]'],
)  # fmt: skip
def test_a_forged_place_that_is_none_is_refused(place: bytes) -> None:
    with pytest.raises(BadCursor):
        decode_cursor(forged(place), of="jobs")
