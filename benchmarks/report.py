"""How a figure is told: what it is, how much, and against what."""

from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number; `ratio` is to the peer that `against` names."""

    what: str
    value: float
    unit: str
    against: str = ""
    ratio: float | None = None

    def document(self) -> dict[str, object]:
        """Write it for a JSON file."""
        return asdict(self)


def print_table(name: str, figures: list[Figure]) -> None:
    """Show figures side by side."""
    table = Table(title=name, title_justify="left")
    for column in ("what", "measured", "ratio", "against"):
        table.add_column(column, justify="right" if column in ("measured", "ratio") else "left")
    for figure in figures:
        ratio = f"{figure.ratio:.2f}" if figure.ratio is not None else ""
        table.add_row(figure.what, f"{figure.value:,.2f} {figure.unit}", ratio, figure.against)
    Console(width=110).print(table)
