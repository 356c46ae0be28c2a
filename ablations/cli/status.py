"""The command status."""

from __future__ import annotations

from pathlib import Path

import click

from ablations.cli.hints import Command
from ablations.cli.options import Location, with_options


@click.command(cls=Command)
@click.argument("folder", type=Location())
@with_options("debug")
def status(folder: Path) -> None:
    """Show a study's finished, running, failed and pending runs.

    FOLDER is the study's folder. The remaining time is an estimate."""
    from ablations.launch.slurm import describe_queue
    from ablations.studies.folder import read_study
    from ablations.studies.status import describe

    click.echo(describe(read_study(folder), folder))
    if (queue := describe_queue(folder)) is not None:
        click.echo(f"  {queue}")
