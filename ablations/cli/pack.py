"""The command pack."""

from __future__ import annotations

from pathlib import Path

import click

from ablations.cli.hints import Command
from ablations.cli.options import Location, with_options


@click.command(cls=Command)
@click.argument("folder", type=Location())
@click.option("--to", type=Location(), metavar="FILE.zip", help="File to write. [default: FOLDER.zip]")
@with_options("debug")
def pack(folder: Path, to: Path | None) -> None:
    """Pack a study's folder into a zip file, to send it to somebody.

    FOLDER is the study's folder. The file has everything that `status`, `report` and `compare` read, without
    checkpoints. It unpacks to one folder, which these commands take on any machine, without the dataset.
    """
    from ablations.studies.packing import pack as write

    packed = write(folder, to)
    unfinished = packed.runs - packed.finished
    some = f", {unfinished} of them not finished" if unfinished else ""
    click.echo(f"{packed.path}  {_megabytes(packed.size)}  {packed.runs} runs{some}; unpacks to {packed.folder}/")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.0f} kB"
