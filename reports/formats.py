"""A table as text: for the terminal, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import io
import json
import re
import textwrap
from collections.abc import Callable
from dataclasses import replace

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod
from rich.table import Table as Grid
from rich.text import Text

from reports.columns import column_groups, column_widths, in_two_lines, mark_room, marked, padded, superscript
from reports.latex import latex
from reports.layout import NATURAL, Layout
from reports.plain_text import plain
from reports.tables import Cell, Column, Table

# A rule under the heading, a lighter one between sections, nothing else.
_BOX = Box("    \n    \n ── \n    \n ┈┈ \n    \n    \n    \n")
_LABEL_WIDTH = 14  # labels wrap to no less


def csv(table: Table) -> str:
    """Format the raw numbers as CSV, in full precision."""
    return table.frame.to_csv(index=False, lineterminator="\n")


def render(table: Table, form: str, layout: Layout = NATURAL) -> str:
    """Format a table in a layout, which LaTeX follows; without heading, it is the table and its footnotes."""
    if form == "latex":
        return latex(table, layout)
    bare = form == "markdown" and not layout.heading
    return RENDERERS[form](replace(table, title="", subtitle="", legend="", details="") if bare else table)


def markdown(table: Table) -> str:
    """Format as a GitHub-flavored Markdown page: title, table, legend, footnotes, what was done."""
    heads = [f"{column.title} ({column.group})" if column.group else column.title for column in table.columns]
    rules = ["---:" if column.number else ":---" for column in table.columns]
    rows = [[escape(marked(cell)) for cell in row] for row in table.rows]
    lines = ["| " + " | ".join(row) + " |" for row in ([escape(head) for head in heads], rules, *rows)]
    notes = [f"{superscript([number])} {escape(note)}" for number, note in enumerate(table.notes, start=1)]
    title = re.sub(r"(#+)$", r"\\\1", escape(table.title).rstrip())  # closing #s would not be shown
    above = [f"# {title}" if title else "", escape(table.subtitle)]
    below = [escape(table.legend), *notes, escape(table.details)]
    return "\n\n".join(filter(None, [*above, "\n".join(lines), *below])) + "\n"


def as_json(table: Table) -> str:
    """Format the raw numbers as a JSON list of records, without missing values."""
    records = json.loads(table.frame.to_json(orient="records", double_precision=15))
    records = [{key: value for key, value in record.items() if value not in (None, "")} for record in records]
    return json.dumps(records, indent=1) + "\n"


def terminal(table: Table, width: int, unicode: bool = True) -> str:
    """Format as plain text at most `width` wide, in ASCII unless `unicode`.

    Columns that do not fit beside each other are printed below each other, each time with the rows' labels.
    """
    marks = [superscript([number]) if unicode else f"[{number}]" for number in range(1, len(table.notes) + 1)]
    notes = [f"{mark} {note}" for mark, note in zip(marks, table.notes, strict=True)]
    if not unicode:
        table, notes = _in_ascii(table), [plain(note) for note in notes]
    head = [table.title, *([table.subtitle] if table.subtitle else []), ""]
    bodies = "\n".join(_printed(_body(part, width), max(width, _narrowest(part))) for part in _parts(table, width))
    text = (
        _printed(Group(*map(Text, head)), width)
        + bodies
        + _printed(Group(*map(Text, ["", table.legend, *notes])), width)
    )
    return text if unicode else plain(text)


def _body(table: Table, width: int) -> Group:
    """The columns of a table, with the headings of groups above theirs."""
    fitted, widths, gap = _fitted(table, max(width, _narrowest(table)))
    grouped = any(column.group for column in fitted.columns)
    groups = [Text(_group_heading(fitted.columns, widths, gap))] if grouped else []
    return Group(*groups, _grid(fitted, widths, gap))


def _printed(what: Group, width: int) -> str:
    """Lay out text at a width, without trailing spaces."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, legacy_windows=False).print(what, crop=False)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _in_ascii(table: Table) -> Table:
    """The table in ASCII, with footnotes as [1]: before columns are measured, since replacements may be longer."""
    room = [
        max(len(_ascii_mark(row[place])) for row in table.rows) if column.number and table.rows else 0
        for place, column in enumerate(table.columns)
    ]
    rows = tuple(
        tuple(Cell(plain(cell.text) + _ascii_mark(cell).ljust(space)) for cell, space in zip(row, room, strict=True))
        for row in table.rows
    )
    columns = tuple(
        replace(one, title=plain(one.title), group=plain(one.group), short=plain(one.short)) for one in table.columns
    )
    title, subtitle, legend = map(plain, (table.title, table.subtitle, table.legend))
    return replace(table, columns=columns, rows=rows, title=title, subtitle=subtitle, legend=legend)


def _ascii_mark(cell: Cell) -> str:
    return f" [{','.join(map(str, cell.marks))}]" if cell.marks else ""


def _parts(table: Table, width: int) -> list[Table]:
    """Split the columns into tables that fit, each with the rows' labels; one column may be too wide for itself."""
    if _narrowest(table) <= width:
        return [table]
    parts: list[list[int]] = [[0]]
    for place in range(1, len(table.columns)):
        if len(parts[-1]) > 1 and _narrowest(_columns(table, [*parts[-1], place])) > width:
            parts.append([0])
        parts[-1].append(place)
    return [_columns(table, places) for places in parts]


def _columns(table: Table, places: list[int]) -> Table:
    """The table with some of its columns."""
    rows = tuple(tuple(row[place] for place in places) for row in table.rows)
    return replace(table, columns=tuple(table.columns[place] for place in places), rows=rows)


def _fitted(table: Table, width: int) -> tuple[Table, list[int], int]:
    """Fit the table: return it with its columns' widths and the gap between them.

    First the gap gives way, then headings are the short ones, then other columns of words wrap, and labels last.
    """
    short = _shortened(table)
    for fitted, gap in ((table, 2), (table, 1), (short, 1)):
        widths = column_widths(fitted, gap)
        over = sum(widths) + gap * (len(widths) - 1) - width
        if over <= 0:
            return fitted, widths, gap
    least = _least(short, widths)
    for place in reversed(range(len(widths))):
        narrower = max(widths[place] - max(over, 0), least[place])
        over -= widths[place] - narrower
        widths[place] = narrower
    return short, widths, gap


def _shortened(table: Table) -> Table:
    """The table with its columns' short headings."""
    columns = tuple(replace(column, title=column.short or column.title) for column in table.columns)
    return replace(table, columns=columns)


def _least(table: Table, widths: list[int]) -> list[int]:
    """The widths below which columns cannot go: numbers keep theirs, words wrap to two lines, labels to more."""
    least = list(widths)
    for place, column in enumerate(table.columns):
        if not column.number:
            lines = [line for row in table.rows for line in in_two_lines(marked(row[place]))]
            least[place] = min(widths[place], max(map(cell_len, [*lines, *in_two_lines(column.title)])))
    least[0] = min(widths[0], _LABEL_WIDTH)
    return least


def _grid(table: Table, widths: list[int], gap: int) -> Grid:
    """The body of the table, each column with its width."""
    grid = Grid(box=_BOX, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0), header_style="bold")
    headings = [in_two_lines(column.title) for column in table.columns]
    tallest = max(map(len, headings))
    for column, width, lines in zip(table.columns, widths, headings, strict=True):
        heading = Text("\n" * (tallest - len(lines)) + "\n".join(lines))
        justify: JustifyMethod = "right" if column.number else "left"
        grid.add_column(heading, justify=justify, width=width, overflow="fold")
    rooms = [mark_room(table, place) for place in range(len(table.columns))]
    for number, row in enumerate(table.rows):
        grid.add_row(
            *(Text(_folded(padded(cell, room), width)) for cell, room, width in zip(row, rooms, widths, strict=True)),
            end_section=number + 1 in table.sections,
        )
    return grid


def _narrowest(table: Table) -> int:
    """The width below which the table does not fit."""
    short = _shortened(table)
    widths = column_widths(short, 1)
    return sum(_least(short, widths)) + len(widths) - 1


def _folded(text: str, width: int) -> str:
    """A text in lines of at most `width` characters; a sign stays with its word, as a mark does."""
    if cell_len(text) <= width:
        return text
    signed = re.sub(r"^([+−]) ", "\\1\N{NO-BREAK SPACE}", text)
    return "\n".join(textwrap.wrap(signed, width, break_on_hyphens=False))


def _group_heading(columns: tuple[Column, ...], widths: list[int], gap: int) -> str:
    """The two lines above the headings: each group's name, and under it a rule over its columns."""
    names, rules = [], []
    for group, places in column_groups(columns):
        span = sum(widths[place] for place in places) + gap * (len(places) - 1)
        names.append(group.center(span))
        rules.append(("─" if group else " ") * span)
    return "\n".join((" " * gap).join(parts) for parts in (names, rules))


def escape(text: str) -> str:
    """Escape text for one line of Markdown; underscores within words need no escape."""
    special = r"([\\|*`~<\[]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;))"
    return re.sub(special, r"\\\1", re.sub(r"[\r\n]+", " ", text))


RENDERERS: dict[str, Callable[[Table], str]] = {
    "table": lambda table: terminal(table, 100),
    "json": as_json,
    "csv": csv,
    "markdown": markdown,
    "latex": latex,
}
