"""A folder of one process for what small files a bucket has, removed also after it was killed."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "illo-weights-"


class SmallFolder:
    """A new folder that is this process's until `remove`: a lock on it ends with the process.

    Making one removes those of processes that are gone, and of no others.
    """

    def __init__(self) -> None:
        remove_abandoned()
        self.path, self._lock = _make()

    def remove(self) -> None:
        """Remove it with all that is in it; again is no error."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def remove_abandoned() -> None:
    """Remove the folders of this user whose processes were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with _opened(path) as folder:
            if folder is not None and os.fstat(folder).st_uid == os.geteuid() and _taken(folder):
                shutil.rmtree(path, ignore_errors=True)


def _make() -> tuple[Path, int | None]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        # between the two somebody may have taken it for one that was left behind
        if _taken(folder) and path.exists():
            return path, folder
        os.close(folder)


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    folder = None
    with suppress(OSError):  # a file, a link, somebody else's, or just removed
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield folder
    finally:
        if folder is not None:
            os.close(folder)


def _taken(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
