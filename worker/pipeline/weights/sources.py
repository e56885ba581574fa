"""Where the ranges of a file come from: what fetch asks of a source, and files as one."""

import http.client
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from shared.errors import WeightsDamaged, WeightsMissing


class Interrupted(Exception):
    """The request came to nothing; another may not, after a pause if one was asked for."""

    def __init__(self, message: str, *, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


# What may go wrong with one request and be right with the next.
FAULTS = (Interrupted, OSError, http.client.HTTPException)


class Connection(Protocol):
    """One way to the bytes, used by one thread at a time."""

    def begin(self, start: int, stop: int) -> None:
        """Ask for a range. Raises one of FAULTS, or a WeightsError that no second try changes."""

    def read_into(self, place: memoryview) -> int:
        """Receive some of the range's next bytes straight into a place, at least one."""

    def break_off(self) -> None:
        """Let a call in another thread fail soon; the connection can be used again later."""

    def close(self) -> None:
        """Forget the request; the next one may need a new connection."""


class Source(Protocol):
    """One state of one file: if the file changes, its connections say so."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def size(self) -> int:
        """How many bytes it has."""

    @property
    def crc32c(self) -> str | None:
        """The checksum that its keeper tells, in base64; None if it tells none."""

    def connect(self) -> Connection:
        """Make one more way to its bytes."""

    def check_unchanged(self) -> None:
        """Raise WeightsDamaged if what was read may be a mixture of two states."""

    def close(self) -> None:
        """Give back what the source itself holds open."""


class LocalFile:
    """See Source; a file that is not written to while it is read."""

    crc32c: str | None = None

    def __init__(self, path: Path) -> None:
        try:
            # to open a pipe would wait for whoever writes to it
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise WeightsMissing(
                f"{path}: cannot be opened: {error.strerror}; "
                "docs/weights.md says what belongs there"
            ) from None
        self.name = str(path)
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            self.close()
            raise WeightsDamaged(f"{path}: no regular file; copy the file itself there")
        self._state = self._look()
        self.size = self._state[0]

    def connect(self) -> Connection:
        """See Source.connect."""
        return _FileReader(self.name, self._file)

    def check_unchanged(self) -> None:
        """See Source.check_unchanged."""
        if self._look() != self._state:
            raise WeightsDamaged(f"{self.name}: changed while it was read; start again")

    def close(self) -> None:
        """See Source.close."""
        with suppress(OSError):
            os.close(self._file)

    def _look(self) -> tuple[int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns


class _FileReader:
    """See Connection; all share one open file, since each read names its place."""

    def __init__(self, name: str, file: int) -> None:
        self._name, self._file = name, file
        self._next = 0
        self._broken = False

    def begin(self, start: int, stop: int) -> None:
        self._next, self._broken = start, False

    def read_into(self, place: memoryview) -> int:
        if self._broken:
            raise Interrupted(f"{self._name}: broken off")
        count = os.preadv(self._file, [place], self._next)
        if not count:
            raise WeightsDamaged(
                f"{self._name}: ends at {self._next}, it shrank while it was read; "
                "download the file again"
            )
        self._next += count
        return count

    def break_off(self) -> None:
        self._broken = True

    def close(self) -> None:
        pass
