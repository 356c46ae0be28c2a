"""Forest plots: the difference of each row from its baseline, and the effect of each flag averaged over orders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.columns import superscript
from reports.figures.forest import OTHER, Line, Look, Words, draw_forest, signed_interval, signed_number
from reports.figures.style import BLUE, INK, MUTED, VERMILION, absence, footnotes, known, styled
from reports.layout import given_width
from reports.row_summary import status_of
from reports.statistics import MEASURES, Measure, Verdict
from reports.tables import Cell, Table

BETTER = Look("better", "o", BLUE)
WORSE = Look("worse", "s", VERMILION)
INCONCLUSIVE = Look("inconclusive", "o", MUTED, filled=False)
UNTESTED = Look("not tested", "D", MUTED, filled=False)
WORTH = Look("effect averaged over orders", "o", BLUE)
LOOKS = {Verdict.BETTER.value: BETTER, Verdict.WORSE.value: WORSE, Verdict.INCONCLUSIVE.value: INCONCLUSIVE}


@styled
def effects(table: Table, runs: pd.DataFrame, axis: str, caption: str, digits: int = 2) -> Figure:
    """Draw every row of a table of comparisons: its difference, CI and verdict, or the status of its runs."""
    records = table.frame.to_dict("records")
    verdict = next((place for place, column in enumerate(table.columns) if column.name == "verdict"), None)
    lines = []
    for record, cells in zip(records, table.rows, strict=True):
        beside = cells[verdict].marks if verdict is not None else ()
        if given_width() is not None:  # which may have no room for verdicts
            cells, beside = (Cell("", tuple(sorted({*cells[0].marks, *beside}))), *cells[1:]), ()
        label, marks = (record["label"], superscript(cells[0].marks)), superscript(beside)
        lines.append(_effect(record, label, runs, digits, marks))
    looks = [
        look
        for look in (BETTER, WORSE, INCONCLUSIVE, UNTESTED)
        if any(line.look == look and line.value is not None for line in lines)
    ]
    handles = [look.handle() for look in looks]
    if any(line.low is not None for line in lines):
        handles.append(Line2D([], [], color=INK, linewidth=1.8, label="95% CI"))
    headings, notes = ("difference", "95% CI", "verdict"), list(footnotes(table.notes))
    words = Words(table.title, table.subtitle, axis, headings, 2, [caption], notes)
    return draw_forest(lines, words, handles)


def _effect(record: dict[Any, Any], label: tuple[str, str], runs: pd.DataFrame, digits: int, marks: str) -> Line:
    """Return the line of a row, whose label has marks; `marks` stand behind its verdict."""
    mine = runs[runs["row"] == record["row"]]
    value, low, high = (known(record.get(name)) for name in ("difference", "low", "high"))
    word = ": ".join(
        str(record[name]) for name in ("verdict", "reason") if isinstance(record.get(name), str) and record[name]
    )
    return Line(
        label=label[0],
        marks=label[1],
        value=value,
        low=low,
        high=high,
        cells=(signed_number(value, digits), signed_interval(low, high, digits), f"{word} {marks}".strip()),
        look=LOOKS.get(word, UNTESTED),
        absent=absence(status_of(mine)) or _without(word, str(record["row"]), runs),
    )


def _without(word: str, row: str, runs: pd.DataFrame) -> str:
    """Say why a row with a result has no difference."""
    if word:
        return word
    if isinstance(runs.loc[runs["row"] == row, "base"].iloc[0], str):
        return "the same run as its baseline"
    return "reference" if row in set(runs["base"]) else "reference model, not compared"


@styled
def worths(table: Table, measure: Measure, caption: str, first: str = "in the paper's order") -> Figure:
    """Draw each flag's effect over orders with CI and range, and its effect in the first order, which `first` names."""
    lines = []
    for record in table.frame.to_dict("records"):
        value, low, high, least, most, other = (
            known(record[name]) for name in ("worth", "low", "high", "min", "max", "in_paper_order")
        )
        digits = MEASURES[measure].digits
        cells = (signed_number(value, digits), signed_interval(low, high, digits), signed_number(other, digits))
        spread = (least, most) if least is not None and most is not None and record["orders"] > 1 else None
        absent = "no order with all its runs"
        lines.append(Line(record["flag"], value, low, high, cells, WORTH, absent, spread, other))
    handles = [WORTH.handle()] if any(line.value is not None for line in lines) else []
    if any(line.low is not None for line in lines):
        handles.append(Line2D([], [], color=BLUE, linewidth=1.8, label="95% CI"))
    if any(line.spread is not None for line in lines):
        handles.append(Line2D([], [], color=MUTED, linewidth=0.8, marker="|", label="min to max over orders"))
    if any(line.other is not None for line in lines):
        handles.append(replace(OTHER, meaning=first).handle())
    headings = ("effect", "95% CI", first)
    words = Words(
        table.title,
        table.subtitle,
        f"change in {MEASURES[measure].change} on enabling the flag",
        headings,
        3,
        [caption],
    )
    return draw_forest(lines, words, handles)
