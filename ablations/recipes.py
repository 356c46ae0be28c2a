"""Recipes, read from YAML or by name: settings overridden, rescaled, and those of earlier versions completed."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ablations.errors import RequestError
from ablations.training_config import MAY_CHANGE, REQUIRES, USED_BY, TrainingConfig
from modernize.design import BY_NAME, split_commas
from modernize.names import SETTINGS, nearest, unknown_setting
from modernize.yaml_file import YamlFileError, parse_yaml, read_mapping

__all__ = ["TrainingConfig", "load_recipe", "recipe_names"]

Model = TypeVar("Model", bound=BaseModel)


def recipe_names() -> list[str]:
    """List the names of the recipes shipped with the project."""
    return sorted(Path(entry.name).stem for entry in files("ablations").joinpath("shipped", "recipes").iterdir())


def shipped(folder: str, name: str) -> dict[str, Any]:
    """Read a recipe or a study that comes with the project."""
    return parse_yaml(files("ablations").joinpath("shipped", folder, f"{name}.yaml").read_text(encoding="utf-8"))


def load_recipe(name: str, overrides: Mapping[str, str] | None = None) -> TrainingConfig:
    """Load a recipe, with settings overridden.

    Args:
        name: `NAME[,key=value]…`, where NAME is a shipped recipe or the path of a YAML file.
        overrides: Settings that take precedence, as YAML text; from `--set key=value`.

    Returns:
        The recipe. If `max_epochs` is overridden, warm-up and step schedule are scaled in proportion.

    Raises:
        RequestError: If the recipe or a setting is unknown or invalid; names the file, the key and a valid value.
    """
    base, *settings = split_commas(name)
    if base.endswith((".yaml", ".yml")):
        values = read_yaml(Path(base), "recipe")
    elif base in recipe_names():
        values = shipped("recipes", base)
    else:
        raise RequestError(f"unknown recipe {base!r} (and no YAML file): {nearest(base, recipe_names())}")
    changes = _settings_of(name, settings)
    changes |= {key: parse_value(text, f"--set {_shown(key)}") for key, text in (overrides or {}).items()}
    recipe = check(TrainingConfig, values | changes, f"recipe {name}")
    if "max_epochs" not in changes:
        return recipe
    rescaled = stretched(check(TrainingConfig, values, f"recipe {base}"), recipe.max_epochs).model_dump()
    schedule = {key: rescaled[key] for key in ("warmup_epochs", "step_epochs") if getattr(recipe, key) is not None}
    return check(TrainingConfig, recipe.model_dump() | schedule | changes, f"recipe {name}")


def _settings_of(name: str, settings: list[str]) -> dict[str, Any]:
    """Parse the settings in a recipe's name; raise RequestError if one is malformed or repeated."""
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = (text.strip(" ") for text in setting.partition("="))
        if not key or not equals or not value:
            raise RequestError(f"recipe {name}: {setting!r}: write key=value, for example learning_rate=2e-3")
        if key in values:
            raise RequestError(f"recipe {name}: {key} is set twice")
        values[key] = parse_value(value, f"recipe {name}: {_shown(key)}")
    return values


def stretched(recipe: TrainingConfig, epochs: float) -> TrainingConfig:
    """Set the number of epochs, and scale warm-up and step schedule in proportion.

    Raise RequestError if no recipe allows that number.
    """
    factor = epochs / recipe.max_epochs
    changed: dict[str, Any] = {"max_epochs": epochs, "warmup_epochs": recipe.warmup_epochs * factor}
    if recipe.step_epochs is not None:
        changed["step_epochs"] = recipe.step_epochs * factor
    return check(TrainingConfig, recipe.model_dump() | changed, f"a budget of {epochs:g} epochs")


def settings_apart(recipe: TrainingConfig) -> dict[str, Any]:
    """Return a recipe's settings, without the defaults that depend on other settings: these may be changed."""
    depend = {name: default for name, (_, _, default) in USED_BY.items()}
    depend |= {name: default for name, (_, default) in REQUIRES.items()}
    return {name: value for name, value in recipe if name not in depend or value not in (None, depend[name])}


def without_newer(recipe: TrainingConfig, stored: Iterable[TrainingConfig]) -> TrainingConfig:
    """Reset settings that no stored recipe mentions, because its folder is older, to their defaults.

    A run that an earlier version began goes on as it began. Settings that may change when a run resumes are kept.
    """
    known = set(MAY_CHANGE).union(*(one.model_fields_set for one in stored))
    return recipe.model_copy(update={name: default for name, default in _defaults().items() if name not in known})


def as_stored(recipe: TrainingConfig, before: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a recipe as plain values, for a folder whose file contains the recipes `before`.

    Settings that the file lacks stay out of it as long as they have their defaults, so that it remains older than they
    are.
    """
    values = recipe.model_dump(mode="json")
    known = {key for one in before for key in one}
    newer = {name for name, default in _defaults().items() if known and name not in known and values[name] == default}
    return {key: value for key, value in values.items() if key not in newer}


def newer_settings(requested: TrainingConfig, opened: TrainingConfig) -> str | None:
    """Say which settings a folder is older than, given the recipe as requested and as `without_newer` returns it."""
    off = _defaults()
    changed = [name for name, value in opened if name not in MAY_CHANGE and value != getattr(requested, name)]
    reset = [name for name in changed if name in off and getattr(opened, name) == off[name]]
    these = "these settings" if reset[1:] else "this setting"
    return f"{', '.join(reset)}: off, since the folder is older than {these}" if reset else None


def _defaults() -> dict[str, Any]:
    return {name: field.default for name, field in TrainingConfig.model_fields.items() if not field.is_required()}


def parse_value(text: str, place: str) -> Any:
    """Parse a YAML value; raise RequestError if it is not one."""
    try:
        return parse_yaml(text)
    except ValueError:
        raise RequestError(f"{place}: {_shown(text)} is not a YAML value") from None


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Read the mapping in a YAML file; raise RequestError naming the file and the line."""
    try:
        return read_mapping(path)
    except YamlFileError as error:
        raise RequestError(f"{what} {error}") from None


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80


def _shown(value: Any) -> str:
    """Return the value's `repr`, shortened."""
    try:
        return _SHORT.repr(value)
    except ValueError:
        return "(a number of thousands of digits)"


def check(model: type[Model], values: Mapping[str, Any], place: str) -> Model:
    """Validate `values`; raise RequestError naming the place, the first invalid key and the nearest valid one."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # a misspelled key comes before the key that is missing because of it
        first = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            problem = f"unknown key {key!r}: {_meant(key, model)}"
        elif first["type"] == "missing":
            problem = f"{key} is missing"
        elif first["type"] == "value_error":
            problem = " ".join(filter(None, [f"{key}:" if key else "", str(first["ctx"]["error"])]))
        else:
            message = first["msg"].replace("Input should", "must").replace("tuple", "list")  # YAML has no tuples
            problem = f"{key}={_shown(first['input'])}: {message}"
        raise RequestError(" ".join(f"{place}: {problem}".split())) from None


def _meant(key: str, model: type[BaseModel]) -> str:
    """Return what an unknown key may mean: another of the model, or what has its place elsewhere."""
    if model is TrainingConfig:
        return unknown_setting(key, BY_NAME)
    if key in SETTINGS:
        return f"a setting of the recipe; write it behind the recipe, as in quick,{key}=…, or --set {key}=…"
    if key in BY_NAME:
        return f"a design flag; write it in the design's name, as in pocket,{key}=…"
    return nearest(key, model.model_fields)
