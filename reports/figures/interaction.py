"""How two flags act together: a grid's interaction plots and effects, and the matrix of interactions over orders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from reports.figures import mark
from reports.figures.effects import BETTER, INCONCLUSIVE, UNTESTED, WORSE
from reports.figures.forest import Line, Words, draw_forest, signed_interval, signed_number
from reports.figures.numbered_points import axis_range
from reports.figures.style import (
    BLUE,
    INK,
    RULE,
    SKY,
    VERMILION,
    inches_wide,
    known,
    legend_room,
    page,
    styled,
    text_width,
    ticks,
    wrap,
)
from reports.layout import given_width, margin
from reports.statistics import MEASURES, Measure, Verdict

_LOOKS = {look.meaning: look for look in (BETTER, WORSE, INCONCLUSIVE, UNTESTED)}
# A colour, a marker and a line for each value of the flag that has lines, told apart in grey print too.
_LINES: Sequence[dict[str, Any]] = (
    {"color": BLUE, "marker": "o", "linestyle": "-"},
    {"color": VERMILION, "marker": "s", "linestyle": (0, (5, 2))},
    {"color": "#009E73", "marker": "^", "linestyle": (0, (1, 1.2))},
    {"color": "#CC79A7", "marker": "D", "linestyle": (0, (4, 1.5, 1, 1.5))},
    {"color": SKY, "marker": "v", "linestyle": (0, (8, 2))},
    {"color": INK, "marker": "P", "linestyle": (0, (2, 2))},
)
_WIDE, _TALL, _LEFT, _BELOW, _BETWEEN = 2.7, 2.1, 0.65, 0.5, 0.35
_ALONE, _LEAST = 4.2, 1.6  # wide: a single panel; one of an exact width at least
_PER_ROW, _KEY_MOST, _NOTE_MOST, _SIZE = 2, 1.7, 3.3, 8.5


@styled
def interaction_plots(means: pd.DataFrame, measure: Measure, title: str, subtitle: str, notes: Sequence[str]) -> Figure:
    """A panel for each two flags: the second's values across, a line for each value of the first.

    `means` has a line per point: flag, value, other_flag, other_value, mean, low, high, absent; NaN if there is none.
    """
    pairs = list(means.groupby(["flag", "other_flag"], sort=False))
    key = min(max(max(text_width(f"{text}    ", _SIZE) for text in [*means["value"], *means["flag"]]), 0.6), _KEY_MOST)
    columns = min(_PER_ROW, len(pairs))
    wide = _WIDE if len(pairs) > 1 else _ALONE
    if (exact := given_width()) is not None:
        key = min(key, 0.28 * exact)
        columns = min(max(int(exact / (_LEFT + _LEAST + key + 0.35 + _BETWEEN)), 1), columns)
        wide = (exact - 2 * margin() + _BETWEEN) / columns - _LEFT - key - 0.35 - _BETWEEN
    rows = -(-len(pairs) // columns)
    step = _LEFT + wide + key + 0.35 + _BETWEEN
    height = 0.15 + _TALL + _BELOW + 0.25
    sheet = page(title, subtitle, notes, max(2 * margin() + columns * step, 6.5), rows * height)
    spreads = ((means["high"] - means["low"]) / 2).fillna(0.0)
    there = means["mean"].notna()
    limits = axis_range(means.loc[there, "mean"].tolist(), spreads[there].tolist(), 5.0)
    for number, ((flag, other), points) in enumerate(pairs):
        x = margin() + _LEFT + (number % columns) * step
        y = sheet.top - 0.15 - _TALL - (number // columns) * height
        axes = sheet.axes(x, y, wide, _TALL)
        axes.set(ylim=limits, ylabel=MEASURES[measure].value if number % columns == 0 else "", xlabel=str(other))
        _draw_lines(axes, points, wide)
        axes.legend(
            handles=list(_line_keys(points, key)), title=str(flag), loc="upper left", bbox_to_anchor=(1.02, 1.0),
            borderaxespad=0, handlelength=2.4, alignment="left", title_fontsize=_SIZE,
        )  # fmt: skip
    return sheet.figure


def _draw_lines(axes: Axes, points: pd.DataFrame, wide: float) -> None:
    """The lines of a panel, a little apart so that their intervals do not cover each other."""
    across = list(dict.fromkeys(points["other_value"]))
    values = list(dict.fromkeys(points["value"]))
    low, high = axes.get_ylim()
    axes.set_xlim(-0.5, len(across) - 0.5)
    axes.set_xticks(range(len(across)), ["\n".join(wrap(value, _SIZE, wide / len(across) - 0.06)) for value in across])
    axes.set_yticks(places := ticks(low, high, 6), [f"{place:g}" for place in places])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y")
    for number, value in enumerate(values):
        look = _LINES[number % len(_LINES)]
        mine = points[points["value"] == value]
        shift = 0.28 * ((number + 0.5) / len(values) - 0.5)
        x = np.array([across.index(other) + shift for other in mine["other_value"]])
        axes.plot(x, mine["mean"].to_numpy(), linewidth=1.2, zorder=3, **{**look, "marker": ""})
        for place, at, line in zip(mine.index, x, mine.to_dict("records"), strict=True):
            if known(line["low"]) is not None:
                axes.plot([at, at], [line["low"], line["high"]], color=look["color"], linewidth=1.6, zorder=4)
            if known(line["mean"]) is not None:
                marks = {"color": look["color"], "marker": look["marker"], "markersize": 6, "markeredgecolor": "white"}
                axes.plot(at, line["mean"], linestyle="", zorder=5, gid=mark(axes, int(place)), **marks)


def _line_keys(points: pd.DataFrame, width: float) -> Iterator[Artist]:
    """The key of a panel's lines; a value with points missing says why."""
    for number, value in enumerate(dict.fromkeys(points["value"])):
        missing = points[(points["value"] == value) & points["mean"].isna()]
        absent = [f"{why} at {other}" for why, other in zip(missing["absent"], missing["other_value"], strict=True)]
        words = str(value) + (f" ({', '.join(absent)})" if absent else "")
        label = "\n".join(wrap(words, _SIZE, width + (0.1 if given_width() is None else -0.35)))
        yield Line2D([], [], label=label, markersize=5, linewidth=1.2, **_LINES[number % len(_LINES)])


@styled
def grid_effects(effects: pd.DataFrame, measure: Measure, title: str, subtitle: str, notes: Sequence[str]) -> Figure:
    """A grid's effects with intervals and verdicts; `effects` has label, effect, low, high, verdict and reason."""
    lines, words = [], MEASURES[measure]
    for line in effects.to_dict("records"):
        value, low, high = (known(line[name]) for name in ("effect", "low", "high"))
        untested = value is not None and line["reason"]
        verdict = f"{line['verdict']}: {line['reason']}" if untested else line["verdict"]
        cells = (signed_number(value, words.digits), signed_interval(low, high, words.digits), verdict)
        absent = line["reason"] if text_width(line["reason"], _SIZE) <= _NOTE_MOST else "a cell has no result"
        lines.append(Line(line["label"], value, low, high, cells, _LOOKS[line["verdict"]], absent))
    used = [look for look in _LOOKS.values() if any(line.look == look and line.value is not None for line in lines)]
    handles = [look.handle() for look in used]
    if any(line.low is not None for line in lines):
        handles.append(Line2D([], [], color=INK, linewidth=1.8, label="95% CI"))
    headings = ("effect", "95% CI", "verdict")
    return draw_forest(lines, Words(title, subtitle, f"effect on {words.change}", headings, 2, notes), handles)


_CELL_WIDE, _CELL_TALL = 0.56, 0.34
_GAIN_LOSS = LinearSegmentedColormap.from_list("gain and loss", [VERMILION, "white", BLUE])


@styled
def interaction_matrix(
    pairs: pd.DataFrame, measure: Measure, title: str, subtitle: str, notes: Sequence[str]
) -> Figure:
    """A cell for each two flags with their interaction; `pairs` has flag, other, effect and verdict.

    A flag's name stands at the end of its row of cells and on top of its column.
    """
    flags = list(dict.fromkeys([*pairs["flag"], *pairs["other"]]))
    count = len(flags)
    names = max(text_width(flag, _SIZE, "bold") for flag in flags)
    cell = _CELL_WIDE if (exact := given_width()) is None else (exact - 2 * margin() - names - 0.1) / count
    handles = list(_pair_handles(pairs, measure))
    foot = 0.75 + legend_room(handles, 4)
    width = max(2 * margin() + count * cell + names, 6.5)
    sheet = page(title, subtitle, notes, width, count * _CELL_TALL + foot)
    inside = sheet.width - 2 * margin()
    board = sheet.axes(margin(), sheet.top - count * _CELL_TALL, inside, count * _CELL_TALL)
    board.set_axis_off()
    board.set(xlim=(0, inside / cell), ylim=(count, 0))
    for place, flag in enumerate(flags):
        board.text(place + 0.1, place + 0.5, flag, size=_SIZE, weight="bold", va="center")
    largest = float(np.nanmax([*pairs["effect"].abs(), 1e-9]))
    for index, line in zip(pairs.index, pairs.to_dict("records"), strict=True):
        first, second = sorted((flags.index(line["flag"]), flags.index(line["other"])))
        _draw_pair(board, (first, second), line, (largest, measure), mark(board, int(index)))
    sheet.legend(handles, sheet.bottom + 0.12, columns=4)
    return sheet.figure


def _pair_handles(pairs: pd.DataFrame, measure: Measure) -> Iterator[Patch]:
    """Return a legend entry per kind of cell."""
    yield Patch(facecolor=_GAIN_LOSS(0.5 + 0.35 * MEASURES[measure].sign), label="positive")
    yield Patch(facecolor=_GAIN_LOSS(0.5 - 0.35 * MEASURES[measure].sign), label="negative")
    if pairs["verdict"].isin([Verdict.BETTER, Verdict.WORSE]).any():
        yield Patch(facecolor="white", edgecolor=INK, linewidth=1.6, label="better or worse")
    if pairs["effect"].isna().any():
        yield Patch(facecolor="white", edgecolor=RULE, hatch="////", label="no estimate")


def _draw_pair(
    board: Axes, place: tuple[int, int], line: dict[Any, Any], scale: tuple[float, Measure], gid: str
) -> None:
    """The cell of two flags: its shade the interaction, framed if significant, hatched if there is no estimate."""
    (column, row), (largest, measure) = place, scale
    words = MEASURES[measure]
    effect, sure = known(line["effect"]), line["verdict"] in (Verdict.BETTER, Verdict.WORSE)
    if effect is None:
        looks: dict[str, Any] = {"facecolor": "white", "edgecolor": RULE, "hatch": "////"}
    else:
        shade = _GAIN_LOSS(0.5 + 0.35 * words.sign * effect / largest)
        looks = {
            "facecolor": shade,
            "edgecolor": INK if sure else "white",
            "linewidth": 1.6,
            "zorder": 3 if sure else 2,
        }
    inset = 0.03
    size = 1 - 2 * inset
    board.add_patch(Rectangle((column + inset, row + inset), size, size, gid=gid, **looks))
    if effect is not None:
        weight = "bold" if sure else "normal"
        shown = signed_number(effect, words.digits)
        cell = inches_wide(board) / board.get_xlim()[1]
        looks = {"size": 7.5, "weight": weight, "color": INK, "zorder": 4}
        turned = text_width(shown, 7.5, weight) > cell - 0.04
        looks |= (
            {"rotation": 90, "size": min(7.5, 7.5 * 0.9 * _CELL_TALL / text_width(shown, 7.5, weight))}
            if turned
            else {}
        )
        board.text(column + 0.5, row + 0.5, shown, ha="center", va="center", **looks)
