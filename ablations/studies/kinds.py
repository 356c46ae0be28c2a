"""Studies: which designs are trained, under which recipe, on which data, with which seeds; and their folder."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.errors import RequestError
from ablations.studies.folder import slug
from ablations.studies.schema import StudyFile, StudyRow
from modernize.design import BY_NAME, Design, DesignError, nearest, split_name, text
from modernize.models import design as named
from modernize.reference import PREFIX, check_reference
from modernize.roadmap import NAMES as ROADMAPS
from modernize.roadmap import Roadmap, Row, roadmap

if TYPE_CHECKING:
    pass


def _recipe(given: StudyFile) -> str:
    """The recipe of all rows that have none of their own."""
    return given.recipe or "quick"


# ---- what each kind trains


def _roadmap(given: StudyFile) -> Iterator[StudyRow]:
    """Every row of the roadmap, each compared with the last adopted one before it."""
    try:
        steps = roadmap(given.base)
    except DesignError as error:
        raise RequestError(f"base: {error}") from None
    for row in (*steps.rows, *_extras(given, steps)):
        before = steps.before(row)
        yield StudyRow(
            row=row.name,
            label=row.label,
            flags=row.design.flags(),
            recipe=given.original_recipe if given.original_recipe and row.recipe == "original" else _recipe(given),
            compared_with=before.name if before else None,
        )


def _extras(given: StudyFile, steps: Roadmap) -> list[Row]:
    """The rows beyond the paper's that a study asks for; raises RequestError."""
    known = {row.name: row for row in steps.extras}
    for name in given.extras or ():
        if name not in known:
            raise RequestError(f"extras: unknown row {name!r}: {nearest(name, known)}")
    return [row for name, row in known.items() if name in (given.extras or ())]


def _design(key: str, name: str) -> Design:
    """The design that a key of the study names; raises RequestError naming the key."""
    try:
        return named(name)
    except DesignError as error:
        raise RequestError(f"{key}: {error}") from None


def _base(given: StudyFile) -> Design:
    return _design("base", given.base)


def _end(given: StudyFile) -> Design:
    """The design that a study leads to."""
    if given.end is not None:
        return _design("end", given.end)
    start = split_name(given.base).base
    if start not in ROADMAPS:
        raise RequestError(
            f"end: no roadmap starts at {start!r}; name the design that the study leads to, or set flags"
        )
    return roadmap(start).rows[-1].design


def _steps(given: StudyFile) -> dict[str, Any]:
    """The flags that lead from base to end, in the roadmap's order, each with its value at the end."""
    base = _base(given)
    if isinstance(given.flags, dict):
        if given.end is not None:
            raise RequestError("end: the values of flags say already where the study leads; give one of the two")
        many = [flag for flag, values in given.flags.items() if len(values) != 1]
        if many:
            raise RequestError(f"flags: {many[0]} must have one value in a study of kind {given.kind}")
        steps = {flag: values[0] for flag, values in given.flags.items()}
        base.with_flags(steps)
        return steps
    differs = _end(given).differences(base)
    if not differs:
        raise RequestError("end: it is the same design as base, so there is no flag to turn")
    order = [flag for row in roadmap("resnet50").rows for flag in row.changes]
    steps = {
        flag: differs[flag] for flag in sorted(differs, key=lambda flag: order.index(flag) if flag in order else -1)
    }
    for flag in given.flags or ():
        if flag not in steps:
            raise RequestError(f"flags: {flag} is the same at both ends; give it a value, such as {flag}=…")
    return {flag: steps[flag] for flag in given.flags or steps}


def _row(given: StudyFile, name: str, label: str, design: Design, compared_with: str | None) -> StudyRow:
    return StudyRow(row=name, label=label, flags=design.flags(), recipe=_recipe(given), compared_with=compared_with)


def _said(flag: str, value: Any) -> str:
    """A flag and its value as rows are named: `kernel_size=7`."""
    return f"{flag}={text(BY_NAME[flag].read(value))}"


def _one_in(given: StudyFile) -> Iterator[StudyRow]:
    """The base, and the base with each flag alone turned on."""
    base = _base(given)
    yield _row(given, "base", given.base, base, None)
    for flag, value in _steps(given).items():
        yield _row(given, f"with-{flag}", f"+ {_said(flag, value)}", base.with_flags({flag: value}), "base")


def _one_out(given: StudyFile) -> Iterator[StudyRow]:
    """The end point, and the end point with each flag alone turned back."""
    base, steps = _base(given), _steps(given)
    end = base.with_flags(steps) if isinstance(given.flags, dict) else _end(given)
    yield _row(given, "end", given.end or f"{given.base}, all flags", end, None)
    for flag in steps:
        back = base.flags()[flag]
        yield _row(given, f"without-{flag}", f"− {_said(flag, back)}", end.with_flags({flag: back}), "end")


def _values(given: StudyFile) -> dict[str, list[Any]]:
    """Flags and the values of each that a sweep or a grid goes through."""
    if not isinstance(given.flags, dict):
        raise RequestError(f"flags: a {given.kind} needs values, such as kernel_size: [3, 5, 7]")
    for flag, values in given.flags.items():
        read = [BY_NAME[flag].read(value) for value in values]
        twice = [value for place, value in enumerate(read) if value in read[:place]]
        if twice:
            raise RequestError(f"flags: {_said(flag, twice[0])} is there twice")
    return given.flags


def _sweep(given: StudyFile) -> Iterator[StudyRow]:
    """One flag over values, each compared with the first."""
    values = _values(given)
    if len(values) != 1:
        raise RequestError("flags: a sweep goes over one flag; several are a grid")
    yield from _grid(given)


def _grid(given: StudyFile) -> Iterator[StudyRow]:
    """The product of several flags' values, each compared with the first."""
    values, base = _values(given), _base(given)
    first: str | None = None
    for chosen in itertools.product(*values.values()):
        flags = dict(zip(values, chosen, strict=True))
        name = ",".join(_said(flag, value) for flag, value in flags.items())
        yield _row(given, name, name.replace(",", ", "), base.with_flags(flags), first)
        first = first or name


def _orders(given: StudyFile) -> Iterator[list[str]]:
    """The roadmap's own order of the flags, then random ones, each drawn as if it were the only one."""
    flags = list(_steps(given))
    chance = random.Random(given.orders_seed or 0)
    yield flags
    for _ in range(given.orders or 10):
        yield chance.sample(flags, len(flags))


def _walks(given: StudyFile, orders: list[list[str]]) -> Iterator[StudyRow]:
    """Every set of flags that the orders come through, once."""
    base, steps = _base(given), _steps(given)
    seen = set()
    for order in orders:
        for length in range(len(order) + 1):
            on = frozenset(order[:length])
            if on not in seen:
                seen.add(on)
                label = " + ".join(flag for flag in steps if flag in on) or given.base
                label = label if len(on) < len(steps) else "all flags"
                flags = {flag: steps[flag] for flag in on}
                yield _row(given, set_name(list(steps), on), label, base.with_flags(flags), None)


def set_name(flags: list[str], on: frozenset[str]) -> str:
    """A set of flags as a row's name: `on-` and a digit a flag in their first order, such as on-0110."""
    return "on-" + "".join("1" if flag in on else "0" for flag in flags)


def _references(given: StudyFile) -> Iterator[StudyRow]:
    """Other people's networks, under the study's recipe, compared with nothing."""
    for name in given.references:
        try:
            check_reference(name)
        except DesignError as error:
            raise RequestError(f"references: {error}") from None
        model = name.removeprefix(PREFIX)
        yield StudyRow(
            row=f"torchvision-{model}", label=f"{model} (torchvision)", flags={}, reference=name, recipe=_recipe(given)
        )


def _recipes(given: StudyFile) -> Iterator[StudyRow]:
    """The same design under each recipe, compared with the first."""
    design, recipes = _base(given), given.recipes or ["quick_original", "quick"]
    names = [_recipe_row(recipe) for recipe in recipes]
    if len(set(names)) < len(names):
        raise RequestError(f"recipes={recipes}: each may be there once, and two files may not have one name")
    for name, recipe in zip(names, recipes, strict=True):
        first = names[0] if name != names[0] else None
        yield StudyRow(row=name, label=recipe, flags=design.flags(), recipe=recipe, compared_with=first)


def _recipe_row(recipe: str) -> str:
    """A recipe's name as a row's: a YAML file goes by its stem."""
    base, comma, settings = recipe.partition(",")
    return slug(f"{Path(base).stem}{comma}{settings}") or "recipe"


_ROWS: dict[str, Any] = {
    "roadmap": _roadmap,
    "one-in": _one_in,
    "one-out": _one_out,
    "sweep": _sweep,
    "grid": _grid,
    "orders": _walks,
    "recipes": _recipes,
}
