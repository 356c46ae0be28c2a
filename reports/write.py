"""Write a report: every table and figure of some runs, under one folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pandas as pd

from modernize.roadmap import NAMES
from reports import figures, render
from reports.tables import ReportError, Table, roadmap_table


def write_report(runs: pd.DataFrame, out: Path, title: str) -> list[Path]:
    """Write `tables/` and `figures/` under `out`; the files written, in order.

    A report of one roadmap names its files `roadmap`, one of several `roadmap-NAME`. Raises ReportError where the
    runs cannot be reported together.
    """
    written = []
    for table in _roadmap_tables(runs, title):
        for suffix, text in (("md", render.markdown(table)), ("csv", render.csv(table))):
            written.append(_write(out / "tables" / f"{table.name}.{suffix}", text.encode()))
        figure = figures.trajectory(table)
        for suffix in ("png", "svg"):
            written.append(_write(out / "figures" / f"{table.name}.{suffix}", figures.encode(figure, suffix)))
    return written


def _roadmap_tables(runs: pd.DataFrame, title: str) -> list[Table]:
    """The table of each roadmap that has runs."""
    names = [name for name in NAMES if (runs["roadmap"] == name).any()]
    if not names:
        raise ReportError(f"no runs of a roadmap to report; the roadmaps are {', '.join(NAMES)}")
    if len(names) == 1:
        return [dataclasses.replace(roadmap_table(runs, names[0]), title=title)]
    return [
        dataclasses.replace(roadmap_table(runs, name), name=f"roadmap-{name}", title=f"{title}: {name}")
        for name in names
    ]


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
