"""The rows of a study whose base is a reference model: the arguments of a function in a user's file are its flags."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ablations.errors import RequestError
from ablations.studies.folder import slug
from ablations.studies.kinds import recipe_rows
from ablations.studies.own_code import code_sha256
from ablations.studies.schema import Study, StudyFile, StudyRow
from ablations.studies.variants import Recipes, Variant, plain_setting, read_settings, setting_texts, written
from modernize.design import RECIPE, Design, DesignError
from modernize.own_network import identity, settings_of, shown_value, value_of, with_settings
from modernize.reference import check_reference, is_reference, shown_reference
from modernize.user_code import is_call


@dataclass(frozen=True)
class Own:
    """A network of a function, and the settings of the recipe that are changed beside its arguments."""

    reference: str
    settings: dict[str, Any] = field(default_factory=dict)

    def with_values(self, values: Mapping[str, Any]) -> Own:
        """Return it with arguments, and `recipe.KEY`, changed; raises RequestError."""
        changed = {key.removeprefix(RECIPE): value for key, value in values.items() if key.startswith(RECIPE)}
        arguments = {key: value for key, value in values.items() if not key.startswith(RECIPE)}
        try:
            reference = with_settings(self.reference, arguments) if arguments else self.reference
            return Own(reference, self.settings | read_settings(changed))
        except (DesignError, RequestError) as error:
            raise RequestError(f"flags: {error}") from None

    def value(self, key: str) -> Any:
        """Return the value of an argument or of `recipe.KEY` that is set."""
        return self.settings[key.removeprefix(RECIPE)] if key.startswith(RECIPE) else settings_of(self.reference)[key]


def own_rows(request: StudyFile, recipes: Recipes) -> Iterator[StudyRow]:
    """Yield the rows of a study whose base is a reference model; raises RequestError."""
    try:
        base = check_reference(request.base)
    except DesignError as error:
        raise RequestError(f"base: {error}") from None
    if not is_call(base) and request.kind != "recipes":
        raise RequestError(
            f"base: {base} has no flags; list it in references, or write a function that builds it: FILE.py:FUNCTION"
        )
    if request.kind not in _ROWS:
        raise RequestError(f"base: {shown_reference(base)}: a function's network is studied by {', '.join(_ROWS)}")
    if request.end is not None:
        raise RequestError("end: not for a function's network; give flags their values, such as width=16")
    rows = list(_ROWS[request.kind](request, recipes, Own(base)))
    names = [row.row for row in rows]
    twice = next((row for row in rows if names.count(row.row) > 1), None)
    if twice is not None:
        raise RequestError(f"flags: two values have the same name {twice.row!r} as a folder's; rename one")
    yield from rows


def is_own(request: StudyFile) -> bool:
    """Whether the base of a study is a reference model, rather than a design."""
    return is_reference(request.base)


def network_of(row: StudyRow) -> str:
    """Return a text that is the same for rows of the same network."""
    if row.reference is None:
        return repr(row.flags)
    return identity(row.reference) if is_call(row.reference) else row.reference


def studied_settings(study: Study) -> dict[str, dict[str, str]]:
    """Return the settings, as text, of each row that a function's arguments make: not of rows beside them."""
    compared = {base for row in study.rows for base in row.baselines}
    return {
        row.row: {key: shown_value(value) for key, value in settings_of(row.reference).items()}
        | setting_texts(row.settings)
        for row in study.rows
        if row.reference is not None and is_call(row.reference) and (row.compared_with or row.row in compared)
    }


def _row(recipes: Recipes, name: str, label: str, own: Own, compared_with: str | None) -> StudyRow:
    return StudyRow(
        row=slug(name),
        label=label,
        flags={},
        reference=own.reference,
        code_sha256=code_sha256(own.reference),
        recipe=recipes.name(own.settings),
        settings={key: plain_setting(value) for key, value in own.settings.items()},
        compared_with=compared_with,
    )


def _values(request: StudyFile, base: Own) -> dict[str, list[Any]]:
    """Return the values of each flag, typed values of the command line as YAML reads them."""
    if not isinstance(request.flags, dict):
        raise RequestError(f"flags: give the function's arguments values, such as width=8:16, in a {request.kind}")
    values = {}
    for flag, given in request.flags.items():
        values[flag] = [base.with_values({flag: value}).value(flag) for value in given]
        twice = [value for place, value in enumerate(values[flag]) if _in(value, values[flag][:place])]
        if twice:
            raise RequestError(f"flags: {_written(flag, twice[0])} is listed twice")
    return values


def _in(value: Any, others: list[Any]) -> bool:
    """Whether a value is among others of its type: 1 is not true."""
    return any(type(value) is type(other) and value == other for other in others)


def _written(flag: str, value: Any) -> str:
    return written(flag, value) if flag.startswith(RECIPE) else f"{flag}={shown_value(value)}"


def _finals(request: StudyFile, base: Own) -> dict[str, Any]:
    """Return the one value of each flag."""
    values = _values(request, base)
    many = next((flag for flag, given in values.items() if len(given) != 1), None)
    if many:
        raise RequestError(f"flags: {many} must have one value in a study of kind {request.kind}")
    return {flag: given[0] for flag, given in values.items()}


def _one_in(request: StudyFile, recipes: Recipes, base: Own) -> Iterator[StudyRow]:
    """Yield the base, and the base with each argument changed alone."""
    yield _row(recipes, "base", shown_reference(base.reference), base, None)
    for flag, value in _finals(request, base).items():
        yield _row(recipes, f"with-{flag}", f"+ {_written(flag, value)}", base.with_values({flag: value}), "base")


def _one_out(request: StudyFile, recipes: Recipes, base: Own) -> Iterator[StudyRow]:
    """Yield the network with all arguments changed, and with each reverted alone."""
    finals = _finals(request, base)
    end = base.with_values(finals)
    label = ", ".join([shown_reference(end.reference), *(_written(f, v) for f, v in finals.items() if RECIPE in f)])
    yield _row(recipes, "end", label, end, None)
    for flag in finals:
        back = _value_before(recipes, base, flag)
        yield _row(recipes, f"without-{flag}", f"− {_written(flag, back)}", end.with_values({flag: back}), "end")


def _value_before(recipes: Recipes, base: Own, flag: str) -> Any:
    """Return the base's value of an argument, which may be its default, or of the recipe's setting."""
    if flag.startswith(RECIPE):
        return recipes.value(Variant(Design(), base.settings), flag)
    try:
        return value_of(base.reference, flag)
    except DesignError as error:
        raise RequestError(f"base: {error}") from None


def _sweep(request: StudyFile, recipes: Recipes, base: Own) -> Iterator[StudyRow]:
    """Yield a row per value of one argument, each compared with the first."""
    if len(request.flags or ()) != 1:
        raise RequestError("flags: a sweep varies one flag; to vary several, use a grid")
    yield from _grid(request, recipes, base)


def _grid(request: StudyFile, recipes: Recipes, base: Own) -> Iterator[StudyRow]:
    """Yield a row per combination of several arguments' values, each compared with the first."""
    values = _values(request, base)
    first: str | None = None
    for chosen in itertools.product(*values.values()):
        settings = dict(zip(values, chosen, strict=True))
        parts = [_written(flag, value) for flag, value in settings.items()]
        row = _row(recipes, ",".join(parts), ", ".join(parts), base.with_values(settings), first)
        yield row
        first = first or row.row


def _recipes(request: StudyFile, _: Recipes, base: Own) -> Iterator[StudyRow]:
    """Yield the same network under each recipe, compared with the first."""
    for row in recipe_rows(request, {}):
        yield row.model_copy(update={"reference": base.reference, "code_sha256": code_sha256(base.reference)})


_ROWS: dict[str, Callable[[StudyFile, Recipes, Own], Iterator[StudyRow]]] = {
    "one-in": _one_in,
    "one-out": _one_out,
    "sweep": _sweep,
    "grid": _grid,
    "recipes": _recipes,
}
