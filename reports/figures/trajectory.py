"""The trajectory after Figure 2 of the paper: top-1 along a roadmap, ours beside what its source prints."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from reports.columns import superscript
from reports.figures import mark
from reports.figures.style import (
    BAND,
    BLUE,
    GREY,
    INK,
    MUTED,
    SKY,
    STYLE,
    Page,
    absence,
    footnotes,
    inches_wide,
    known,
    legend_room,
    near,
    page,
    styled,
    text_width,
    wrap,
    wrap_marked,
)
from reports.layout import given_width, margin
from reports.tables import MISSING, OURS, Cell, Table, mean_sd

OURS_FILL, OURS_LINE = SKY, BLUE
PAPERS_FILL, PAPERS_LINE = GREY, "#555555"

_HEADING = 40  # letters over the source's columns
_ROW, _ABOVE_BOARD, _BELOW_BOARD = 0.28, 0.68, 1.0  # a line; headings; axis, its label and the legend
_TEXT_LINE, _GAP = 0.16, 0.1
_LABEL_SHARE, _WITH_PAPERS = 0.4, 5.5  # of an exact width: a label's most; inches that hold the source's panel


@dataclass(frozen=True)
class _Columns:
    """Where the columns of the page stand, in inches from the left; None: left out, as an exact width does."""

    width: float = 12.6
    group: float | None = 0.33
    label: float = 1.9
    macs: float | None = 4.12
    macs_end: float = 5.2
    ours: float = 5.35
    ours_wide: float = 2.7
    ours_end: float = 9.1
    papers: float | None = 9.35
    papers_wide: float = 1.65
    papers_end: float = 11.58
    gflops_end: float | None = 12.25
    label_wide: float = 4.0


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


def _columns(table: Table, printed: set[str], bars: Sequence[_Bar]) -> _Columns:
    """Place the columns: an exact width holds labels, top-1 and, if it is wide, the source's top-1."""
    exact = given_width()
    if exact is None:
        natural = _Columns()
        return natural if printed else replace(natural, width=natural.ours_end + 2 * margin(), papers=None)
    size, labels = STYLE["font.size"], [f"{row[0].text} {superscript(row[0].marks)}" for row in table.rows]
    label = min(max(text_width(text, size) for text in labels), _LABEL_SHARE * exact)
    words = [*(mean_sd(bar.mean, bar.sd) for bar in bars), "top-1 (%)"]
    number = max(text_width(text, size) for text in words)
    papers = exact >= _WITH_PAPERS and "paper_top1" in printed
    theirs = text_width("top-1 (%)", size) if papers else 0.0
    room = exact - 2 * margin() - label - number - 2 * _GAP - (theirs + 3 * _GAP if papers else 0.0)
    wide = room * (0.62 if papers else 1.0)
    ours = margin() + label + _GAP
    ours_end = ours + wide + _GAP + number
    return _Columns(
        exact, None, margin(), None, 0.0, ours, wide, ours_end, ours_end + 2 * _GAP if papers else None,
        room - wide, exact - margin(), None, label,
    )  # fmt: skip


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
    columns = _columns(table, printed, ours)
    labels = [_label(row[0], columns) for row in table.rows]
    line = max(_ROW, _TEXT_LINE * max(map(len, labels), default=1) + 0.04)
    above = _ABOVE_BOARD if columns.papers is not None or columns.macs is not None else _ABOVE_BOARD - 0.34
    tall, handles = line * len(records), list(_legend(ours, papers))
    below = _BELOW_BOARD + legend_room(handles)
    shown = {mark for row in table.rows for cell in row for mark in cell.marks if columns.group or cell is row[0]}
    notes = [note for number, note in enumerate(footnotes(table.notes), start=1) if number in shown]
    sheet = page(table.title, table.subtitle, [], columns.width, below + tall + above, notes)
    bottom = sheet.bottom + below
    _draw_headings(sheet, table, bottom + tall, columns)
    board = sheet.axes(margin(), bottom, sheet.width - 2 * margin(), tall)
    board.set_xlim(margin(), sheet.width - margin())
    _draw_board(board, table, labels, ours, papers, columns)
    ours_look, papers_look = _Look(OURS_FILL, OURS_LINE), _Look(PAPERS_FILL, PAPERS_LINE)
    _draw_panel(sheet.axes(columns.ours, bottom, columns.ours_wide, tall), ours, ours_look)
    if "paper_top1" in printed and columns.papers is not None:
        _draw_panel(sheet.axes(columns.papers, bottom, columns.papers_wide, tall), papers, papers_look)
    sheet.legend(handles, sheet.bottom + 0.08)
    return sheet.figure


def _label(cell: Cell, columns: _Columns) -> list[str]:
    """Return a row's label in the lines that an exact width needs."""
    if given_width() is None:
        return [f"{cell.text} {superscript(cell.marks)}".strip()]
    return wrap_marked(cell.text, superscript(cell.marks), STYLE["font.size"], columns.label_wide)


def _grounds(table: Table) -> list[str]:
    """Return the background of each row: every other group is shaded."""
    groups = [bisect_right(table.sections, place) for place in range(len(table.rows))]
    return [BAND if group % 2 else "white" for group in groups]


def _draw_headings(sheet: Page, table: Table, top: float, columns: _Columns) -> None:
    """Write the column headings, and above them their groups."""
    titles = {column.name: column.title for column in table.columns}
    for x, name, look in (
        (columns.label, "label", {"ha": "left"}),
        (columns.macs and columns.macs_end, "macs", {"ha": "right"}),
        (columns.ours_end, "top1_mean", {"ha": "right"}),
        (columns.papers and columns.papers_end, "paper_top1", {"ha": "right"}),
        (columns.papers and columns.gflops_end, "paper_gflops", {"ha": "right"}),
    ):
        if x is None:
            continue
        sheet.text(x, top + 0.08, titles.get(name, ""), size=8.5, color=MUTED, va="bottom", **look)
    printed = next((column.group for column in table.columns if column.name.startswith("paper_")), None)
    spans = [(columns.macs or columns.ours, columns.ours_end, OURS)] if columns.macs or columns.papers else []
    if columns.papers is not None and printed is not None:
        spans.append((columns.papers, columns.gflops_end or columns.papers_end, printed))
    for start, end, group in spans:
        sheet.text((start + end) / 2, top + 0.4, _fitted(group, end - start), weight="bold", ha="center", va="bottom")
        line = Line2D([start / sheet.width, end / sheet.width], [(top + 0.35) / sheet.height] * 2, color=MUTED)
        line.set_linewidth(0.8)
        sheet.figure.add_artist(line)


def _fitted(heading: str, room: float) -> str:
    """Shorten a heading to the width of its columns."""
    most = _HEADING
    while given_width() and most > 2 and text_width(heading[:most], STYLE["font.size"], "bold") > room:
        most -= 1
    return heading if len(heading) <= most else f"{heading[: most - 1]}…"


def _draw_board(
    board: Axes,
    table: Table,
    labels: Sequence[Sequence[str]],
    ours: Sequence[_Bar],
    papers: Sequence[_Bar],
    columns: _Columns,
) -> None:
    """Draw the rows without the panels: shaded groups with their names, labels and numbers."""
    board.set_axis_off()
    board.set(ylim=(len(ours) - 0.5, -0.5))
    ends = [*table.sections[1:], len(ours)]
    for start, end in zip(table.sections, ends, strict=True):
        board.axhspan(start - 0.5, end - 0.5, facecolor=ours[start].ground, edgecolor="none")
        if columns.group is not None:
            looks: dict[str, Any] = {"size": 8.5, "weight": "bold", "color": MUTED, "va": "center"}
            board.text(columns.group, start, table.frame["group"].iloc[start], **looks)
    shown = {column.name: [row[place] for row in table.rows] for place, column in enumerate(table.columns)}
    nothing = [Cell("")] * len(ours)
    for place, (our, paper) in enumerate(zip(ours, papers, strict=True)):
        gflops = shown.get("paper_gflops", nothing)[place]
        board.text(columns.label, place, "\n".join(labels[place]), va="center", linespacing=1.05)
        for x, text in (
            (columns.macs and columns.macs_end, shown["macs"][place].text),
            (columns.ours_end, mean_sd(our.mean, our.sd) if our.mean is not None else MISSING),
            (columns.papers and columns.papers_end, mean_sd(paper.mean, None) if "paper_top1" in shown else ""),
            (columns.papers and columns.gflops_end, gflops.text),
        ):
            if text and x is not None:
                board.text(x, place, text, ha="right", va="center")
        if gflops.marks and columns.papers is not None and columns.gflops_end is not None:
            board.text(columns.gflops_end + 0.04, place, superscript(gflops.marks), ha="left", va="center")


def _draw_panel(panel: Axes, bars: Sequence[_Bar], look: _Look) -> None:
    """Draw bars of top-1 on an axis that starts where differences can be seen, and the trajectory over them."""
    low, high = _axis_range(bars)
    panel.patch.set_visible(False)
    panel.set(xlim=(low, high), ylim=(len(bars) - 0.5, -0.5), yticks=[])
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.grid(axis="x")
    wide = inches_wide(panel)
    bins = 6 if given_width() is None else max(int(wide / 0.4), 1)
    ticks = MaxNLocator(nbins=bins, steps=[1, 2, 5, 10]).tick_values(low, high)
    panel.set_xticks([tick for tick in ticks if low <= tick <= high])
    panel.tick_params(axis="x", length=3)
    start = f"(the axis starts at {low:g}, not at 0)"
    starts = wrap(start, STYLE["axes.labelsize"], max(wide, 1.2)) if given_width() else [start]
    panel.set_xlabel("\n".join(["top-1 (%)", *starts]) if low > 0 else "top-1 (%)", loc="left")
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
    kept = near(means, 5.0)
    ends = [
        mean + sign * (bar.sd or 0.0)
        for bar, mean in zip(known, means, strict=True)
        if mean in kept
        for sign in (-1, 1)
    ]
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
