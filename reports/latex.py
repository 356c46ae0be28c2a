"""A table as LaTeX: floats for an article, or a table for a float of one's own, at the width of a column or page."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import replace

from reports.columns import column_groups, column_widths, in_two_lines
from reports.latex_escape import tex, tex_prose, tex_stack
from reports.layout import NATURAL, SIZE, Layout
from reports.tables import Cell, Column, Table, turned


def latex(table: Table, layout: Layout = NATURAL) -> str:
    """Format as LaTeX floats for an article, with booktabs and graphicx: the table, no wider than the page, and notes.

    A wide table spans both columns of a page that has two; one taller than a page goes on in further floats, the notes
    under the rows that have them. Headings stand in two lines where that saves width. A comment says what was done.

    A layout with an exact width leaves out the columns for which it has no room, and says which; one without heading
    has no float, caption and legend, for a float of one's own.
    """
    done = f"% {' '.join(table.details.split())}\n" if table.details else ""
    needs = f"{done}% needs \\usepackage{{booktabs,graphicx}}\n"
    table, left_out = _fitted_either_way(table, layout)
    if left_out:
        needs += f"% left out at this width: {tex(', '.join(left_out))}; the CSV table has all columns\n"
    words = _words(layout)
    if not layout.heading:
        return needs + _tex_bare(table, layout)
    parts = _tex_parts(table, words)
    floats = [_tex_float(table, part, parts, layout) for part in parts]
    return needs + "\n".join(floats)


def _tex_float(table: Table, part: range, parts: list[range], layout: Layout) -> str:
    """Format the float of some rows: the first has the label, the last the legend."""
    first, last = part is parts[0], part is parts[-1]
    wide = _printed_width(table) > _COLUMN if layout.width is None else layout.width > _ONE_COLUMN
    float_name = "table*" if wide else "table"
    label = f"\\label{{tab:{re.sub(r'[^A-Za-z0-9:.-]', '-', table.name)}}}"
    lines = [
        f"\\begin{{{float_name}}}",
        "\\centering",
        f"\\caption{{{tex_prose(table.title)}}}" if first else f"{tex_prose(table.title)} (continued)\\par",
        *([label] if first else []),
        f"\\smallskip{_tex_size(layout)}\\setlength{{\\tabcolsep}}{{4pt}}",
        *_tex_body(table, part, layout),
        "",
        "\\smallskip",
        "\\begin{minipage}{\\linewidth}\\scriptsize\\raggedright",
    ]
    lines += [f"{tex_prose(text)}\\par" for text in (table.subtitle, table.legend) if text and last]
    lines += [f"\\textsuperscript{{{mark}}} {tex_prose(table.notes[mark - 1])}\\par" for mark in _marks(table, part)]
    return "\n".join([*lines, "\\end{minipage}", f"\\end{{{float_name}}}"]) + "\n"


def _tex_bare(table: Table, layout: Layout) -> str:
    """Format the table with its footnotes, to stand in a float."""
    part = range(len(table.rows))
    lines = [f"{{\\noindent{_tex_size(layout)}\\setlength{{\\tabcolsep}}{{4pt}}%", *_tex_body(table, part, layout)]
    if marks := _marks(table, part):
        notes = [f"\\textsuperscript{{{mark}}} {tex_prose(table.notes[mark - 1])}\\par" for mark in marks]
        lines += [
            "\\par\\smallskip",
            "\\noindent\\begin{minipage}{\\linewidth}\\scriptsize\\raggedright",
            *notes,
            "\\end{minipage}",
        ]
    return "\n".join([*lines, "}"]) + "\n"


def _tex_body(table: Table, part: range, layout: Layout) -> Iterator[str]:
    """Some lines of the table under its heading, no wider than the column or page."""
    words, turn = _words(layout), layout.width is not None
    yield "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%"
    yield f"\\begin{{tabular}}{{{''.join('r' if column.number else 'l' for column in table.columns)}}}"
    yield "\\toprule"
    yield from _tex_heads(table.columns, turn)
    yield "\\midrule"
    yield from _tex_rows(table, part, words)
    yield "\\bottomrule"
    yield "\\end{tabular}}"


def _tex_size(layout: Layout) -> str:
    """Return the command for the text's size."""
    if layout == replace(NATURAL, heading=layout.heading):
        return "\\footnotesize"
    size = layout.font_size or SIZE
    return f"\\fontsize{{{size:g}}}{{{1.2 * size:g}}}\\selectfont"


def _words(layout: Layout) -> int:
    """Return how many letters a line of a cell of words has at most."""
    return _WORDS if layout.width is None else min(max(int(0.32 * _room(layout)), 14), _WORDS)


def _room(layout: Layout) -> float:
    """Estimate how many letters fit an exact width; infinite without one."""
    if layout.width is None:
        return math.inf
    return _EXACT * layout.width / _COLUMN_MM * SIZE / (layout.font_size or SIZE)


# Columns in the order in which they are kept; others come after these, and the first column always stays.
_KEPT = (
    *("difference", "effect", "worth", "interval", "top1_mean", "mean", "verdict", "change", "balanced_mean"),
    *("paper_top1", "paper_change", "p_adjusted", "loss_mean", "seeds"),
)


def _fitted(table: Table, layout: Layout) -> tuple[Table, list[str]]:
    """Return the table with the columns that an exact width holds, and the headings of the others."""
    places = list(range(1, len(table.columns)))
    ranks = {name: rank for rank, name in enumerate(_KEPT)}
    places.sort(key=lambda place: (ranks.get(table.columns[place].name, len(_KEPT)), place))
    if layout.width is not None:
        table = replace(table, columns=tuple(replace(one, title=one.short or one.title) for one in table.columns))
    kept, wrapped = [0], _narrowed(table, _words(layout))
    for place in places:
        part = _with_columns(wrapped, sorted([*kept, place]))
        whole = table.columns[place].name.startswith(_MATRIX)
        if len(kept) == 1 or whole or _printed_width(part) <= _room(layout):
            kept.append(place)
    left_out = [column.title for place, column in enumerate(table.columns) if place not in kept]
    return _with_columns(table, sorted(kept)), left_out


def _fitted_either_way(table: Table, layout: Layout) -> tuple[Table, list[str]]:
    """Return the fitted table; one of classes that are left out with classes as rows if that keeps more of it."""
    fitted, left_out = _fitted(table, layout)
    if any(column.name.startswith("recall_") for column in table.columns) and left_out:
        other, missing = _fitted(turned(table), layout)
        if len(missing) / len(table.rows) < len(left_out) / len(table.columns):
            return other, missing
    return fitted, left_out


def _with_columns(table: Table, places: list[int]) -> Table:
    rows = tuple(tuple(row[place] for place in places) for row in table.rows)
    return replace(table, columns=tuple(table.columns[place] for place in places), rows=rows)


def _narrowed(table: Table, words: int) -> Table:
    """Return the table to be measured: of each cell its longest line, and no headings that are turned."""
    columns = tuple(replace(one, title="") if one.name.startswith(_TURNED) else one for one in table.columns)
    rows = tuple(
        tuple(
            replace(cell, text=max(_wrapped(cell, column, words) or [""], key=len))
            for cell, column in zip(row, table.columns, strict=True)
        )
        for row in table.rows
    )
    return replace(table, rows=rows, columns=columns)


_MATRIX = "predicted_"  # names of columns: of a confusion matrix, which is shown whole
_TURNED = ("recall_", "turned_", _MATRIX)  # whose headings may be turned
_WORDS = 40  # letters in a line of a cell of words
_COLUMN = 46  # letters of footnotesize and the gaps between columns that fit one of an article's two columns
_EXACT, _COLUMN_MM = 57, 84.0  # letters of 8 points that fit so many millimeters; what does not is scaled
_ONE_COLUMN = 120.0  # millimeters: a wider float spans both columns
_PAGE = 46  # lines of a table and of what stands under it that fit a page, less its caption and heading


def _tex_parts(table: Table, words: int) -> list[range]:
    """Split the rows into floats: as many as fit a page with their notes."""
    room = _PAGE - _note_lines(table, [table.subtitle, table.legend])
    starts, used, printed = [0], 0, frozenset[int]()
    for number in range(len(table.rows)):
        if used and used + _tex_height(table, number, printed, words) > room:
            starts.append(number)
            used, printed = 0, frozenset()
        used += _tex_height(table, number, printed, words)
        printed |= frozenset(_marks(table, range(number, number + 1)))
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(table.rows)], strict=True)]


def _tex_height(table: Table, number: int, printed: frozenset[int], words: int) -> int:
    """Count the lines of a row and of its footnotes that are not printed yet."""
    lines = max(len(_wrapped(*cell, words)) for cell in zip(table.rows[number], table.columns, strict=True))
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
    if turn and column.name.startswith(_TURNED):
        return f"\\rotatebox{{90}}{{{tex(column.title)}}}"
    return tex_stack(in_two_lines(column.title, hyphens=False), "r" if column.number else "l", "b")


def _tex_rows(table: Table, part: range, words: int) -> Iterator[str]:
    """Some lines of the table, apart where a section starts."""
    for number in part:
        if number > part.start and number in table.sections:
            yield "\\addlinespace"
        cells = zip(table.rows[number], table.columns, strict=True)
        yield " & ".join(_tex_cell(cell, column, words) for cell, column in cells) + " \\\\"


def _wrapped(cell: Cell, column: Column, words: int) -> list[str]:
    """A cell's lines: long words wrap, numbers never."""
    if column.number:
        return [cell.text]
    return textwrap.wrap(cell.text, words, break_long_words=False, break_on_hyphens=False)


def _tex_cell(cell: Cell, column: Column, words: int) -> str:
    """A cell with its marks; a number's hyphen is a minus."""
    marks = f"\\textsuperscript{{{','.join(map(str, cell.marks))}}}" if cell.marks else ""
    if column.number:
        return tex(re.sub(r"-(?=\d)", "−", cell.text)) + marks
    return tex_stack(_wrapped(cell, column, words), "l", "t") + marks
