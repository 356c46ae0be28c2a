"""The columns of a table as text: their widths, headings in two lines, and cells with the marks of footnotes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from itertools import groupby

from rich.cells import cell_len

from reports.tables import Cell, Column, Table

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def superscript(marks: Iterable[int]) -> str:
    """Format footnote marks: `¹,²`."""
    return ",".join(str(mark).translate(_SUPERSCRIPTS) for mark in marks)


def column_widths(table: Table, gap: int) -> list[int]:
    """The width each column wants; a group is at least as wide as its heading."""
    widths = []
    for place, column in enumerate(table.columns):
        room = mark_room(table, place)
        texts = [*in_two_lines(column.title), *(padded(row[place], room) for row in table.rows)]
        widths.append(max(map(cell_len, texts)))
    for group, places in column_groups(table.columns):
        span = sum(widths[place] for place in places) + gap * (len(places) - 1)
        widths[places[0]] += max(0, cell_len(group) - span)
    return widths


def in_two_lines(text: str, hyphens: bool = True) -> list[str]:
    """A text in two lines as narrow as can be: of a heading, so that the numbers decide how wide a column is."""
    wrapped = (
        textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=hyphens)
        for width in range(1, len(text) + 1)
    )
    return next((lines for lines in wrapped if len(lines) <= 2), [text])


def column_groups(columns: tuple[Column, ...]) -> list[tuple[str, list[int]]]:
    """Neighbouring columns by their group heading."""
    return [
        (group, list(places)) for group, places in groupby(range(len(columns)), key=lambda place: columns[place].group)
    ]


def mark_room(table: Table, place: int) -> int:
    """The width kept for marks in a column of numbers, so that a footnote does not move the digits out of line."""
    if not table.columns[place].number:
        return 0
    return max((len(mark(row[place])) for row in table.rows), default=0)


def padded(cell: Cell, room: int) -> str:
    return cell.text + mark(cell).ljust(room)


def marked(cell: Cell) -> str:
    return cell.text + mark(cell)


def mark(cell: Cell) -> str:
    """The marks behind a cell's text: apart from it, lest 4.46² be a square, but on the same line."""
    return f"\N{NO-BREAK SPACE}{superscript(cell.marks)}" if cell.marks else ""
