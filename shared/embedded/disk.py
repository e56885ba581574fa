"""What to say of a disk that is full."""

import errno
import shutil
import sqlite3
from pathlib import Path

TIGHT_BYTES = 64 * 1024  # below that SQLite cannot even make the files beside its own
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# SQLite says these of a full disk as well, when it is another file that finds no room
_PERHAPS = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})


def full_disk(folder: Path) -> str:
    """Name the folder whose disk is full, and the remedy."""
    return (
        f"the disk of {folder} is full; make room on it, or end illo, move its data to a larger "
        "one and name that with ILLO_DATA"
    )


def is_full(error: OSError | sqlite3.Error, folder: Path) -> bool:
    """Say whether an error means that the disk of a folder is full."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest is which file it was
    return code == sqlite3.SQLITE_FULL or (code in _PERHAPS and _is_tight(folder))


def _is_tight(folder: Path) -> bool:
    return folder.exists() and shutil.disk_usage(folder).free < TIGHT_BYTES
