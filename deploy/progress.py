"""Show on standard error what is being drawn: a bar in a terminal, else lines.

A line comes for each change, and once a minute where nothing else changes than how far it is.
"""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.console import say

LINE_EVERY = 60.0  # seconds


class Display:
    """How far something has come; use it as a context, it leaves the terminal in order."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = (
            Progress(
                BarColumn(24),
                TextColumn("{task.percentage:>3.0f} %"),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
            if sys.stderr.isatty()
            else None
        )
        self._line = self._bar.add_task("", total=1.0) if self._bar else None
        self._said, self._due = "", 0.0

    def show(self, what: str, detail: str, fraction: float) -> None:
        """Show what goes on, a detail of it that changes often, and a fraction of 0 to 1."""
        if self._bar and self._line is not None:
            self._bar.update(self._line, description=_joined(what, detail), completed=fraction)
        elif what != self._said:
            self._say(what, f"{fraction:4.0%}  {what}")
        elif time.monotonic() >= self._due:
            self._say(what, f"{fraction:4.0%}  {_joined(what, detail)}")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def _say(self, what: str, line: str) -> None:
        self._said, self._due = what, time.monotonic() + LINE_EVERY
        say(line)


def _joined(what: str, detail: str) -> str:
    return f"{what}  {detail}" if detail else what
