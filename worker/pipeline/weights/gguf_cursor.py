"""A position in an untrusted file that passes neither the file's end nor a header's limit."""

import struct
from pathlib import Path
from typing import NoReturn, Protocol

from shared.errors import WeightsDamaged

MAX_STRING_BYTES = 64 * 1024
# A T5 with its whole tokenizer has a header of under 1 MB; this caps both time and memory.
MAX_HEADER_BYTES = 8 * 1024 * 1024


class Readable(Protocol):
    """What a header is read from: a file, or the first bytes of something that is far away."""

    def read(self, count: int, /) -> bytes:
        """Give the next bytes; fewer only where it ends."""

    def seek(self, place: int, /) -> int:
        """Go on from another place."""


class Cursor:
    """Read forward through one file; every reason to stop is a WeightsDamaged that names it."""

    def __init__(self, path: Path | str, file: Readable, size: int) -> None:
        self.path = path
        self.size = size
        self.position = 0
        self._file = file

    def refuse(self, reason: str) -> NoReturn:
        """Raise WeightsDamaged with the file, the reason and the remedy."""
        raise WeightsDamaged(f"{self.path}: {reason}; download or convert the file again")

    def take(self, count: int, what: str) -> bytes:
        """Read so many bytes; `what` names them if they are not there."""
        self._advance(count, what)
        taken = self._file.read(count)
        if len(taken) != count:
            self.refuse(f"{what} ends past the end of the file: it shrank while it was read")
        return taken

    def skip(self, count: int, what: str) -> None:
        """Pass over so many bytes without reading them."""
        if count:
            self._advance(count, what)
            self._file.seek(self.position)

    def number(self, code: str, what: str) -> int | float | bool:
        """Read one little-endian number of a `struct` format."""
        value: int | float | bool
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))
        return value

    def count(self, code: str, most: int, what: str) -> int:
        """Read a number that may not exceed `most`."""
        value = int(self.number(code, what))
        if value > most:
            self.refuse(f"{what} is {value}, more than {most}")
        return value

    def text(self, what: str) -> str:
        """Read a length and so many bytes of UTF-8."""
        length = self.count("Q", MAX_STRING_BYTES, f"the length of {what}")
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError:
            self.refuse(f"{what} is not UTF-8")

    def _advance(self, count: int, what: str) -> None:
        if self.position + count > self.size:
            self.refuse(f"{what} ends past the end of the file ({self.size} bytes): truncated")
        if self.position + count > MAX_HEADER_BYTES:
            self.refuse(f"{what} ends past {MAX_HEADER_BYTES} bytes, the limit for a header")
        self.position += count
