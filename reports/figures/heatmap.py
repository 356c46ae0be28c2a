"""A heat map of two flags: one cell per pair of values, shaded by the measure, better values brighter."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reports.figures import mark
from reports.figures.grid import Grid
from reports.figures.numbered_points import axis_range
from reports.figures.style import INK, MUTED, RULE, absence, page, styled, text_width, ticks, wrap
from reports.layout import given_width, margin
from reports.row_summary import status_of
from reports.statistics import MEASURES, Measure
from reports.tables import mean_sd

_CELL, _SIZE, _LINE, _NAME, _BAR = 0.5, 9.0, 0.17, 1.8, 0.18
_CELL_WIDE = (1.15, 2.2)  # at least and at most
_SHADES: dict[Measure, str] = {"top1": "cividis", "loss": "cividis_r"}


@styled
def heatmap(grid: Grid, title: str, subtitle: str, caption: str) -> Figure:
    """Draw a grid with the first flag's values from top to bottom and the second's from left to right."""
    results = {place: grid.summary(place) for place in grid.cells}
    means = [summary.mean for summary in results.values() if summary.seeds]
    low, high = axis_range(means, [0.0] * len(means), 5.0)
    shades, words = _SHADES[grid.measure], MEASURES[grid.measure]
    exact = given_width()
    sides = [wrap(name, _SIZE, _NAME if exact is None else 0.3 * exact) for name in grid.rows]
    left = (
        margin()
        + max(text_width(line, _SIZE, "bold") for line in [grid.down, *(line for lines in sides for line in lines)])
        + 0.12
    )
    wide = min(max(_CELL_WIDE[0], *(text_width(name, _SIZE) + 0.1 for name in grid.columns)), _CELL_WIDE[1])
    wide = wide if exact is None else (exact - margin() - left) / len(grid.columns)
    heads = [wrap(name, _SIZE, wide - 0.08) for name in grid.columns]
    shown = {place: _shown(grid, place, words.digits, wide) for place in product(grid.rows, grid.columns)}
    deep = [
        max(len(side), *(len(shown[row, column]) for column in grid.columns))
        for row, side in zip(grid.rows, sides, strict=True)
    ]
    tall = [max(_CELL, _LINE * count + 0.1) for count in deep]
    head = 0.3 + _LINE * max(map(len, heads)) + 0.08
    right = left + wide * len(grid.columns)
    width = exact or max(right + margin(), left + text_width(grid.across, _SIZE) + margin(), 6.5)
    off = [min(means, default=low) < low, max(means, default=high) > high]
    notes = [caption, *(["A cell off the scale has the shade of the scale's end."] if any(off) else [])]
    sheet = page(title, subtitle, notes, width, head + sum(tall) + 0.95)
    board = sheet.axes(0, sheet.bottom, width, sheet.top - sheet.bottom)
    board.set_axis_off()
    board.set(xlim=(0, width), ylim=(sheet.top - sheet.bottom, 0))
    board.text(left, 0.1, grid.across, size=_SIZE, weight="bold", va="center")
    board.text(left - 0.12, head - 0.17, grid.down, size=_SIZE, weight="bold", ha="right", va="center")
    scale = Normalize(low, high, clip=True)
    for column, lines in enumerate(heads):
        for number, line in enumerate(reversed(lines)):
            board.text(
                left + (column + 0.5) * wide, head - 0.15 - number * _LINE, line, size=_SIZE, ha="center", va="center"
            )
    y = head
    for row, lines, height in zip(grid.rows, sides, tall, strict=True):
        for number, line in enumerate(lines):
            below = (number - (len(lines) - 1) / 2) * _LINE
            board.text(left - 0.12, y + height / 2 + below, line, size=_SIZE, ha="right", va="center")
        for column, value in enumerate(grid.columns):
            cell = (left + column * wide, y, wide, height)
            summary = results.get((row, value))
            text = "\n".join(shown[row, value])
            if summary is not None and summary.seeds:
                gid = mark(board, list(grid.cells).index((row, value)))
                _draw_cell(board, cell, text, colormaps[shades](float(scale(summary.mean))), gid)
            else:
                _draw_cell(board, cell, text, None)
        y += height
    _draw_scale(sheet, (left, sheet.bottom + 0.55), (low, high), off, grid.measure)
    return sheet.figure


def _shown(grid: Grid, place: tuple[str, str], digits: int, wide: float) -> list[str]:
    """Return the lines of a cell: its mean and standard deviation, or why there are none."""
    runs = grid.cells.get(place)
    if runs is None:
        text = "not in the study"
    else:
        summary = grid.summary(place)
        text = mean_sd(summary.mean, summary.sd, digits) if summary.seeds else absence(status_of(runs))
    return [text] if given_width() is None else wrap(text, _SIZE, wide - 0.04)


def _draw_cell(
    board: Any, cell: tuple[float, float, float, float], words: str, color: Any, gid: str | None = None
) -> None:
    """Draw a cell with its text; a cell with a number has an id, one without is white and hatched."""
    x, y, width, height = cell
    looks: dict[str, Any] = {"facecolor": color} if color else {"facecolor": "white", "hatch": "////", "zorder": 0.5}
    board.add_patch(
        Rectangle((x, y), width, height, edgecolor="white" if color else RULE, linewidth=1.2, gid=gid, **looks)
    )
    ink = MUTED if color is None else "white" if _lightness(color) < 0.5 else INK
    style: dict[str, Any] = (
        {} if color else {"style": "italic", "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1.5}}
    )
    board.text(x + width / 2, y + height / 2, words, size=_SIZE, ha="center", va="center", color=ink, **style)


def _lightness(color: tuple[float, ...]) -> float:
    """Return the perceived lightness of a color, from 0 to 1."""
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def _draw_scale(
    sheet: Any, at: tuple[float, float], ends: tuple[float, float], off: Sequence[bool], measure: Measure
) -> None:
    """What the shades mean, with an arrow at an end that cells lie beyond."""
    low, high = ends
    bar = sheet.axes(*at, min(2.6, sheet.width - at[0] - 0.25), _BAR)
    bar.imshow([[place / 255 for place in range(256)]], cmap=_SHADES[measure], aspect="auto", extent=(low, high, 0, 1))
    bar.set_yticks([])
    bar.set_xticks(marks := ticks(low, high, 4), [f"{mark:g}" for mark in marks])
    bar.set_xlim(low, high)
    bar.tick_params(axis="x", length=3)
    bar.set_xlabel(MEASURES[measure].value)
    for place, marker, beyond in ((-0.03, "<", off[0]), (1.03, ">", off[1])):
        if beyond:
            bar.plot(place, 0.5, marker, transform=bar.transAxes, color=INK, markersize=6, clip_on=False)
