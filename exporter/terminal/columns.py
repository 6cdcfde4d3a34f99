"""Tables for people: as wide as a terminal, and what has to stay whole stays whole."""

from __future__ import annotations

import shutil
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from exporter.wording import visible

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

GAP = 2
LEAST = 4  # cells of a column that may be cut


class Column(NamedTuple):
    """A column: `whole` is never cut."""

    title: str
    whole: bool = True


def write_columns(out: TextIO, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Write rows of foreign texts under their titles. Where `out` is not a terminal, nothing is cut."""
    shown = [[each.title for each in columns], *([visible(value) for value in row] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*shown, strict=True)]
    if out.isatty():
        widths = _fitted(widths, columns, shutil.get_terminal_size().columns)
    for row in shown:
        cells = [_padded(value, width) for value, width in zip(row, widths, strict=True)]
        out.write((" " * GAP).join(cells).rstrip() + "\n")


def _fitted(widths: list[int], columns: Sequence[Column], width: int) -> list[int]:
    """Take from the widest of those that may be cut what is too much."""
    fitted = list(widths)
    flexible = [place for place, each in enumerate(columns) if not each.whole]
    excess = sum(fitted) + GAP * (len(fitted) - 1) - width
    for _ in range(excess if flexible else 0):
        widest = max(flexible, key=fitted.__getitem__)
        fitted[widest] = max(fitted[widest] - 1, LEAST)
    return fitted


def _padded(text: str, width: int) -> str:
    if _width(text) > width:
        while _width(text) >= width:
            text = text[:-1]
        text += "…"
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """Return how many cells of a terminal a text takes: East Asian characters take two, combining ones none."""
    return sum(
        2 if unicodedata.east_asian_width(each) in "WF" else unicodedata.category(each) not in ("Mn", "Me", "Cf")
        for each in text
    )
