"""The figure of every pair of designs: their differences as a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from reports.header import facts
from reports.report import Plot
from reports.row_summary import summarise_rows, title_of
from reports.statistics import MEASURES, Measure
from reports.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pair_matrix_plot(
    runs: pd.DataFrame, table: Table, measure: Measure = "top1", rows: Sequence[str] | None = None
) -> Plot:
    """The differences of a table of pairs as a matrix, beside each design's result and cost; `rows`: those to show."""
    heading = f"{title_of(runs)}: differences between designs"
    caption = (
        f"Each cell: the design of the row minus that of the column, in {MEASURES[measure].change}, with its "
        "unadjusted 95% CI. Colors are verdicts, whose p-values are adjusted for all pairs. Diagonal: mean ± standard "
        "deviation over seeds."
    )
    shown = [row for row in summarise_rows(runs) if rows is None or row.row in rows]
    possible = len(shown) * (len(shown) - 1) // 2
    caption += " Two designs without a cell are not compared." if len(table.rows) < possible else ""

    def draw() -> Figure:
        from reports.figures.pair_matrix import pair_matrix

        return pair_matrix(shown, table.frame, measure, (heading, facts(runs), caption))

    return Plot("pair-matrix", heading, caption, table.frame, draw, measure)
