"""The trajectory after Figure 2 of the paper: top-1 along a roadmap, ours beside what its source prints."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from reports.figures import mark
from reports.figures.style import (
    BAND,
    BLUE,
    GREY,
    INK,
    MARGIN,
    MUTED,
    SKY,
    Page,
    absence,
    footnotes,
    known,
    page,
    styled,
)
from reports.formats import superscript
from reports.tables import MISSING, OURS, Cell, Table, mean_sd

OURS_FILL, OURS_LINE = SKY, BLUE
PAPERS_FILL, PAPERS_LINE = GREY, "#555555"

# The page, in inches: columns from the left, then what a line takes.
_WIDTH = 12.6
_GROUP_AT, _LABEL_AT, _MACS_AT, _MACS_END = 0.33, 1.9, 4.12, 5.2
_OURS_AT, _OURS_WIDE, _OURS_END = 5.35, 2.7, 9.1
_PAPERS_AT, _PAPERS_WIDE, _PAPERS_END, _GFLOPS_END = 9.35, 1.65, 11.58, 12.25
_HEADING = 40  # letters over the source's columns
_ROW, _ABOVE_BOARD, _BELOW_BOARD = 0.28, 0.68, 1.0  # a line; headings; axis, its label and the legend


@dataclass(frozen=True)
class _Bar:
    """A row of a panel on its ground; `absent` is what stands in place of a bar that cannot be."""

    mean: float | None
    sd: float | None
    adopted: bool
    ground: str = "white"
    absent: str = ""


@dataclass(frozen=True)
class _Look:
    """The colors of a panel."""

    fill: str
    line: str


@styled
def trajectory(table: Table) -> Figure:
    """Draw the roadmap from top to bottom: our top-1 and, in a separate panel, that which its source prints if any."""
    records = table.frame.to_dict("records")
    ours = [
        _Bar(known(line["top1_mean"]), known(line["top1_sd"]), line["adopted"], ground, absence(line["status"]))
        for line, ground in zip(records, _grounds(table), strict=True)
    ]
    papers = [_Bar(known(line["paper_top1"]), known(line["paper_top1_sd"]), line["adopted"]) for line in records]

    printed = {column.name for column in table.columns} & {"paper_top1", "paper_gflops"}
    wide = _WIDTH if printed else _OURS_END + 2 * MARGIN
    tall = _ROW * len(records)
    sheet = page(table.title, table.subtitle, list(footnotes(table.notes)), wide, _BELOW_BOARD + tall + _ABOVE_BOARD)
    bottom = sheet.bottom + _BELOW_BOARD
    _draw_headings(sheet, table, bottom + tall)
    board = sheet.axes(MARGIN, bottom, wide - 2 * MARGIN, tall)
    board.set_xlim(MARGIN, wide - MARGIN)
    _draw_board(board, table, ours, papers)
    ours_look, papers_look = _Look(OURS_FILL, OURS_LINE), _Look(PAPERS_FILL, PAPERS_LINE)
    _draw_panel(sheet.axes(_OURS_AT, bottom, _OURS_WIDE, tall), ours, ours_look)
    if "paper_top1" in printed:
        _draw_panel(sheet.axes(_PAPERS_AT, bottom, _PAPERS_WIDE, tall), papers, papers_look)
    sheet.legend(list(_legend(ours, papers)), sheet.bottom + 0.08)
    return sheet.figure


def _grounds(table: Table) -> list[str]:
    """Return the background of each row: every other group is shaded."""
    groups = [bisect_right(table.sections, place) for place in range(len(table.rows))]
    return [BAND if group % 2 else "white" for group in groups]


def _draw_headings(sheet: Page, table: Table, top: float) -> None:
    """Write the column headings, and above them their groups."""
    titles = {column.name: column.title for column in table.columns}
    for x, name, look in (
        (_LABEL_AT, "label", {"ha": "left"}),
        (_MACS_END, "macs", {"ha": "right"}),
        (_OURS_END, "top1_mean", {"ha": "right"}),
        (_PAPERS_END, "paper_top1", {"ha": "right"}),
        (_GFLOPS_END, "paper_gflops", {"ha": "right"}),
    ):
        sheet.text(x, top + 0.08, titles.get(name, ""), size=8.5, color=MUTED, va="bottom", **look)
    printed = next((column.group for column in table.columns if column.name.startswith("paper_")), None)
    for start, end, group in ((_MACS_AT, _OURS_END, OURS), (_PAPERS_AT, _GFLOPS_END, printed)):
        if group is None:
            continue
        sheet.text((start + end) / 2, top + 0.4, _fitted(group), weight="bold", ha="center", va="bottom")
        line = Line2D([start / sheet.width, end / sheet.width], [(top + 0.35) / sheet.height] * 2, color=MUTED)
        line.set_linewidth(0.8)
        sheet.figure.add_artist(line)


def _fitted(heading: str) -> str:
    """Shorten a heading to the width of its columns."""
    return heading if len(heading) <= _HEADING else f"{heading[: _HEADING - 1]}…"


def _draw_board(board: Axes, table: Table, ours: Sequence[_Bar], papers: Sequence[_Bar]) -> None:
    """Draw the rows without the panels: shaded groups with their names, labels and numbers."""
    board.set_axis_off()
    board.set(ylim=(len(ours) - 0.5, -0.5))
    ends = [*table.sections[1:], len(ours)]
    for start, end in zip(table.sections, ends, strict=True):
        board.axhspan(start - 0.5, end - 0.5, facecolor=ours[start].ground, edgecolor="none")
        board.text(
            _GROUP_AT, start, table.frame["group"].iloc[start], size=8.5, weight="bold", color=MUTED, va="center"
        )
    shown = {column.name: [row[place] for row in table.rows] for place, column in enumerate(table.columns)}
    nothing = [Cell("")] * len(ours)
    for place, (our, paper) in enumerate(zip(ours, papers, strict=True)):
        label, gflops = shown["label"][place], shown.get("paper_gflops", nothing)[place]
        board.text(_LABEL_AT, place, f"{label.text} {superscript(label.marks)}".strip(), va="center")
        for x, text in (
            (_MACS_END, shown["macs"][place].text),
            (_OURS_END, mean_sd(our.mean, our.sd) if our.mean is not None else MISSING),
            (_PAPERS_END, mean_sd(paper.mean, None) if "paper_top1" in shown else ""),
            (_GFLOPS_END, gflops.text),
        ):
            if text:
                board.text(x, place, text, ha="right", va="center")
        if gflops.marks:
            board.text(_GFLOPS_END + 0.04, place, superscript(gflops.marks), ha="left", va="center")


def _draw_panel(panel: Axes, bars: Sequence[_Bar], look: _Look) -> None:
    """Draw bars of top-1 on an axis that starts where differences can be seen, and the trajectory over them."""
    low, high = _axis_range(bars)
    panel.patch.set_visible(False)
    panel.set(xlim=(low, high), ylim=(len(bars) - 0.5, -0.5), yticks=[])
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.grid(axis="x")
    ticks = MaxNLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(low, high)
    panel.set_xticks([tick for tick in ticks if low <= tick <= high])
    panel.tick_params(axis="x", length=3)
    panel.set_xlabel(f"top-1 (%)\n(the axis starts at {low:g}, not at 0)" if low > 0 else "top-1 (%)", loc="left")
    for place, bar in enumerate(bars):
        if bar.mean is None:
            ground = {"facecolor": bar.ground, "edgecolor": "none", "pad": 1}  # hides a line that passes by
            looks: dict[str, Any] = {"style": "italic", "color": MUTED, "va": "center", "bbox": ground, "zorder": 4}
            panel.annotate(bar.absent, (low, place), (4, 0), textcoords="offset points", **looks)
        else:
            _draw_bar(panel, place, bar, look)
    _draw_line(panel, bars, look)


def _draw_bar(panel: Axes, place: int, bar: _Bar, look: _Look) -> None:
    """Draw a bar up to the mean, hatched for a side branch, with whiskers of one standard deviation.

    A mean too far off to be on the axis has an arrow at its edge; the number beside the panel tells how far it is.
    """
    low, high = panel.get_xlim()
    mean = bar.mean or 0.0
    fill, hatch = (look.fill, None) if bar.adopted else ("white", "/////")
    length = min(max(mean, low), high) - low
    looks: dict[str, Any] = {"color": fill, "edgecolor": look.line, "linewidth": 0.6, "hatch": hatch}
    panel.barh(place, length, left=low, height=0.62, gid=mark(panel, place), **looks)
    if not low <= mean <= high:
        marker = "<" if mean < low else ">"
        panel.plot(_on_axis(mean, low, high), place, marker, color=look.line, markersize=7, zorder=6)
    elif bar.sd is not None:
        panel.errorbar(mean, place, xerr=bar.sd, color=INK, linewidth=1.1, capsize=2.6, zorder=7)


def _draw_line(panel: Axes, bars: Sequence[_Bar], look: _Look) -> None:
    """Draw the line through the adopted rows, dotted past a row without a result or off the axis."""
    low, high = panel.get_xlim()
    for start, end, sure in _segments(bars, low, high):
        means = [_on_axis(bars[place].mean or 0.0, low, high) for place in (start, end)]
        panel.plot(means, [start, end], "-" if sure else ":", color=look.line, linewidth=1.4, zorder=3)
    for place, bar in enumerate(bars):
        if bar.adopted and bar.mean is not None and low <= bar.mean <= high:
            panel.plot(bar.mean, place, "o", color=look.line, markeredgecolor="white", markersize=5, zorder=5)


def _segments(bars: Sequence[_Bar], low: float, high: float) -> Iterator[tuple[int, int, bool]]:
    """Yield pairs of successive adopted rows with results, and whether the line between them is on the axis."""
    adopted = [place for place, bar in enumerate(bars) if bar.adopted]
    known = [place for place in adopted if bars[place].mean is not None]
    for start, end in pairwise(known):
        neighbours = adopted.index(end) == adopted.index(start) + 1
        yield start, end, neighbours and all(low <= (bars[place].mean or 0.0) <= high for place in (start, end))


def _on_axis(mean: float, low: float, high: float) -> float:
    """Return the mean, or the place of the arrow for a mean off the axis."""
    inset = 0.03 * (high - low)
    return mean if low <= mean <= high else min(max(mean, low + inset), high - inset)


def _axis_range(bars: Sequence[_Bar]) -> tuple[float, float]:
    """Return the ends of an axis that shows the differences of most rows.

    A row far from the others (a network that did not learn) would squeeze them together, so the range leaves it out.
    """
    known = [bar for bar in bars if bar.mean is not None]
    means = [bar.mean or 0.0 for bar in known]
    if not known:
        return 0.0, 100.0
    middle = statistics.median(means)
    spread = statistics.median(abs(mean - middle) for mean in means)
    near = [bar for bar, mean in zip(known, means, strict=True) if abs(mean - middle) <= max(8 * spread, 5.0)]
    ends = [(bar.mean or 0.0) + sign * (bar.sd or 0.0) for bar in near for sign in (-1, 1)]
    room = max(0.12 * (max(ends) - min(ends)), 0.25)
    step = 10 ** math.floor(math.log10(room))
    low = math.floor((min(ends) - room) / step) * step
    high = math.ceil((max(ends) + room / 2) / step) * step
    return max(round(low, 4), 0.0), min(round(high, 4), 102.0)


def _legend(ours: Sequence[_Bar], papers: Sequence[_Bar]) -> Iterator[Artist]:
    """Yield a legend entry per kind of mark in the figure."""
    low, high = _axis_range(ours)
    yield Line2D([], [], color=OURS_LINE, marker="o", markeredgecolor="white", markersize=5, label="adopted rows")
    if not all(sure for _, _, sure in _segments(ours, low, high)):
        yield Line2D([], [], color=OURS_LINE, linestyle=":", label="past a missing or off-axis row")
    yield Patch(facecolor="white", edgecolor=MUTED, hatch="/////", label="side branch, not adopted")
    if any(bar.sd is not None for bar in (*ours, *papers)):
        yield Line2D([], [], color=INK, linewidth=1.1, marker="|", label="± standard deviation")
    means = [bar.mean for bar in ours if bar.mean is not None]
    for marker, label, shown in (
        ("<", "below the axis", any(mean < low for mean in means)),
        (">", "above the axis", any(mean > high for mean in means)),
    ):
        if shown:
            yield Line2D([], [], color=OURS_LINE, linestyle="", marker=marker, markersize=7, label=label)
