"""Tables for people: colored on a terminal, plain in a pipe. Nothing is cut off or wrapped: long lines run over the
edge of the terminal, so that they can be searched and copied.

Texts that members announce are never treated as markup: a worker named "[red]" is shown with exactly that name. rich is
not used here: its import costs a verb a third of its time.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import click

R = TypeVar("R")

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
_GAP = "  "


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
    parts = [_padded([column.title, *cells], column.right) for column, cells in shown]
    styles = [["bold", *(STYLES.get(cell, "") for cell in cells)] for _, cells in shown]
    _print_columns(parts, styles)


def show_line(text: str, style: str = "") -> None:
    """Print a text, without markup."""
    for line in text.split("\n"):
        _write(_styled(_printable(line), style))
    sys.stdout.flush()


def show_pairs(pairs: Iterable[tuple[str, str]], title: str = "") -> None:
    """Print names and values under a title."""
    if title:
        show_line(f"\n{title}", "bold")
    given = list(pairs)
    names = _padded([f"  {name}" if title else name for name, _ in given])
    values = _padded([value for _, value in given])
    _print_columns([names, values], [["dim"] * len(given), [STYLES.get(value, "") for _, value in given]])


def _print_columns(columns: Sequence[Sequence[str]], styles: Sequence[Sequence[str]]) -> None:
    """Print columns of equally wide cells, with a style for each cell."""
    for row in range(len(columns[0]) if columns else 0):
        cells = [column[row] for column in columns]
        while len(cells) > 1 and not cells[-1].strip():
            cells.pop()
        cells[-1] = cells[-1].rstrip()  # trailing spaces would show as empty lines on a narrow terminal
        _write(_GAP.join(_styled(cell, styles[place][row]) for place, cell in enumerate(cells)))
    sys.stdout.flush()


def _padded(cells: Sequence[str], right: bool = False) -> list[str]:
    """The cells, as wide as the widest of them."""
    texts = [_printable(cell) for cell in cells]
    widest = max(map(_width, texts), default=0)
    gaps = [" " * (widest - _width(text)) for text in texts]
    return [gap + text if right else text + gap for gap, text in zip(gaps, texts, strict=True)]


def _printable(text: str) -> str:
    """The text without control characters, which could move the cursor of a terminal."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "�" for sign in text)


def _width(text: str) -> int:
    """How many columns of a terminal the text takes (UAX 11)."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(sign) else 1 + (unicodedata.east_asian_width(sign) in "WF") for sign in text)


def _styled(text: str, style: str) -> str:
    """The text in this style on a terminal; the text alone elsewhere. Spaces around it stay plain."""
    if not style or not text.strip() or not _colored():
        return text
    words = text.strip()
    begin, end = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    if style in ("bold", "dim"):
        return begin + click.style(words, bold=style == "bold" or None, dim=style == "dim" or None) + end
    return begin + click.style(words, fg=style) + end


def _colored() -> bool:
    """no-color.org, and dumb terminals."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _write(line: str) -> None:
    sys.stdout.write(line.rstrip() + "\n")


def seconds(value: float | None) -> str:
    """A duration for people; ``-`` where there is none."""
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.0f} min"
