"""Roadmaps as YAML: what a file may say, checked when it is read, with one line for whatever is wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from typing import Any

from modernize.design import BY_NAME, LARGEST, RECIPE, DesignError, integer, plain, printable
from modernize.names import nearest, unknown_flag
from modernize.numbers import parse_number

# The roadmaps that come with the project: those of the paper's designs, and those of recipes.
PAPER = ("resnet50", "resnet200", "pocket")
NAMES = (*PAPER, "torchvision_recipe", "torchvision_recipe_small", "paper_recipe", "paper_recipe_small")


@dataclass(frozen=True)
class Printed:
    """The results that a roadmap's source prints for a row; NaN where it prints none.

    Attributes:
        top1: Top-1 (%).
        top1_std: Standard deviation of top-1 over seeds (pp).
        gflops: GFLOPs as printed.
    """

    top1: float = math.nan
    top1_std: float = math.nan
    gflops: float = math.nan


@dataclass(frozen=True)
class Source:
    """Where a roadmap's printed results are from.

    Attributes:
        text: The source in full, such as `Liu et al. 2022, ImageNet at 224 px`.
        short: How a sentence names the source: `the paper`. Default: the text up to its first comma.
        dataset: The dataset of the printed results.
        seeds: The number of seeds of a printed mean.
        scaled: Whether the source's networks are larger or smaller than the roadmap's, so that GFLOPs differ.
    """

    text: str = ""
    short: str = "the source"
    dataset: str = ""
    seeds: int = 1
    scaled: bool = False

    @property
    def whose(self) -> str:
        """The source beside a number: `the paper's`."""
        return f"{self.short}'s" if self.short.startswith("the ") else self.short

    @property
    def heading(self) -> str:
        """The heading of printed columns: `ImageNet, the paper's`."""
        return ", ".join(filter(None, [self.dataset, self.whose]))

    @property
    def sentence(self) -> str:
        """The source in full as the beginning of a sentence: `The paper: Liu et al. 2022, ImageNet at 224 px`."""
        named = f"{self.short[:1].upper()}{self.short[1:]}"
        return (
            named if not self.text else f"{named if not self.text.startswith(self.short) else 'Printed'}: {self.text}"
        )


@dataclass(frozen=True)
class Step:
    """A step of a roadmap: what it changes of the last adopted step before it, and what its source prints.

    Attributes:
        name: Name of the row, as in `resnet50@NAME`.
        label: Name for tables.
        group: Heading for the steps around it.
        flags: Design flags that it changes, as YAML stores them.
        recipe: Settings of the recipe that it changes.
        adopted: Whether later steps build on it.
        original_recipe: Whether a study's `original_recipe` trains it. Its printed result counts as another recipe's.
        printed: What the source prints.
        note: Remark on a printed value.
    """

    name: str
    label: str
    group: str = ""
    flags: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    adopted: bool = True
    original_recipe: bool = False
    printed: Printed = Printed()
    note: str = ""


@dataclass(frozen=True)
class RoadmapFile:
    """The contents of a roadmap's file.

    Attributes:
        source: Where the printed results are from.
        base: The first row's design: its name, or flags over ResNet-50's.
        image_size: Resolution in pixels for which rows are counted.
        in_channels: Channels of the images.
        num_classes: Number of classes.
        steps: The steps; the first changes nothing.
        extras: Further rows, each one step from the last adopted one. Studies have them if asked to.
    """

    base: str | dict[str, Any]
    steps: tuple[Step, ...]
    source: Source = Source()
    image_size: int = 224
    in_channels: int = 3
    num_classes: int = 1000
    extras: tuple[Step, ...] = ()

    def as_values(self) -> dict[str, Any]:
        """Return the contents as YAML stores them, without what has its default."""
        values: dict[str, Any] = {"source": _stored(self.source)} if self.source != Source() else {}
        values |= {"base": self.base, "image_size": self.image_size, "in_channels": self.in_channels}
        values |= {"num_classes": self.num_classes, "steps": [*map(_stored, self.steps)]}
        return values | ({"extras": [*map(_stored, self.extras)]} if self.extras else {})


def _stored(what: Step | Source | Printed) -> dict[str, Any]:
    """Return the fields that differ from their defaults."""
    empty: Any = Step("", "") if isinstance(what, Step) else type(what)()
    pairs = ((name, value) for name, value in vars(what).items() if repr(value) != repr(getattr(empty, name)))
    return {name: _stored(value) if isinstance(value, Printed) else value for name, value in pairs}


@cache
def shipped(name: str) -> RoadmapFile:
    """Read a roadmap that comes with the project."""
    from modernize.yaml_file import parse_yaml

    text = files("modernize").joinpath("roadmaps", f"{name}.yaml").read_text(encoding="utf-8")
    return parse_roadmap(parse_yaml(text), f"roadmap {name}")


def is_roadmap(values: Mapping[Any, Any]) -> bool:
    """Whether a YAML file holds a roadmap rather than a design's flags."""
    return "steps" in values or "source" in values


_MANY = "a list of steps, such as - {name: wide, flags: {kernel_size: 7}}"
_STEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")  # it names folders, and stands in names of designs


def parse_roadmap(values: Mapping[Any, Any], place: str) -> RoadmapFile:
    """Check the contents of a roadmap's file; raises DesignError."""
    try:
        keys = _keys(values, RoadmapFile)
        if "base" not in keys:
            raise ValueError("base is missing: the first row's design, such as base: resnet50")
        images = {key: _image(key, keys[key]) for key in ("image_size", "in_channels", "num_classes") if key in keys}
        source = _source(keys.get("source"))
        steps = _steps(keys.get("steps"))
        extras = [_step(one, f"extras, step {number}") for number, one in enumerate(_list(keys.get("extras", [])), 1)]
        _check_names([*steps, *extras])
        return RoadmapFile(base=_base(keys["base"]), steps=tuple(steps), source=source, extras=tuple(extras), **images)
    except ValueError as error:
        raise DesignError(f"{place}: {error}") from None


def _keys(values: Any, kind: type, place: str = "") -> dict[str, Any]:
    """Return a mapping whose keys are fields of a dataclass."""
    known = [field.name for field in fields(kind)]
    if not isinstance(values, Mapping):
        raise ValueError(f"{place}={_shown(values)}: must contain keys and values, such as {known[0]}: …")
    for key in values:
        if key not in known:
            raise ValueError(f"{f'{place}: ' if place else ''}unknown key {str(key)!r}: {nearest(str(key), known)}")
    return dict(values)


def _shown(value: Any) -> str:
    text = printable(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _text(values: Mapping[str, Any], key: str, default: str, place: str) -> str:
    """Return a text of one line."""
    value = values.get(key, default)
    if not isinstance(value, str) or (key in values and not value.strip()):
        raise ValueError(f"{place}{key}={_shown(value)}: must be text; put it in quotes")
    return printable(" ".join(value.split()))


def _switch(values: Mapping[str, Any], key: str, default: bool, place: str) -> bool:
    value = values.get(key, default)
    if not isinstance(value, bool):
        raise ValueError(f"{place}{key}={_shown(value)}: must be true or false")
    return value


def _image(key: str, value: Any) -> int:
    try:
        number = integer(value)
    except ValueError as error:
        raise ValueError(f"{key}={_shown(value)}: {error}") from None
    if not 1 <= number <= LARGEST:
        raise ValueError(f"{key}={_shown(value)}: must be from 1 to {LARGEST}")
    return number


def _base(value: Any) -> str | dict[str, Any]:
    """Return the first row's design: a name, or flags and settings of the recipe as text or numbers."""
    if isinstance(value, str) and value.strip():
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"base={_shown(value)}: must be a design's name, such as resnet50, or flags")
    flags = {str(key): one for key, one in value.items() if not str(key).startswith(RECIPE)}
    recipe = {str(key).removeprefix(RECIPE): one for key, one in value.items() if str(key).startswith(RECIPE)}
    settings = _settings(recipe, "base: ")
    return _flags(flags, "base: ") | {f"{RECIPE}{key}": one for key, one in settings.items()}


def _source(value: Any) -> Source:
    if value is None:
        return Source()
    values = {"text": value} if isinstance(value, str) else _keys(value, Source, "source")
    text = _text(values, "text", "", "source: ")
    short = _text(values, "short", text.partition(",")[0].strip() or Source.short, "source: ")
    seeds = values.get("seeds", 1)
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= LARGEST:
        raise ValueError(f"source: seeds={_shown(seeds)}: must be the number of seeds of a printed mean, such as 3")
    dataset, scaled = _text(values, "dataset", "", "source: "), _switch(values, "scaled", False, "source: ")
    return Source(text, short, dataset, seeds, scaled)


def _list(values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise ValueError(f"extras={_shown(values)}: must be {_MANY}")
    return values


def _steps(values: Any) -> list[Step]:
    """Return the steps, of which the first changes nothing."""
    if values is None:
        raise ValueError(f"steps is missing: {_MANY}")
    if not isinstance(values, list) or not values:
        raise ValueError(f"steps={_shown(values)}: must be {_MANY}")
    steps = [_step(one, f"step {number}") for number, one in enumerate(values, 1)]
    first = steps[0]
    if first.flags or first.recipe:
        raise ValueError(f"step {first.name}: the first step is the base and changes nothing; set its flags in base")
    if not first.adopted:
        raise ValueError(f"step {first.name}: adopted=false: the first step is the base, on which the next builds")
    return steps


def _step(value: Any, place: str) -> Step:
    keys = _keys(value, Step, place)
    if "name" not in keys:
        raise ValueError(f"{place}: name is missing, such as name: wide")
    name = _text(keys, "name", "", f"{place}: ")
    if not _STEP_NAME.match(name) or name.endswith((".yaml", ".yml")):
        raise ValueError(f"{place}: name={_shown(name)}: use letters, digits and - _ . only, such as wide-kernels")
    place = f"step {name}: "
    printed = keys.get("printed")
    return Step(
        name=name,
        label=_text(keys, "label", name, place),
        group=_text(keys, "group", "", place),
        flags=_flags(keys.get("flags", {}), place),
        recipe=_settings(keys.get("recipe", {}), place),
        adopted=_switch(keys, "adopted", True, place),
        original_recipe=_switch(keys, "original_recipe", False, place),
        printed=Printed() if printed is None else _printed(printed, place),
        note=_text(keys, "note", "", place),
    )


def _flags(value: Any, place: str) -> dict[str, Any]:
    """Return flags with their values as YAML stores them."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{place}flags={_shown(value)}: must be flags and values, such as {{kernel_size: 7}}")
    for flag in value:
        if str(flag).startswith(RECIPE):
            raise ValueError(f"{place}{flag}: write it under recipe, as in recipe: {{{str(flag)[len(RECIPE) :]}: …}}")
        if flag not in BY_NAME:
            raise ValueError(f"{place}unknown flag {str(flag)!r}: {unknown_flag(str(flag), BY_NAME)}")
    try:
        return {flag: plain(BY_NAME[flag].read(one)) for flag, one in value.items()}
    except DesignError as error:
        raise ValueError(f"{place}{error}") from None


def _settings(value: Any, place: str) -> dict[str, Any]:
    """Return settings of a recipe. Their names and values are checked where recipes are known."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{place}recipe={_shown(value)}: must be settings and values, such as {{mixup: 0.8}}")
    for key, one in value.items():
        if not (isinstance(one, list) and all(map(_is_plain, one))) and not _is_plain(one):
            raise ValueError(f"{place}recipe: {key}={_shown(one)}: must be a number, text, true, false, null or a list")
    return dict(value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, float)) or (isinstance(value, int) and abs(value) < 2**31)


def _printed(value: Any, place: str) -> Printed:
    keys = _keys(value, Printed, f"{place}printed")
    limits = {"top1": (0, 100), "top1_std": (0, 100), "gflops": (0, math.inf)}
    units = {"top1": "percent, from 0 to 100", "top1_std": "pp, from 0 to 100", "gflops": "0 or more"}
    numbers = {}
    for key, one in keys.items():
        try:
            number = math.nan if isinstance(one, bool) else float(parse_number(one) if isinstance(one, str) else one)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        low, high = limits[key]
        if not low <= number <= high or math.isinf(number):
            raise ValueError(f"{place}printed: {key}={_shown(one)}: must be a number ({units[key]})")
        numbers[key] = number
    if "top1_std" in numbers and "top1" not in numbers:
        raise ValueError(f"{place}printed: top1_std={_shown(keys['top1_std'])}: only beside top1")
    return Printed(**numbers)


def _check_names(steps: list[Step]) -> None:
    names = [step.name for step in steps]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"step {name}: the name is there twice; each row needs its own")
