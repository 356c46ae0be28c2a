"""A table as LaTeX: floats for an article, or a table for a float of one's own, at the width of a column or page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from reports.columns import column_groups, column_widths, in_two_lines
from reports.latex_escape import tex, tex_prose, tex_stack
from reports.latex_fit import POINTS, TURNED, Fitted, fit, width, words, wrapped
from reports.layout import NATURAL, SIZE, Layout
from reports.plain_text import plain
from reports.tables import Cell, Column, Table


def latex(table: Table, layout: Layout = NATURAL) -> str:
    """Format as LaTeX floats for an article, with booktabs and graphicx: the table, no wider than the page, and notes.

    A wide table spans both columns of a page that has two; one taller than a page goes on in further floats, the notes
    under the rows that have them. Headings stand in two lines where that saves width. A comment says what was done.

    With a size of text or an exact width, nothing is scaled: columns for which there is no room are left out, and a
    comment names them. A layout without heading has no float, caption and legend, for a float of one's own.
    """
    done = f"% {' '.join(table.details.split())}\n" if table.details else ""
    needs = f"{done}% needs \\usepackage{{booktabs,graphicx}}"
    layout = _exact(table, layout)
    if layout.width is None:
        fitted = Fitted(table, _GAP, ("scaled down if wider than the line; --font-size or --width leaves out columns",))
    else:
        fitted = fit(table, layout)
    comments = "".join(f"% {plain(' '.join(remark.split()))}\n" for remark in fitted.remarks)
    if not layout.heading:
        return f"{needs}\n{comments}{_tex_bare(fitted, layout)}"
    parts = _tex_parts(fitted.table, words(layout))
    floats = [_tex_float(fitted, part, parts, layout) for part in parts]
    return f"{needs}\n{comments}" + "\n".join(floats)


def _exact(table: Table, layout: Layout) -> Layout:
    """Return a layout with the width of a column, or of a page if the table needs it, if a size is asked for alone."""
    if layout.width is not None or layout.font_size is None:
        return layout
    natural = width(table, layout.font_size, _GAP, words(layout)) / POINTS
    return replace(layout, width=_COLUMN_MM if natural <= _COLUMN_MM else _PAGE_MM)


def _tex_float(fitted: Fitted, part: range, parts: list[range], layout: Layout) -> str:
    """Format the float of some rows: the first has the label, the last the legend."""
    table, first, last = fitted.table, part is parts[0], part is parts[-1]
    wide = _printed_width(table) > _COLUMN if layout.width is None else layout.width > _ONE_COLUMN
    float_name = "table*" if wide else "table"
    label = f"\\label{{tab:{re.sub(r'[^A-Za-z0-9:.-]', '-', table.name)}}}"
    lines = [
        f"\\begin{{{float_name}}}",
        "\\centering",
        f"\\caption{{{tex_prose(table.title)}}}" if first else f"{tex_prose(table.title)} (continued)\\par",
        *([label] if first else []),
        f"\\smallskip{_tex_size(layout)}\\setlength{{\\tabcolsep}}{{{fitted.gap:g}pt}}",
        *_tex_body(table, part, layout),
        "",
        "\\smallskip",
        f"\\begin{{minipage}}{{\\linewidth}}{_note_size(layout)}\\raggedright",
    ]
    lines += [f"{tex_prose(text)}\\par" for text in (table.subtitle, table.legend) if text and last]
    lines += [f"\\textsuperscript{{{mark}}} {tex_prose(table.notes[mark - 1])}\\par" for mark in _marks(table, part)]
    return "\n".join([*lines, "\\end{minipage}", f"\\end{{{float_name}}}"]) + "\n"


def _tex_bare(fitted: Fitted, layout: Layout) -> str:
    """Format the table with its footnotes, to stand in a float."""
    table, part = fitted.table, range(len(fitted.table.rows))
    size = f"{_tex_size(layout)}\\setlength{{\\tabcolsep}}{{{fitted.gap:g}pt}}"
    lines = [f"{{\\noindent{size}%", *_tex_body(table, part, layout)]
    if marks := _marks(table, part):
        notes = [f"\\textsuperscript{{{mark}}} {tex_prose(table.notes[mark - 1])}\\par" for mark in marks]
        lines += [
            "\\par\\smallskip",
            f"\\noindent\\begin{{minipage}}{{\\linewidth}}{_note_size(layout)}\\raggedright",
            *notes,
            "\\end{minipage}",
        ]
    return "\n".join([*lines, "}"]) + "\n"


def _tex_body(table: Table, part: range, layout: Layout) -> Iterator[str]:
    """Some lines of the table under its heading; one without a set size is no wider than the column or page."""
    letters, exact = words(layout), layout.width is not None
    edge = "@{}" if exact else ""
    if not exact:
        yield "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%"
    columns = "".join("r" if column.number else "l" for column in table.columns)
    yield f"\\begin{{tabular}}{{{edge}{columns}{edge}}}"
    yield "\\toprule"
    yield from _tex_heads(table.columns, exact)
    yield "\\midrule"
    yield from _tex_rows(table, part, letters)
    yield "\\bottomrule"
    yield f"\\end{{tabular}}{'' if exact else '}'}"


def _tex_size(layout: Layout) -> str:
    """Return the command for the text's size."""
    if layout == replace(NATURAL, heading=layout.heading):
        return "\\footnotesize"
    size = layout.font_size or SIZE
    return f"\\fontsize{{{size:g}}}{{{1.2 * size:g}}}\\selectfont"


def _note_size(layout: Layout) -> str:
    """Return the command for the size of footnotes, which is below that of the table."""
    if layout.width is None:
        return "\\scriptsize"
    size = layout.font_size or SIZE
    small = min(size, max(size - 1, 5.0))
    return f"\\fontsize{{{small:g}}}{{{1.2 * small:g}}}\\selectfont"


_GAP = 4.0  # points on each side of a column
_COLUMN = 46  # letters of footnotesize and the gaps between columns that fit one of an article's two columns
_ONE_COLUMN = 120.0  # millimeters: a wider float spans both columns
_COLUMN_MM, _PAGE_MM = 82.55, 174.625  # of CVPR
_PAGE = 46  # lines of a table and of what stands under it that fit a page, less its caption and heading


def _tex_parts(table: Table, letters: int) -> list[range]:
    """Split the rows into floats: as many as fit a page with their notes."""
    room = _PAGE - _note_lines(table, [table.subtitle, table.legend])
    starts, used, printed = [0], 0, frozenset[int]()
    for number in range(len(table.rows)):
        if used and used + _tex_height(table, number, printed, letters) > room:
            starts.append(number)
            used, printed = 0, frozenset()
        used += _tex_height(table, number, printed, letters)
        printed |= frozenset(_marks(table, range(number, number + 1)))
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(table.rows)], strict=True)]


def _tex_height(table: Table, number: int, printed: frozenset[int], letters: int) -> int:
    """Count the lines of a row and of its footnotes that are not printed yet."""
    lines = max(len(wrapped(*cell, letters)) for cell in zip(table.rows[number], table.columns, strict=True))
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
    return sum(column_widths(table, 1)) + len(table.columns)


def _tex_heads(columns: tuple[Column, ...], turn: bool) -> Iterator[str]:
    """The headings, and over them those of groups with a rule over the columns of each."""
    if any(column.group for column in columns):
        groups = column_groups(columns)
        yield " & ".join(f"\\multicolumn{{{len(places)}}}{{c}}{{{tex(group)}}}" for group, places in groups) + " \\\\"
        yield " ".join(f"\\cmidrule(lr){{{places[0] + 1}-{places[-1] + 1}}}" for group, places in groups if group)
    yield " & ".join(_tex_head(column, turn) for column in columns) + " \\\\"


def _tex_head(column: Column, turn: bool) -> str:
    """Format a heading, in two lines if it has several words; the name of a class is turned if it may be."""
    if turn and column.name.startswith(TURNED):
        return f"\\rotatebox{{90}}{{{tex(column.title)}}}"
    return tex_stack(in_two_lines(column.title, hyphens=False), "r" if column.number else "l", "b")


def _tex_rows(table: Table, part: range, letters: int) -> Iterator[str]:
    """Some lines of the table, apart where a section starts."""
    for number in part:
        if number > part.start and number in table.sections:
            yield "\\addlinespace"
        cells = zip(table.rows[number], table.columns, strict=True)
        yield " & ".join(_tex_cell(cell, column, letters) for cell, column in cells) + " \\\\"


def _tex_cell(cell: Cell, column: Column, letters: int) -> str:
    """A cell with its marks."""
    marks = f"\\textsuperscript{{{','.join(map(str, cell.marks))}}}" if cell.marks else ""
    if column.number:
        return tex(cell.text) + marks
    return tex_stack(wrapped(cell, column, letters), "l", "t", marks)
