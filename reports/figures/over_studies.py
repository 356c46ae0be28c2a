"""Several studies combined: a forest plot of mean differences with each study's own, and agreement by their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.columns import superscript
from reports.figures import mark
from reports.figures.effects import BETTER, INCONCLUSIVE, LOOKS, UNTESTED, WORSE
from reports.figures.forest import STUDY, Line, Words, draw_forest, signed_interval, signed_number
from reports.figures.style import BLUE, INK, VERMILION, footnotes, known, page, rounded_out, styled
from reports.layout import given_width, margin
from reports.tables import Table

_PANEL, _TALL, _LEFT, _HEAD, _FOOT = 5.2, 3.2, 0.65, 0.15, 1.0


@styled
def combined_effects(
    table: Table, points: Mapping[tuple[str, str], Sequence[float]], axis: str, caption: str, digits: int = 2
) -> Figure:
    """Draw every comparison: each study's difference as a small mark, and the mean with its CI and verdict.

    `points` has the studies' differences by row and baseline.
    """
    pairs = any(column.name == "base_label" for column in table.columns)
    lines = []
    for record, cells in zip(table.frame.to_dict("records"), table.rows, strict=True):
        value, low, high = (known(record.get(name)) for name in ("difference", "low", "high"))
        verdict = record["verdict"] if isinstance(record.get("verdict"), str) else ""
        same = f"{record['same_sign']:.0f} of {record['studies']:.0f}" if value is not None else ""
        own = tuple(one for one in points.get((record["row"], record["base"]), ()) if one == one)
        lines.append(
            Line(
                label=f"{cells[0].text} − {cells[1].text}" if pairs and record["base"] else cells[0].text,
                marks=superscript(cells[0].marks),
                value=value,
                low=low,
                high=high,
                cells=(signed_number(value, digits), signed_interval(low, high, digits), same, cells[-1].text),
                look=LOOKS.get(verdict, UNTESTED),
                absent=f"{verdict}: {record['reason']}" if verdict else "compared with no row",
                points=own,
            )
        )
    handles = [
        look.handle()
        for look in (BETTER, WORSE, INCONCLUSIVE, UNTESTED)
        if any(line.look == look and line.value is not None for line in lines)
    ]
    if any(line.low is not None for line in lines):
        handles.append(Line2D([], [], color=INK, linewidth=1.8, label="95% CI"))
    handles.append(STUDY.handle())
    headings = ("difference", "95% CI", "same sign", "verdict")
    notes = list(footnotes(table.notes))
    return draw_forest(lines, Words(table.title, table.subtitle, axis, headings, 3, [caption], notes), handles)


@styled
def agreement_by_studies(
    frame: pd.DataFrame, names: Mapping[str, str], title: str, subtitle: str, caption: str
) -> Figure:
    """Draw the mean agreement against the number of studies, a line per regime, with its range over subsets.

    `frame` is that of `reports.combined_agreement.growth`; `names` are those of its regimes.
    """
    exact = given_width()
    panel = _PANEL if exact is None else exact - 2 * margin() - _LEFT - 0.15
    sheet = page(title, subtitle, [caption], max(margin() + _LEFT + _PANEL + margin(), 8.0), _HEAD + _TALL + _FOOT)
    axes = sheet.axes(margin() + _LEFT, sheet.top - _HEAD - _TALL, panel, _TALL)
    low, high = rounded_out(float(min(frame["min"].min(), 0.5)), float(frame["max"].max()), 0.02)
    most = int(frame["studies"].max())
    axes.set(xlim=(0.6, most + 0.4), ylim=(low, high), xlabel="studies in the mean", ylabel="agreement")
    axes.set_xticks([number for number in range(1, most + 1) if most <= 12 or number % 2 == 1 or number == most])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y")
    looks: tuple[dict[str, Any], ...] = ({"color": BLUE, "marker": "o"}, {"color": VERMILION, "marker": "s"})
    handles = []
    shift = 0.07 if len(names) > 1 else 0.0
    for place, ((target, name), look) in enumerate(zip(names.items(), looks, strict=False)):
        lines = frame[frame["with"] == target]
        x = lines["studies"] + (2 * place - 1) * shift
        axes.plot(x, lines["mean"], color=look["color"], linewidth=1.4, zorder=3)
        axes.vlines(x, lines["min"], lines["max"], color=look["color"], linewidth=0.9, zorder=2)
        for index, across, up in zip(lines.index, x, lines["mean"], strict=True):
            axes.plot(across, up, linestyle="", markersize=5, zorder=4, gid=mark(axes, int(index)), **look)
        handles.append(Line2D([], [], linewidth=1.4, markersize=5, label=f"mean agreement with {name}", **look))
    handles.append(Line2D([], [], color=INK, linewidth=0.9, label="lowest to highest"))
    sheet.legend(handles, sheet.top - _HEAD - _TALL - _FOOT + 0.3, columns=3)
    return sheet.figure
