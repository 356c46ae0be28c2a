"""The page: a whole report in one HTML file that loads nothing from the network, with an explorer of designs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from itertools import groupby
from typing import Any

import jinja2
from markupsafe import Markup

from reports import diagrams
from reports.layout import NATURAL
from reports.page.explorer import explorer_data
from reports.page.svg import inline
from reports.report import Report
from reports.row_summary import facts
from reports.statuses import shown
from reports.tables import Column

_HERE = files("reports.page")


def page(report: Report) -> str:
    """Render the page. The template escapes all text of the study."""
    plots = [plot if plot.layout == NATURAL else replace(plot, layout=NATURAL) for plot in report.plots]
    figures = [(plot, inline(plot)) for plot in plots]
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html").render(
        report=report,
        facts=facts(report.runs) if len(report.runs) else "",
        unfinished=report.unfinished.to_dict("records"),
        answer=next((figure for figure in figures if figure[0].name == report.summary.figure), None),
        figures=[figure for figure in figures if figure[0].name != report.summary.figure],
        spans=spans,
        heading=heading,
        signed_word=signed_word,
        shown=shown,
        style=Markup(f"{_read('page.css')}\n{diagrams.STYLE}"),
        script=Markup(_read("page.js")),
        explorer=explorer_data(report) if report.designs else None,  # reference models have no flags
        explorer_script=Markup(_read("explorer.js")),
        as_json=as_json,
    )


def as_json(values: Any) -> Markup:
    """Encode values for a JSON script element: nothing in them can end the element or start another."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return Markup(re.sub(r"<(?=!|script)", r"\\u003c", text.replace("</", "<\\/"), flags=re.IGNORECASE))


def spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Return the group headings and the number of columns of each."""
    return [(group, len(list(some))) for group, some in groupby(columns, key=lambda column: column.group)]


def heading(title: str) -> str:
    """Format a column's heading without a line break before a unit or a bracket."""
    return re.sub(r" (?=\(|\S{1,2}$)", "\N{NO-BREAK SPACE}", title) or "what"


def signed_word(text: str) -> str:
    """Format a cell's text with a leading sign kept on the line of its word."""
    return re.sub(r"^([+−]) ", "\\1\N{NO-BREAK SPACE}", text)


def _read(name: str) -> str:
    return _HERE.joinpath(name).read_text(encoding="utf-8")
