"""A matrix of designs: the difference of each two, with its interval and verdict, and each design's result and cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from reports.figures import mark
from reports.figures.forest import signed_interval, signed_number
from reports.figures.style import BAND, INK, MUTED, RULE, absence, known, legend_room, page, styled, text_width, wrap
from reports.layout import given_width, margin
from reports.numbers import fixed
from reports.row_summary import RowSummary
from reports.statistics import MEASURES, Measure, Verdict
from reports.tables import amount, mean_sd, unit

_SIZE, _SMALL, _NAME = 8.5, 6.5, 2.4
_TALL, _LINE, _HEAD, _COST = 0.42, 0.16, 0.3, 0.85
_WITH_COSTS = 6.0  # inches of an exact width that hold the costs
_WIDE, _NARROW, _MOST = 1.0, 0.6, 9  # cells with and without interval; designs up to which there is room for it
_LOOKS: dict[str, dict[str, Any]] = {
    Verdict.BETTER: {"facecolor": "#A6CDE6", "edgecolor": "white"},
    Verdict.WORSE: {"facecolor": "#F2BE9C", "edgecolor": "white"},
    Verdict.INCONCLUSIVE: {"facecolor": BAND, "edgecolor": "white"},
    Verdict.NOT_TESTED: {"facecolor": "white", "edgecolor": RULE, "hatch": "////"},
}


@styled
def pair_matrix(
    rows: Sequence[RowSummary], pairs: pd.DataFrame, measure: Measure, words: tuple[str, str, str]
) -> Figure:
    """Draw the lower triangle of a matrix of designs; `words` are title, subtitle and caption.

    `pairs` has row, base, difference, low, high and verdict. Designs are numbered, and columns named by number.
    """
    wide, title, subtitle, caption = _WIDE if len(rows) <= _MOST else _NARROW, *words
    exact = given_width()
    most = _NAME if exact is None else 0.3 * exact
    names = [wrap(f"{number}  {row.label}", _SIZE, most) for number, row in enumerate(rows, start=1)]
    left = max(text_width(line, _SIZE) for lines in names for line in lines) + 0.12
    tall = max(_TALL, _LINE * max(map(len, names)) + 0.1)
    costs = exact is None or exact >= _WITH_COSTS
    if exact is not None:
        wide = (exact - 2 * margin() - left - (2 * _COST if costs else 0.0)) / len(rows)
    inside = left + wide * len(rows) + (2 * _COST if costs else 0.0)
    used = [verdict for verdict in _LOOKS if (pairs["verdict"] == verdict).any()]
    handles = [Patch(label=str(verdict), **_LOOKS[verdict]) for verdict in used]
    foot = 0.45 + legend_room(handles)
    sheet = page(title, subtitle, [caption], max(inside + 2 * margin(), 6.5), _HEAD + tall * len(rows) + foot)
    board = sheet.axes(margin(), sheet.bottom + foot, inside, _HEAD + tall * len(rows))
    board.set_axis_off()
    board.set(xlim=(0, inside), ylim=(_HEAD + tall * len(rows) + 0.02, -0.02))
    places = {row.row: place for place, row in enumerate(rows)}
    for place, lines in enumerate(names):
        middle = _HEAD + tall * (place + 0.5)
        board.text(left + wide * (place + 0.5), _HEAD / 2, str(place + 1), size=_SIZE, ha="center", va="center")
        for number, line in enumerate(lines):
            board.text(0, middle + (number - (len(lines) - 1) / 2) * _LINE, line, size=_SIZE, va="center")
        _diagonal(board, rows[place], (left + wide * place, _HEAD + tall * place, wide, tall), measure)
    if costs:
        _costs(board, rows, left + wide * len(rows), tall)
    for index, pair in zip(pairs.index, pairs.to_dict("records"), strict=True):
        row, column = places[pair["row"]], places[pair["base"]]
        cell = (left + wide * column, _HEAD + tall * row, wide, tall)
        _difference(board, cell, pair, MEASURES[measure].digits, mark(board, int(index)))
    sheet.legend(handles, sheet.bottom + 0.12)
    return sheet.figure


def _diagonal(board: Axes, row: RowSummary, cell: tuple[float, float, float, float], measure: Measure) -> None:
    """Write the result of a design where its row and column meet."""
    x, y, wide, tall = cell
    result, digits = (row.top1 if measure == "top1" else row.loss), MEASURES[measure].digits
    there = (fixed(result.mean, digits), mean_sd(result.mean, result.sd, digits))[wide >= _WIDE] if result.seeds else ""
    board.text(
        x + wide / 2, y + tall / 2, there or absence(row.status), size=min(_SIZE - 1, 17 * wide), weight="bold",
        ha="center", va="center", color=INK if there else MUTED,
    )  # fmt: skip


def _costs(board: Axes, rows: Sequence[RowSummary], x: float, tall: float) -> None:
    """Write the parameters and MACs of designs beside the matrix."""
    for number, name in enumerate(("params", "MACs")):
        counts = [getattr(row, name.lower()) for row in rows]
        right = x + _COST * (number + 1)
        board.text(
            right, _HEAD / 2, f"{name} ({unit(counts)})", size=_SMALL + 0.5, ha="right", va="center", color=MUTED
        )
        for place, count in enumerate(counts):
            shown = amount(count, unit(counts))
            board.text(right, _HEAD + tall * (place + 0.5), shown, size=_SIZE - 0.5, ha="right", va="center")


def _difference(
    board: Axes, cell: tuple[float, float, float, float], line: dict[Any, Any], digits: int, gid: str
) -> None:
    """Draw the cell of two designs: its color the verdict, its text difference and interval."""
    x, y, wide, tall = cell
    looks = _LOOKS[line["verdict"]]
    board.add_patch(Rectangle((x, y), wide, tall, linewidth=1.2, gid=gid, **looks))
    value, low, high = (known(line[name]) for name in ("difference", "low", "high"))
    interval = signed_interval(low, high, digits) if low is not None and wide >= _WIDE else ""
    sure = line["verdict"] in (Verdict.BETTER, Verdict.WORSE)
    box = {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1.0}} if "hatch" in looks else {}
    board.text(
        x + wide / 2, y + tall * (0.36 if interval else 0.5), signed_number(value, digits),
        size=min(_SIZE, 19 * wide), ha="center", va="center", weight="bold" if sure else "normal", **box,
    )  # fmt: skip
    board.text(x + wide / 2, y + tall * 0.73, interval, size=_SMALL, ha="center", va="center", color=INK)
