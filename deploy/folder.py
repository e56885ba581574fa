"""One `illo up` to a data folder: the locks that say so, and run.json that says who runs."""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import DataInUse

LEFTOVERS_END_WITHIN = 6.0  # children of a killed parent need up to five seconds
_LOOK_EVERY = 0.05


@contextmanager
def occupied(folder: Path) -> Iterator[int]:
    """Keep other `illo up` off a folder; raises DataInUse if one is there.

    Yields a descriptor for children to inherit: while any of them lives, the next `illo up` waits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Two locks: the parent's own falls with the parent, the children's with the last of them.
    with (folder / "lock").open("ab") as mine, (folder / "children.lock").open("ab") as theirs:
        if not _taken(mine.fileno()):
            raise DataInUse(f"another `illo up` runs on {folder}; end it or choose another --data")
        _wait_for(theirs.fileno(), folder)
        _run_file(folder).unlink(missing_ok=True)
        try:
            yield theirs.fileno()
        finally:
            _run_file(folder).unlink(missing_ok=True)


def write_run_file(folder: Path, content: object) -> None:
    """Replace run.json at one stroke: a reader sees the former or the new one, never a part.

    It may hold a key, so it is for its owner's eyes only.
    """
    written = folder / "run.json.new"
    written.touch(mode=0o600)
    written.write_text(json.dumps(content) + "\n", encoding="utf-8")
    written.replace(_run_file(folder))


def _run_file(folder: Path) -> Path:
    return folder / "run.json"


def _wait_for(children: int, folder: Path) -> None:
    patience = time.monotonic() + LEFTOVERS_END_WITHIN
    while not _taken(children):
        if time.monotonic() > patience:
            raise DataInUse(
                f"programs of an earlier `illo up` on {folder} have not ended yet; try again soon"
            )
        time.sleep(_LOOK_EVERY)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
