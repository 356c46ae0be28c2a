"""The command that shows recipes: recipe."""

from __future__ import annotations

import re
from importlib.resources import files
from itertools import takewhile

import click

from ablations.cli.hints import Command
from ablations.cli.options import with_options
from ablations.cli.output import print_words


@click.command(cls=Command)
@click.argument("name", required=False)
@with_options("debug")
def recipe(name: str | None) -> None:
    """Show the settings of a recipe, or list the recipes.

    NAME is that of --recipe: a recipe, such as quick or quick,mixup=0.8, or a YAML file. Settings that its optimizer,
    schedule or augmentation does not use are left out.
    """
    from ablations.recipes import load_recipe, recipe_names
    from ablations.studies.variants import setting_text
    from ablations.training_config import OWNED, TrainingConfig

    if name is None:
        print_words(("recipe", "what for"), [(one, _purpose(one)) for one in recipe_names()])
        return
    rows = []
    for key, value in load_recipe(name):
        declared = TrainingConfig.model_fields[key]
        if value is None and key in OWNED:
            continue
        default = "" if declared.is_required() or key in OWNED else setting_text(declared.default)
        rows.append((key, setting_text(value), default, declared.description or ""))
    print_words(("setting", "value", "default", "meaning"), rows)


def _purpose(name: str) -> str:
    """Return what a shipped recipe is for: the first sentence of the comment at the top of its file."""
    lines = files("ablations").joinpath("shipped", "recipes", f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines))
    return re.split(r"(?<=[^.][.])\s+(?=[A-Z])", comment)[0].removesuffix(".")
