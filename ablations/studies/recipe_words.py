"""How lists name the recipes of a study: briefly, by what a row changes of its baseline's."""

from __future__ import annotations

from collections.abc import Iterator

from ablations.studies.how_made import full_name
from ablations.studies.own_rows import network_of
from ablations.studies.schema import Study
from modernize.design import split_commas
from reports.row_summary import EVALUATION_ONLY, recipe_changes

BRIEF = 40  # characters of a recipe's name that lists print


def recipe_of_each_row(study: Study) -> dict[str, str]:
    """Name the recipe of each row: in full if all are brief, else by its changes of the recipe of its baseline.

    Epochs that follow from the study's budget are left out.
    """
    names = {row.row: _name(study, row.recipe) for row in study.rows}
    words = dict(names)
    if all(len(name) <= BRIEF for name in names.values()):
        return words
    for row in study.rows:
        name, base = names[row.row], next(iter(row.baselines), "")
        changes = recipe_changes(name, names[base]) if base in names else None
        if changes is None:
            continue
        words[row.row] = min(name, ", ".join([f"of {base}", *changes.values()]), key=len)
    return words


def recipe_names(study: Study) -> list[str]:
    """Name each recipe of a study in full, in the order of rows."""
    return list(dict.fromkeys(_name(study, row.recipe) for row in study.rows))


def _name(study: Study, recipe: str) -> str:
    name = full_name(recipe, study.recipes[recipe])
    if study.budget is None:
        return name
    return ",".join(part for part in split_commas(name) if not part.startswith("max_epochs="))


def recipe_label(study: Study, recipe: str) -> str:
    """Name a recipe in a warning: in full if that is brief, else by the first row that it trains."""
    first = next((row.row for row in study.rows if row.recipe == recipe), recipe)
    return recipe if len(recipe) <= BRIEF else f"of row {first}"


def rows_of_the_same_weights(study: Study) -> Iterator[str]:
    """Yield a sentence for each row that trains the weights of its baseline, and evaluates them otherwise."""
    rows = {row.row: row for row in study.rows}
    for row in study.rows:
        for base in map(rows.__getitem__, row.baselines):
            if row.same_as or network_of(row) != network_of(base):
                continue
            changes = recipe_changes(row.recipe, base.recipe)
            if changes and set(changes) <= EVALUATION_ONLY:
                yield f"{row.row}: trains the same weights as {base.row} once more; only the evaluation differs"
                break
