"""What several commands take: ids of jobs and batches, and a folder to save in."""

import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")

KINDS = {"job": "job", "bat": "batch"}  # by prefix


class Id(click.ParamType[str]):
    """An id of one of some kinds; anything else would not be safe in a URL."""

    name = "ID"

    def __init__(self, *prefixes: str) -> None:
        self._prefixes = prefixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read it."""
        if not re.fullmatch(rf"({'|'.join(self._prefixes)})_[a-z0-9]{{1,64}}", value):
            kinds = " or ".join(KINDS[prefix] for prefix in self._prefixes)
            self.fail(f"{value!r} is no id of a {kinds}", param, ctx)
        return str(value)


def out_option(
    *, help: str, default: str | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give a command --out, a folder that is known to take files before anything is drawn."""
    return click.option(
        "-o",
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        default=default,
        show_default=default is not None,
        callback=_writable,
        help=help,
    )


def require_writable(folder: Path) -> None:
    """Raise OSError unless files can be saved there; folders made to find out are removed."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    finally:
        for each in made:
            with suppress(OSError):
                each.rmdir()


def _writable(ctx: click.Context, param: click.Parameter, folder: Path | None) -> Path | None:
    if folder is not None and not ctx.resilient_parsing:
        try:
            require_writable(folder)
        except OSError as error:
            reason = error.strerror or str(error)
            raise click.BadParameter(f"nothing can be saved in {folder}: {reason}") from None
    return folder
