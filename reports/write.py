"""Write a report: every table and figure of a study's runs, under one folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reports import figures, render
from reports.comparisons import Predictions, comparison_table, orders_table
from reports.tables import Table, roadmap_table


@dataclass(frozen=True)
class Orders:
    """The orders that a study of orders walked, the paper's first, and the row of a set of flags."""

    orders: Sequence[Sequence[str]]
    row_of: Callable[[frozenset[str]], str]


def report_tables(
    runs: pd.DataFrame, title: str, predictions: Predictions | None = None, orders: Orders | None = None
) -> list[Table]:
    """The tables of a study, the main one first: a roadmap's beside the paper, the worths of flags, the differences.

    Raises ReportError where the runs cannot be reported together.
    """
    compared = comparison_table(runs, predictions)
    if orders is not None:
        return [orders_table(runs, orders.orders, orders.row_of), compared]
    roadmap = runs["roadmap"].iloc[0]
    if isinstance(roadmap, str):
        return [dataclasses.replace(roadmap_table(runs, roadmap), title=title), compared]
    return [compared]


def write_report(tables: Sequence[Table], out: Path) -> list[Path]:
    """Write `tables/` and `figures/` under `out`; the files written, in order."""
    written = []
    for table in tables:
        for suffix, form in (("md", "markdown"), ("csv", "csv"), ("tex", "latex")):
            written.append(_write(out / "tables" / f"{table.name}.{suffix}", render.FORMATS[form](table).encode()))
        if table.name == "roadmap":
            figure = figures.trajectory(table)
            for suffix in ("png", "svg"):
                written.append(_write(out / "figures" / f"{table.name}.{suffix}", figures.encode(figure, suffix)))
    return written


def _write(path: Path, content: bytes) -> Path:
    """Write beside the file and rename into place: a reader finds the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path
