"""The page: a whole report in one HTML file that loads nothing from the network, with an explorer of designs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup, escape

from reports import diagrams
from reports.layout import Layout
from reports.page.explorer import explorer_data
from reports.page.rows import row_data
from reports.page.svg import inline
from reports.page.tables import page_tables
from reports.report import Plot, Report
from reports.statuses import shown

_HERE = files("reports.page")
_PHONE = 84.0  # millimeters


def page(report: Report) -> str:
    """Render the page. The template escapes all text of the study."""
    bare = Layout(heading=False)  # the page has title and caption as text
    figures = [(plot, inline(replace(plot, layout=bare))) for plot in report.plots]
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    explorer = explorer_data(report) if report.designs else None  # reference models have no flags
    return environment.get_template("page.html").render(
        report=report,
        facts=report.summary.facts if len(report.runs) else "",
        unfinished=report.unfinished.to_dict("records"),
        answer=next((figure for figure in figures if figure[0].name == report.summary.figure), None),
        narrow=narrow(next((plot for plot in report.plots if plot.name == report.summary.figure), None)),
        figures=[figure for figure in figures if figure[0].name != report.summary.figure],
        tables=page_tables(report.every_table),
        heading=heading,
        signed_word=signed_word,
        breakable=breakable,
        shown=shown,
        style=Markup(f"{_read('page.css')}\n{diagrams.STYLE}"),
        script=Markup(_read("page.js")),
        explorer=explorer,
        data={**(explorer or {}), "study": row_data(report)},
        explorer_script=Markup(_read("explorer.js")),
        as_json=as_json,
    )


def as_json(values: Any) -> Markup:
    """Encode values for a JSON script element: nothing in them can end the element or start another."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return Markup(re.sub(r"<(?=!|script)", r"\\u003c", text.replace("</", "<\\/"), flags=re.IGNORECASE))


def narrow(plot: Plot | None) -> Markup:
    """Draw the summary's figure for the width of a phone, where it leaves out columns of numbers."""
    if plot is None:
        return Markup()
    return inline(replace(plot, name=f"narrow-{plot.name}", layout=Layout(_PHONE, heading=False)))


def heading(title: str) -> str:
    """Format a column's heading without a line break before a unit or within brackets."""
    title = re.sub(r"\([^()]*\)", lambda bracket: bracket[0].replace(" ", "\N{NO-BREAK SPACE}"), title)
    return re.sub(r" (?=\(|\S{1,2}$)", "\N{NO-BREAK SPACE}", title) or "what"


def signed_word(text: str) -> str:
    """Format a cell's text with a leading sign kept on the line of its word."""
    return re.sub(r"^([+−]) ", "\\1\N{NO-BREAK SPACE}", text)


def breakable(text: str) -> Markup:
    """Escape text and let its lines break behind commas and before brackets."""
    return Markup(re.sub(r"(,)(?=\S)|(?<=\S)(?=\()", r"\1<wbr>", str(escape(text))))


def _read(name: str) -> str:
    return _HERE.joinpath(name).read_text(encoding="utf-8")
