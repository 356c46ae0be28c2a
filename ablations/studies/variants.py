"""What a row trains: a design, and the study's recipe with settings changed. `recipe.KEY` stands where a flag may."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, create_model

from ablations.errors import RequestError
from ablations.reach import reached_settings
from ablations.recipes import check, load_recipe, parse_value, settings_apart, stretched
from ablations.training_config import TrainingConfig
from modernize.design import BY_NAME, RECIPE, Design, plain, setting, split_commas
from modernize.names import unknown_setting
from modernize.roadmap import Roadmap
from modernize.roadmap import named as read_name


@dataclass(frozen=True)
class Variant:
    """A design, and the settings of the recipe that were named beside its flags, as TrainingConfig holds them."""

    design: Design
    settings: dict[str, Any] = field(default_factory=dict)

    def with_values(self, values: Mapping[str, Any]) -> Variant:
        """Return the variant with flags and settings changed; raises DesignError or RequestError."""
        flags = {key: value for key, value in values.items() if not key.startswith(RECIPE)}
        changed = {key.removeprefix(RECIPE): value for key, value in values.items() if key.startswith(RECIPE)}
        return Variant(self.design.with_flags(flags), self.settings | read_settings(changed))

    def flags(self) -> dict[str, Any]:
        """Return all flags as YAML stores them, and `recipe.KEY` for the settings."""
        return self.design.flags() | {f"{RECIPE}{key}": plain_setting(value) for key, value in self.settings.items()}


def variant(name: str) -> Variant:
    """Parse a design's name that may set a recipe's settings; raises DesignError or RequestError."""
    found = read_name(name)
    return Variant(found.design, read_settings(found.recipe))


def check_roadmap(steps: Roadmap) -> None:
    """Raise RequestError, naming the step, if one changes a setting that no recipe has or to an invalid value."""
    for row in (*steps.rows, *steps.extras):
        try:
            read_settings(row.recipe if row is steps.rows[0] else row.recipe_changes)
        except RequestError as error:
            raise RequestError(f"roadmap {steps.base}: step {row.name}: {error}") from None


@functools.cache
def _model_of(key: str) -> type[BaseModel]:
    """Make a model of one setting."""
    declared = TrainingConfig.model_fields[key]
    kind: Any = Annotated[declared.annotation, *declared.metadata] if declared.metadata else declared.annotation
    fields: dict[str, Any] = {key: (kind, ...)}
    return create_model("Setting", __config__=ConfigDict(allow_inf_nan=False), **fields)


def read_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a recipe as TrainingConfig holds them; text is YAML. Raises RequestError."""
    read = {}
    for key, value in settings.items():
        if key not in TrainingConfig.model_fields:
            raise RequestError(f"unknown setting {f'{RECIPE}{key}'!r}: {unknown_setting(key, BY_NAME, RECIPE)}")
        typed = parse_value(value, f"{RECIPE}{key}") if isinstance(value, str) else value
        try:
            read[key] = getattr(check(_model_of(key), {key: typed}, ""), key)
        except RequestError as error:
            raise RequestError(f"{RECIPE}{str(error).removeprefix(': ')}") from None
    return read


def counted_at(settings: Mapping[str, Any]) -> int | None:
    """Return the resolution for which settings have a network counted, as runs do; None if they choose none."""
    size: int | None = settings.get("evaluation_size") or settings.get("image_size")
    return size


def read_value(key: str, value: Any) -> Any:
    """Return the value of a flag or of `recipe.KEY`; raises DesignError or RequestError."""
    if not key.startswith(RECIPE):
        return BY_NAME[key].read(value)
    return read_settings({key.removeprefix(RECIPE): value})[key.removeprefix(RECIPE)]


def value_text(key: str, value: Any) -> str:
    """Write the value of a flag or of `recipe.KEY` as a user types it."""
    return written(key, value).partition("=")[2]


def written(key: str, value: Any) -> str:
    """Write a flag or a setting with its value as in a design's name: `kernel_size=7`, `recipe.mixup=0.8`."""
    return f"{key}={setting_text(read_value(key, value))}" if key.startswith(RECIPE) else setting(key, value)


def setting_text(value: Any) -> str:
    """Write a setting's value as YAML on one line, without spaces."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(setting_text, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def setting_texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return settings under the names that they have beside flags, as a user types them: `recipe.mixup` is 0.8."""
    return {f"{RECIPE}{key}": value_text(f"{RECIPE}{key}", value) for key, value in settings.items()}


def plain_setting(value: Any) -> Any:
    """Return a setting's value as YAML stores it."""
    return list(value) if isinstance(value, tuple) else value


def with_settings(recipe: TrainingConfig, settings: Mapping[str, Any], place: str) -> TrainingConfig:
    """Return a recipe with settings changed. Warm-up and step schedule scale with `max_epochs`. Raises RequestError."""
    if "max_epochs" in settings:
        recipe = stretched(recipe, settings["max_epochs"])
    return check(TrainingConfig, {**settings_apart(recipe), **settings}, place)


def with_name(recipe: str, settings: Mapping[str, Any]) -> str:
    """Return the name of a recipe with settings changed: `quick,mixup=0.8`."""
    base, *parts = split_commas(recipe)
    values = {part.partition("=")[0].strip(): part.partition("=")[2].strip() for part in parts}
    values |= {key: setting_text(value) for key, value in settings.items()}
    return ",".join([base, *(f"{key}={value}" for key, value in values.items())])


@dataclass
class Recipes:
    """The recipes of a study that is being made: those that it names, and these with settings changed.

    Attributes:
        main: The recipe of rows that have none of their own.
        overrides: Settings from `--set`; other recipes than the main one take only those that rows must share.
        kind: The study's kind.
        made: The recipes with changed settings, by name.
        factors: How many times as long as its recipe one of them trains, by name.
    """

    main: str
    overrides: Mapping[str, str]
    kind: str = "roadmap"
    made: dict[str, TrainingConfig] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)
    _loaded: dict[str, TrainingConfig] = field(default_factory=dict)
    _names: dict[tuple[str, frozenset[tuple[str, Any]]], str] = field(default_factory=dict)

    def load(self, name: str) -> TrainingConfig:
        """Load a named recipe; raises RequestError."""
        if name not in self._loaded:
            overrides = {
                key: value for key, value in self.overrides.items() if name == self.main or shared(key, self.kind)
            }
            self._loaded[name] = load_recipe(name, overrides)
        return self._loaded[name]

    def value(self, one: Variant, key: str) -> Any:
        """Return a variant's value of a flag, or of `recipe.KEY`, as YAML stores it."""
        if not key.startswith(RECIPE):
            return plain(getattr(one.design, key))
        name = key.removeprefix(RECIPE)
        return plain_setting(one.settings[name] if name in one.settings else getattr(self.load(self.main), name))

    def differences(self, one: Variant, base: Variant) -> dict[str, Any]:
        """Return flags and settings in which a variant differs from `base`, with its values."""
        keys = dict.fromkeys(f"{RECIPE}{key}" for key in (*one.settings, *base.settings))
        values = {key: (self.value(one, key), self.value(base, key)) for key in keys}
        differs = {key: value for key, (value, before) in values.items() if value != before}
        return one.design.differences(base.design) | differs

    def name(self, settings: Mapping[str, Any], of: str | None = None) -> str:
        """Return the name of a recipe with settings changed, and make it; settings that it has already are left out.

        Settings in another order are the same recipe, under the name that it was given first.
        """
        of = of or self.main
        if not settings:
            return of
        recipe = self.load(of)
        changed = {key: value for key, value in settings.items() if value != getattr(recipe, key)}
        if not changed:
            return of
        name = self._names.setdefault((of, frozenset(changed.items())), with_name(of, changed))
        self.made[name] = with_settings(recipe, changed, f"recipe {name}")
        if "max_epochs" in changed:
            self.factors[name] = changed["max_epochs"] / recipe.max_epochs
        return name


def shared(key: str, kind: str = "roadmap") -> bool:
    """Whether `--set key=…` applies to another recipe than the main one, or to all recipes of a study of recipes."""
    return key in reached_settings(kind == "recipes")
