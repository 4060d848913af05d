"""Tables for people: colored on a terminal, plain in a pipe. Nothing is cut off or wrapped: long lines run over the
edge of the terminal, so that they can be searched and copied.

Texts that members announce are never treated as markup: a worker named "[red]" is shown with exactly that name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

R = TypeVar("R")
WIDTH = 100_000

STYLES = {
    "alive": "green",
    "suspect": "yellow",
    "dead": "red",
    "left": "dim",
    "starting": "cyan",
    "passing": "green",
    "warning": "yellow",
    "critical": "red",
    "draining": "magenta",
}


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """A heading, and how to get its cell from a row."""

    title: str
    cell: Callable[[R], str]
    right: bool = False
    always_shown: bool = False
    """Shown even if every cell is empty."""


def show_table(columns: Sequence[Column[R]], rows: Iterable[R], empty: str) -> None:
    """Print the rows without empty columns. ``empty`` is the text for no rows."""
    rows = list(rows)
    if not rows:
        show_line(empty)
        return
    shown = [(column, [column.cell(row) for row in rows]) for column in columns]
    shown = [(column, cells) for column, cells in shown if column.always_shown or any(cells)]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column, _ in shown:
        justify: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, no_wrap=True)
    for cells in zip(*(cells for _, cells in shown), strict=True):
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in cells))
    _print(table)


def show_line(text: str, style: str = "") -> None:
    """Print one line, without markup."""
    _print(Text(text, style=style))


def show_pairs(pairs: Iterable[tuple[str, str]], title: str = "") -> None:
    """Print names and values under a title."""
    if title:
        show_line(f"\n{title}", "bold")
    grid = Table.grid(padding=(0, 2))
    for name, value in pairs:
        grid.add_row(Text(f"  {name}" if title else name, style="dim"), Text(value, style=STYLES.get(value, "")))
    _print(grid)


_PADDING = re.compile(r"(?:\x1b\[[\d;]*m| )+$")


def _print(thing: Table | Text) -> None:
    console = Console(file=sys.stdout, highlight=False, width=WIDTH)
    with console.capture() as captured:
        console.print(thing)
    for line in captured.get().splitlines():
        sys.stdout.write(_PADDING.sub(_without_spaces, line) + "\n")
    sys.stdout.flush()


def _without_spaces(padding: re.Match[str]) -> str:
    """The end of a line without its trailing spaces, which would show as empty lines on a narrow terminal."""
    return padding[0].replace(" ", "")


def seconds(value: float | None) -> str:
    """A duration for people; ``-`` where there is none."""
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.0f} min"
