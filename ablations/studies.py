"""Studies: which designs are trained, under which recipe, on which data, with which seeds; and their folder."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field

from ablations.errors import RequestError
from ablations.recipes import TrainingConfig, check, load_recipe, read_yaml
from ablations.runs import RunConfig
from modernize.design import BY_NAME, Design, DesignError, nearest, text
from modernize.models import design as named
from modernize.roadmap import NAMES as ROADMAPS
from modernize.roadmap import roadmap

Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Kind = Literal["roadmap", "one-in", "one-out", "sweep", "grid", "orders", "recipes"]
KINDS: tuple[str, ...] = get_args(Kind)
# What each kind reads beside the keys of every study.
_READS: dict[str, tuple[str, ...]] = {
    "roadmap": ("original_recipe",),
    "one-in": ("end", "flags"),
    "one-out": ("end", "flags"),
    "sweep": ("flags",),
    "grid": ("flags",),
    "orders": ("end", "flags", "orders", "orders_seed"),
    "recipes": ("recipes",),
}


class StudyFile(BaseModel):
    """What a study's YAML file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    base: str = Field(description="the design it starts from; for a roadmap its name")
    end: str | None = Field(default=None, description="the design it leads to; none: the last row of base's roadmap")
    flags: list[str] | dict[str, list[Any]] | None = Field(default=None, description="which flags, or their values")
    orders: int | None = Field(default=None, ge=1, le=10_000, description="random orders to walk; none: 10")
    orders_seed: int | None = Field(default=None, ge=0, description="which random orders; none: 0")
    recipe: str = Field(default="quick", description="a recipe's name or YAML file")
    original_recipe: str | None = Field(default=None, description="for a roadmap's row of the original recipe")
    recipes: list[str] | None = Field(default=None, min_length=2, description="what a study of recipes compares")
    data: str = "fashion_mnist"
    evaluate: Literal["test", "validation"] = "test"
    seeds: list[Seed] = Field(default=[0], min_length=1)
    budget: str | None = Field(default=None, description="`5 epochs` or `200000 images`, in place of the recipe's")


class StudyRow(BaseModel):
    """A design of a study. One that another row has already, recipe and all, is that row's `same_as`, trained once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: str
    label: str
    flags: dict[str, Any]
    recipe: str
    compared_with: str | None = None
    same_as: str | None = None


class Study(BaseModel):
    """A study with everything resolved, as `study.yaml` in its folder holds it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Kind
    base: str
    data: str
    evaluate: Literal["test", "validation"]
    seeds: list[Seed]
    budget: str | None
    recipes: dict[str, TrainingConfig]
    rows: list[StudyRow]
    orders: list[list[str]] = []

    @property
    def runs(self) -> list[RunConfig]:
        """The runs, seed by seed, so that every row is there once before any has a second seed."""
        distinct = [row for row in self.rows if row.same_as is None]
        return [self.run(row, seed) for seed in self.seeds for row in distinct]

    def run(self, row: StudyRow, seed: int) -> RunConfig:
        """The run of a row with a seed."""
        return RunConfig(
            row=row.same_as or row.row,
            label=row.label,
            flags=row.flags,
            recipe_name=row.recipe,
            recipe=self.recipes[row.recipe],
            data=self.data,
            evaluate=self.evaluate,
            seed=seed,
        )

    def with_budget(self, train_images: int) -> Study:
        """The study with its budget in its recipes, for a training set of so many images."""
        if self.budget is None:
            return self
        amount, unit = read_budget(self.budget)
        recipes = {}
        for name, recipe in self.recipes.items():
            seen = train_images // recipe.batch_size * recipe.batch_size  # an epoch's last, smaller batch is left out
            recipes[name] = stretched(recipe, amount / seen if unit == "images" and seen else amount)
        return self.model_copy(update={"recipes": recipes})


def read_budget(budget: str) -> tuple[float, str]:
    """A budget's amount and unit; raises RequestError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d{1,2})?)\s*(epochs?|images?)\s*", budget)
    if not match or float(match[1]) <= 0:
        raise RequestError(f"budget {budget!r}: write epochs or images, such as 5epochs or 200000images")
    return float(match[1]), match[2].rstrip("s") + "s"


def stretched(recipe: TrainingConfig, epochs: float) -> TrainingConfig:
    """The recipe over another number of epochs, its warm-up and the steps of its schedule in the same proportion."""
    factor = epochs / recipe.max_epochs
    changed: dict[str, Any] = {"max_epochs": epochs, "warmup_epochs": recipe.warmup_epochs * factor}
    if recipe.step_epochs is not None:
        changed["step_epochs"] = recipe.step_epochs * factor
    return recipe.model_copy(update=changed)


def study_names() -> list[str]:
    """The studies that come with the project."""
    return sorted(Path(entry.name).stem for entry in files("ablations").joinpath("studies").iterdir())


def load_study(name: str, changes: Mapping[str, Any], settings: Mapping[str, str]) -> Study:
    """The study of that name, kind or YAML file, checked whole: `changes` over its keys, `settings` over its recipes'.

    Raises RequestError naming the file, the key and the right value.
    """
    if name.endswith((".yaml", ".yml")):
        values = read_yaml(Path(name), "study")
    elif name in study_names():
        values = yaml.safe_load(files("ablations").joinpath("studies", f"{name}.yaml").read_text(encoding="utf-8"))
    elif name in KINDS:
        values = {"kind": name}
    else:
        known = [*study_names(), *KINDS]
        raise RequestError(f"unknown study {name!r}: {nearest(name, known)}, or a YAML file")
    place = f"study {name}"
    given = check(StudyFile, {**values, **changes}, place)
    for key in {key for reads in _READS.values() for key in reads} - {*_READS[given.kind]}:
        if getattr(given, key) is not None:
            raise RequestError(f"{place}: {key}: a study of kind {given.kind} has no use for it")
    try:
        return _resolve(Path(name).stem, given, settings)
    except (RequestError, DesignError) as error:
        raise RequestError(f"{place}: {error}") from None


def _resolve(name: str, given: StudyFile, settings: Mapping[str, str]) -> Study:
    from ablations.data import LOADERS

    if given.data not in LOADERS:
        raise RequestError(f"data: unknown data set {given.data!r}: {nearest(given.data, LOADERS)}")
    if len(set(given.seeds)) < len(given.seeds):
        raise RequestError(f"seeds={given.seeds}: each may be there once")
    if given.budget is not None:
        read_budget(given.budget)
    orders = list(_orders(given)) if given.kind == "orders" else []
    rows = _once(_ROWS[given.kind](given, orders) if given.kind == "orders" else _ROWS[given.kind](given))
    names = dict.fromkeys(row.recipe for row in rows)
    main = given.recipe if given.recipe in names else next(iter(names))
    recipes = {
        used: load_recipe(used, {key: value for key, value in settings.items() if used == main or _shared(key)})
        for used in names
    }
    return Study(
        name=name,
        kind=given.kind,
        base=given.base,
        data=given.data,
        evaluate=given.evaluate,
        seeds=given.seeds,
        budget=given.budget,
        recipes=recipes,
        rows=rows,
        orders=orders,
    )


def _shared(key: str) -> bool:
    """Whether `--set key=…` holds for a second recipe too: it does for budget, data and checkpoints."""
    return key.startswith(("max_epochs", "batch_size", "image_size", "crop_padding", "horizontal_flip", "checkpoint_"))


def _once(rows: Iterator[StudyRow]) -> list[StudyRow]:
    """The rows, those that repeat a design and a recipe pointing at the first that has them."""
    first: dict[tuple[str, str], str] = {}
    found = []
    for row in rows:
        same = first.setdefault((repr(row.flags), row.recipe), row.row)
        found.append(row if same == row.row else row.model_copy(update={"same_as": same}))
    return found


# ---- what each kind trains


def _roadmap(given: StudyFile) -> Iterator[StudyRow]:
    """Every row of the roadmap, each compared with the last adopted one before it."""
    steps = roadmap(given.base)
    for row in steps.rows:
        before = steps.before(row)
        yield StudyRow(
            row=row.name,
            label=row.label,
            flags=row.design.flags(),
            recipe=given.original_recipe or given.recipe if row.recipe == "original" else given.recipe,
            compared_with=before.name if before else None,
        )


def _ends(given: StudyFile) -> tuple[Design, Design]:
    """The designs that a study goes from and to."""
    base = named(given.base)
    if given.end is not None:
        return base, named(given.end)
    start = given.base.partition(",")[0].partition("@")[0]
    if start not in ROADMAPS:
        raise RequestError(
            f"end: no roadmap starts at {start!r}; name the design that the study leads to, or set flags"
        )
    return base, roadmap(start).rows[-1].design


def _steps(given: StudyFile) -> dict[str, Any]:
    """The flags that lead from base to end, in the roadmap's order, each with its value at the end."""
    base = named(given.base)
    if isinstance(given.flags, dict):
        many = [flag for flag, values in given.flags.items() if len(values) != 1]
        if many:
            raise RequestError(f"flags: {many[0]} must have one value in a study of kind {given.kind}")
        steps = {flag: values[0] for flag, values in given.flags.items()}
        base.with_flags(steps)
        return steps
    differs = _ends(given)[1].differences(base)
    order = [flag for row in roadmap("resnet50").rows for flag in row.changes]
    steps = {
        flag: differs[flag] for flag in sorted(differs, key=lambda flag: order.index(flag) if flag in order else -1)
    }
    for flag in given.flags or ():
        if flag not in BY_NAME:
            raise RequestError(f"flags: unknown flag {flag!r}: {nearest(flag, BY_NAME)}")
        if flag not in steps:
            raise RequestError(f"flags: {flag} is the same at both ends; give it a value, such as {flag}=…")
    return {flag: steps[flag] for flag in given.flags or steps}


def _row(given: StudyFile, name: str, label: str, design: Design, compared_with: str | None) -> StudyRow:
    return StudyRow(row=name, label=label, flags=design.flags(), recipe=given.recipe, compared_with=compared_with)


def _said(flag: str, value: Any) -> str:
    """A flag and its value as rows are named: `kernel_size=7`."""
    return f"{flag}={text(BY_NAME[flag].read(value))}"


def _one_in(given: StudyFile) -> Iterator[StudyRow]:
    """The base, and the base with each flag alone turned on."""
    base = named(given.base)
    yield _row(given, "base", given.base, base, None)
    for flag, value in _steps(given).items():
        yield _row(given, f"with-{flag}", f"+ {_said(flag, value)}", base.with_flags({flag: value}), "base")


def _one_out(given: StudyFile) -> Iterator[StudyRow]:
    """The end point, and the end point with each flag alone turned back."""
    base, steps = named(given.base), _steps(given)
    end = base.with_flags(steps) if isinstance(given.flags, dict) else _ends(given)[1]
    yield _row(given, "end", given.end or f"{given.base}, all flags", end, None)
    for flag in steps:
        back = base.flags()[flag]
        yield _row(given, f"without-{flag}", f"− {_said(flag, back)}", end.with_flags({flag: back}), "end")


def _values(given: StudyFile) -> dict[str, list[Any]]:
    """Flags and the values of each that a sweep or a grid goes through."""
    if not isinstance(given.flags, dict) or not all(given.flags.values()):
        raise RequestError(f"flags: a {given.kind} needs values, such as kernel_size: [3, 5, 7]")
    for flag, values in given.flags.items():
        if len({repr(named(given.base).with_flags({flag: value})) for value in values}) < len(values):
            raise RequestError(f"flags: {flag}={values}: each value may be there once")
    return given.flags


def _sweep(given: StudyFile) -> Iterator[StudyRow]:
    """One flag over values, each compared with the first."""
    values = _values(given)
    if len(values) != 1:
        raise RequestError("flags: a sweep goes over one flag; several are a grid")
    yield from _grid(given)


def _grid(given: StudyFile) -> Iterator[StudyRow]:
    """The product of several flags' values, each compared with the first."""
    values, base = _values(given), named(given.base)
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
    base, steps = named(given.base), _steps(given)
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


def _recipes(given: StudyFile) -> Iterator[StudyRow]:
    """The same design under each recipe, compared with the first."""
    design, recipes = named(given.base), given.recipes or ["quick_original", "quick"]
    if len(set(recipes)) < len(recipes):
        raise RequestError(f"recipes={recipes}: each may be there once")
    for recipe in recipes:
        name = slug(Path(recipe).stem if recipe.endswith((".yaml", ".yml")) else recipe)
        first = slug(Path(recipes[0]).stem) if recipe != recipes[0] else None
        yield StudyRow(row=name, label=recipe, flags=design.flags(), recipe=recipe, compared_with=first)


_ROWS: dict[str, Any] = {
    "roadmap": _roadmap,
    "one-in": _one_in,
    "one-out": _one_out,
    "sweep": _sweep,
    "grid": _grid,
    "orders": _walks,
    "recipes": _recipes,
}


# ---- folders


def open_folder(study: Study, folder: Path) -> None:
    """Makes the study's folder, or checks that it was made for this study; raises RequestError naming what differs."""
    from ablations.store import write_bytes

    text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    path = folder / "study.yaml"
    if path.exists():
        differs = differences(read_study(folder).model_dump(mode="json"), study.model_dump(mode="json"))
        if differs:
            shown = "; ".join(differs[:3]) + (f"; and {len(differs) - 3} more" if len(differs) > 3 else "")
            raise RequestError(
                f"study folder {folder} was made with another configuration: {shown}; choose another --out"
            )
        return
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RequestError(f"{folder} is not empty and holds no study.yaml; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(path, text.encode())
    except OSError as error:
        raise RequestError(f"study folder {folder}: cannot be written ({error.strerror})") from None


def read_study(folder: Path) -> Study:
    """The study of a folder; raises RequestError where it holds none."""
    if not (folder / "study.yaml").is_file():
        raise RequestError(f"{folder} is not a study's folder: it holds no study.yaml")
    return check(Study, read_yaml(folder / "study.yaml", "study"), f"study {folder / 'study.yaml'}")


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Where two nested values differ, as `recipes.quick.learning_rate was 0.004 and is now 0.002`."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [line for key in keys for line in differences(before.get(key), now.get(key), f"{path}.{key}".strip("."))]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [line for index, pair in pairs for line in differences(*pair, f"{path}[{index}]")]
    return [] if before == now else [f"{path} was {before} and is now {now}"]


def run_folder(study_folder: Path, run: RunConfig) -> Path:
    """Where a run of a study lies."""
    return study_folder / "runs" / run.name


def slug(design: str) -> str:
    """A design's name as a folder's."""
    return re.sub(r"[^A-Za-z0-9@=_.,-]+", "-", design).strip("-.,")
