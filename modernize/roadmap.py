"""Roadmaps: designs step by step, as shipped or from a user's file; and how a design's name becomes a design."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from modernize.arguments import Size, read_size
from modernize.design import (
    RECIPE,
    Design,
    DesignError,
    is_file,
    plain,
    printable,
    read_object,
    read_settings,
    setting,
    split_commas,
    split_name,
    text,
)
from modernize.named_designs import MODELS
from modernize.names import nearest, one_of, similar
from modernize.plan import compile_plan, trace
from modernize.reference import is_reference, reference_named
from modernize.roadmap_file import NAMES, PAPER, Printed, RoadmapFile, Source, Step, is_roadmap, parse_roadmap, shipped

__all__ = [
    "NAMES",
    "NAME_FORM",
    "PAPER",
    "Roadmap",
    "Row",
    "Source",
    "design",
    "named",
    "nearest",
    "prints_costs",
    "roadmap",
    "roadmap_of",
    "split_commas",
    "stored_roadmap",
]

NAME_FORM = "a design's name, such as 'convnext_tiny' or 'mine.yaml'"


@dataclass(frozen=True)
class Row:
    """A row of a roadmap.

    Attributes:
        name: Name, as in `resnet50@NAME`.
        label: Name for tables.
        group: Heading for the steps around it.
        design: The row's design.
        recipe: The settings of the recipe that the steps up to this row change.
        changes: Flags that the row changes relative to the last adopted row before it.
        recipe_changes: Settings of the recipe that it changes.
        adopted: Whether later rows build on this one.
        original_recipe: Whether a study's `original_recipe` trains it.
        printed: The results that the roadmap's source prints.
        note: Remark on a printed value that disagrees with the design.
    """

    name: str
    label: str
    group: str
    design: Design
    recipe: dict[str, Any]
    changes: dict[str, Any]
    recipe_changes: dict[str, Any]
    adopted: bool
    original_recipe: bool
    printed: Printed
    note: str


@dataclass(frozen=True)
class Roadmap:
    """Rows that each change something, and the images for which they are counted.

    Attributes:
        name: Name, as given to `roadmap`.
        base: Name without flags: that of a shipped roadmap, or a path.
        source: Where the printed results are from.
        image_size: Resolution in pixels.
        in_channels: Channels of the images.
        num_classes: Number of classes.
        rows: The rows.
        extras: Further rows, not among the source's, each one step from the last adopted row.
        contents: The contents of its file, with the first row's design as flags.
    """

    name: str
    base: str
    source: Source
    image_size: int
    in_channels: int
    num_classes: int
    rows: tuple[Row, ...]
    extras: tuple[Row, ...]
    contents: RoadmapFile

    def row(self, name: str) -> Row:
        """Return the row of a name.

        Raises:
            DesignError: If there is no such row.
        """
        read_object("name", name, str, "the name of a row, such as 'depthwise'")
        known = (*self.rows, *self.extras)
        for row in known:
            if row.name == name:
                return row
        raise DesignError(f"unknown row {name!r} of roadmap {self.name}: {self._meant(name)}")

    def _meant(self, name: str) -> str:
        """Return which row a wrong name may mean: one of this name, design or change, or the first or last one."""
        known = (*self.rows, *self.extras)
        names, word = [row.name for row in known], name.lower()
        last = next(row for row in reversed(self.rows) if row.adopted)
        ends = [last.name] if word in _LAST else [names[0]] if word in _FIRST else []
        if similar(name, names) and not ends:
            return nearest(name, names)
        designs = [row.name for row in (last, *known) if _is_of(word, row.design)][:1]
        changes = [row.name for row in known if word in _words(row)][:3]
        meant = [repr(row) for row in ends or designs or changes]
        return f"did you mean {one_of(meant)}?" if meant else nearest(name, names)

    def before(self, row: Row) -> Row | None:
        """Return the last adopted row before `row`, to which its changes apply; None for the first row."""
        read_object("row", row, Row, "a row of this roadmap")
        earlier = self.rows if row in self.extras else self.rows[: self.rows.index(row)]
        return next((other for other in reversed(earlier) if other.adopted), None)

    @property
    def flags(self) -> list[str]:
        """The flags that its steps change, and `recipe.KEY` for settings of the recipe, in their order."""
        changed = ((*row.changes, *(f"{RECIPE}{key}" for key in row.recipe_changes)) for row in self.rows)
        return list(dict.fromkeys(key for keys in changed for key in keys))


def roadmap(name: str) -> Roadmap:
    """Return a roadmap, as it is or resized.

    Args:
        name: A name in `NAMES` or the path of a YAML file, and optionally flags of the first row, as in
            `pocket,width=24`. The widths of all rows grow in proportion, and depths by an integer factor. A flag that
            no step sets keeps its value in every row.

    Returns:
        The roadmap.

    Raises:
        DesignError: If the name is unknown, the file or a value is invalid, or a step sets the flag.
    """
    base, row, _ = split_name(read_object("name", name, str, f"a roadmap's name: {', '.join(NAMES)} or a YAML file"))
    if row is not None:
        known = [base] if is_file(base) else NAMES
        raise DesignError(f"unknown roadmap {f'{base}@{row}'!r}: {nearest(base, known)}")
    found = _roadmap_at(name, ())
    if found is None:
        raise DesignError(f"roadmap {printable(split_name(name).base)}: holds a design's flags and no steps")
    return found


def roadmap_of(name: str) -> Roadmap | None:
    """Return the roadmap at the base of a design's name, not resized; None if there is none.

    Raises:
        DesignError: If the base is a YAML file that is invalid.
    """
    base = split_name(name).base
    return _roadmap_at(base, ()) if is_file(base) or base in NAMES else None


def stored_roadmap(name: str, contents: RoadmapFile) -> Roadmap:
    """Return the roadmap of a name, whose file had these contents."""
    return _roadmap(name, contents, ())


def prints_costs(steps: Roadmap, images: tuple[Size, int, int]) -> bool:
    """Whether the source's GFLOPs are those of these rows for images of this resolution, channels and classes."""
    own = (read_size(steps.image_size), steps.in_channels, steps.num_classes)
    return steps.name == steps.base and not steps.source.scaled and images == own


class Named(NamedTuple):
    """What a name stands for: a design, and the settings of the recipe that a roadmap's steps or the name change."""

    design: Design
    recipe: dict[str, Any]


def named(name: str) -> Named:
    """Parse a design's name, which may set a recipe's settings: `BASE[@ROW][,flag=value][,recipe.key=value]…`.

    Raises:
        DesignError: If any part of the name is unknown or the design is invalid. Settings are not checked.
    """
    return _named(name, ())


def design(name: str) -> Design:
    """Parse a design's name.

    Args:
        name: `BASE[@ROW][,flag=value]…`. BASE is a name in `MODELS`, or the path of a YAML file of flags over
            ResNet-50's or of a roadmap; ROW is a row of the roadmap at BASE.

    Returns:
        The design.

    Raises:
        DesignError: If any part of the name is unknown or the design is invalid.
    """
    for part in split_name(read_object("name", name, str, NAME_FORM)).settings:
        if part.strip().startswith(RECIPE):
            raise DesignError(f"{part!r} in {name!r}: a setting of the recipe, and a design has none; leave it out")
    return named(name).design


def _named(name: str, within: tuple[str, ...]) -> Named:
    """Parse a design's name in files that lead to each other."""
    if is_reference(name):
        raise DesignError(f"{printable(name)!r} has no design flags: it can only be counted, trained or benchmarked")
    base, row, settings = split_name(name)
    steps = _roadmap_at(base, within) if is_file(base) or base in NAMES else None
    if steps is not None:
        found = steps.row(row) if row is not None else steps.rows[0]
        start = Named(found.design, found.recipe)
    elif row is not None and (is_file(base) or base in MODELS):
        raise DesignError(f"{f'{base}@{row}'!r}: no roadmap starts at {base}; roadmaps: {', '.join(NAMES)}")
    elif is_file(base):
        start = _from_file(Path(base))
    elif base in MODELS:
        start = Named(MODELS[base], {})
    else:
        raise DesignError(f"unknown design {base!r}: {_meant(base)}")
    return _changed(start, _typed(settings, name))


_FIRST, _LAST = ("first", "start", "base", "baseline"), ("last", "end", "final")  # words for rows
_SIZES = ("depths", "width", "stem_stride", "layer_scale")


def _is_of(word: str, of: Design) -> bool:
    """Whether a word begins the name of a design that differs from this one in its sizes alone, as `convnext` does."""
    shape = {flag: value for flag, value in of.flags().items() if flag not in _SIZES}
    alike = (known for known, one in MODELS.items() if shape.items() <= one.flags().items())
    return len(word) > 2 and any(known.startswith(word.replace("-", "_")) for known in alike)


def _words(row: Row) -> set[str]:
    """Return what may be written for a row's change: `norm`, `ln`, `norm=ln`."""
    return {word for flag, value in row.changes.items() for word in (flag, text(value), setting(flag, value))}


def _meant(name: str) -> str:
    """Return what an unknown design may mean: a reference model, a named design, or a row of a roadmap."""
    if (reference := reference_named(name)) is not None:
        return f"did you mean {reference!r}?"
    rows = [f"{steps}@{name}" for steps in NAMES if any(row.name == name for row in roadmap(steps).rows)]
    if rows and not similar(name, MODELS):
        return f"did you mean {one_of(list(map(repr, rows[:3])))}?"
    return nearest(name, MODELS)


def _typed(settings: list[str], name: str) -> dict[str, Any]:
    """Return the values in a design's name; those of a recipe's settings are YAML."""
    from modernize.yaml_file import parse_yaml

    values: dict[str, Any] = read_settings(settings, name)
    for key, value in values.items():
        if key.startswith(RECIPE):
            try:
                values[key] = parse_yaml(value)
            except ValueError:
                raise DesignError(f"{key}={printable(value)} in {name!r}: not a YAML value") from None
    return values


def _changed(start: Named, values: Mapping[Any, Any]) -> Named:
    """Return a design and settings with some of both changed; `recipe.KEY` is a setting."""
    recipe = {key.removeprefix(RECIPE): value for key, value in values.items() if str(key).startswith(RECIPE)}
    flags = {key: value for key, value in values.items() if not str(key).startswith(RECIPE)}
    return Named(start.design.with_flags(flags), {**start.recipe, **recipe})


def _from_file(path: Path) -> Named:
    """Read a design from a YAML file of flags over ResNet-50's."""
    try:
        return _changed(Named(Design(), {}), _mapping(path))
    except DesignError as error:
        raise DesignError(f"{printable(path)}: {error}") from None


def _mapping(path: Path) -> dict[Any, Any]:
    from modernize.yaml_file import YamlFileError, read_mapping

    try:
        return read_mapping(path)
    except YamlFileError as error:
        raise DesignError(str(error)) from None


def _roadmap_at(name: str, within: tuple[str, ...]) -> Roadmap | None:
    """Return a roadmap; None if its file holds a design. `within` are the files that led here."""
    base = split_name(name).base
    if not is_file(base):
        if base not in NAMES:
            raise DesignError(f"unknown roadmap {base!r}: {nearest(base, NAMES)}")
        return _shipped(name)
    if base in within:
        raise DesignError(f"roadmap {printable(base)}: base: the file leads to itself; name a design or give flags")
    values = _mapping(Path(base))
    if not is_roadmap(values):
        return None
    return _roadmap(name, parse_roadmap(values, f"roadmap {printable(base)}"), (*within, base))


@cache
def _shipped(name: str) -> Roadmap:
    return _roadmap(name, shipped(split_name(name).base), ())


def _roadmap(name: str, contents: RoadmapFile, within: tuple[str, ...]) -> Roadmap:
    """Resolve the rows of a roadmap; those of a file must be buildable."""
    base = split_name(name).base
    try:
        start = _first(contents, within)
        if is_file(base):
            _check_steps(contents, start)
    except DesignError as error:
        raise DesignError(f"roadmap {printable(base)}: {error}") from None
    contents = replace(
        contents, base=start.design.flags() | {f"{RECIPE}{key}": one for key, one in start.recipe.items()}
    )
    sized, first = _resized(contents, start, _typed(split_name(name).settings, name), base)
    images = contents.image_size, contents.in_channels, contents.num_classes
    rows = tuple(_rows(sized.steps, first))
    last = next(row for row in reversed(rows) if row.adopted)
    extras = tuple(_row(step, Named(last.design, last.recipe)) for step in sized.extras)
    for row in (*rows, *extras) if is_file(base) else ():
        try:
            trace(compile_plan(row.design, *images[1:]), images[0])
        except DesignError as error:
            raise DesignError(f"roadmap {printable(name)}: step {row.name}: {error}") from None
    return Roadmap(name, base, contents.source, *images, rows, extras, contents)


def _first(contents: RoadmapFile, within: tuple[str, ...]) -> Named:
    """Return the first row's design and settings; those of ResNet-50, ResNet-200 and pocket are `MODELS`."""
    try:
        if isinstance(contents.base, dict):
            return _changed(Named(Design(), {}), contents.base)
        return Named(MODELS[contents.base], {}) if contents.base in MODELS else _named(contents.base, within)
    except DesignError as error:
        raise DesignError(f"base: {error}") from None


def _check_steps(contents: RoadmapFile, start: Named) -> None:
    """Refuse a step that sets what is set already."""
    last = start
    for step in (*contents.steps, *contents.extras):
        for flag, value in step.flags.items():
            if plain(getattr(last.design, flag)) == value:
                raise DesignError(f"step {step.name}: {setting(flag, value)} is the value already; leave it out")
        for key, value in step.recipe.items():
            if key in last.recipe and last.recipe[key] == value:
                raise DesignError(f"step {step.name}: {RECIPE}{key}={value} is the value already; leave it out")
        if step.adopted and step not in contents.extras:
            last = Named(last.design.with_flags(step.flags), {**last.recipe, **step.recipe})


def _rows(steps: tuple[Step, ...], first: Named) -> Iterator[Row]:
    last = first
    for step in steps:
        row = _row(step, last)
        yield row
        last = Named(row.design, row.recipe) if step.adopted else last


def _row(step: Step, last: Named) -> Row:
    return Row(
        name=step.name,
        label=step.label,
        group=step.group,
        design=last.design.with_flags(step.flags),
        recipe={**last.recipe, **step.recipe},
        changes=step.flags,
        recipe_changes=step.recipe,
        adopted=step.adopted,
        original_recipe=step.original_recipe,
        printed=step.printed,
        note=step.note,
    )


def _resized(contents: RoadmapFile, start: Named, values: dict[str, Any], name: str) -> tuple[RoadmapFile, Named]:
    """Return a roadmap with another first row; raises DesignError if it cannot start with these flags."""
    base, first = start.design, _changed(start, values)
    deeper, rest = divmod(first.design.depths[0], base.depths[0])
    deepened = tuple(depth * max(deeper, 1) for depth in base.depths)
    if first.design.depths != deepened or rest:
        raise DesignError(
            f"depths={plain(first.design.depths)}: the first row of {name} needs a multiple of {plain(base.depths)}; "
            f"nearest valid value: {plain(deepened)}"
        )
    steps = (*contents.steps, *contents.extras)
    stepped = {flag for step in contents.steps for flag in step.flags} - {"depths", "width"}
    stepped |= {f"{RECIPE}{key}" for step in contents.steps for key in step.recipe}
    for key in (*first.design.differences(base), *(key for key in values if key.startswith(RECIPE))):
        if key in stepped:
            raise DesignError(f"{key}={values[key]}: a step of the roadmap {name} sets this flag; leave it out")
    grown = [replace(step, flags=_grown(step.flags, first.design, base, deeper)) for step in steps]
    count = len(contents.steps)
    return replace(contents, steps=tuple(grown[:count]), extras=tuple(grown[count:])), first


def _grown(changes: dict[str, Any], first: Design, base: Design, deeper: int) -> dict[str, Any]:
    """Scale a step's width and depths from the roadmap's own first row `base` to the first row `first`."""
    grown = dict(changes)
    if "width" in changes:
        grown["width"] = round(changes["width"] * first.width / base.width)
    if "depths" in changes:
        grown["depths"] = plain(tuple(int(depth) * deeper for depth in str(changes["depths"]).split("-")))
    return grown
