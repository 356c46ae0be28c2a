"""Figures of a screening study: effects in order of size, a half-normal plot, and interaction plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures import mark
from reports.figures.effects import BETTER, INCONCLUSIVE, UNTESTED, WORSE
from reports.figures.forest import Line, Words, draw_forest, signed_interval, signed_number
from reports.figures.numbered_points import Key, Point, draw_below, keys_below, make_key, number_points
from reports.figures.style import BLUE, INK, MUTED, VERMILION, known, legend_room, page, styled, ticks
from reports.layout import given_width, margin
from reports.tables import Table

_LOOKS = {look.meaning: look for look in (BETTER, WORSE, INCONCLUSIVE)}
_PANEL, _TALL, _LEFT, _FOOT, _KEY = 3.6, 3.4, 0.55, 0.95, 2.9
_SMALL, _GAP, _ACROSS, _LEAST = 1.9, 0.55, 4, 1.4  # _LEAST: of an exact width


@styled
def pareto(table: Table, axis: str, caption: str, digits: int = 2) -> Figure:
    """The main effects in order of size, with confidence intervals and verdicts."""
    lines = []
    for record, cells in zip(table.frame.to_dict("records"), table.rows, strict=True):
        value, low, high = (known(record[name]) for name in ("effect", "low", "high"))
        look = _LOOKS.get(record["verdict"], UNTESTED)
        shown = (signed_number(value, digits), signed_interval(low, high, digits), record["verdict"])
        lines.append(Line(cells[0].text, value, low, high, shown, look, "aliased"))
    looks = [look for look in (BETTER, WORSE, INCONCLUSIVE, UNTESTED) if any(line.look == look for line in lines)]
    handles = [look.handle() for look in looks]
    if any(line.low is not None for line in lines):
        handles.append(Line2D([], [], color=INK, linewidth=1.8, label="95% CI"))
    headings = ("effect", "95% CI", "verdict")
    words = Words(table.title, table.subtitle, axis, headings, 2, [caption])
    return draw_forest(lines, words, handles)


def half_normal_frame(effects: pd.DataFrame, interactions: pd.DataFrame) -> pd.DataFrame:
    """All effects in units of their standard errors, ascending, with the half-normal quantile of each.

    Columns: label, what (main effect or interaction), effect, size, quantile, verdict.
    """
    frame = pd.concat(
        [
            effects.assign(label=effects["flag"], what="main effect"),
            interactions.assign(label=interactions["flags"], what="interaction"),
        ],
        ignore_index=True,
    )
    frame["size"] = frame["effect"].abs() / frame["se"]
    frame = frame[frame["size"].map(math.isfinite)].sort_values("size", kind="stable").reset_index(drop=True)
    quantile = NormalDist().inv_cdf
    frame["quantile"] = [quantile(0.5 + 0.5 * (place + 0.5) / len(frame)) for place in range(len(frame))]
    return frame[["label", "what", "effect", "size", "quantile", "verdict"]]


@styled
def half_normal(frame: pd.DataFrame, title: str, subtitle: str, caption: str) -> Figure:
    """Effects against half-normal quantiles: those of noise alone lie on the line."""
    significant = frame[frame["verdict"].isin(["better", "worse"])].iloc[::-1]
    numbers = {place: number for number, place in enumerate(significant.index, start=1)}
    entries = [(numbers[place], str(frame.loc[place, "label"]), "") for place in significant.index]
    handles = list(_half_normal_handles(frame))
    key, panel, tall, foot, keys = make_key(entries, _KEY), _PANEL, _TALL, _FOOT, list[Key]()
    body = max(_TALL, key.height - _FOOT) + _FOOT + 0.15
    if (exact := given_width()) is not None:  # the key stands below
        panel, keys = exact - 2 * margin() - _LEFT - 0.15, keys_below(entries)
        tall, foot = min(0.9 * panel, _TALL), _FOOT + legend_room(handles, 3)
        body = tall + foot + 0.15 + max((column.height for column in keys), default=0.0)
    natural = max(margin() + _LEFT + _PANEL + 0.3 + key.width + margin(), 7.0)
    sheet = page(title, subtitle, [caption], natural, body)
    if exact is None:
        key.draw(sheet, margin() + _LEFT + _PANEL + 0.3, sheet.top - 0.15)
    draw_below(keys, sheet, sheet.top - 0.15 - tall - foot)
    axes = sheet.axes(margin() + _LEFT, sheet.top - 0.15 - tall, panel, tall)
    right, top = 1.08 * frame["quantile"].max(), 1.1 * max(frame["size"].max(), frame["quantile"].max())
    axes.set(xlim=(0, right), ylim=(0, top), xlabel="half-normal quantile", ylabel="|effect| / standard error")
    axes.set_yticks(marks := ticks(0, top), [f"{place:g}" for place in marks])
    if exact is not None:
        axes.set_xticks(marks := ticks(0, right), [f"{place:g}" for place in marks])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid()
    axes.plot([0, right], [0, right], color=MUTED, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
    for place, line in enumerate(frame.to_dict("records")):
        _draw_effect(axes, line, mark(axes, place))
    points = [
        Point(numbers.get(place, 0), x, y, named=place in numbers)
        for place, (x, y) in enumerate(zip(frame["quantile"], frame["size"], strict=True))
    ]
    number_points(axes, points)
    sheet.legend(handles, sheet.top - 0.15 - tall - foot + 0.1, columns=3)
    return sheet.figure


def _draw_effect(axes: Axes, line: dict[Any, Any], gid: str) -> None:
    color = {"better": BLUE, "worse": VERMILION}.get(line["verdict"], MUTED)
    marker, face = ("o", color) if line["what"] == "main effect" else ("D", "white")
    axes.plot(line["quantile"], line["size"], marker, color=color, markerfacecolor=face, markersize=5.5, gid=gid)


def _half_normal_handles(frame: pd.DataFrame) -> Sequence[Line2D]:
    looks: dict[str, Any] = {"linestyle": "", "markersize": 6}
    handles = [Line2D([], [], marker="o", color=INK, label="main effect", **looks)]
    if (frame["what"] == "interaction").any():
        handles.append(Line2D([], [], marker="D", color=INK, markerfacecolor="white", label="interaction", **looks))
    handles.append(Line2D([], [], color=MUTED, linestyle=(0, (4, 2)), label="noise alone"))
    for verdict, color in (("better", BLUE), ("worse", VERMILION), (INCONCLUSIVE.meaning, MUTED)):
        if (frame["verdict"] == verdict).any():
            handles.append(Line2D([], [], marker="s", color=color, label=verdict, **looks))
    return handles


@styled
def interaction_plots(
    frame: pd.DataFrame, axis: str, title: str, subtitle: str, caption: str, digits: int = 2
) -> Figure:
    """A panel for each interaction: the response against the values of one flag, a line for each value of the other.

    `frame` has a line for each point: flags, aliases, effect, verdict, flag, value, other, other_value, mean, se.
    """
    panels = [group for _, group in frame.groupby("flags", sort=False)]
    most, small = _ACROSS, _SMALL
    if (exact := given_width()) is not None:
        inside = exact - 2 * margin() - _LEFT
        most = min(max(int((inside + _GAP) / (_LEAST + _GAP)), 1), len(panels))
        small = (inside - (most - 1) * _GAP) / most
    across, tall = min(len(panels), most), min(small, _SMALL)
    down = -(-len(panels) // most)
    width = max(margin() + _LEFT + across * small + (across - 1) * _GAP + margin(), 7.0)
    sheet = page(title, subtitle, [caption], width, down * (tall + 1.35))
    low = (frame["mean"] - frame["se"]).min()
    high = (frame["mean"] + frame["se"]).max()
    room = 0.08 * (high - low) or 0.5 * 10.0 ** (2 - digits)
    for place, group in enumerate(panels):
        line, column = divmod(place, most)
        x = margin() + _LEFT + column * (small + _GAP)
        axes = sheet.axes(x, sheet.top - 0.35 - tall - line * (tall + 1.35), small, tall)
        _draw_interaction(axes, group, (low - room, high + room), digits)
    sheet.figure.axes[0].set_ylabel(axis)
    return sheet.figure


def _draw_interaction(axes: Axes, group: pd.DataFrame, up: tuple[float, float], digits: int) -> None:
    """One panel."""
    first = group.iloc[0]
    axes.set(xlim=(-0.35, 1.35), ylim=up, xlabel=first["flag"])
    axes.set_title(f"{signed_number(first['effect'], digits)}, {first['verdict']}", size=8.5, color=INK)
    values = list(dict.fromkeys(group["value"]))
    axes.set_xticks([0, 1], values)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y")
    looks: tuple[dict[str, Any], ...] = (
        {"color": VERMILION, "marker": "s", "linestyle": (0, (4, 2))},
        {"color": BLUE, "marker": "o", "linestyle": "-"},
    )
    for look, (other, lines) in zip(looks, group.groupby("other_value", sort=False), strict=True):
        label = f"{first['other']}={other}"
        axes.plot([0, 1], lines["mean"], label=label, linewidth=1.6, markersize=5, **look)
        for place, (index, mean, se) in enumerate(zip(lines.index, lines["mean"], lines["se"], strict=True)):
            axes.plot([place] * 2, [mean - se, mean + se], color=look["color"], linewidth=0.9)
            axes.plot(place, mean, look["marker"], color=look["color"], markersize=5, gid=mark(axes, index))
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.24), fontsize=7.5, borderpad=0, handlelength=2.4)
