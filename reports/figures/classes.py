"""Heat maps of results per class: each row's recall of each class, and a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reports.columns import superscript
from reports.figures import mark
from reports.figures.style import INK, MUTED, footnotes, page, styled, text_width, wrap, wrap_marked
from reports.layout import given_width, margin
from reports.numbers import fixed

_CELL, _TALL, _SIZE, _LINE, _GAP = 0.62, 0.27, 8.5, 0.15, 0.08
_SIDE, _HEAD = 2.4, 1.3  # inches, at most: names beside the rows; names over the columns, which are turned
_SHADES = "Blues"


@dataclass(frozen=True)
class Cells:
    """A heat map of percentages.

    Attributes:
        sides: Names of the lines, with the marks of their footnotes.
        heads: Names of the columns.
        values: Percentages (lines, columns); NaN: none.
        places: The index in the plot's frame of each cell (lines, columns); -1: none.
        down: What the lines are.
        across: What the columns are.
        between: The column before which a gap stands, as between lowest and highest; 0: none.
    """

    sides: Sequence[tuple[str, tuple[int, ...]]]
    heads: Sequence[str]
    values: np.ndarray
    places: np.ndarray
    down: str
    across: str
    between: int = 0


@styled
def class_map(cells: Cells, title: str, subtitle: str, caption: str, notes: Sequence[str] = ()) -> Figure:
    """Draw a heat map whose cells hold percentages, rounded to integers where there is no room for more."""
    exact = given_width()
    most = _SIDE if exact is None else 0.36 * exact
    sides = [wrap_marked(name, superscript(marks), _SIZE, most) for name, marks in cells.sides]
    side = max(text_width(line, _SIZE) for lines in [*sides, [cells.down]] for line in lines)
    left = margin() + side + _GAP + (0.0 if exact is None else 0.06)  # letters are not as wide to a hair
    gap = 0.1 if cells.between else 0.0
    wide = _CELL if exact is None else (exact - margin() - left - gap) / len(cells.heads)
    heads = [wrap(name, _SIZE, _HEAD) for name in cells.heads]
    turned = any(text_width(name, _SIZE) > wide - 0.06 for name in cells.heads)
    head = max(text_width(line, _SIZE) for lines in heads for line in lines) if turned else _LINE
    tall = [max(_TALL, _LINE * len(lines) + 0.08) for lines in sides]
    width = left + gap + wide * len(cells.heads) + margin()
    sheet = page(title, subtitle, [caption], max(width, 5.0), 0.32 + head + sum(tall) + 0.1, list(footnotes(notes)))
    board = sheet.axes(0, sheet.bottom, sheet.width, sheet.top - sheet.bottom)
    board.set_axis_off()
    board.set(xlim=(0, sheet.width), ylim=(sheet.top - sheet.bottom, 0))
    board.text(left, 0.1, cells.across, size=_SIZE, color=MUTED, va="center")
    board.text(left - _GAP, 0.22 + head, cells.down, size=_SIZE, color=MUTED, ha="right", va="bottom")
    starts = [
        left + place * wide + (gap if cells.between and place >= cells.between else 0.0) for place in range(len(heads))
    ]
    for start, lines in zip(starts, heads, strict=True):
        looks: dict[str, Any] = {"size": _SIZE, "ha": "center", "va": "bottom", "linespacing": 1.0}
        text = "\n".join(lines[: max(int(wide / _LINE), 1)]) if turned else " ".join(lines)
        board.text(start + wide / 2, 0.25 + head, text, rotation=90 if turned else 0, **looks)
    top, digits = 0.3 + head, int(text_width("88.8", _SIZE) <= wide - 0.05)
    for line, (lines, height) in enumerate(zip(sides, tall, strict=True)):
        board.text(
            left - _GAP, top + height / 2, "\n".join(lines), size=_SIZE, ha="right", va="center", linespacing=1.0
        )
        for column, start in enumerate(starts):
            gid = mark(board, int(cells.places[line, column])) if cells.places[line, column] >= 0 else None
            _draw_cell(board, (start, top, wide, height), float(cells.values[line, column]), gid, digits)
        top += height
    return sheet.figure


def _draw_cell(board: Axes, box: tuple[float, float, float, float], value: float, gid: str | None, digits: int) -> None:
    """Draw a cell, the darker the larger its percentage; one without a value is white."""
    x, y, wide, tall = box
    known = value == value
    color = colormaps[_SHADES](0.85 * value / 100) if known else "white"
    board.add_patch(Rectangle((x, y), wide, tall, facecolor=color, edgecolor="white", linewidth=0.8, gid=gid))
    text = "–" if not known else f"{value:g}" if value in (0, 100) else fixed(value, digits)
    size = min(_SIZE, _SIZE * (wide - 0.03) / text_width(text, _SIZE))
    ink = "white" if known and value > 65 else INK if text != "0" else MUTED
    board.text(x + wide / 2, y + tall / 2, text, size=size, ha="center", va="center_baseline", color=ink)
