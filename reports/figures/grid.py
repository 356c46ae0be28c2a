"""Grids of two flags as a heat map shows them: the runs of each pair of values."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from reports.row_summary import status_of
from reports.statistics import Measure, Summary, summarise
from reports.statistics.factorial import Factorial


@dataclass(frozen=True)
class Grid:
    """Two flags, their values in order, and the runs of each pair of values."""

    down: str
    across: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], pd.DataFrame]
    measure: Measure = "top1"

    def summary(self, place: tuple[str, str]) -> Summary:
        """Summarize the measure of a cell's finished runs."""
        cell = self.cells[place]
        return summarise(cell.loc[cell["status"] == "done", self.measure])

    @property
    def frame(self) -> pd.DataFrame:
        """A line a cell: both values, status, and mean, sd and seeds of the measure."""
        lines = []
        for (down, across), runs in self.cells.items():
            result = self.summary((down, across))
            line = {self.down: down, self.across: across, "status": status_of(runs)}
            lines.append(line | {"mean": result.mean, "sd": result.sd, "seeds": result.seeds})
        return pd.DataFrame(lines)


def two_flags(grid: Factorial, runs: pd.DataFrame, measure: Measure = "top1") -> Grid | None:
    """Arrange the runs of a grid of two flags; None if it has another number of flags."""
    if len(grid.flags) != 2:
        return None
    by_row = {str(row): group for row, group in runs.groupby("row", sort=False)}
    down, across = grid.flags
    cells = {(cell[0], cell[1]): by_row[row] for cell, row in grid.rows.items()}
    rows, columns = grid.flags.values()
    return Grid(down, across, rows, columns, cells, measure)
