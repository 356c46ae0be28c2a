"""The command report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ablations.cli.hints import Command
from ablations.cli.options import REPORTS, Location, Positive, read_formats, with_options
from ablations.cli.output import print_table, print_text
from ablations.errors import RequestError, RunError, writing

if TYPE_CHECKING:
    from reports.report import Report
    from reports.view import View

ORDER_KEYS = ("difference", "top1", "loss", "params", "macs", "activations", "label")  # those of `reports.view.ORDERS`
WIDTHS = {"column": 82.55, "page": 174.625}  # millimeters: 3.25 and 6.875 inches
NARROWEST, WIDEST = 70.0, 400.0
LEAST = 2.75  # inches that figures need beside text of 9 points


def _rows(option: str, text: str | None, known: Sequence[str], keys: Sequence[str] = ()) -> tuple[str, ...]:
    """Split ROW,ROW,… into rows of the study, whose names may have commas; raises RequestError."""
    from modernize.names import nearest

    if text is None or text in keys:
        return () if text is None else (text,)
    parts, rows = [part.strip() for part in text.split(",")], []
    while parts:
        ends = [end for end in range(len(parts), 0, -1) if ",".join(parts[:end]) in known]
        if not ends:
            what = "neither a key nor a row of the study" if keys else "not a row of the study"
            raise RequestError(f"{option} {text}: {parts[0]!r} is {what}: {nearest(parts[0], [*keys, *known])}")
        rows.append(",".join(parts[: ends[0]]))
        parts = parts[ends[0] :]
    return tuple(rows)


def read_width(_: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """Parse --width column, --width page or --width 84."""
    from modernize.numbers import parse_number

    if value is None or value in WIDTHS:
        return None if value is None else WIDTHS[value]
    try:
        width = float(parse_number(value.removesuffix("mm")))
    except ValueError:
        raise RequestError(f"--width {value}: write column, page, or millimeters, such as --width 84") from None
    if not NARROWEST <= width <= WIDEST:
        nearest_valid = min(max(width, NARROWEST), WIDEST)
        raise RequestError(f"--width {value}: must be from 70 to 400 mm; nearest valid value: {nearest_valid:g}")
    return width


def _view(
    known: Sequence[str],
    title: str,
    rows: str | None,
    order: str | None,
    labels: Path | None,
    width: float | None,
    font_size: float | None,
    no_heading: bool,
) -> View:
    """Return what the options ask to show; raises RequestError."""
    from reports.layout import MILLIMETERS, TEXT, Layout
    from reports.view import View

    layout = Layout(width, font_size, not no_heading)
    most = TEXT * (width or WIDEST) / MILLIMETERS / LEAST
    if font_size is not None and not 4 <= font_size <= min(most, 24):
        nearest_valid = 4 if font_size < 4 else math.floor(10 * min(most, 24)) / 10
        at = f" at a width of {width:g} mm" if width else ""
        raise RequestError(f"--font-size {font_size:g}: not legible{at}; nearest valid value: {nearest_valid:g}")
    chosen, first = _rows("--rows", rows, known), _rows("--order", order, known, ORDER_KEYS)
    return View(title, chosen, _read_labels(labels, known) if labels else {}, first, layout)


def _read_labels(path: Path, known: Sequence[str]) -> dict[str, str]:
    """Read the labels of rows from a YAML file."""
    from modernize.names import nearest
    from modernize.yaml_file import YamlFileError, read_mapping

    try:
        labels = read_mapping(path)
    except YamlFileError as error:
        raise RequestError(f"--labels {error}") from None
    for row, label in labels.items():
        if str(row) not in known:
            raise RequestError(f"--labels {path}: {row!r} is not a row of the study: {nearest(str(row), known)}")
        if not isinstance(label, str) or not label.strip():
            raise RequestError(f"--labels {path}: {row}: must be text, such as {row}: baseline")
    return {str(row): label for row, label in labels.items()}


def _gathered(folders: Sequence[Path], shown: Mapping[str, Any]) -> tuple[Report, str]:
    """Gather the report of a study, of single runs or of several studies, and the name of its folder."""
    from ablations.combined_reporting import combined_report, several_studies
    from ablations.reporting import read_report
    from ablations.studies.combined import is_combined_folder, read_combined
    from ablations.studies.loose_runs import opened

    if len(folders) == 1 and is_combined_folder(folders[0]):
        studies = read_combined(folders[0])
        view = _view([row.row for row in next(iter(studies.values()))[0].rows], **shown)
        return combined_report(studies, replace(view, title=view.title or folders[0].resolve().name)), "report"
    if studies := several_studies(folders):
        known = [row.row for row in next(iter(studies.values()))[0].rows]
        return combined_report(studies, _view(known, **shown)), "combined-report"
    with opened(folders) as (study, place):
        return read_report(study, place, _view([row.row for row in study.rows], **shown)), "report"


@click.command(cls=Command)
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER…", type=Location())
@click.option(
    "--to",
    type=Location(),
    metavar="DIR",
    help="Folder of the report. [default: report, in the first FOLDER; combined-report for several studies]",
)
@click.option(
    "--format",
    "formats",
    metavar="NAME,…",
    multiple=True,
    callback=read_formats,
    help=f"Formats, from {', '.join(REPORTS)}; table prints to the terminal. Repeatable. [default: all]",
)
@click.option(
    "--title", metavar="TEXT", default="", help="Title of tables, figures and page. [default: the study's name]"
)
@click.option("--rows", metavar="ROW,…", help="Rows to show. [default: all]")
@click.option(
    "--order",
    metavar="KEY|ROW,…",
    help=f"Order of rows: {', '.join(ORDER_KEYS)}, or rows to list first. [default: the study's]",
)
@click.option(
    "--labels", type=Location(), metavar="FILE", help="YAML file of labels: ROW: LABEL. [default: the study's]"
)
@click.option(
    "--width",
    metavar="column|page|MM",
    callback=read_width,
    help="Exact width of figures and LaTeX tables: a column (82.55 mm) or page (174.6 mm) of CVPR, or mm.",
)
@click.option(
    "--font-size",
    type=Positive(),
    metavar="PT",
    help="Text size of figures and LaTeX tables; tables leave out columns for it. [default: 9, with --width 8]",
)
@click.option("--no-heading", is_flag=True, help="Leave out title, facts and caption; LaTeX tables have no float.")
@with_options("debug")
def report(folders: tuple[Path, ...], to: Path | None, formats: list[str], **shown: Any) -> None:
    """Print a study's tables; write them with figures and a page.

    FOLDER is the study's folder. The report shows its runs in their current state. Instead, the folders of single runs
    may be given, as `ablations train` makes them: each is compared with the first. Several studies of the same rows are
    combined: each difference is averaged over them, with a CI over studies. --rows leaves out other rows, not their
    comparisons: verdicts and the summary stay those of the whole study.
    """
    from reports.errors import FigureError, ReportError
    from reports.summary import as_text
    from reports.write import TABLES, write_report

    folder = folders[0]
    try:
        gathered, name = _gathered(folders, shown)
    except ReportError as error:
        raise RequestError(f"report {folder}: {error}") from None
    except OSError as error:
        raise RunError(f"report {folder}: {error.filename} cannot be read ({error.strerror})") from error
    if "table" in formats:
        print_text(as_text(gathered.summary))
        for table in gathered.every_table:
            print_table(table)
            click.echo()
    try:
        with writing(f"report {to or folder / name}"):
            written = write_report(gathered, to or folder / name, formats)
    except FigureError as error:
        raise RunError(f"report {folder}: {error}; --format {','.join(TABLES)} writes the tables alone") from error
    for path in written:
        click.echo(path)
