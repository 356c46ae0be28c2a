"""The rows of a study whose base is a reference model: the arguments of a function in a user's file are its flags."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from ablations.errors import RequestError
from ablations.studies.folder import slug
from ablations.studies.kinds import main_recipe, recipe_rows
from ablations.studies.own_code import code_sha256
from ablations.studies.schema import Study, StudyFile, StudyRow
from modernize.design import DesignError
from modernize.own_network import identity, settings_of, shown_value, value_of, with_settings
from modernize.reference import check_reference, is_reference, shown_reference
from modernize.user_code import is_call


def own_rows(request: StudyFile) -> Iterator[StudyRow]:
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
    rows = list(_ROWS[request.kind](request, base))
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
    compared = {row.compared_with for row in study.rows} - {None}
    return {
        row.row: {key: shown_value(value) for key, value in settings_of(row.reference).items()}
        for row in study.rows
        if row.reference is not None and is_call(row.reference) and (row.compared_with or row.row in compared)
    }


def _row(request: StudyFile, name: str, label: str, reference: str, compared_with: str | None) -> StudyRow:
    return StudyRow(
        row=slug(name),
        label=label,
        flags={},
        reference=reference,
        code_sha256=code_sha256(reference),
        recipe=main_recipe(request),
        compared_with=compared_with,
    )


def _with(base: str, **settings: Any) -> str:
    """Return the base with some arguments changed; raises RequestError."""
    try:
        return with_settings(base, settings)
    except DesignError as error:
        raise RequestError(f"flags: {error}") from None


def _values(request: StudyFile, base: str) -> dict[str, list[Any]]:
    """Return the values of each flag, typed values of the command line as YAML reads them."""
    if not isinstance(request.flags, dict):
        raise RequestError(f"flags: give the function's arguments values, such as width=8:16, in a {request.kind}")
    values = {}
    for flag, given in request.flags.items():
        values[flag] = [settings_of(_with(base, **{flag: value}))[flag] for value in given]
        twice = next((value for place, value in enumerate(values[flag]) if _in(value, values[flag][:place])), None)
        if twice is not None:
            raise RequestError(f"flags: {_written(flag, twice)} is listed twice")
    return values


def _in(value: Any, others: list[Any]) -> bool:
    """Whether a value is among others of its type: 1 is not true."""
    return any(type(value) is type(other) and value == other for other in others)


def _written(flag: str, value: Any) -> str:
    return f"{flag}={shown_value(value)}"


def _finals(request: StudyFile, base: str) -> dict[str, Any]:
    """Return the one value of each flag."""
    values = _values(request, base)
    many = next((flag for flag, given in values.items() if len(given) != 1), None)
    if many:
        raise RequestError(f"flags: {many} must have one value in a study of kind {request.kind}")
    return {flag: given[0] for flag, given in values.items()}


def _one_in(request: StudyFile, base: str) -> Iterator[StudyRow]:
    """Yield the base, and the base with each argument changed alone."""
    yield _row(request, "base", shown_reference(base), base, None)
    for flag, value in _finals(request, base).items():
        yield _row(request, f"with-{flag}", f"+ {_written(flag, value)}", _with(base, **{flag: value}), "base")


def _one_out(request: StudyFile, base: str) -> Iterator[StudyRow]:
    """Yield the network with all arguments changed, and with each reverted alone."""
    finals = _finals(request, base)
    end = _with(base, **finals)
    yield _row(request, "end", shown_reference(end), end, None)
    for flag in finals:
        try:
            back = value_of(base, flag)
        except DesignError as error:
            raise RequestError(f"base: {error}") from None
        yield _row(request, f"without-{flag}", f"− {_written(flag, back)}", _with(end, **{flag: back}), "end")


def _sweep(request: StudyFile, base: str) -> Iterator[StudyRow]:
    """Yield a row per value of one argument, each compared with the first."""
    if len(request.flags or ()) != 1:
        raise RequestError("flags: a sweep varies one flag; to vary several, use a grid")
    yield from _grid(request, base)


def _grid(request: StudyFile, base: str) -> Iterator[StudyRow]:
    """Yield a row per combination of several arguments' values, each compared with the first."""
    values = _values(request, base)
    first: str | None = None
    for chosen in itertools.product(*values.values()):
        settings = dict(zip(values, chosen, strict=True))
        parts = [_written(flag, value) for flag, value in settings.items()]
        row = _row(request, ",".join(parts), ", ".join(parts), _with(base, **settings), first)
        yield row
        first = first or row.row


def _recipes(request: StudyFile, base: str) -> Iterator[StudyRow]:
    """Yield the same network under each recipe, compared with the first."""
    for row in recipe_rows(request, {}):
        yield row.model_copy(update={"reference": base, "code_sha256": code_sha256(base)})


_ROWS: dict[str, Callable[[StudyFile, str], Iterator[StudyRow]]] = {
    "one-in": _one_in,
    "one-out": _one_out,
    "sweep": _sweep,
    "grid": _grid,
    "recipes": _recipes,
}
