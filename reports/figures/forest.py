"""Forest plots: one line per row or flag, with its value and CI on an axis and as numbers beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures import mark
from reports.figures.style import (
    BAND,
    INK,
    MUTED,
    held,
    inches_wide,
    legend_room,
    near,
    page,
    rounded_out,
    signed,
    text_width,
    ticks,
    wrap,
    wrap_marked,
)
from reports.layout import fitting, given_width, margin
from reports.numbers import signed as signed_fixed
from reports.tables import MISSING


@dataclass(frozen=True)
class Look:
    """How a mark looks, and what that means."""

    meaning: str
    marker: str
    color: str
    filled: bool = True

    def handle(self) -> Artist:
        """The mark in a legend."""
        return Line2D([], [], linestyle="", label=self.meaning, **self.style)

    @property
    def style(self) -> dict[str, Any]:
        """What matplotlib calls it."""
        face = self.color if self.filled else "white"
        return {"marker": self.marker, "color": self.color, "markerfacecolor": face, "markersize": 6.5}


@dataclass(frozen=True)
class Line:
    """A line: its label, its value with CI, its columns of text, and the text that replaces a missing value.

    `spread` is a wider range behind the interval, `other` a second value beside it (the paper's order's).
    """

    label: str
    value: float | None
    low: float | None
    high: float | None
    cells: tuple[str, ...]
    look: Look
    absent: str = ""
    spread: tuple[float, float] | None = None
    other: float | None = None
    marks: str = ""  # of footnotes, behind the label
    points: tuple[float, ...] = ()  # what the value is the mean of, as small marks below it


@dataclass(frozen=True)
class Words:
    """What stands around a forest plot: above, on its axis, over the columns of figures, and below."""

    title: str
    subtitle: str
    axis: str
    headings: tuple[str, ...]
    numbers: int  # of the headings, the first so many stand over numbers
    notes: Sequence[str]
    footnotes: Sequence[str] = ()


OTHER = Look("in the paper's order", "D", INK, filled=False)
STUDY = Look("one study", "|", MUTED)
_PANEL, _GAP, _LABEL_LEAST, _LABEL_MOST, _TOLD_MOST = 3.6, 0.25, 1.0, 3.2, 1.8
_NARROW_PANEL, _NARROW_GAP, _LABEL_SHARE = 1.25, 0.12, 0.42  # of an exact width: at least; a label's most
_TEXT_LINE, _PAD, _HEAD, _FOOT = 0.165, 0.13, 0.3, 0.95
_SIZE = 8.5
_BELOW = 0.085  # inches from the middle of a line to its small marks


def draw_forest(lines: Sequence[Line], words: Words, legend: Sequence[Artist]) -> Figure:
    """The lines from top to bottom, as tall as their labels need."""
    columns, panel_at, panel, width = _columns(lines, words)
    absent = [wrap(line.absent, _SIZE, 0.96 * panel) if line.value is None else [""] for line in lines]
    heights = [
        _PAD + _TEXT_LINE * max(len(absent[place]), *(len(column.lines[place]) for column in columns))
        for place in range(len(lines))
    ]
    middles = [below - height / 2 for below, height in zip(accumulate(heights), heights, strict=True)]
    tall = sum(heights)
    handles = [*legend, *_off_axis(lines)]
    axis = wrap(words.axis, _SIZE, width if given_width() is None else 2 * (width - margin() - panel_at - panel / 2))
    foot = _FOOT + legend_room(handles, 4) + _TEXT_LINE * (len(axis) - 1)
    sheet = page(words.title, words.subtitle, words.notes, width, _HEAD + tall + foot, words.footnotes)
    board = sheet.axes(0, sheet.bottom + foot, width, tall + _HEAD)
    board.set_axis_off()
    board.set(xlim=(0, width), ylim=(tall, -_HEAD))
    for place, (middle, height) in enumerate(zip(middles, heights, strict=True)):
        if place % 2:
            board.axhspan(middle - height / 2, middle + height / 2, facecolor=BAND, edgecolor="none")
        for column in columns:
            column.write(board, middle, column.lines[place])
    for column in columns:
        column.write(board, -0.12, [column.heading], color=MUTED)
    axes = sheet.axes(panel_at, sheet.bottom + foot, panel, tall)
    _draw_panel(axes, lines, middles, tall, "\n".join(axis), absent)
    sheet.legend(handles, sheet.bottom + 0.1, columns=4)
    return sheet.figure


def _columns(lines: Sequence[Line], words: Words) -> tuple[list[_Column], float, float, float]:
    """Place the columns of text and the panel: the columns, where the panel starts, its width, and the figure's.

    An exact width that does not hold all columns beside a panel keeps the first ones, then the last.
    """
    exact = given_width()
    most, gap = (_LABEL_MOST, _GAP) if exact is None else (_LABEL_SHARE * exact, _NARROW_GAP)
    labels = _Column.of([line.label for line in lines], "", margin(), most, marks=[line.marks for line in lines])
    panel_at = margin() + max(labels.width, _LABEL_LEAST if exact is None else 0.0) + gap
    cells = [[line.cells[place] for line in lines] for place in range(len(words.headings))]
    told = [_Column.of(texts, heading, 0.0, _TOLD_MOST) for texts, heading in zip(cells, words.headings, strict=True)]
    kept = list(range(len(told)))
    if exact is not None:
        first_last_middle = sorted(kept, key=lambda place: (place == 1, place))
        room = exact - margin() - panel_at - _NARROW_PANEL - gap
        fit = fitting([told[place].width for place in first_last_middle], room, gap)
        kept = sorted(first_last_middle[:fit])
    panel = _PANEL
    if exact is not None:
        panel = exact - margin() - panel_at - sum(told[place].width + gap for place in kept)
    columns, end = [labels], panel_at + panel
    for place in kept:
        right = place < words.numbers
        columns.append(_Column.of(cells[place], words.headings[place], end + gap, _TOLD_MOST, right))
        end = columns[-1].at + columns[-1].width
    return columns, panel_at, panel, exact or max(end + margin(), 8.0)


@dataclass(frozen=True)
class _Column:
    """A column of words: the lines of each, and where it stands, in inches."""

    lines: list[list[str]]
    at: float
    width: float
    right: bool
    heading: str

    @classmethod
    def of(
        cls,
        texts: Sequence[str],
        heading: str,
        at: float,
        at_most: float,
        right: bool = False,
        marks: Sequence[str] | None = None,
    ) -> _Column:
        """The column of some texts, as wide as they or their heading need."""
        lines = [
            wrap_marked(text, mark, _SIZE, at_most)
            for text, mark in zip(texts, marks or [""] * len(texts), strict=True)
        ]
        width = max(text_width(line, _SIZE) for line in [heading, *(part for parts in lines for part in parts)])
        return cls(lines, at, width, right, heading)

    def write(self, board: Axes, middle: float, lines: Sequence[str], **looks: Any) -> None:
        """Lines of words around the middle of a line of the plot."""
        x, side = (self.at + self.width, "right") if self.right else (self.at, "left")
        for number, line in enumerate(lines):
            below = (number - (len(lines) - 1) / 2) * _TEXT_LINE
            board.text(x, middle + below, line, size=_SIZE, ha=side, va="center", **looks)


def _draw_panel(
    panel: Axes,
    lines: Sequence[Line],
    middles: Sequence[float],
    tall: float,
    axis: str,
    absent: Sequence[Sequence[str]],
) -> None:
    """Marks and intervals on an axis that holds 0 and most values; what is off it has an arrow at its edge."""
    low, high = axis_range(lines)
    panel.patch.set_visible(False)
    panel.set(xlim=(low, high), ylim=(tall, 0), yticks=[])
    many = 7 if given_width() is None else max(int(inches_wide(panel) / 0.45), 2)
    panel.set_xticks(places := ticks(low, high, many), [signed(place) for place in places])
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.grid(axis="x")
    panel.tick_params(axis="x", length=3)
    panel.set_xlabel(axis)
    panel.axvline(0, color=MUTED, linewidth=1.0, zorder=1)
    for place, (line, middle) in enumerate(zip(lines, middles, strict=True)):
        if line.value is None:
            ground = {"facecolor": BAND if place % 2 else "white", "edgecolor": "none", "pad": 1.5}  # hides the rules
            looks: dict[str, Any] = {"style": "italic", "color": MUTED, "size": _SIZE, "va": "center", "bbox": ground}
            panel.text(low + 0.02 * (high - low), middle, "\n".join(absent[place]), **looks)
        else:
            _draw_line(panel, line, line.value, middle, mark(panel, place))


def _draw_line(panel: Axes, line: Line, value: float, y: float, gid: str) -> None:
    """One mark, with an id of its own, and what is known around it."""
    low, high = panel.get_xlim()
    if line.spread is not None:
        ends = [min(max(end, low), high) for end in line.spread]
        panel.plot(ends, [y, y], color=MUTED, linewidth=0.8, zorder=2)
        inside = [end for end in line.spread if low <= end <= high]
        panel.plot(inside, [y] * len(inside), "|", color=MUTED, markersize=5)
    if line.low is not None and line.high is not None:
        ends = [min(max(end, low), high) for end in (line.low, line.high)]
        panel.plot(ends, [y, y], color=line.look.color, linewidth=1.8, solid_capstyle="butt", zorder=3)
        for marker, end, beyond in (("<", low, line.low < low), (">", high, line.high > high)):
            if beyond and low < value < high:
                panel.plot(end, y, marker, color=line.look.color, markersize=4, clip_on=False, zorder=4)
    if line.points:
        shown = [point for point in line.points if low <= point <= high]
        panel.plot(shown, [y + _BELOW] * len(shown), "|", color=MUTED, markersize=4.5, zorder=2)
        for marker, end, beyond in (("<", low, min(line.points) < low), (">", high, max(line.points) > high)):
            if beyond:
                panel.plot(end, y + _BELOW, marker, color=MUTED, markersize=3.5, clip_on=False, zorder=2)
    if line.other is not None:
        panel.plot(held(line.other, low, high), y, linestyle="", zorder=6, **_beyond(OTHER, line.other, low, high))
    panel.plot(held(value, low, high), y, linestyle="", zorder=5, gid=gid, **_beyond(line.look, value, low, high))


def _beyond(look: Look, value: float, low: float, high: float) -> dict[str, Any]:
    """A mark's style; off the axis it is an arrow, as dark."""
    face = {"markerfacecolor": "none", "markersize": 8} if look is OTHER else {}
    if low <= value <= high:
        return {**look.style, **face}
    return {"marker": "<" if value < low else ">", "color": look.color, "markersize": 8}


def axis_range(lines: Sequence[Line]) -> tuple[float, float]:
    """Where the axis ends: it holds 0 and most values, and of intervals what does not squeeze the values together."""
    values = [value for line in lines for value in (line.value, line.other) if value is not None]
    if not values:
        return -1.0, 1.0
    kept = [*near(values, 3.0, 0.0), 0.0]
    low, high = min(kept), max(kept)
    beyond = 1.2 * max(high - low, 0.5)
    reach = [
        end
        for line in lines
        if line.value in kept
        for end in (line.low, line.high, *(line.spread or ()), *line.points)
        if end is not None
    ]
    low, high = max(min([low, *reach]), low - beyond), min(max([high, *reach]), high + beyond)
    return rounded_out(low, high, max(0.04 * (high - low), 0.02))


def _off_axis(lines: Sequence[Line]) -> list[Artist]:
    """The arrow of values off the axis, where there is one."""
    low, high = axis_range(lines)
    if all(line.value is None or low <= line.value <= high for line in lines):
        return []
    return [Line2D([], [], linestyle="", marker=">", color=INK, markersize=8, label="off the axis")]


def signed_number(value: float | None, digits: int) -> str:
    """Format a change as the column beside the axis shows it."""
    return MISSING if value is None else signed_fixed(value, digits)


def signed_interval(low: float | None, high: float | None, digits: int) -> str:
    """An interval as it stands beside the axis."""
    if low is None or high is None:
        return MISSING
    return f"{signed_fixed(low, digits)} to {signed_fixed(high, digits)}"
