"""A folder that appears whole or not at all, whatever ends the program that fills it."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(directory: Path) -> Iterator[Path]:
    """Give a folder to fill; left without an error, it becomes the directory.

    Raises OSError if the directory holds something by then.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        yield made
        made.chmod(0o755)
        made.rename(directory)
    finally:
        shutil.rmtree(made, ignore_errors=True)
