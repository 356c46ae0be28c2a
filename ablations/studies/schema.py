"""Studies as YAML and as data: designs, recipes, dataset and seeds."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from ablations.errors import RequestError
from ablations.recipes import stretched
from ablations.studies.plugin_files import PluginFiles
from ablations.studies.run import Flags, RunConfig
from ablations.studies.slurm_options import Cluster
from ablations.studies.starting_weights import Weights
from ablations.training_config import Number, Seed, TrainingConfig, Whole
from modernize.design import BY_NAME, RECIPE, is_file, split_name
from modernize.names import unknown_flag, unknown_setting
from modernize.plugins import load_plugin
from modernize.reference import is_reference
from modernize.roadmap import Roadmap, roadmap, roadmap_of, stored_roadmap
from modernize.roadmap_file import parse_roadmap

if TYPE_CHECKING:
    from ablations.data.datasets import DataSet


Kind = Literal["roadmap", "one-in", "one-out", "sweep", "grid", "orders", "recipes", "screen", "designs"]
KINDS: tuple[str, ...] = get_args(Kind)
Measure = Literal["top1", "loss"]
Resolution = Literal["III", "IV", "V"]
MAX_SEEDS = 20  # of a study that asks for precision, unless it sets another limit


class ListedDesign(BaseModel):
    """A design of a list, with the name and the label of its row; in a list of names, its name alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    design: str = Field(description="its name, torchvision:NAME, timm:NAME, or FILE.py:FUNCTION")
    name: str | None = Field(default=None, min_length=1, description="name of its row and folders; none: its own")
    label: str | None = Field(default=None, min_length=1, description="its label in tables; none: its own")

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, listed: Any) -> Any:
        return {"design": listed} if isinstance(listed, str) else listed


class StudyFile(BaseModel):
    """Contents of a study's YAML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    plugins: list[str] = Field(default=[], description="files with flags of your own, as --plugin takes them")
    base: str = Field(
        default="",
        description="starting design, or FILE.py:FUNCTION; for a roadmap its name, with flags for another size",
    )
    designs: list[ListedDesign] | None = Field(default=None, description="designs to compare, for kind designs")
    compared_with: str | None = Field(default=None, description="one of designs, or all; none: the first")
    end: str | None = Field(default=None, description="final design; none: the last row of base's roadmap")
    flags: list[str] | dict[str, list[Any]] | None = Field(default=None, description="flags to study, or their values")
    orders: Whole | None = Field(default=None, ge=1, le=10_000, description="number of random orders; none: 10")
    orders_seed: Whole | None = Field(default=None, ge=0, description="seed of the random orders; none: 0")
    resolution: Resolution | None = Field(default=None, description="resolution of a screen's design; none: IV")
    runs: Whole | None = Field(default=None, ge=2, le=4096, description="combinations of a screen; none: the minimum")
    max_cost: Number | None = Field(default=None, gt=0, description="max. MACs relative to the base's; none: 5")
    recipe: str | None = Field(default=None, description="a recipe's name or YAML file; none: quick")
    original_recipe: str | None = Field(
        default=None, description="recipe of a roadmap's steps that are of the original recipe"
    )
    extras: list[str] | None = Field(
        default=None, min_length=1, description="further rows of a roadmap: names in its extras"
    )
    recipes: list[str] | None = Field(default=None, min_length=2, description="recipes to compare, or for designs")
    data: str = "fashion_mnist"
    evaluate: Literal["test", "validation"] = "test"
    measure: Measure | None = Field(default=None, description="what verdicts are about: top1 or loss; none: top1")
    seeds: list[Seed] = Field(default=[0], min_length=1)
    precision: Number | None = Field(default=None, gt=0, description="max. half-width of the 95% CIs (pp)")
    max_seeds: Whole | None = Field(default=None, ge=2, description="max. seeds per row, for precision; none: 20")
    budget: str | None = Field(default=None, description="`5 epochs` or `200000 images`; overrides the recipe's")
    references: list[str] = Field(default=[], description="torchvision:NAME, timm:NAME, FILE.py:FUNCTION")
    weights: str | None = Field(default=None, description="weights to start from: a file, or torchvision:NAME")
    cluster: Cluster | None = Field(default=None, description="Slurm resources of each run")

    @field_validator("plugins")
    @classmethod
    def _load_plugins(cls, files: list[str]) -> list[str]:
        for file in files:
            load_plugin(file)
        return files

    @field_validator("flags", mode="before")
    @classmethod
    def _check_flags(cls, flags: Any, info: ValidationInfo) -> Any:
        """Accept a list of flags, or a list of values per flag; a function's arguments are flags of its network."""
        own = is_reference(info.data.get("base", ""))
        if flags is None:
            return None
        if not isinstance(flags, (list, dict)) or not flags:
            raise ValueError("write names, such as [depthwise, norm], or values, such as kernel_size: [3, 5, 7]")
        for flag in flags:
            if not isinstance(flag, str):
                raise ValueError("a flag is a name, such as kernel_size")
            _check_flag(flag, own)
        if isinstance(flags, list):
            twice = [flag for flag in flags if flags.count(flag) > 1]
            if twice:
                raise ValueError(f"{twice[0]} is listed twice")
        else:
            for flag, values in flags.items():
                if not isinstance(values, list) or not values:
                    raise ValueError(f"{flag} needs a list of values, as in kernel_size: [3, 5, 7]")
                if not all(map(_is_plain, values)):
                    raise ValueError(f"{flag}: values must be strings, numbers below 2147483648 or lists of these")
        return flags


def _check_flag(flag: str, own: bool) -> None:
    """Raise ValueError if there is no such flag, nor such a setting of a recipe; a user's function has flags `own`."""
    if flag.startswith(RECIPE):
        if flag.removeprefix(RECIPE) not in TrainingConfig.model_fields:
            raise ValueError(f"unknown setting {flag!r}: {unknown_setting(flag.removeprefix(RECIPE), BY_NAME, RECIPE)}")
    elif flag not in BY_NAME and not own:
        raise ValueError(f"unknown flag {flag!r}: {unknown_flag(flag, BY_NAME)}")


def _is_plain(value: Any, depth: int = 1) -> bool:
    """Whether a flag may take a value from YAML; nested lists and huge numbers are refused."""
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(part, depth - 1) for part in value)
    return value is None or isinstance(value, (str, float)) or (isinstance(value, int) and abs(value) < 2**31)


class StudyRow(BaseModel):
    """A design of a study; `same_as` names the row that has the same design and recipe, whose runs it shares.

    `settings` are those of the recipe that the row's name or step sets; `recipe` has them too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: str
    label: str
    flags: Flags
    reference: str | None = None
    code_sha256: str | None = Field(default=None, description="checksum of the user's files of the reference model")
    recipe: str
    settings: dict[str, Any] = {}
    compared_with: str | list[str] | None = None
    same_as: str | None = None

    @property
    def baselines(self) -> list[str]:
        """Return the rows that it is compared with."""
        return [self.compared_with] if isinstance(self.compared_with, str) else self.compared_with or []


class FollowUp(BaseModel):
    """Rows that were added to a screening study to separate the interaction `resolve` from its aliases.

    `apart` lists that interaction and its aliases, each written as two flags: stem:norm.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    resolve: str
    apart: list[str]
    rows: list[str]


class Screen(BaseModel):
    """The design of a screening study: each flag with its base value and its final value, and how rows were chosen.

    `max_cost` is relative to the base's MACs. `generators` are those of a regular fraction, as text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    flags: dict[str, list[Any]]
    resolution: Resolution
    max_cost: float
    method: str
    generators: list[str] = []
    follow_ups: list[FollowUp] = []


class Precision(BaseModel):
    """Requested precision: seeds are added until every comparison's 95% CI is at most ±half_width (pp)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    half_width: float = Field(gt=0)
    max_seeds: int = Field(default=MAX_SEEDS, ge=2)

    def __str__(self) -> str:
        return f"precision {self.half_width:g}"


class Asked(BaseModel):
    """What a study was made from: the keys of its file or command that may grow, and the settings of `--set`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: dict[str, Any]
    set: dict[str, str] = {}


class Stage(BaseModel):
    """Seeds and rows that were added together. Each added row has all seeds, and each added seed all rows.

    Or single runs, which had failed and were tried again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    why: str
    date: str | None = Field(default=None, description="UTC; none in folders older than stages")
    seeds: list[Seed]
    rows: list[str]
    precision: Precision | None = Field(default=None, description="the request that this stage fulfils")
    needed: int | None = Field(default=None, description="seeds that the request needs, where max_seeds allows fewer")
    runs: list[str] = Field(default=[], description="failed runs that were tried again after a look at the results")


def _is_roadmap(values: dict[str, Any]) -> dict[str, Any]:
    parse_roadmap(values, "the roadmap's contents")
    return values


Contents = Annotated[dict[str, Any], AfterValidator(_is_roadmap)]


class Study(BaseModel):
    """A study with all designs and recipes resolved, as stored in its folder's `study.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    plugins: PluginFiles = []
    kind: Kind
    base: str
    data: str
    data_checksum: str = ""
    evaluate: Literal["test", "validation"]
    measure: Measure = "top1"
    seeds: list[Seed]
    budget: str | None
    recipes: dict[str, TrainingConfig]
    factors: dict[str, float] = Field(default={}, description="how many times the budget a recipe trains, if not 1")
    rows: list[StudyRow]
    roadmap: Contents | None = Field(default=None, description="contents of the roadmap's file at the base, if any")
    orders: list[list[str]] = []
    screen: Screen | None = None
    weights: Weights | None = None
    cluster: Cluster | None = None
    precision: Precision | None = None
    stages: list[Stage] = Field(default=[], description="empty in folders older than stages: one stage")
    asked: Asked | None = Field(default=None, description="the request; none in folders of earlier versions")
    weights_of: dict[str, Weights] = Field(default={}, description="of rows of single runs, if different", exclude=True)
    absent: list[str] = Field(default=[], description="runs that single runs read as a study lack", exclude=True)

    @property
    def steps(self) -> Roadmap:
        """Return the roadmap at the base, as it was when the study began; ResNet-50's if there is none."""
        steps = self._steps
        if not self.labels:
            return steps
        named = (replace(row, label=self.labels.get(row.name, row.label)) for row in steps.rows)
        return replace(steps, rows=tuple(named))

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels of rows that a roadmap calls "original recipe" if they have the other rows' recipe."""
        if self.kind != "roadmap":
            return {}
        rows = {row.row: row for row in self.rows}
        usual = {rows[row.name].recipe for row in self._steps.rows if row.name in rows and not row.original_recipe}
        named = {row.name for row in self._steps.rows if row.original_recipe and row.name in rows}
        same = [rows[name] for name in named if rows[name].recipe in usual]
        again = [row for row in self.rows if row.same_as in {one.row for one in same}]
        found = {row.row: row.label.replace(" (original recipe)", "") for row in same}
        return found | {row.row: row.label.replace("(enhanced recipe)", "(same recipe)") for row in again}

    def label(self, row: StudyRow) -> str:
        """Return the label of a row in reports."""
        return self.labels.get(row.row, row.label)

    @property
    def _steps(self) -> Roadmap:
        name = self.base if self.kind == "roadmap" else split_name(self.base).base
        if self.roadmap is not None:
            return stored_roadmap(name, parse_roadmap(self.roadmap, f"study {self.name}"))
        if self.kind == "roadmap":
            return roadmap(name)
        return (None if is_file(name) else roadmap_of(name)) or roadmap("resnet50")

    @property
    def runs(self) -> list[RunConfig]:
        """Return the runs, seed by seed: every row has one seed before any has a second."""
        distinct = [row for row in self.rows if row.same_as is None]
        runs = [self.run(row, seed) for seed in self.seeds for row in distinct]
        return [run for run in runs if run.name not in self.absent]

    def run(self, row: StudyRow, seed: int) -> RunConfig:
        """Return the run of a row and a seed."""
        return RunConfig(
            row=row.same_as or row.row,
            label=row.label,
            plugins=self.plugins,
            flags=row.flags,
            reference=row.reference,
            code_sha256=row.code_sha256,
            recipe_name=row.recipe,
            recipe=self.recipes[row.recipe],
            data=self.data,
            evaluate=self.evaluate,
            seed=seed,
            weights=self.weights_of.get(row.row, self.weights),
        )

    def on(self, data: DataSet) -> Study:
        """Return the study on this dataset: with its checksum, and its budget applied to the recipes."""
        study = self.model_copy(update={"data_checksum": data.checksum})
        if self.budget is None:
            return study
        amount, unit = read_budget(self.budget)
        recipes = {}
        for name, recipe in self.recipes.items():
            # An epoch drops its last, smaller batch.
            seen = len(data.train) // recipe.batch_size * recipe.batch_size
            epochs = amount / seen if unit == "images" and seen else amount
            recipes[name] = stretched(recipe, epochs * self.factors.get(name, 1))
        return study.model_copy(update={"recipes": recipes})


def read_budget(budget: str) -> tuple[float, str]:
    """Return a budget's amount and unit; raises RequestError."""
    match = re.fullmatch(r" *((?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:e[0-9]{1,2})?) *(epochs?|images?) *", budget)
    if not match or not 0 < float(match[1]) < math.inf:
        raise RequestError(f"budget {budget!r}: write epochs or images, such as 5epochs or 200000images")
    return float(match[1]), match[2].rstrip("s") + "s"
