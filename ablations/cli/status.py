"""The command status."""

from __future__ import annotations

from pathlib import Path

import click

from ablations.cli.hints import Command
from ablations.cli.options import Location, with_options


@click.command(cls=Command)
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER…", type=Location())
@with_options("debug")
def status(folders: tuple[Path, ...]) -> None:
    """Show a study's finished, running, failed and pending runs.

    FOLDER is the study's folder, or those of single runs. The remaining time is an estimate.
    """
    from ablations.launch.slurm import describe_queue
    from ablations.studies.loose_runs import opened
    from ablations.studies.status import describe

    with opened(folders) as (study, folder):
        click.echo(describe(study, folder))
        if (queue := describe_queue(folder)) is not None:
            click.echo(f"  {queue}")
