"""Print tables for people: what must be copied stays whole, and nothing is cut off in a pipe."""

import sys
from collections.abc import Collection, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 240  # columns, where nobody's window limits them
NARROWEST = 5  # cells that a column may be folded to
GAP = 2  # cells between two columns

Row = Mapping[str, object]


def print_table(
    rows: Sequence[Row], *, whole: Collection[str] = (), spare: Sequence[str] = ()
) -> None:
    """Print rows below the names of their columns on standard output.

    Columns in `whole` are never folded; where the window is narrow, those in `spare` are left out,
    the first of them first.
    """
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    columns = fitting(rows, console.width, whole=whole, spare=spare)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
    for name in columns:
        if name in whole:
            table.add_column(name, no_wrap=True, min_width=_widest(rows, name))
        else:
            table.add_column(name, overflow="fold")
    for row in rows:
        # Text, because brackets in what a service says are no markup
        table.add_row(*(Text(_cell(row, name)) for name in columns))
    console.print(table)


def fitting(
    rows: Sequence[Row], width: int, *, whole: Collection[str], spare: Sequence[str]
) -> list[str]:
    """Choose the columns that fit into a width, in their order."""
    columns, dispensable = list(rows[0]), list(spare)
    while dispensable and _least_width(rows, columns, whole) > width:
        left_out = dispensable.pop(0)
        columns = [name for name in columns if name != left_out]
    return columns


def _least_width(rows: Sequence[Row], columns: Sequence[str], whole: Collection[str]) -> int:
    widths = [_widest(rows, name) for name in columns]
    least = [w if n in whole else min(w, NARROWEST) for n, w in zip(columns, widths, strict=True)]
    return sum(least) + GAP * (len(columns) - 1)


def _widest(rows: Sequence[Row], name: str) -> int:
    return max(cell_len(text) for text in (name, *(_cell(row, name) for row in rows)))


def _cell(row: Row, name: str) -> str:
    return "" if row[name] is None else str(row[name])
