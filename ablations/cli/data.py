"""The command that inspects a dataset: data."""

from __future__ import annotations

from pathlib import Path

import click

from ablations.cli.hints import Command
from ablations.cli.options import with_options


@click.command(cls=Command)
@click.argument("name")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@with_options("data_dir", "debug")
def data(name: str, form: str, data_dir: Path) -> None:
    """Inspect a dataset; download it if it is missing.

    NAME is that of --data, such as torchvision:SVHN or my_data.py:shapes.

    Print its images per class, the files that are left out and why, image sizes and modes, and the test images that
    are also in the training split.
    """
    import json

    from ablations.data.datasets import load
    from ablations.data.inspection import as_json, describe, inspect

    found = inspect(load(name, data_dir, differing=224))
    click.echo(json.dumps(as_json(found), indent=1) if form == "json" else describe(found))
