"""Fit a table to an exact width at an exact size of text: which columns it has, and how far apart they stand."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from reports.columns import column_groups, in_two_lines
from reports.latex_widths import mark_points, points
from reports.layout import MILLIMETERS, SIZE, Layout
from reports.numbers import fixed
from reports.tables import MISSING, Cell, Column, Table, turned

POINTS = 72.27 / MILLIMETERS  # of TeX, per millimeter
_SPARE = 1.035  # other editions of Computer Modern, such as those of fontenc T1, are up to 3% wider
_WORDS = 40  # letters in a line of a cell of words
_LABEL, _LEAST = 0.3, 14  # a line of words: max. share of the width, or this many letters if more
_GAPS = (4.0, 3.0, 2.0, 1.5)  # points on each side of a column
_RECALL = "recall_"  # names of columns
# Columns in the order in which they are kept; others come after these, and the first column always stays.
_KEPT = (
    *("difference", "effect", "worth", "interval", "top1_mean", "mean", "verdict", "change", _RECALL, "balanced_mean"),
    *("paper_top1", "paper_change", "p_adjusted", "loss_mean", "dataset", "seeds"),
)
# Columns of words beside a row's name that are left out like those of numbers.
_GIVING_WAY = ("dataset", "split", "images", "seeds", "results")
_MAIN = frozenset(_KEPT[:8])  # columns for which standard deviations give way
_MATRIX = "predicted_"  # those of a confusion matrix, which is shown whole
TURNED = (_RECALL, "turned_", _MATRIX)  # whose headings may be turned


@dataclass(frozen=True)
class Fitted:
    """A table that fits: its columns, the space beside each in points, and what was changed, in words."""

    table: Table
    gap: float
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class _Way:
    """A way to fit a table: the table, the space beside its columns, and the headings of those that are left out."""

    table: Table
    gap: float
    changed: str
    left_out: tuple[str, ...]
    missing: float  # share of what matters that is left out
    wide: bool  # wider than the room


def words(layout: Layout) -> int:
    """Return how many letters a line of a cell of words has at most."""
    if layout.width is None:
        return _WORDS
    letter = points("n", layout.font_size or SIZE)
    return min(max(int(_LABEL * layout.width * POINTS / letter), _LEAST), _WORDS)


def wrapped(cell: Cell, column: Column, letters: int) -> list[str]:
    """A cell's lines: long words wrap, numbers never."""
    if column.number:
        return [cell.text]
    return textwrap.wrap(cell.text, letters, break_long_words=False, break_on_hyphens=False)


def fit(table: Table, layout: Layout) -> Fitted:
    """Fit a table to the layout's width at its size, so that LaTeX need not scale it.

    Of the ways to do so that show most, the first is taken: with less space between columns, a table of classes with
    the classes as rows, without standard deviations, shares of classes in whole percent.
    """
    table = replace(table, columns=tuple(replace(one, title=one.short or one.title) for one in table.columns))
    ways = list(_ways(table, layout))
    best = min(ways, key=lambda way: (way.wide, way.missing))
    remarks = [best.changed] if best.changed else []
    if best.left_out:
        remarks.append(f"left out at this width: {', '.join(best.left_out)}; the CSV table has all columns")
    if best.wide:
        remarks.append("wider than asked for: choose a smaller --font-size, or a larger --width")
    return Fitted(best.table, best.gap, tuple(remarks))


def _ways(table: Table, layout: Layout) -> Iterator[_Way]:
    """Yield the ways to fit a table, the best to read first."""
    matrix = any(column.name.startswith(_MATRIX) for column in table.columns)
    classes = any(column.name.startswith(_RECALL) for column in table.columns)
    gaps = _GAPS if matrix else _GAPS[:3]
    means = _without_deviations(table)
    ways = [(table, ""), *([(turned(table), "")] if classes else [])]
    ways += [(means, _MEANS)] if not matrix else []
    ways += [(turned(means), _MEANS)] if classes else []
    ways += [(_in_whole_percent(means), _WHOLE)] if matrix or classes else []
    ways += [(_in_one_column(table), "")] if [one.name for one in table.columns[:2]] == ["change", "where"] else []
    for one, changed in ways:
        for gap in _GAPS if changed == _WHOLE else gaps:
            yield _way(one, layout, gap, changed)


_MEANS = "standard deviations are left out at this width"
_WHOLE = "shares are in whole percent at this width, without standard deviations"


def _way(table: Table, layout: Layout, gap: float, changed: str = "") -> _Way:
    """Keep the columns for which there is room, those that matter most first."""
    assert layout.width is not None
    room, size, letters = layout.width * POINTS, layout.font_size or SIZE, words(layout)
    ranks = {name: rank for rank, name in enumerate(_KEPT)}
    names = [column.name for column in table.columns]
    whole = [place for place, name in enumerate(names) if name.startswith(_MATRIX)]
    naming = takewhile(lambda place: not table.columns[place].number, range(len(names)))
    kept = sorted({0, *(place for place in naming if names[place] not in _GIVING_WAY), *whole})
    others = [place for place in range(1, len(names)) if place not in kept]
    ranked = [ranks.get(_RECALL if name.startswith(_RECALL) else name, len(_KEPT)) for name in names]
    for place in sorted(others, key=lambda place: (ranked[place], place)):
        more = sorted([*kept, place])
        if len(kept) == 1 or width(_with_columns(table, more), size, gap, letters) <= room:
            kept = more
    missing = [place for place in range(len(names)) if place not in kept]
    # Of a table per class, all classes and rows matter; of one that is turned, each column is a row.
    matter = [place for place, name in enumerate(names) if name in _MAIN or name.startswith(TURNED)]
    lost = sum(place in missing for place in matter) / max(len(matter), 1)
    part = _with_columns(table, kept)
    left_out = tuple(table.columns[place].title for place in missing)
    return _Way(part, gap, changed, left_out, lost, width(part, size, gap, letters) > room)


def width(table: Table, size: float, gap: float, letters: int) -> float:
    """Estimate the width of a table in LaTeX, in points; the estimate is rather too large."""
    widths = [
        max([_head(column, size), *(_cell(row[place], column, size, letters) for row in table.rows)])
        for place, column in enumerate(table.columns)
    ]
    for group, places in column_groups(table.columns):
        span = sum(widths[place] for place in places) + 2 * gap * (len(places) - 1)
        widths[places[-1]] += max(0.0, points(group, size) - span)
    return _SPARE * sum(widths) + 2 * gap * (len(widths) - 1)


def _head(column: Column, size: float) -> float:
    if column.name.startswith(TURNED):
        return 1.2 * size
    return max(points(line, size) for line in in_two_lines(column.title, hyphens=False))


def _cell(cell: Cell, column: Column, size: float, letters: int) -> float:
    first, *others = (points(line, size) for line in wrapped(cell, column, letters) or [""])
    return max([first + mark_points(cell.marks, size), *others])


def _with_columns(table: Table, places: Sequence[int]) -> Table:
    rows = tuple(tuple(row[place] for place in places) for row in table.rows)
    return replace(table, columns=tuple(table.columns[place] for place in places), rows=rows)


def _in_one_column(table: Table) -> Table:
    """Return the table with the words of its first two columns in one."""
    first, second = table.columns[:2]
    column = replace(first, title=f"{first.title}, {second.title}")
    rows = tuple(
        (Cell(f"{one.text}, {other.text}", one.marks + other.marks), *rest) for one, other, *rest in table.rows
    )
    return replace(table, columns=(column, *table.columns[2:]), rows=rows)


def _without_deviations(table: Table) -> Table:
    """Return the table with means alone, without the standard deviations behind them."""
    rows = tuple(tuple(replace(cell, text=cell.text.partition(" ± ")[0]) for cell in row) for row in table.rows)
    return replace(table, rows=rows, legend=table.legend.replace(" ± standard deviation", ""))


def _in_whole_percent(table: Table) -> Table:
    """Return a table whose shares of classes have no decimals; small ones stay apart from 0."""
    shares = [column.name.startswith((_RECALL, _MATRIX)) for column in table.columns]
    rows = tuple(
        tuple(replace(cell, text=_whole(cell.text)) if share else cell for cell, share in zip(row, shares, strict=True))
        for row in table.rows
    )
    return replace(table, rows=rows)


def _whole(share: str) -> str:
    """Return a share in whole percent; what is missing stays."""
    if share == MISSING:
        return share
    return "<1" if 0 < float(share) < 0.5 else fixed(float(share), 0)
