"""CRC32C of a file from those of its parts, in whatever order the parts came.

A checksum is the remainder of a polynomial over GF(2). Appending n bytes multiplies what came
before by x to the power of 8n, so that the checksum of a whole is a product and a sum.
"""

import base64
import binascii
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import google_crc32c

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# a name only: who puts weights into a bucket has no numpy
Octets: TypeAlias = "npt.NDArray[np.uint8]"

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, the highest power in the lowest bit
_ONE = 1 << 31
_X = 1 << 30


def extend(crc: int, octets: Octets) -> int:
    """Go on with a checksum over the bytes that follow; they are not copied."""
    # the C function refuses other writable buffers than an array's
    return int(google_crc32c.extend(crc, octets))


def combine(first: int, second: int, second_bytes: int) -> int:
    """Tell the checksum of two parts that follow each other from theirs."""
    return _times(_appending(second_bytes), first) ^ second


def combined(parts: Iterable[tuple[int, int]]) -> int:
    """Tell the checksum of all parts, given as checksum and size in the order of the file."""
    whole = 0
    for crc, size in parts:
        whole = combine(whole, crc, size)
    return whole


def to_text(crc: int) -> str:
    """Write a checksum as Cloud Storage and the manifest do: big-endian, in base64."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def from_text(text: str) -> int | None:
    """Read a checksum that `to_text` wrote; None if it is none."""
    try:
        octets = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return int.from_bytes(octets, "big") if len(octets) == 4 else None


@lru_cache(maxsize=64)  # nearly all parts are of one size
def _appending(size: int) -> int:
    """Give x to the power of 8 * size."""
    factor, power = _ONE, _times(_X, _X)  # x squared; of the exponent's bits the first is 8
    for _ in range(2):
        power = _times(power, power)
    while size:
        if size & 1:
            factor = _times(factor, power)
        power = _times(power, power)
        size >>= 1
    return factor


def _times(left: int, right: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if left >> bit & 1:
            product ^= right
        right = right >> 1 ^ (_POLYNOMIAL if right & 1 else 0)
    return product
