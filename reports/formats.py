"""A table as text: for the terminal, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import io
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import groupby

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod
from rich.table import Table as Grid
from rich.text import Text

from reports.latex_escape import tex, tex_prose, tex_stack
from reports.plain_text import plain
from reports.tables import Cell, Column, Table

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
# A rule under the heading, a lighter one between sections, nothing else.
_BOX = Box("    \n    \n ── \n    \n ┈┈ \n    \n    \n    \n")
_LABEL_WIDTH = 14  # labels wrap to no less


def superscript(marks: Iterable[int]) -> str:
    """Format footnote marks: `¹,²`."""
    return ",".join(str(mark).translate(_SUPERSCRIPTS) for mark in marks)


def csv(table: Table) -> str:
    """Format the raw numbers as CSV, in full precision."""
    return table.frame.to_csv(index=False, lineterminator="\n")


def markdown(table: Table) -> str:
    """Format as a GitHub-flavored Markdown page: title, table, legend, footnotes, what was done."""
    heads = [f"{column.title} ({column.group})" if column.group else column.title for column in table.columns]
    rules = ["---:" if column.number else ":---" for column in table.columns]
    rows = [[escape(_marked(cell)) for cell in row] for row in table.rows]
    lines = ["| " + " | ".join(row) + " |" for row in ([escape(head) for head in heads], rules, *rows)]
    notes = [f"{superscript([number])} {escape(note)}" for number, note in enumerate(table.notes, start=1)]
    title = re.sub(r"(#+)$", r"\\\1", escape(table.title).rstrip())  # closing #s would not be shown
    parts = [
        f"# {title}",
        escape(table.subtitle),
        "\n".join(lines),
        escape(table.legend),
        *notes,
        escape(table.details),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def latex(table: Table) -> str:
    """Format as LaTeX floats for an article, with booktabs and graphicx: the table, no wider than the page, and notes.

    A wide table spans both columns of a page that has two; one taller than a page goes on in further floats, the notes
    under the rows that have them. Headings stand in two lines where that saves width. A comment says what was done.
    """
    parts = _tex_parts(table)
    floats = [_tex_float(table, part, part is parts[0], part is parts[-1]) for part in parts]
    done = f"% {' '.join(table.details.split())}\n" if table.details else ""
    return f"{done}% needs \\usepackage{{booktabs,graphicx}}\n" + "\n".join(floats)


def _tex_float(table: Table, part: range, first: bool, last: bool) -> str:
    """Format the float of some rows: the first has the label, the last the legend."""
    float_name = "table*" if _printed_width(table) > _COLUMN else "table"
    label = f"\\label{{tab:{re.sub(r'[^A-Za-z0-9:.-]', '-', table.name)}}}"
    lines = [
        f"\\begin{{{float_name}}}",
        "\\centering",
        f"\\caption{{{tex_prose(table.title)}}}" if first else f"{tex_prose(table.title)} (continued)\\par",
        *([label] if first else []),
        "\\smallskip\\footnotesize\\setlength{\\tabcolsep}{4pt}",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{{''.join('r' if column.number else 'l' for column in table.columns)}}}",
        "\\toprule",
        *_tex_heads(table.columns),
        "\\midrule",
        *_tex_rows(table, part),
        "\\bottomrule",
        "\\end{tabular}}",
        "",
        "\\smallskip",
        "\\begin{minipage}{\\linewidth}\\scriptsize\\raggedright",
    ]
    lines += [f"{tex_prose(text)}\\par" for text in (table.subtitle, table.legend) if text and last]
    lines += [f"\\textsuperscript{{{mark}}} {tex_prose(table.notes[mark - 1])}\\par" for mark in _marks(table, part)]
    return "\n".join([*lines, "\\end{minipage}", f"\\end{{{float_name}}}"]) + "\n"


_WORDS = 40  # letters in a line of a cell of words
_COLUMN = 46  # letters of footnotesize and the gaps between columns that fit one of an article's two columns
_PAGE = 46  # lines of a table and of what stands under it that fit a page, less its caption and heading


def _tex_parts(table: Table) -> list[range]:
    """Split the rows into floats: as many as fit a page with their notes."""
    room = _PAGE - _note_lines(table, [table.subtitle, table.legend])
    starts, used, printed = [0], 0, frozenset[int]()
    for number in range(len(table.rows)):
        if used and used + _tex_height(table, number, printed) > room:
            starts.append(number)
            used, printed = 0, frozenset()
        used += _tex_height(table, number, printed)
        printed |= frozenset(_marks(table, range(number, number + 1)))
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(table.rows)], strict=True)]


def _tex_height(table: Table, number: int, printed: frozenset[int]) -> int:
    """Count the lines of a row and of its footnotes that are not printed yet."""
    lines = max(len(_wrapped(*cell)) for cell in zip(table.rows[number], table.columns, strict=True))
    marks = set(_marks(table, range(number, number + 1))) - printed
    return lines + _note_lines(table, [table.notes[mark - 1] for mark in marks])


def _note_lines(table: Table, texts: Iterable[str]) -> int:
    """Estimate the lines that paragraphs under a table take."""
    wide = 110 if _printed_width(table) > _COLUMN else 55
    return sum(-(-len(text) // wide) for text in texts)


def _marks(table: Table, part: range) -> list[int]:
    """Return the footnotes of some rows, ascending."""
    return sorted({mark for number in part for cell in table.rows[number] for mark in cell.marks})


def _printed_width(table: Table) -> int:
    """Estimate the printed width of the table in letters."""
    return sum(_widths(table, 1)) + len(table.columns)


def _tex_heads(columns: tuple[Column, ...]) -> Iterator[str]:
    """The headings, and over them those of groups with a rule over the columns of each."""
    if any(column.group for column in columns):
        groups = _groups(columns)
        yield " & ".join(f"\\multicolumn{{{len(places)}}}{{c}}{{{tex(group)}}}" for group, places in groups) + " \\\\"
        yield " ".join(f"\\cmidrule(lr){{{places[0] + 1}-{places[-1] + 1}}}" for group, places in groups if group)
    yield " & ".join(_tex_head(column) for column in columns) + " \\\\"


def _tex_head(column: Column) -> str:
    """Format a heading, in two lines if it has several words."""
    return tex_stack(_two_lines(column.title, hyphens=False), "r" if column.number else "l", "b")


def _tex_rows(table: Table, part: range) -> Iterator[str]:
    """Some lines of the table, apart where a section starts."""
    for number in part:
        if number > part.start and number in table.sections:
            yield "\\addlinespace"
        cells = zip(table.rows[number], table.columns, strict=True)
        yield " & ".join(_tex_cell(cell, column) for cell, column in cells) + " \\\\"


def _wrapped(cell: Cell, column: Column) -> list[str]:
    """A cell's lines: long words wrap, numbers never."""
    if column.number:
        return [cell.text]
    return textwrap.wrap(cell.text, _WORDS, break_long_words=False, break_on_hyphens=False)


def _tex_cell(cell: Cell, column: Column) -> str:
    """A cell with its marks; a number's hyphen is a minus."""
    marks = f"\\textsuperscript{{{','.join(map(str, cell.marks))}}}" if cell.marks else ""
    if column.number:
        return tex(re.sub(r"-(?=\d)", "−", cell.text)) + marks
    return tex_stack(_wrapped(cell, column), "l", "t") + marks


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
        widths = _widths(fitted, gap)
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
            lines = [line for row in table.rows for line in _two_lines(_marked(row[place]))]
            least[place] = min(widths[place], max(map(cell_len, [*lines, *_two_lines(column.title)])))
    least[0] = min(widths[0], _LABEL_WIDTH)
    return least


def _grid(table: Table, widths: list[int], gap: int) -> Grid:
    """The body of the table, each column with its width."""
    grid = Grid(box=_BOX, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0), header_style="bold")
    headings = [_two_lines(column.title) for column in table.columns]
    tallest = max(map(len, headings))
    for column, width, lines in zip(table.columns, widths, headings, strict=True):
        heading = Text("\n" * (tallest - len(lines)) + "\n".join(lines))
        justify: JustifyMethod = "right" if column.number else "left"
        grid.add_column(heading, justify=justify, width=width, overflow="fold")
    padded = [_mark_room(table, place) for place in range(len(table.columns))]
    for number, row in enumerate(table.rows):
        grid.add_row(
            *(Text(_folded(_padded(cell, room), width)) for cell, room, width in zip(row, padded, widths, strict=True)),
            end_section=number + 1 in table.sections,
        )
    return grid


def _widths(table: Table, gap: int) -> list[int]:
    """The width each column wants; a group is at least as wide as its heading."""
    widths = []
    for place, column in enumerate(table.columns):
        room = _mark_room(table, place)
        texts = [*_two_lines(column.title), *(_padded(row[place], room) for row in table.rows)]
        widths.append(max(map(cell_len, texts)))
    for group, places in _groups(table.columns):
        span = sum(widths[place] for place in places) + gap * (len(places) - 1)
        widths[places[0]] += max(0, cell_len(group) - span)
    return widths


def _narrowest(table: Table) -> int:
    """The width below which the table does not fit."""
    short = _shortened(table)
    widths = _widths(short, 1)
    return sum(_least(short, widths)) + len(widths) - 1


def _two_lines(text: str, hyphens: bool = True) -> list[str]:
    """A text in two lines as narrow as can be: of a heading, so that the numbers decide how wide a column is."""
    wrapped = (
        textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=hyphens)
        for width in range(1, len(text) + 1)
    )
    return next((lines for lines in wrapped if len(lines) <= 2), [text])


def _folded(text: str, width: int) -> str:
    """A text in lines of at most `width` characters; a sign stays with its word, as a mark does."""
    if cell_len(text) <= width:
        return text
    signed = re.sub(r"^([+−]) ", "\\1\N{NO-BREAK SPACE}", text)
    return "\n".join(textwrap.wrap(signed, width, break_on_hyphens=False))


def _groups(columns: tuple[Column, ...]) -> list[tuple[str, list[int]]]:
    """Neighbouring columns by their group heading."""
    return [
        (group, list(places)) for group, places in groupby(range(len(columns)), key=lambda place: columns[place].group)
    ]


def _group_heading(columns: tuple[Column, ...], widths: list[int], gap: int) -> str:
    """The two lines above the headings: each group's name, and under it a rule over its columns."""
    names, rules = [], []
    for group, places in _groups(columns):
        span = sum(widths[place] for place in places) + gap * (len(places) - 1)
        names.append(group.center(span))
        rules.append(("─" if group else " ") * span)
    return "\n".join((" " * gap).join(parts) for parts in (names, rules))


def _mark_room(table: Table, place: int) -> int:
    """The width kept for marks in a column of numbers, so that a footnote does not move the digits out of line."""
    if not table.columns[place].number:
        return 0
    return max((len(_mark(row[place])) for row in table.rows), default=0)


def _padded(cell: Cell, room: int) -> str:
    return cell.text + _mark(cell).ljust(room)


def _marked(cell: Cell) -> str:
    return cell.text + _mark(cell)


def _mark(cell: Cell) -> str:
    """The marks behind a cell's text: apart from it, lest 4.46² be a square, but on the same line."""
    return f"\N{NO-BREAK SPACE}{superscript(cell.marks)}" if cell.marks else ""


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
