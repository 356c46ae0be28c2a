"""The rows of each kind of study: which designs it trains, and what each is compared with."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ablations.errors import RequestError
from ablations.studies.folder import slug
from ablations.studies.schema import StudyFile, StudyRow
from ablations.studies.variants import (
    Recipes,
    Variant,
    check_roadmap,
    plain_setting,
    read_settings,
    read_value,
    variant,
    written,
)
from modernize.design import RECIPE, DesignError, is_file, split_name
from modernize.names import nearest
from modernize.roadmap import Roadmap, Row, roadmap, roadmap_of


def main_recipe(request: StudyFile) -> str:
    """Return the recipe of all rows that have none of their own."""
    return "quick" if request.recipe is None else request.recipe


def _roadmap(request: StudyFile, recipes: Recipes) -> Iterator[StudyRow]:
    """Yield every row of the roadmap, each compared with the last adopted row before it."""
    try:
        steps = roadmap(request.base)
    except DesignError as error:
        raise RequestError(f"base: {error}") from None
    check_roadmap(steps)
    rows = (*steps.rows, *_extras(request, steps))
    if request.original_recipe and not any(row.original_recipe for row in rows):
        raise RequestError("original_recipe: no step of the roadmap has original_recipe: true; leave it out")
    for row in rows:
        before = steps.before(row)
        shown = Variant(row.design, read_settings(row.recipe))
        of = request.original_recipe if row.original_recipe else None
        yield _row(recipes, row.name, row.label, shown, before.name if before else None, of)


def _extras(request: StudyFile, steps: Roadmap) -> list[Row]:
    """Return the further rows that a study asks for; raises RequestError."""
    known = {row.name: row for row in steps.extras}
    for name in request.extras or ():
        if not known:
            raise RequestError(f"extras: unknown row {name!r}: the roadmap has no extras")
        if name not in known:
            raise RequestError(f"extras: unknown row {name!r}: {nearest(name, known)}")
    return [row for name, row in known.items() if name in (request.extras or ())]


def _design(key: str, name: str) -> Variant:
    """Return the variant that a key of the study names; raises RequestError naming the key."""
    try:
        return variant(name)
    except (DesignError, RequestError) as error:
        raise RequestError(f"{key}: {error}") from None


def base_of(request: StudyFile) -> Variant:
    return _design("base", request.base)


def _end(request: StudyFile) -> Variant:
    """Return the final design of a study."""
    if request.end is not None:
        return _design("end", request.end)
    steps = _roadmap_at(request)
    if steps is None:
        start = split_name(request.base).base
        raise RequestError(f"end: no roadmap starts at {start!r}; set end to the final design, or set flags")
    last = next(row for row in reversed(steps.rows) if row.adopted)
    return Variant(last.design, read_settings(last.recipe))


def _roadmap_at(request: StudyFile) -> Roadmap | None:
    try:
        steps = roadmap_of(request.base)
    except DesignError as error:
        raise RequestError(f"base: {error}") from None
    if steps is not None:
        check_roadmap(steps)
    return steps


def final_values(request: StudyFile, recipes: Recipes) -> dict[str, Any]:
    """Return the flags that differ between base and end, in the roadmap's order, with their final values."""
    base = base_of(request)
    if isinstance(request.flags, dict):
        if request.end is not None:
            raise RequestError("end: the values of flags define the final design already; set one of the two")
        many = [flag for flag, values in request.flags.items() if len(values) != 1]
        if many:
            raise RequestError(f"flags: {many[0]} must have one value in a study of kind {request.kind}")
        steps = {flag: values[0] for flag, values in request.flags.items()}
        base.with_values(steps)
        return steps
    differs = recipes.differences(_end(request), base)
    if not differs:
        raise RequestError("end: it is the same design as base, so no flag differs")
    own = _roadmap_at(request)
    order = (own if own is not None and is_file(own.base) else roadmap("resnet50")).flags
    steps = {
        flag: differs[flag] for flag in sorted(differs, key=lambda flag: order.index(flag) if flag in order else -1)
    }
    for flag in request.flags or ():
        if flag not in steps:
            raise RequestError(f"flags: {flag} has the same value in base and end; give a value, such as {flag}=…")
    return {flag: steps[flag] for flag in request.flags or steps}


def _row(
    recipes: Recipes, name: str, label: str, shown: Variant, compared_with: str | None, of: str | None = None
) -> StudyRow:
    """Return the row of a variant, under the main recipe or that of a name."""
    return StudyRow(
        row=name,
        label=label,
        flags=shown.design.flags(),
        recipe=recipes.name(shown.settings, of),
        settings={key: plain_setting(value) for key, value in shown.settings.items()},
        compared_with=compared_with,
    )


def _one_in(request: StudyFile, recipes: Recipes) -> Iterator[StudyRow]:
    """Yield the base, and the base with each flag enabled alone."""
    base = base_of(request)
    yield _row(recipes, "base", request.base, base, None)
    for flag, value in final_values(request, recipes).items():
        yield _row(recipes, f"with-{flag}", f"+ {written(flag, value)}", base.with_values({flag: value}), "base")


def _one_out(request: StudyFile, recipes: Recipes) -> Iterator[StudyRow]:
    """Yield the final design, and the final design with each flag reverted alone."""
    base, steps = base_of(request), final_values(request, recipes)
    end = base.with_values(steps) if isinstance(request.flags, dict) else _end(request)
    yield _row(recipes, "end", request.end or f"{request.base}, all flags", end, None)
    for flag in steps:
        back = recipes.value(base, flag)
        yield _row(recipes, f"without-{flag}", f"− {written(flag, back)}", end.with_values({flag: back}), "end")


def _values(request: StudyFile) -> dict[str, list[Any]]:
    """Return the flags of a sweep or a grid, and the values of each."""
    if not isinstance(request.flags, dict):
        raise RequestError(f"flags: a {request.kind} needs values, such as kernel_size: [3, 5, 7]")
    for flag, values in request.flags.items():
        read = [read_value(flag, value) for value in values]
        twice = [value for place, value in enumerate(read) if value in read[:place]]
        if twice:
            raise RequestError(f"flags: {written(flag, twice[0])} is listed twice")
    return request.flags


def _sweep(request: StudyFile, recipes: Recipes) -> Iterator[StudyRow]:
    """Yield a row per value of one flag, each compared with the first."""
    values = _values(request)
    if len(values) != 1:
        raise RequestError("flags: a sweep varies one flag; to vary several, use a grid")
    yield from _grid(request, recipes)


def _grid(request: StudyFile, recipes: Recipes) -> Iterator[StudyRow]:
    """Yield a row per combination of several flags' values, each compared with the first."""
    values, base = _values(request), base_of(request)
    first: str | None = None
    for chosen in itertools.product(*values.values()):
        flags = dict(zip(values, chosen, strict=True))
        parts = [written(flag, value) for flag, value in flags.items()]
        name = ",".join(parts)
        yield _row(recipes, name, ", ".join(parts), base.with_values(flags), first)
        first = first or name


def sample_orders(request: StudyFile, recipes: Recipes) -> Iterator[list[str]]:
    """Yield the roadmap's order of the flags, then random orders, sampled independently."""
    flags = list(final_values(request, recipes))
    rng = random.Random(request.orders_seed or 0)
    yield flags
    for _ in range(request.orders or 10):
        yield rng.sample(flags, len(flags))


def walks(request: StudyFile, recipes: Recipes, orders: list[list[str]]) -> Iterator[StudyRow]:
    """Yield every set of flags that occurs along the orders, once."""
    base, steps = base_of(request), final_values(request, recipes)
    seen = set()
    for order in orders:
        for length in range(len(order) + 1):
            on = frozenset(order[:length])
            if on not in seen:
                seen.add(on)
                label = " + ".join(flag for flag in steps if flag in on) or request.base
                label = label if len(on) < len(steps) else "all flags"
                flags = {flag: value for flag, value in steps.items() if flag in on}
                yield _row(recipes, set_name(list(steps), on), label, base.with_values(flags), None)


def set_name(flags: list[str], on: frozenset[str]) -> str:
    """Name the row of a set of flags: `on-` and one digit per flag in their first order, such as on-0110."""
    return "on-" + "".join("1" if flag in on else "0" for flag in flags)


def _recipes(request: StudyFile, _: Recipes) -> Iterator[StudyRow]:
    """Yield the same design under each recipe, compared with the first."""
    base = base_of(request)
    if base.settings:
        key = next(iter(base.settings))
        raise RequestError(f"base: {RECIPE}{key}: this study compares recipes; set it within one, as in quick,{key}=…")
    return recipe_rows(request, base.design.flags())


def recipe_rows(request: StudyFile, flags: dict[str, Any]) -> Iterator[StudyRow]:
    """Yield a row of these flags for each recipe, compared with the first."""
    compared = request.recipes or ["quick_original", "quick"]
    names = [_recipe_row(recipe) for recipe in compared]
    if len(set(names)) < len(names):
        raise RequestError(f"recipes={compared}: list each once, and give two files different names")
    for name, recipe in zip(names, compared, strict=True):
        first = names[0] if name != names[0] else None
        yield StudyRow(row=name, label=recipe, flags=flags, recipe=recipe, compared_with=first)


def _recipe_row(recipe: str) -> str:
    """Name the row of a recipe; a YAML file goes by its stem."""
    base, comma, settings = recipe.partition(",")
    return slug(f"{Path(base).stem}{comma}{settings}") or "recipe"


ROWS: dict[str, Any] = {
    "roadmap": _roadmap,
    "one-in": _one_in,
    "one-out": _one_out,
    "sweep": _sweep,
    "grid": _grid,
    "recipes": _recipes,
}
