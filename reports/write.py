"""Write a report: every table and figure of a study, and the page, under one folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from reports import render
from reports.files import write_file
from reports.report import Report

TABLES = {"markdown": "md", "csv": "csv", "latex": "tex"}
FIGURES = ("png", "svg", "pdf")
FORMATS = (*TABLES, *FIGURES, "html")


def write_report(report: Report, out: Path, formats: Collection[str] = FORMATS) -> list[Path]:
    """Write `tables/`, `figures/` and `index.html` under `out`, in these formats; the files written, in order."""
    made = list(_render_all(report, formats))  # all of it, before the first of an older report's files is replaced
    return [write_file(out / name, content) for name, content in made]


def _render_all(report: Report, formats: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Each file's name under the report's folder and its contents, the page last."""
    for table in report.tables:
        for form, suffix in TABLES.items():
            if form in formats:
                yield f"tables/{table.name}.{suffix}", render.FORMATS[form](table).encode()
    for plot in report.plots:
        for suffix in FIGURES:
            if suffix in formats:
                yield f"figures/{plot.name}.{suffix}", plot.encoded(suffix)
    if "html" in formats:
        from reports.page import page

        yield "index.html", page(report).encode()
