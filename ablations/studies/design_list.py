"""Studies of kind designs: the designs of a list, and what each of them is compared with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.errors import RequestError
from ablations.studies.folder import slug
from ablations.studies.own_code import code_sha256
from ablations.studies.own_rows import network_of
from ablations.studies.reference_rows import reference_label, reference_row
from ablations.studies.schema import ListedDesign, StudyFile, StudyRow
from ablations.studies.variants import Recipes, plain_setting, read_settings, variant
from modernize.design import RECIPE, DesignError, is_file, printable, split_name
from modernize.design import read_settings as split_values
from modernize.names import nearest
from modernize.reference import check_reference, is_reference, shown_reference
from modernize.user_code import is_call, split_settings
from modernize.yaml_file import parse_yaml

ALL = "all"
_SETTING = re.compile(r"\s*[A-Za-z_][A-Za-z0-9_.]*\s*=")


@dataclass(frozen=True)
class _Entry:
    """A design of the list: its name with its row's name and label, and what it stands for.

    Attributes:
        written: The name without blanks around its signs, as a key of the list.
        row: The name of its row.
        label: The label of its row.
        flags: All its design flags; none for a reference model.
        reference: The reference model, if it is one.
        settings: Settings of the recipe that the name sets.
    """

    written: str
    row: str
    label: str
    flags: dict[str, Any]
    reference: str | None
    settings: dict[str, Any]


def split_designs(text: str) -> list[str]:
    """Split `convnext_tiny,resnet50,norm=ln` into designs: a setting belongs to the design before it.

    Commas within brackets separate nothing. Raises RequestError if there is no design before a setting or a comma.
    """
    designs: list[str] = []
    for part in map(str.strip, split_settings(text)):
        if not part:
            raise RequestError(f"--designs {text}: a comma has no design beside it; write DESIGN,DESIGN")
        if not _SETTING.match(part):
            designs.append(part)
        elif designs:
            designs[-1] += f",{part}"
        else:
            raise RequestError(f"--designs {text}: {part} has no design before it, as in resnet50,{part}")
    return designs


def baseline_of(request: StudyFile) -> str:
    """Return the name of the design that others are compared with; of all pairs, the first."""
    entries = _entries(request)
    one = entries[_baseline(request, entries) or 0]
    return ",".join([shown_reference(one.reference), *_parts(one.written)[1:]]) if one.reference else one.written


def stored_list(request: StudyFile) -> dict[str, Any]:
    """Return the list and what it is compared with as a folder stores them: with whole paths of users' files."""
    entries = _entries(request)
    place, listed = _baseline(request, entries), []
    for one, entry in zip(request.designs or (), entries, strict=True):
        named = one.model_dump(exclude_none=True) | {"design": entry.written}
        if entry.reference:
            named["design"] = ",".join([entry.reference, *_parts(entry.written)[1:]])
        listed.append(named if len(named) > 1 else named["design"])
    return {"designs": listed, "compared_with": ALL if place is None else entries[place].row}


def design_rows(request: StudyFile, recipes: Recipes) -> Iterator[StudyRow]:
    """Yield the designs of the list under the study's recipe, or all of them under each of its recipes.

    Each is compared with the baseline under the same recipe, or with all designs before it. Raises RequestError.
    """
    if request.recipe is not None and request.recipes is not None:
        raise RequestError("recipe: recipes lists those that all designs are trained with; leave one of the two out")
    if request.recipes is not None and request.references:
        raise RequestError("references: list them in designs, so that each is trained under all recipes")
    entries = _entries(request)
    baseline = _baseline(request, entries)
    several: Sequence[str | None] = request.recipes or (None,)
    if len(set(several)) < len(several):
        raise RequestError(f"recipes={request.recipes}: list each once")
    first: dict[tuple[str, str], str] = {}
    for recipe in several:
        rows = [_row(entry, recipes, recipe) for entry in entries]
        for place, row in enumerate(rows):
            others = rows[:place] if baseline is None else [rows[baseline]] if place != baseline else []
            names = [other.row for other in others]
            _refuse_repeated(row, recipes, first)
            yield row.model_copy(update={"compared_with": names if len(names) > 1 else next(iter(names), None)})


def _refuse_repeated(row: StudyRow, recipes: Recipes, first: dict[tuple[str, str], str]) -> None:
    """Raise RequestError if an earlier row has the same network and recipe, however they are written."""
    recipe = recipes.made.get(row.recipe) or recipes.load(row.recipe)
    other = first.setdefault((network_of(row), recipe.model_dump_json()), row.label)
    if other != row.label:
        raise RequestError(f"designs: {row.label!r} is the same design and recipe as {other!r}; list each once")


def _entries(request: StudyFile) -> list[_Entry]:
    """Read the list; raises RequestError naming the design that is wrong."""
    listed = request.designs
    if not listed:
        raise RequestError("designs is missing: list two designs or more, as in --designs pocket,pocket,norm=ln")
    if len(listed) == 1:
        raise RequestError(f"designs: there is one, {listed[0].design}, and nothing to compare it with; list two")
    entries = [_read(one) for one in listed]
    written, names = [one.written for one in entries], [one.row.lower() for one in entries]
    for place, one in enumerate(entries):
        if one.written in written[:place]:
            raise RequestError(f"designs: {one.written!r} is listed twice")
        if one.row.lower() in names[:place]:
            other = written[names.index(one.row.lower())]
            raise RequestError(
                f"designs: {other!r} and {one.written!r} have the same name {one.row!r} as a folder's; give one "
                "another `name` in a study file"
            )
    return entries


def _baseline(request: StudyFile, entries: Sequence[_Entry]) -> int | None:
    """Return the place of the design that others are compared with; None if all pairs are compared."""
    wanted = request.compared_with
    if wanted is None or wanted == ALL:
        return None if wanted else 0
    wanted = ",".join(_parts(wanted))
    for place, one in enumerate(entries):
        if wanted in (one.written, one.row):
            return place
    known = nearest(wanted, [ALL, *(one.written for one in entries)])
    raise RequestError(f"compared_with: {printable(wanted)!r} is not in the list of designs: {known}")


def _parts(name: str) -> list[str]:
    """Split a design's name at its commas, without blanks around its signs."""
    head, *settings = split_settings(name)
    pairs = [part.partition("=") for part in settings]
    return [head.strip(), *(f"{key.strip()}{sign}{value.strip()}" for key, sign, value in pairs)]


def _read(listed: ListedDesign) -> _Entry:
    head, *settings = _parts(listed.design)
    written = ",".join([head, *settings])
    if _SETTING.match(head):
        raise RequestError(f'designs: {head!r} is no design; write "DESIGN,{head}" as one entry, in quotes')
    try:
        if is_reference(head):
            reference, flags = check_reference(head), {}
            name, label, changed = reference_row(reference), reference_label(reference), _changed(head, settings)
        else:
            found = variant(written)
            reference, flags, changed = None, found.design.flags(), found.settings
            base, row, _ = split_name(written)
            shown = Path(base).name if is_file(base) else base
            at = f"@{row}" if row else ""
            name, label = f"{Path(shown).stem if is_file(base) else base}{at}", f"{shown}{at}"
    except (DesignError, RequestError) as error:
        raise RequestError(f"designs: {error}") from None
    name = slug(",".join([name, *settings])) or "design"
    if listed.name is not None and (name := listed.name) != (valid := slug(listed.name)):
        raise RequestError(f"designs: name {printable(listed.name)!r} must be valid for a folder, such as {valid!r}")
    return _Entry(written, name, listed.label or ", ".join([label, *settings]), flags, reference, changed)


def _changed(head: str, settings: list[str]) -> dict[str, Any]:
    """Return the settings of the recipe beside a reference model, which has no other ones."""
    values = split_values(settings, head)
    for key in values:
        if not key.startswith(RECIPE):
            where = "; write arguments in brackets, as in net(width=8)" if is_call(head) else ""
            raise RequestError(f"{shown_reference(head)} has no flag {printable(key)}{where}")
    return read_settings({key.removeprefix(RECIPE): parse_yaml(value) for key, value in values.items()})


def _row(entry: _Entry, recipes: Recipes, recipe: str | None) -> StudyRow:
    """Return the row of a design under a recipe, or under the study's."""
    under = f",recipe={Path(recipe).stem if is_file(recipe) else recipe}" if recipe else ""
    return StudyRow(
        row=f"{entry.row}{slug(under) and ','}{slug(under)}",
        label=f"{entry.label}, recipe {recipe}" if recipe else entry.label,
        flags=entry.flags,
        reference=entry.reference,
        code_sha256=code_sha256(entry.reference),
        recipe=recipes.name(entry.settings, recipe),
        settings={key: plain_setting(value) for key, value in entry.settings.items()},
    )
