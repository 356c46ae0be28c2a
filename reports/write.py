"""Write a report: every table and figure of a study, and the page, under one folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reports.report import Report

TABLES = {"markdown": "md", "csv": "csv", "latex": "tex"}
FIGURES = ("png", "svg", "pdf")
REPORT_FORMATS = (*TABLES, *FIGURES, "html")


def write_report(report: Report, out: Path, formats: Collection[str] = REPORT_FORMATS) -> list[Path]:
    """Write `summary.md`, `tables/`, `figures/` and `index.html` in these formats; return the files."""
    made = list(_render_all(report, formats))  # everything, before the first file of an older report is replaced
    return [write_file(out / name, content) for name, content in made]


def write_file(path: Path, content: bytes) -> Path:
    """Write a file atomically: a reader finds the old file or the new one, never a part of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def _render_all(report: Report, formats: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the name of each file under the report's folder and its contents, the page last."""
    from reports.formats import render
    from reports.summary import as_markdown

    if "markdown" in formats:
        yield "summary.md", as_markdown(report.summary).encode()

    for table in report.every_table:
        for form, suffix in TABLES.items():
            if form in formats:
                yield f"tables/{table.name}.{suffix}", render(table, form, report.layout).encode()
    for plot in report.plots:
        for suffix in FIGURES:
            if suffix in formats:
                yield f"figures/{plot.name}.{suffix}", plot.encoded(suffix)
    if "html" in formats:
        from reports.page import page

        yield "index.html", page(report).encode()
