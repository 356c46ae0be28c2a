"""The command export."""

from __future__ import annotations

from pathlib import Path

import click

from ablations.cli.hints import Command
from ablations.cli.options import Location, with_options
from ablations.export import FORMATS


@click.command(cls=Command)
@click.argument("run", type=Location())
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    required=True,
    help="safetensors: the network's own keys. torchvision, timm, official: a state dict with their keys.",
)
@click.option("--to", type=Location(), metavar="FILE", required=True, help="File to write; replaced if it exists.")
@click.option("--averaged", is_flag=True, help="Export the EMA weights.")
@with_options("debug")
def export(run: Path, form: str, to: Path, averaged: bool) -> None:
    """Write a run's trained network to a file.

    RUN is the run's folder. The file also describes the network's input and classes, so that a program without this
    package can classify images: in its metadata or, for .pth files, in FILE.json.
    """
    from ablations.export.formats import export_run

    paths, lacking = export_run(run, form, to, averaged)
    for path in paths:
        click.echo(path)
    if lacking:
        click.echo(f"{to}: {lacking}", err=True)
