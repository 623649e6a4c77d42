"""Tables that fit the terminal: names are shortened in the middle, the least needed columns go, numbers stay whole.

Where there is no terminal nothing is shortened and nothing goes: scripts and grep see every word.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ndpass.run.figures import printable

GAP = 2  # columns of the terminal between two of the table


@dataclass(frozen=True)
class Column:
    """A column of a table.

    need: 0 is always shown; of the others that with the largest number goes first where there is no room. right:
    aligned to the right, as numbers are. least: characters that texts may be shortened to; 0: never.
    """

    name: str
    need: int = 0
    right: bool = False
    least: int = 0


Rows = Sequence[Sequence[str]]


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is; None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def lines_of(columns: Sequence[Column], rows: Rows, width: int | None = None) -> list[str]:
    """The head and the rows, a line each, without the columns that are empty everywhere.

    width: of the terminal; None for as many characters as it takes. Wider than it where no column may go or be
    shortened any more.
    """
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)] if rows else list(range(len(columns)))
    texts = [[printable(row[i]) for i in used] for row in rows]
    shown = [columns[i] for i in used]
    widths = fitted(shown, texts, width)
    return [row_text(row, shown, widths) for row in [[column.name for column in shown], *texts]]


def row_text(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    """One line; a text that is too long for its column is shortened where it may be."""
    shown = zip(cells, columns, widths, strict=True)
    return (" " * GAP).join(_cell(printable(cell), column, size) for cell, column, size in shown if size).rstrip()


def fitted(columns: Sequence[Column], rows: Rows, width: int | None) -> list[int]:
    """The width of every column, 0 for those that go."""
    natural = [max(map(len, (column.name, *(row[i] for row in rows)))) for i, column in enumerate(columns)]
    widths = list(natural)
    while width is not None and _total(widths) > width:
        if _shortened(columns, widths, width):
            break
        going = max(
            (i for i, size in enumerate(widths) if size and columns[i].need),
            key=lambda i: columns[i].need,
            default=None,
        )
        if going is None:
            break
        widths = [0 if i == going or not widths[i] else natural[i] for i in range(len(columns))]
    return widths


def _shortened(columns: Sequence[Column], widths: list[int], width: int) -> bool:
    """Take from the widest of those that may be shortened, until all fit; whether they do."""
    while (over := _total(widths) - width) > 0:
        room = {
            i: size - columns[i].least for i, size in enumerate(widths) if columns[i].least and size > columns[i].least
        }
        if not room:
            return False
        widest = max(room, key=lambda i: widths[i])
        others = [widths[i] for i in room if i != widest]
        step = max(widths[widest] - max(others, default=0), 1)
        widths[widest] -= min(over, room[widest], step)
    return True


def _total(widths: Sequence[int]) -> int:
    shown = [size for size in widths if size]
    return sum(shown) + GAP * max(len(shown) - 1, 0)


def _cell(text: str, column: Column, width: int) -> str:
    short = middle(text, width) if column.least else text
    return short.rjust(width) if column.right else short.ljust(width)


def middle(text: str, width: int) -> str:
    """The text, with an ellipsis in its middle where it is longer than `width`: the ends tell names apart."""
    if len(text) <= width:
        return text
    if width < 3:
        return text[:width]
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def grouped(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """What is said of each name -> reason -> the names that it is said of, in their order; nothing where nothing is."""
    found: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if reason:
            found.setdefault(reason, []).append(name)
    return found
