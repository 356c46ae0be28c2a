"""Each step's change in top-1 here against its change in the roadmap's source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures import mark
from reports.figures.numbered_points import (
    Key,
    Point,
    axis_range,
    draw_below,
    keys_below,
    make_key,
    number_points,
    off_axis,
)
from reports.figures.style import (
    BLUE,
    MUTED,
    RULE,
    STYLE,
    VERMILION,
    absence,
    held,
    legend_room,
    page,
    signed,
    styled,
    ticks,
    wrap,
)
from reports.layout import given_width, margin

_PANEL, _LEFT, _HEAD, _FOOT, _KEY = 4.4, 0.65, 0.15, 1.15, 3.2


@styled
def against_paper(steps: pd.DataFrame, title: str, subtitle: str, notes: Sequence[str], across: str) -> Figure:
    """Draw one point per step; `steps` has label, adopted, status, verdict, change, low, high and paper_change.

    `across` is the label of the horizontal axis.
    """
    records = dict(zip(steps.index, steps.to_dict("records"), strict=True))
    entries = [(int(place) + 1, str(line["label"]), _why_not(line)) for place, line in records.items()]
    there = steps[steps["change"].notna()]
    handles = list(_handles(there))
    key, panel, tall, foot, keys = make_key(entries, _KEY), _PANEL, _PANEL, _FOOT, list[Key]()
    body = _HEAD + max(_PANEL, key.height - _FOOT + 0.2) + _FOOT
    if (exact := given_width()) is not None:  # the key stands below
        panel, keys = exact - 2 * margin() - _LEFT - 0.15, keys_below(entries)
        tall, foot = min(0.9 * panel, _PANEL), _FOOT + legend_room(handles, 2)
        body = _HEAD + tall + foot + max(column.height for column in keys)
    natural = max(margin() + _LEFT + _PANEL + 0.35 + key.width + margin(), 8.0)
    sheet = page(title, subtitle, notes, natural, body)
    axes = sheet.axes(margin() + _LEFT, sheet.top - _HEAD - tall, panel, tall)
    label = wrap(across, STYLE["axes.labelsize"], sheet.width - _LEFT)
    _draw_steps(axes, there, "\n".join(label))
    if exact is None:
        key.draw(sheet, margin() + _LEFT + _PANEL + 0.35, sheet.top - _HEAD)
    draw_below(keys, sheet, sheet.top - _HEAD - tall - foot)
    sheet.legend(handles, sheet.top - _HEAD - tall - foot + 0.13, columns=2)
    return sheet.figure


def _handles(steps: pd.DataFrame) -> Iterator[Line2D]:
    """Return a legend entry per kind of mark in the figure."""
    looks = {True: (BLUE, "adopted steps"), False: ("white", "side branches, not in the correlation")}
    for adopted, (face, label) in looks.items():
        if (steps["adopted"] == adopted).any():
            style: dict[str, Any] = {"marker": "o", "color": BLUE, "markerfacecolor": face, "markersize": 6.5}
            yield Line2D([], [], linestyle="", label=label, **style)
    if steps["low"].notna().any():
        yield Line2D([], [], color=BLUE, linewidth=0.9, label="95% CI")
    off = off_axis(steps["change"], _up(steps))
    if off:
        yield Line2D([], [], linestyle="", marker=off, color=VERMILION, markersize=7, label="off the axis")


def _why_not(line: dict) -> str:
    """Say why a step has no point."""
    if line["change"] == line["change"]:
        return ""
    return absence(line["status"]) or line["verdict"]


def _up(steps: pd.DataFrame) -> tuple[float, float]:
    """Return the range of our changes with their CIs, and 0."""
    spreads = [
        max(0.0, min((high - low) / 2, 3.0)) if high == high else 0.0
        for low, high in zip(steps["low"], steps["high"], strict=True)
    ]
    return axis_range([*steps["change"], 0.0], [*spreads, 0.0], 3.0)


def _draw_steps(axes: Axes, steps: pd.DataFrame, label: str) -> None:
    """Draw the points with our CIs on axes that include 0."""
    across = axis_range([*steps["paper_change"], 0.0], [0.0] * (len(steps) + 1), float("inf"))
    up = _up(steps)
    axes.set(
        xlim=across,
        ylim=up,
        xlabel=label,
        ylabel="change in top-1 here (pp)",
    )
    axes.set_xticks(marks := ticks(*across, 7 if given_width() is None else 5), [signed(mark) for mark in marks])
    axes.set_yticks(marks := ticks(*up, 7), [signed(mark) for mark in marks])
    axes.tick_params(length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
    axes.axvline(0, color=MUTED, linewidth=0.8, zorder=1)
    ends = max(across[0], up[0]), min(across[1], up[1])
    if ends[0] < ends[1]:
        axes.plot(ends, ends, color=RULE, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    points = []
    for place, line in zip(steps.index, steps.to_dict("records"), strict=True):
        y = held(line["change"], *up)
        points.append(_draw_step(axes, int(place) + 1, line, y))
    number_points(axes, points)
    if steps.empty:
        axes.text(0.5, 0.6, "no step has been run", transform=axes.transAxes, style="italic", color=MUTED, ha="center")


def _draw_step(axes: Axes, number: int, line: dict, y: float) -> Point:
    """Draw one step's mark and return its point to be numbered."""
    x, change, gid = line["paper_change"], line["change"], mark(axes, number - 1)
    if y != change:
        axes.plot(x, y, "v" if change < y else "^", color=VERMILION, markersize=7, zorder=5, gid=gid)
        return Point(number, x, y)
    face = BLUE if line["adopted"] else "white"
    axes.plot(x, y, "o", color=BLUE, markerfacecolor=face, markersize=6.5, zorder=5, gid=gid)
    if line["low"] != line["low"]:
        return Point(number, x, y)
    low, high = axes.get_ylim()
    ends = max(line["low"], low), min(line["high"], high)
    axes.plot([x, x], ends, color=BLUE, linewidth=0.9, zorder=4)
    for marker, end, cut in (("v", low, line["low"] < low), ("^", high, line["high"] > high)):
        if cut:
            axes.plot(x, end, marker, color=BLUE, markersize=4, clip_on=False, zorder=4)
    return Point(number, x, y, y - ends[0], ends[1] - y)
