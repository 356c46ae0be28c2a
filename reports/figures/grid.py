"""Grids of two flags, read from the names of a study's rows."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from reports.row_summary import status_of
from reports.statistics import summarise


@dataclass(frozen=True)
class Grid:
    """Two flags, their values in order, and the runs of each pair of values."""

    down: str
    across: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], pd.DataFrame]

    @property
    def frame(self) -> pd.DataFrame:
        """A line a cell: both values, status, and mean, sd and seeds of top-1."""
        lines = []
        for (down, across), runs in self.cells.items():
            top1 = summarise(runs.loc[runs["status"] == "done", "top1"])
            line = {self.down: down, self.across: across, "status": status_of(runs)}
            lines.append(line | {"mean": top1.mean, "sd": top1.sd, "seeds": top1.seeds})
        return pd.DataFrame(lines)


def two_flags(runs: pd.DataFrame) -> Grid | None:
    """The grid of a study's runs by the names of its rows; None where these are not of two flags."""
    cells: dict[tuple[str, str], pd.DataFrame] = {}
    flags: tuple[str, ...] = ()
    for row, group in runs.groupby("row", sort=False):
        pairs = [part.partition("=") for part in str(row).split(",")]
        flags = tuple(flag for flag, _, _ in pairs)
        if len(pairs) != 2:
            return None
        cells[pairs[0][2], pairs[1][2]] = group
    rows, columns = (tuple(dict.fromkeys(values)) for values in zip(*cells, strict=True))
    return Grid(flags[0], flags[1], rows, columns, cells)
