"""Checksums of parts make that of the whole, however it was cut."""

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.pipeline.weights.crc import combine, combined, extend, from_text, to_text


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_the_parts_checksums_make_the_wholes(parts: list[bytes]) -> None:
    told = combined((google_crc32c.value(part), len(part)) for part in parts)
    assert told == google_crc32c.value(b"".join(parts))


@given(st.binary(max_size=40), st.integers(0, 5_000_000))
def test_a_long_second_part_counts_with_its_length(first: bytes, size: int) -> None:
    second = bytes(size)
    told = combine(google_crc32c.value(first), google_crc32c.value(second), size)
    assert told == google_crc32c.value(first + second)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_a_checksum_goes_on_over_writable_memory(octets: bytes, cut: int) -> None:
    array = np.frombuffer(bytearray(octets), dtype=np.uint8)
    told = extend(extend(0, array[:cut]), array[cut:])
    assert told == google_crc32c.value(octets)


@given(st.integers(0, 2**32 - 1))
def test_a_checksum_is_read_as_it_was_written(crc: int) -> None:
    assert from_text(to_text(crc)) == crc


def test_it_is_written_as_cloud_storage_writes_it() -> None:
    # the check value of CRC-32C in every catalogue of checksums
    assert to_text(google_crc32c.value(b"123456789")) == "4waSgw=="


@pytest.mark.parametrize("text", ["", "4waSgw", "4waSgwAA", "no base64!", "é"])
def test_what_is_no_checksum_is_told(text: str) -> None:
    assert from_text(text) is None
