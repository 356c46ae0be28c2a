"""Print tables as wide as the terminal, in what standard output can show."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ablations.streams import is_unicode

if TYPE_CHECKING:
    from reports.tables import Table

NARROWEST = 40


def width() -> int:
    """Return the columns of the terminal; 120 if the output goes elsewhere and COLUMNS is not set."""
    return max(shutil.get_terminal_size((120, 24)).columns, NARROWEST)


def shown(text: str) -> str:
    """Return a text as standard output can show it."""
    from reports.plain_text import plain

    return text if is_unicode(sys.stdout) else plain(text)


def print_text(text: str) -> None:
    """Print lines of text; on a terminal they are wrapped between words."""
    if sys.stdout is not None and sys.stdout.isatty():
        text = "\n".join(textwrap.fill(line, width(), break_on_hyphens=False) for line in text.splitlines())
    click.echo(text)


def print_table(table: Table, form: str = "table", widest: int | None = None) -> None:
    """Print a table in a format; as text no wider than the terminal and `widest`."""
    from reports.formats import RENDERERS, terminal

    if form == "table":
        text = terminal(table, min(width(), widest or width()), is_unicode(sys.stdout))
    else:
        text = RENDERERS[form](table)
    click.echo(text, nl=False)


def print_words(headings: Sequence[str], rows: Sequence[Sequence[str]], right: int | None = None) -> None:
    """Print rows of words in columns, those from `right` on flush right; the last column may wrap if all are left.

    Columns that do not fit beside each other are printed below each other, each time with the first column; columns of
    numbers only on a terminal or if COLUMNS is set, because pipes and files have no width.
    """
    from rich.cells import cell_len

    lines = [[shown(word) for word in row] for row in (headings, *rows)]
    widths = [max(cell_len(line[place]) for line in lines) for place in range(len(headings))]
    room = width() if right is None or _is_limited() else sum(widths) + 2 * len(widths)
    if right is None:
        widths[-1] = min(widths[-1], NARROWEST)
    parts: list[list[int]] = [[0]]
    for place in range(1, len(widths)):
        if len(parts[-1]) > 1 and sum(widths[one] + 2 for one in (*parts[-1], place)) - 2 > room:
            parts.append([0])
        parts[-1].append(place)
    for number, part in enumerate(parts):
        click.echo("\n" if number else "", nl=False)
        wraps = right is None and part[-1] == len(widths) - 1
        flush = [right is not None and place >= right for place in part]
        _print_columns([[line[place] for place in part] for line in lines], flush, wraps)


def _is_limited() -> bool:
    """Whether standard output has a width: that of a terminal, or one that the user sets."""
    return "COLUMNS" in os.environ or (sys.stdout is not None and sys.stdout.isatty())


def _print_columns(lines: Sequence[Sequence[str]], right: Sequence[bool], wraps: bool) -> None:
    """Print columns beside each other, the headings in bold; the last one may wrap."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=None, pad_edge=False)
    for heading, flush in zip(lines[0], right, strict=True):
        grid.add_column(Text(heading), justify="right" if flush else "left", overflow="fold")
    for column in grid.columns[: len(grid.columns) - wraps]:
        column.no_wrap = True
    for line in lines[1:]:
        grid.add_row(*map(Text, line))
    whole = sum(max(cell_len(line[place]) + 2 for line in lines) for place in range(len(right) - wraps))
    console = Console()
    console.width = max(width(), whole)
    with console.capture() as printed:
        console.print(grid)
    click.echo(printed.get(), nl=False)
