"""Figures of a grid and of the interactions in a study of orders, with the numbers they are drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reports.header import facts
from reports.report import Plot
from reports.row_summary import status_of
from reports.statistics import MEASURES, Measure
from reports.statistics.effects_over_looks import results_of
from reports.statistics.factorial import Factorial, Family, cell_means
from reports.statuses import shown
from reports.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def grid_plots(
    title: str, runs: pd.DataFrame, grid: Factorial, tables: Mapping[str, Table], measure: Measure = "top1"
) -> Iterator[Plot]:
    """The interaction plots and the effects of a grid of two flags or more."""
    table = tables.get("grid-effects")
    if table is None or not results_of(runs, measure):
        return
    means, name = _means(runs, grid, measure), MEASURES[measure].name
    heading = f"{title}: {name} by {_pair_words(grid)}"
    caption = f"Mean {name} at each two values"
    caption += ", averaged over the remaining flags" if len(grid.flags) > 2 else ""
    caption += ", with its 95% CI (one noise model for all cells)" if means["low"].notna().any() else ""
    caption += ". Lines far from parallel suggest an interaction."

    def draw() -> Figure:
        from reports.figures.interaction import interaction_plots

        return interaction_plots(means, measure, heading, facts(runs), [caption])

    yield Plot("interaction", heading, caption, means, draw, measure)
    yield _effects_plot(table, measure)


def _pair_words(grid: Factorial) -> str:
    names = list(grid.flags)
    return " and ".join(names) if len(names) == 2 else "each two flags"


def _means(runs: pd.DataFrame, grid: Factorial, measure: Measure) -> pd.DataFrame:
    """The mean at each two values of each two flags; where a cell has no result, what became of it."""
    by_row = {str(row): group for row, group in runs.groupby("row", sort=False)}
    lines = []
    for flag, other in combinations(grid.flags, 2):
        for value, other_value in product(grid.flags[flag], grid.flags[other]):
            lines.append({"flag": flag, "value": value, "other_flag": other, "other_value": other_value})
    places = [{line["flag"]: line["value"], line["other_flag"]: line["other_value"]} for line in lines]
    means = cell_means(grid, places, results_of(runs, measure))
    absent = [_absent(grid, place, by_row) for place in places]
    labels = [", ".join(f"{flag}={value}" for flag, value in place.items()) for place in places]
    return pd.concat([pd.DataFrame(lines).assign(label=labels), means.assign(absent=absent)], axis=1)


def _absent(grid: Factorial, place: Mapping[str, Any], by_row: Mapping[str, pd.DataFrame]) -> str:
    """The state of the first cell without a result at some values."""
    names = list(grid.flags)
    for cell in grid.cells:
        if all(cell[names.index(flag)] == value for flag, value in place.items()):
            runs = by_row.get(grid.rows.get(cell, ""))
            state = status_of(runs) if runs is not None else "not in the study"
            if state != "done":
                return shown(state)
    return ""


def _effects_plot(table: Table, measure: Measure) -> Plot:
    """The effects that the table shows."""
    shown = table.frame[table.frame["family"] != Family.AT_EACH].reset_index(drop=True)
    shown.insert(0, "label", shown["change"] + ", " + shown["where"])
    caption = f"Effects on mean {MEASURES[measure].name}."
    if shown["p"].notna().any():
        caption += " Marks go by adjusted p-values, in two families: effects at one value, and averaged effects with "
        caption += "interactions. CIs are unadjusted."

    def draw() -> Figure:
        from reports.figures.interaction import grid_effects

        return grid_effects(shown, measure, table.title, table.subtitle, [caption])

    return Plot(table.name, table.title, caption, shown, draw, measure)


def interaction_matrix_plot(table: Table, measure: Measure = "top1") -> Iterator[Plot]:
    """The interaction of each two flags over orders; none if no pair has an estimate."""
    if not np.isfinite(table.frame["effect"].to_numpy()).any():
        return
    frame = table.frame.assign(label=table.frame["flag"] + " × " + table.frame["other"])
    caption = (
        f"How much more the one flag adds to {MEASURES[measure].change} if the other is on than if it is off (pairwise "
        "Faith-Shap index). A frame marks a Holm-adjusted p-value of at most 0.05."
    )

    def draw() -> Figure:
        from reports.figures.interaction import interaction_matrix

        return interaction_matrix(frame, measure, table.title, table.subtitle, [caption])

    yield Plot(table.name, table.title, caption, frame, draw, measure)
