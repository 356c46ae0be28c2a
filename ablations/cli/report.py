"""The command report."""

from __future__ import annotations

from pathlib import Path

import click

from ablations.cli.options import REPORTS, Location, read_formats, with_options
from ablations.cli.output import print_table, print_text
from ablations.errors import RequestError, RunError, writing


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER…", type=Location())
@click.option(
    "--to", type=Location(), metavar="DIR", help="Folder of the report. [default: report, in the first FOLDER]"
)
@click.option(
    "--format",
    "formats",
    metavar="NAME,…",
    multiple=True,
    callback=read_formats,
    help=f"Formats, from {', '.join(REPORTS)}; table prints to the terminal. Repeatable. [default: all]",
)
@with_options("debug")
def report(folders: tuple[Path, ...], to: Path | None, formats: list[str]) -> None:
    """Print a study's tables; write them with figures and a page.

    FOLDER is the study's folder. The report shows its runs in their current state. Instead, the folders of single runs
    may be given, as `ablations train` makes them: each is compared with the first.
    """
    from ablations.reporting import read_report
    from ablations.studies.loose_runs import opened
    from reports.errors import FigureError, ReportError
    from reports.summary import as_text
    from reports.write import TABLES, write_report

    folder = folders[0]
    try:
        with opened(folders) as (study, place):
            gathered = read_report(study, place)
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
        with writing(f"report {to or folder / 'report'}"):
            written = write_report(gathered, to or folder / "report", formats)
    except FigureError as error:
        raise RunError(f"report {folder}: {error}; --format {','.join(TABLES)} writes the tables alone") from error
    for path in written:
        click.echo(path)
