"""Studies: which designs are trained, under which recipe, on which data, with which seeds; and their folder."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from ablations.errors import RequestError, RunError
from ablations.recipes import MAY_CHANGE, Number, TrainingConfig, Whole, check, load_recipe, read_yaml, stretched
from ablations.runs import Flags, RunConfig
from modernize.design import BY_NAME, Design, DesignError, nearest, text
from modernize.models import design as named
from modernize.reference import PREFIX, check_reference
from modernize.roadmap import NAMES as ROADMAPS
from modernize.roadmap import Roadmap, Row, roadmap

_LONGEST = 240  # letters of a row's name, which with the seed names a folder

if TYPE_CHECKING:
    from ablations.data import DataSet

Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Kind = Literal["roadmap", "one-in", "one-out", "sweep", "grid", "orders", "recipes"]
KINDS: tuple[str, ...] = get_args(Kind)
# What each kind reads beside the keys of every study.
_READS: dict[str, tuple[str, ...]] = {
    "roadmap": ("recipe", "original_recipe", "extras"),
    "one-in": ("recipe", "end", "flags"),
    "one-out": ("recipe", "end", "flags"),
    "sweep": ("recipe", "flags"),
    "grid": ("recipe", "flags"),
    "orders": ("recipe", "end", "flags", "orders", "orders_seed"),
    "recipes": ("recipes",),
}


Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_YEAR = 366 * 24 * 60  # minutes, which is longer than clusters let a job run
# sbatch's options that stand for keys of ours, and those that every job has already or that would hide its number.
_OURS = {
    **{key: key for key in ("partition", "time", "nodes", "constraint", "gpus")},
    **{"gpus-per-node": "gpus", "gpus-per-task": "gpus", "ntasks-per-node": "processes", "cpus-per-task": "cpus"},
    **{"ntasks": "processes", "mem": "memory"},
}
_TAKEN = (
    *("array", "signal", "output", "error", "job-name", "requeue", "no-requeue", "open-mode"),
    *("parsable", "quiet", "test-only", "wait", "wrap"),
)


class Cluster(BaseModel):
    """What each run asks a Slurm cluster for. `options` are further ones of sbatch, such as {qos: long}."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    partition: Word | None = None
    time: str | int = Field(default=60, description="minutes, or as Slurm writes it: 2-00:00:00")
    nodes: Whole = Field(default=1, ge=1)
    gpus: Whole = Field(default=0, ge=0, description="of each node")
    processes: Whole | None = Field(default=None, ge=1, description="on each node; none: one for each GPU, or one")
    cpus: Whole = Field(default=1, ge=1, description="of each process")
    memory: Number | None = Field(default=None, ge=0.001, le=1e6, description="GB of each node")
    constraint: Word | None = None
    options: dict[str, str | int | bool] = {}
    setup: list[str] = Field(default=[], description="shell lines before the run, such as `module load cuda`")

    @model_validator(mode="after")
    def _fits_together(self) -> Cluster:
        """Refuses processes that would have no GPU: each job would wait in the queue, and fail."""
        if self.gpus and self.processes_each > self.gpus:
            raise ValueError(f"processes={self.processes}: there must be a GPU for each, and gpus={self.gpus}")
        return self

    @property
    def processes_each(self) -> int:
        """The processes of a run on each node."""
        return self.processes or max(self.gpus, 1)

    @field_validator("time", mode="before")
    @classmethod
    def _check_time(cls, time: Any) -> Any:
        """Refuses what is no time, or longer than a year."""
        asked = minutes(time)
        if asked < 1:
            raise ValueError(f"{time!r} is no time: write minutes, or days-hours:minutes:seconds such as 2-00:00:00")
        if asked > _YEAR:
            raise ValueError(f"{time!r} is longer than a year; a run out of time is requeued, and goes on")
        return time

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        """Refuses what is a key of its own here, or what every job is submitted with."""
        for key in options:
            name = key.replace("_", "-")
            if name in _OURS:
                raise ValueError(f"{key}: write it as cluster.{_OURS[name]}")
            if name in _TAKEN:
                raise ValueError(f"{key}: each job is submitted with its own; leave it out")
        return options


def minutes(time: str | int) -> int:
    """A time limit in whole minutes, as Slurm reads it: MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS; 0 for none."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(time))
    if not match:
        return 0
    days, first, second, third = (int(part) if part else 0 for part in match.groups())
    if match[1] or match[4]:  # the first is hours
        return days * 24 * 60 + first * 60 + second + (third > 0)
    return first + (second > 0)


class StudyFile(BaseModel):
    """What a study's YAML file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    base: str = Field(description="the design it starts from; for a roadmap its name, with flags for another size")
    end: str | None = Field(default=None, description="the design it leads to; none: the last row of base's roadmap")
    flags: list[str] | dict[str, list[Any]] | None = Field(default=None, description="which flags, or their values")
    orders: Whole | None = Field(default=None, ge=1, le=10_000, description="random orders to walk; none: 10")
    orders_seed: Whole | None = Field(default=None, ge=0, description="which random orders; none: 0")
    recipe: str | None = Field(default=None, description="a recipe's name or YAML file; none: quick")
    original_recipe: str | None = Field(default=None, description="for a roadmap's row of the original recipe")
    extras: list[str] | None = Field(default=None, min_length=1, description="rows of a roadmap beyond the paper's")
    recipes: list[str] | None = Field(default=None, min_length=2, description="what a study of recipes compares")
    data: str = "fashion_mnist"
    evaluate: Literal["test", "validation"] = "test"
    seeds: list[Seed] = Field(default=[0], min_length=1)
    budget: str | None = Field(default=None, description="`5 epochs` or `200000 images`, in place of the recipe's")
    references: list[str] = Field(default=[], description="other people's networks beside the rows: torchvision:NAME")
    cluster: Cluster | None = Field(default=None, description="what each run asks a Slurm cluster for")

    @field_validator("flags", mode="before")
    @classmethod
    def _check_flags(cls, flags: Any) -> Any:
        """Refuses what is neither a list of flags nor a list of values for each."""
        if flags is None:
            return None
        if not isinstance(flags, (list, dict)) or not flags:
            raise ValueError("write names, such as [depthwise, norm], or values, such as kernel_size: [3, 5, 7]")
        for flag in flags:
            if not isinstance(flag, str):
                raise ValueError("flags are named by words, such as kernel_size")
            if flag not in BY_NAME:
                raise ValueError(f"unknown flag {flag!r}: {nearest(flag, BY_NAME)}")
        if isinstance(flags, list):
            twice = [flag for flag in BY_NAME if flags.count(flag) > 1]
            if twice:
                raise ValueError(f"{twice[0]} is there twice")
        else:
            for flag, values in flags.items():
                if not isinstance(values, list) or not values:
                    raise ValueError(f"{flag} needs a list of values, as in kernel_size: [3, 5, 7]")
                if not all(map(_is_plain, values)):
                    raise ValueError(f"{flag}: its values must be words, numbers below 2147483648 or lists of these")
        return flags


def _is_plain(value: Any, depth: int = 1) -> bool:
    """Whether a value from YAML is one that a flag may take: aliases and numbers without end are not."""
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(part, depth - 1) for part in value)
    return value is None or isinstance(value, (str, float)) or (isinstance(value, int) and abs(value) < 2**31)


class StudyRow(BaseModel):
    """A design of a study. One that another row has already, recipe and all, is that row's `same_as`, trained once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: str
    label: str
    flags: Flags
    reference: str | None = None
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
    data_checksum: str = ""
    evaluate: Literal["test", "validation"]
    seeds: list[Seed]
    budget: str | None
    recipes: dict[str, TrainingConfig]
    rows: list[StudyRow]
    orders: list[list[str]] = []
    cluster: Cluster | None = None

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
            reference=row.reference,
            recipe_name=row.recipe,
            recipe=self.recipes[row.recipe],
            data=self.data,
            evaluate=self.evaluate,
            seed=seed,
        )

    def on(self, data: DataSet) -> Study:
        """The study on this very data: its checksum kept, its budget put into its recipes."""
        found = self.model_copy(update={"data_checksum": data.checksum})
        if self.budget is None:
            return found
        amount, unit = read_budget(self.budget)
        recipes = {}
        for name, recipe in self.recipes.items():
            # an epoch leaves out its last, smaller batch
            seen = len(data.train) // recipe.batch_size * recipe.batch_size
            recipes[name] = stretched(recipe, amount / seen if unit == "images" and seen else amount)
        return found.model_copy(update={"recipes": recipes})


def read_budget(budget: str) -> tuple[float, str]:
    """A budget's amount and unit; raises RequestError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d{1,2})?)\s*(epochs?|images?)\s*", budget)
    if not match or not 0 < float(match[1]) < math.inf:
        raise RequestError(f"budget {budget!r}: write epochs or images, such as 5epochs or 200000images")
    return float(match[1]), match[2].rstrip("s") + "s"


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
        raise RequestError(f"unknown study {name!r} (and no YAML file): {nearest(name, known)}")
    place = f"study {name}"
    if "cluster" in changes and isinstance(values.get("cluster"), dict):
        changes = {**changes, "cluster": {**values["cluster"], **changes["cluster"]}}
    given = check(StudyFile, {**values, **changes}, place)
    for key in dict.fromkeys(key for reads in _READS.values() for key in reads):
        if key not in _READS[given.kind] and getattr(given, key) is not None:
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
    designs = _ROWS[given.kind](given, orders) if given.kind == "orders" else _ROWS[given.kind](given)
    rows = _once(itertools.chain(designs, _references(given)))
    long = [row.row for row in rows if len(row.row) > _LONGEST]
    if long:
        raise RequestError(f"row {long[0][:40]}…: too long to name a folder; at most {_LONGEST} letters")
    names = dict.fromkeys(row.recipe for row in rows)
    main = _recipe(given)
    alone = [key for key in settings if not _shared(key)]
    if given.kind == "recipes" and alone:
        raise RequestError(
            f"--set {alone[0]}: what this study compares are its recipes; put it into one, as in quick,{alone[0]}=…"
        )
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
        cluster=given.cluster,
    )


def _recipe(given: StudyFile) -> str:
    """The recipe of all rows that have none of their own."""
    return given.recipe or "quick"


_SHARED = (
    *("max_epochs", "batch_size", "image_size", "crop_padding", "horizontal_flip"),
    *("precision", "channels_last", "compile", "sync_batchnorm", *MAY_CHANGE),
)
_OWN = ("accumulation",)  # of a smaller batch the same parts would be smaller, and BatchNorm another


def _shared(key: str) -> bool:
    """Whether `--set key=…` holds for a second recipe too: it does for budget, data and how runs are carried out."""
    return key in _SHARED and key not in _OWN


def _once(rows: Iterator[StudyRow]) -> list[StudyRow]:
    """The rows, those that repeat a design and a recipe pointing at the first that has them."""
    first: dict[tuple[str, str], str] = {}
    found = []
    for row in rows:
        same = first.setdefault((row.reference or repr(row.flags), row.recipe), row.row)
        found.append(row if same == row.row else row.model_copy(update={"same_as": same}))
    return found


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
    start = given.base.partition(",")[0].partition("@")[0]
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


# ---- folders


def open_folder(study: Study, folder: Path) -> None:
    """Makes the study's folder, or checks that it was made for this study; raises RequestError naming what differs."""
    from ablations.store import write_bytes

    text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    path = folder / "study.yaml"
    if path.exists():
        found = read_study(folder)
        differs = differences(_by_row(found), _by_row(study))
        if differs:
            shown = "; ".join(differs[:3]) + (f"; and {len(differs) - 3} more" if len(differs) > 3 else "")
            raise RequestError(
                f"study folder {folder} was made with another configuration: {shown}; choose another --out"
            )
        if found != study:  # in what may change
            write_bytes(path, text.encode())
        return
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"study folder {folder} is a file; choose another --out")
    if folder.exists() and not all(entry.name.startswith(".study.yaml.") for entry in folder.iterdir()):
        raise RequestError(f"{folder} is not empty and holds no study.yaml; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(path, text.encode())
    except OSError as error:
        raise RunError(f"study folder {folder}: cannot be written ({error.strerror})") from None


def read_study(folder: Path) -> Study:
    """The study of a folder; raises RequestError where it holds none."""
    if not (folder / "study.yaml").is_file():
        raise RequestError(f"{folder} is not a study's folder: it holds no study.yaml")
    return check(Study, read_yaml(folder / "study.yaml", "study"), f"study {folder / 'study.yaml'}")


def _by_row(study: Study) -> dict[str, Any]:
    """What may not change of a study as plain values, its rows under their names."""
    values = study.model_dump(mode="json", exclude={"cluster": True, "recipes": {"__all__": set(MAY_CHANGE)}})
    return values | {"rows": {row["row"]: row for row in values["rows"]}}


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Where two nested values differ, as `recipes.quick.learning_rate was 0.004 and is now 0.002`."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [line for key in keys for line in differences(before.get(key), now.get(key), f"{path}.{key}".strip("."))]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [line for index, pair in pairs for line in differences(*pair, f"{path}[{index}]")]
    return [] if before == now else [f"{path} was {_brief(before)} and is now {_brief(now)}"]


def _brief(value: Any) -> str:
    text = "not there" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def run_folder(study_folder: Path, run: RunConfig) -> Path:
    """Where a run of a study lies."""
    return study_folder / "runs" / run.name


def slug(design: str) -> str:
    """A design's name as a folder's."""
    return re.sub(r"[^A-Za-z0-9@=_.,-]+", "-", design).strip("-.,")
