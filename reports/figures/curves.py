"""Learning curves: one small panel per row, with a band over its seeds and its baseline's mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from reports.figures import mark as mark_id
from reports.figures.style import (
    BLUE,
    INK,
    MUTED,
    RULE,
    SKY,
    VERMILION,
    absence,
    legend_room,
    near,
    page,
    styled,
    ticks,
    wrap,
)
from reports.layout import given_width, margin
from reports.statistics.row_results import baselines
from reports.statuses import NOT_COMPARED

POINTS = 150  # of a curve, at most; of a longer log the means of as many stretches
_BETWEEN, _LEFT, _LEAST = 0.22, 0.45, 0.85  # _LEAST: of a panel of an exact width
_SIZE, _LINE, _FOOT = 7.5, 0.145, 0.85


@dataclass(frozen=True)
class _Layout:
    """Number of panels per line, their size in inches, and whether they are named by number and row."""

    columns: int
    wide: float
    tall: float
    numbered: bool = False


def _layout(panels: int) -> _Layout:
    """Choose the layout: the fewer panels, the larger; an exact width is filled."""
    if (exact := given_width()) is not None:
        room = exact - 2 * margin() - _LEFT
        columns = min(max(int((room + _BETWEEN) / (_LEAST + _BETWEEN)), 1), max(panels, 1))
        wide = (room - (columns - 1) * _BETWEEN) / columns
        return _Layout(columns, wide, min(0.65 * wide, 1.7), numbered=panels > 30)
    if panels <= 3:
        return _Layout(panels, 2.5, 1.7)
    return _Layout(min(panels, 6), 1.62, 1.05) if panels <= 30 else _Layout(9, 1.05, 0.75, numbered=True)


@dataclass(frozen=True)
class Quantity:
    """A quantity drawn against images seen: its column, its name, and the distance from the median that still shows."""

    column: str
    title: str
    reach: float


LOSS = Quantity("loss", "training loss", 4.0)
TOP1 = Quantity("top1", "top-1 on augmented training images (%)", 100.0)


@dataclass(frozen=True)
class _Curve:
    """A row's curve over the seeds with logs: `seeds` has one column per seed, one line per number of images seen."""

    label: str
    base: str | None
    remark: str
    seeds: pd.DataFrame
    statuses: dict[int, str]

    @property
    def whole(self) -> pd.DataFrame:
        """The part that all seeds have reached."""
        return self.seeds.dropna()


@dataclass(frozen=True)
class _Frame:
    """A panel's lower left corner in inches and the ranges of its axes."""

    x: float
    y: float
    wide: float
    tall: float
    images: tuple[float, float]
    values: tuple[float, float]

    def across(self, images: Any) -> Any:
        """Convert numbers of images to inches."""
        return self.x + self.wide * np.asarray(images, dtype=float) / self.images[1]

    def up(self, values: Any) -> Any:
        """Convert values to inches; values off the axis are at its edge."""
        low, high = self.values
        return self.y + self.tall * (np.clip(np.asarray(values, dtype=float), low, high) - low) / (high - low)


@styled
def learning_curves(
    curves: pd.DataFrame, runs: pd.DataFrame, quantity: Quantity, title: str, subtitle: str, caption: str
) -> Figure:
    """Draw one panel per row of `runs`, in order, with common axes; a row without a log has a remark in its panel."""
    by_row = _curves(curves, runs, quantity.column)
    layout = _layout(len(by_row))
    heads = [_head(number, row, curve, layout) for number, (row, curve) in enumerate(by_row.items(), start=1)]
    bands = [range(start, min(start + layout.columns, len(heads))) for start in range(0, len(heads), layout.columns)]
    head_lines = [max(len(heads[place]) for place in band) for band in bands]
    body = sum(_LINE * lines + 0.06 + layout.tall + 0.2 for lines in head_lines) + _FOOT
    handles = list(_handles(list(by_row.values())))
    images, values = _ranges(by_row.values(), quantity)
    notes = [caption]
    if layout.numbered:
        notes.append("Panels are named by a row's place in the table and its folder's name.")
    if (curves[quantity.column] > values[1]).any():
        notes.append(f"What is above {values[1]:g} is drawn at the upper edge.")
    step = layout.wide + _BETWEEN
    width = max(margin() + _LEFT + layout.columns * step - _BETWEEN + margin(), 7.5)
    sheet = page(title, subtitle, notes[:1], width, body + legend_room(handles, 4), notes[1:])
    board = sheet.axes(0, 0, sheet.width, sheet.height)
    board.set_axis_off()
    board.set(xlim=(0, sheet.width), ylim=(0, sheet.height))
    top, in_order, rows = sheet.top, list(by_row.values()), list(by_row)
    last = {str(row): int(group.index[-1]) for row, group in curves.groupby("row")}
    for band, lines in zip(bands, head_lines, strict=True):
        y = top - _LINE * lines - 0.06 - layout.tall
        for column, place in enumerate(band):
            frame = _Frame(margin() + _LEFT + column * step, y, layout.wide, layout.tall, images, values)
            curve = in_order[place]
            _write_head(board, frame, heads[place])
            gid = mark_id(board, last[rows[place]]) if rows[place] in last else None
            _draw_frame(board, frame, gid, left=column == 0, below=place + layout.columns >= len(by_row))
            _draw_curve(board, frame, curve, by_row.get(curve.base or ""))
        top = y - 0.2
    board.text(margin() + _LEFT, top - 0.18, "images seen", size=_SIZE + 1, va="center")
    sheet.legend(handles, sheet.bottom + 0.1, columns=4)
    return sheet.figure


def _head(number: int, row: str, curve: _Curve, layout: _Layout) -> list[tuple[str, dict[str, Any]]]:
    """The lines above a panel with their styles: its name, and a remark on its runs."""
    name = f"{number}  {row}" if layout.numbered else curve.label
    looks = {"size": _SIZE - 0.5, "style": "italic", "color": VERMILION}
    names: list[tuple[str, dict[str, Any]]] = [(line, {"size": _SIZE}) for line in wrap(name, _SIZE, layout.wide)]
    return names + [(line, looks) for line in wrap(curve.remark, _SIZE, layout.wide)]


def _curves(curves: pd.DataFrame, runs: pd.DataFrame, column: str) -> dict[str, _Curve]:
    """Return the curve of each row by its name."""
    by_row = {}
    logged = dict(list(curves.groupby("row", sort=False)))
    for row, group in runs.groupby("row", sort=False):
        log = logged.get(row, curves.head(0))
        seeds = log.pivot_table(index="images", columns="seed", values=column, sort=True)
        statuses = dict(zip(group["seed"].astype(int), group["status"], strict=True))
        bases = baselines(group["base"].iloc[0])
        remark = _remark(list(statuses.values()), logged=not log.empty)
        by_row[str(row)] = _Curve(
            str(group["label"].iloc[0]), bases[0] if len(bases) == 1 else None, remark, _thinned(seeds), statuses
        )
    return by_row


def _remark(statuses: Sequence[str], logged: bool) -> str:
    """Describe the runs of a row that are not done."""
    counts = Counter(absence(status) for status in statuses)
    words = ", ".join(
        f"{number} of {len(statuses)} {word}" if len(statuses) > 1 else word for word, number in counts.items() if word
    )
    return words if logged else ", ".join(filter(None, [words, "nothing logged"]))


def _thinned(seeds: pd.DataFrame) -> pd.DataFrame:
    """Reduce to at most POINTS lines, each the mean of an interval; a seed that ends within one has its mean so far."""
    if len(seeds) <= POINTS:
        return seeds
    stretch = np.arange(len(seeds)) * POINTS // len(seeds)
    thin = seeds.groupby(stretch).mean()
    thin.index = pd.Index(seeds.index.to_series().groupby(stretch).last().to_numpy(), name="images")
    return thin


def _ranges(curves: Any, quantity: Quantity) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the ranges of the axes, common to all panels."""
    values = np.concatenate([np.empty(0), *(curve.seeds.to_numpy(dtype=float).ravel() for curve in curves)])
    values = values[np.isfinite(values)]
    if not len(values):
        return (0.0, 1.0), (0.0, 1.0)
    kept = near(values.tolist(), quantity.reach)
    room = max(0.05 * (max(kept) - min(kept)), 1e-3)
    images = max(float(curve.seeds.index.max()) for curve in curves if len(curve.seeds))
    return (0.0, images), (max(min(kept) - room, 0.0), max(kept) + room)


def _write_head(board: Axes, frame: _Frame, lines: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Write lines above a panel, the last one nearest to it."""
    for number, (line, looks) in enumerate(reversed(lines)):
        board.text(frame.x, frame.y + frame.tall + 0.09 + number * _LINE, line, va="center", **looks)


def _draw_frame(board: Axes, frame: _Frame, gid: str | None, left: bool, below: bool) -> None:
    """Draw a panel's frame, with an id if it has a log, and grid lines; numbers on the left and below only."""
    looks: dict[str, Any] = {"facecolor": "none", "edgecolor": RULE, "linewidth": 0.8, "gid": gid}
    board.add_patch(Rectangle((frame.x, frame.y), frame.wide, frame.tall, **looks))
    for value in ticks(*frame.values, 4):
        y = float(frame.up(value))
        board.plot([frame.x, frame.x + frame.wide], [y, y], color=RULE, linewidth=0.5, zorder=1)
        if left:
            board.text(frame.x - 0.05, y, f"{value:g}", size=_SIZE - 0.5, ha="right", va="center")
    if below:
        for images in ticks(*frame.images, 2):
            x = float(frame.across(images))
            board.plot([x, x], [frame.y, frame.y - 0.04], color=MUTED, linewidth=0.7)
            board.text(x, frame.y - 0.06, short_count(images), size=_SIZE - 0.5, ha="center", va="top")


def _draw_curve(board: Axes, frame: _Frame, curve: _Curve, base: _Curve | None) -> None:
    """Draw the row's mean and band as far as all seeds have come, then each seed; dashed, the baseline's mean."""
    if base is not None and len(base.whole):
        mean = base.whole.mean(axis=1)
        looks: dict[str, Any] = {"color": MUTED, "linewidth": 0.9, "linestyle": (0, (3, 1.5)), "zorder": 2}
        board.plot(frame.across(mean.index), frame.up(mean), marker=_lone(len(mean), "_"), **looks)
    whole = curve.whole
    if len(whole) and len(whole.columns) > 1:
        x = frame.across(whole.index)
        low, high = frame.up(whole.min(axis=1)), frame.up(whole.max(axis=1))
        if len(whole) == 1:
            board.plot([x, x], [low, high], color=SKY, alpha=0.45, linewidth=5, solid_capstyle="butt", zorder=3)
        else:
            board.fill_between(x, low, high, color=SKY, alpha=0.45, linewidth=0, zorder=3)
    if len(whole):
        x, y = frame.across(whole.index), frame.up(whole.mean(axis=1))
        board.plot(x, y, marker=_lone(len(whole), "."), color=BLUE, linewidth=1.2, zorder=4)
    for seed in curve.seeds.columns:
        alone = curve.seeds[seed].dropna()
        rest = alone[alone.index >= whole.index[-1]] if len(whole) else alone
        if len(rest) > 1:
            board.plot(frame.across(rest.index), frame.up(rest), color=BLUE, linewidth=0.6, zorder=4)
        marker = {"failed": "X", "done": "", NOT_COMPARED: ""}.get(curve.statuses[int(seed)], "o")
        if marker and len(alone):
            looks = {
                "color": VERMILION if marker == "X" else INK,
                "markerfacecolor": VERMILION if marker == "X" else "white",
            }
            board.plot(
                frame.across(alone.index[-1]), frame.up(alone.iloc[-1]), marker, markersize=4.5, zorder=5, **looks
            )


def _lone(lines: int, marker: str) -> str:
    """Return the marker of a curve with a single point, which a line would not show."""
    return marker if lines == 1 else "None"


def _handles(curves: Any) -> Iterator[Artist]:
    """Return a legend entry per kind of mark in the figure."""
    curves = list(curves)
    several = any(len(curve.seeds.columns) > 1 for curve in curves)
    longest = max((len(curve.whole) for curve in curves), default=0)
    label = "mean over seeds" if several else "the row"
    yield Line2D([], [], color=BLUE, linewidth=1.2, marker=_lone(longest, "."), label=label)
    if several:
        yield Patch(facecolor=SKY, alpha=0.45, label="least to most over seeds")
    if any(len(curve.seeds) > len(curve.whole) for curve in curves):
        yield Line2D([], [], color=BLUE, linewidth=0.6, label="one seed, where not all have come so far")
    if any(curve.base for curve in curves):
        base: dict[str, Any] = {"color": MUTED, "linewidth": 0.9, "linestyle": (0, (3, 1.5))}
        yield Line2D([], [], marker=_lone(longest, "_"), label="its baseline", **base)
    logged = {status for curve in curves for seed, status in curve.statuses.items() if seed in curve.seeds.columns}
    if "failed" in logged:
        yield Line2D([], [], linestyle="", marker="X", color=VERMILION, markersize=4.5, label="failed here")
    if logged & {"running", "stopped"}:
        yield Line2D(
            [], [], linestyle="", marker="o", color=INK, markerfacecolor="white", markersize=4.5, label="so far"
        )


def short_count(count: float) -> str:
    """Format a number of images as 60k or 1.2M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:g}{unit}"
    return f"{count:g}"
