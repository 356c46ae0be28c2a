"""Top-1 against cost (MACs, parameters, activations, latency), and the Pareto front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures import mark
from reports.figures.numbered_points import Point, axis_range, draw_below, keys_below, make_key, number_points, off_axis
from reports.figures.style import (
    BLUE,
    MUTED,
    SKY,
    VERMILION,
    absence,
    held,
    legend_room,
    log_ticks,
    page,
    styled,
    ticks,
)
from reports.layout import given_width, margin

NAMED = 30  # rows; of more, only those on a front are named
_PANEL, _TALL, _BETWEEN, _LEFT, _HEAD, _FOOT, _KEY = 2.9, 3.5, 0.3, 0.55, 0.15, 0.95, 2.9
_LEAST, _SHAPE, _UNDER = 2.0, 0.64, 0.55  # of an exact width: a panel's least width, height; room for its axis


@dataclass(frozen=True)
class Cost:
    """A cost to set accuracy against: the column that holds it, the axis' words, and what a unit of the axis is.

    `note` stands above the panel.
    """

    column: str
    title: str
    size: float = 1.0
    note: str = ""


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Places of the points that no other is as good as at both, and better at one; the cheapest first.

    Of points alike in both, all are on it.
    """
    front: list[int] = []
    for place in sorted(range(len(costs)), key=lambda place: (costs[place], -values[place])):
        last = front[-1] if front else None
        if last is None or values[place] > values[last] or (costs[place], values[place]) == (costs[last], values[last]):
            front.append(place)
    return front


@styled
def tradeoff(points: pd.DataFrame, costs: Sequence[Cost], title: str, subtitle: str, caption: str) -> Figure:
    """Draw one panel per cost. `points` has label, status, mean, sd and the costs by name, NaN if unknown."""
    known = points["mean"].notna()
    fronts = [front_of(points, cost) for cost in costs]
    named = set(points.index) if len(points) <= NAMED else {place for front in fronts for place in front}
    named |= set(points.index[~known]) if len(points) <= NAMED else set()
    entries = [
        (place + 1, str(points.loc[place, "label"]), absence(str(points.loc[place, "status"])))
        for place in points.index
        if place in named
    ]
    across = axis_range(list(points.loc[known, "mean"]), list(points.loc[known, "sd"].fillna(0.0)), 5.0)
    rest = any(place not in front for front in fronts for place in points.index[known])
    handles = list(_handles(rest, bool(points["sd"].notna().any()), off_axis(points["mean"], across)))
    key, exact = make_key(entries, _KEY), given_width()
    many, panel, tall = len(costs), _PANEL, _TALL
    wide = many * panel + (many - 1) * _BETWEEN
    body = _HEAD + max(_TALL, key.height - _FOOT) + _FOOT
    if exact is not None:  # as many panels side by side as it holds, and the key below
        inside = exact - 2 * margin() - _LEFT - 0.15  # half of an axis' last number
        many = min(max(int((inside + _BETWEEN) / (_LEAST + _BETWEEN)), 1), len(costs))
        panel = (inside - (many - 1) * _BETWEEN) / many
        tall, keys = min(_TALL, _SHAPE * panel), keys_below(entries)
        below = legend_room(handles, len(handles)) + max((key.height for key in keys), default=0.0)
        body = -(-len(costs) // many) * (_HEAD + tall + _UNDER) + _FOOT - _UNDER + below
    sheet = page(title, subtitle, [caption], max(margin() + _LEFT + wide + 0.3 + key.width + margin(), 7.0), body)
    for place, (cost, front) in enumerate(zip(costs, fronts, strict=True)):
        line, column = divmod(place, many)
        y = sheet.top - _HEAD - tall - line * (_HEAD + tall + _UNDER)
        axes = sheet.axes(margin() + _LEFT + column * (panel + _BETWEEN), y, panel, tall)
        _draw_panel(axes, points, cost, front, named, across)
        axes.set_yticks(marks := ticks(*across), [f"{mark:g}" for mark in marks] if column == 0 else [])
        if column == 0:
            axes.set_ylabel("top-1, %" if exact is None else "top-1 (%)")
    if exact is None:
        key.draw(sheet, margin() + _LEFT + wide + 0.3, sheet.top - _HEAD)
        sheet.legend(handles, sheet.top - _HEAD - _TALL - 0.8, columns=len(handles))
    else:
        draw_below(keys, sheet, sheet.bottom + max((key.height for key in keys), default=0.0))
        sheet.legend(handles, sheet.bottom + below - legend_room(handles, len(handles)) + 0.12, columns=len(handles))
    return sheet.figure


def _handles(rest: bool, spread: bool, off: str) -> Iterator[Artist]:
    """Return a legend entry per kind of mark in the figure."""
    yield Line2D([], [], color=BLUE, marker="o", markersize=6, linewidth=1.4, label="Pareto front of the means")
    if rest:
        looks: dict[str, Any] = {"marker": "o", "markersize": 6, "color": MUTED, "markerfacecolor": "white"}
        yield Line2D([], [], linestyle="", label="other rows", **looks)
    if spread:
        yield Line2D([], [], color=MUTED, linewidth=0.9, label="± standard deviation over seeds")
    if off:
        yield Line2D([], [], linestyle="", marker=off, color=VERMILION, markersize=6, label="off the axis")


def front_of(points: pd.DataFrame, cost: Cost) -> list[int]:
    """Return the index of the points on the front of a cost."""
    there = points[points["mean"].notna() & points[cost.column].notna()]
    return [int(there.index[place]) for place in pareto_front(list(there[cost.column]), list(there["mean"]))]


def _draw_panel(
    axes: Axes, points: pd.DataFrame, cost: Cost, front: Sequence[int], named: set[int], up: tuple[float, float]
) -> None:
    """Draw the points of one cost, their front, and the numbers of the named points."""
    there = points[points["mean"].notna() & points[cost.column].notna()]
    costs, means = (there[cost.column] / cost.size).astype(float), there["mean"].astype(float)
    _draw_cost_axis(axes, list(costs))
    axes.set(ylim=up, xlabel=cost.title if axes.get_xscale() == "linear" else f"{cost.title} (log scale)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3)
    axes.grid()
    small: dict[str, Any] = {"size": 7.5, "style": "italic", "color": MUTED, "ha": "right", "va": "bottom"}
    axes.text(1.0, 1.01, cost.note, transform=axes.transAxes, **small)
    if there.empty:
        looks: dict[str, Any] = {"style": "italic", "color": MUTED, "ha": "center", "va": "center"}
        axes.text(0.5, 0.5, "no row has both numbers", transform=axes.transAxes, **looks)
        return
    steps = _corners([(float(costs[place]), float(means[place])) for place in front], axes.get_xlim()[1])
    axes.plot(*zip(*steps, strict=True), color=SKY, linewidth=1.4, zorder=2)
    numbered = []
    for place, x, mean, sd in zip(there.index, costs, means, there["sd"], strict=True):
        spread = _draw_point(axes, x, mean, sd, place in front, mark(axes, place))
        numbered.append(Point(int(place) + 1, x, held(mean, *up), spread, spread, named=place in named))
    number_points(axes, numbered, steps)


def _draw_cost_axis(axes: Axes, costs: Sequence[float]) -> None:
    """Set the axis of a cost: logarithmic if it spans more than a power of ten."""
    if costs and max(costs) > 10 * min(costs) > 0:
        low, high = min(costs) / 1.25, max(costs) * 1.25
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.set_xticks(marks := log_ticks(low, high), [f"{mark:g}" for mark in marks])
        axes.set_xticks([], minor=True)
    else:
        low, high = axis_range(costs, [0.0] * len(costs), float("inf"))
        axes.set_xlim(low, high)
        axes.set_xticks(marks := ticks(low, high, 4), [f"{mark:g}" for mark in marks])


def _corners(front: Sequence[tuple[float, float]], end: float) -> list[tuple[float, float]]:
    """Return the corners of the steps along a front, to the end of the axis."""
    corners = [front[0]]
    for x, y in front[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    return [*corners, (end, corners[-1][1])]


def _draw_point(axes: Axes, x: float, mean: float, sd: float, on_front: bool, gid: str) -> float:
    """A row's mark, with an id of its own, and error bar; how far the bar reaches."""
    low, high = axes.get_ylim()
    if not low <= mean <= high:
        axes.plot(
            x, held(mean, low, high), "v" if mean < low else "^", color=VERMILION, markersize=6, zorder=5, gid=gid
        )
        return 0.0
    looks: dict[str, Any] = {"color": BLUE} if on_front else {"color": MUTED, "markerfacecolor": "white"}
    axes.plot(x, mean, "o", markersize=6, zorder=6 if on_front else 5, gid=gid, **looks)
    if sd != sd:
        return 0.0
    axes.plot([x, x], [mean - sd, mean + sd], color=looks["color"], linewidth=0.9, zorder=4)
    return sd
