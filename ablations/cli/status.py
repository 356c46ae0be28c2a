"""The command status."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ablations.cli.hints import Command
from ablations.cli.options import Location, Positive, with_options


@click.command(cls=Command)
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER…", type=Location())
@click.option("--watch", type=Positive(), metavar="SECONDS", help="Repeat at this interval until no run is running.")
@with_options("debug")
def status(folders: tuple[Path, ...], watch: float | None) -> None:
    """Show a study's finished, running, failed and pending runs.

    FOLDER is the study's folder, also a combined study's, or those of single runs. Loss and top-1 of running runs are
    those on training images since the previous line of the log. The remaining time is an estimate.
    """
    while _show(folders, clear=watch is not None) and watch is not None:
        time.sleep(watch)


def _show(folders: tuple[Path, ...], clear: bool) -> bool:
    """Print the state of a study, on a terminal in place of what it shows; return whether any run is running."""
    from ablations.launch.slurm import describe_queue
    from ablations.studies.combined import is_combined_folder, read_combined
    from ablations.studies.loose_runs import opened
    from ablations.studies.status import describe, describe_several, is_running

    if len(folders) == 1 and is_combined_folder(folders[0]):
        studies = read_combined(folders[0])
        text = describe_several(folders[0].resolve().name, studies)
        running = any(is_running(*one) for one in studies.values())
        queues = [describe_queue(folder) for _, folder in studies.values()]
    else:
        with opened(folders) as (study, folder):
            running, text, queues = is_running(study, folder), describe(study, folder), [describe_queue(folder)]
    if clear:
        click.clear()
    click.echo("\n  ".join([text, *filter(None, queues)]))
    return running
