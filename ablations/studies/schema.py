"""Studies: which designs are trained, under which recipe, on which data, with which seeds."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ablations.errors import RequestError
from ablations.recipes import Number, TrainingConfig, Whole, stretched
from ablations.studies.run import Flags, RunConfig
from ablations.studies.slurm_options import Cluster
from ablations.studies.stages import Precision, Seed, Stage
from modernize.design import BY_NAME, nearest

if TYPE_CHECKING:
    from ablations.data.datasets import DataSet


Kind = Literal["roadmap", "one-in", "one-out", "sweep", "grid", "orders", "recipes", "screen"]
KINDS: tuple[str, ...] = get_args(Kind)
Measure = Literal["top1", "loss"]
Resolution = Literal["III", "IV", "V"]


class StudyFile(BaseModel):
    """What a study's YAML file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    base: str = Field(description="the design it starts from; for a roadmap its name, with flags for another size")
    end: str | None = Field(default=None, description="the design it leads to; none: the last row of base's roadmap")
    flags: list[str] | dict[str, list[Any]] | None = Field(default=None, description="which flags, or their values")
    orders: Whole | None = Field(default=None, ge=1, le=10_000, description="random orders to walk; none: 10")
    orders_seed: Whole | None = Field(default=None, ge=0, description="which random orders; none: 0")
    resolution: Resolution | None = Field(default=None, description="of a screen's design; none: IV")
    runs: Whole | None = Field(default=None, ge=2, le=4096, description="combinations of a screen; none: the fewest")
    max_cost: Number | None = Field(default=None, gt=0, description="times the base's multiply-adds; none: 5")
    recipe: str | None = Field(default=None, description="a recipe's name or YAML file; none: quick")
    original_recipe: str | None = Field(default=None, description="for a roadmap's row of the original recipe")
    extras: list[str] | None = Field(default=None, min_length=1, description="rows of a roadmap beyond the paper's")
    recipes: list[str] | None = Field(default=None, min_length=2, description="what a study of recipes compares")
    data: str = "fashion_mnist"
    evaluate: Literal["test", "validation"] = "test"
    measure: Measure | None = Field(default=None, description="what verdicts are about: top1 or loss; none: top1")
    seeds: list[Seed] = Field(default=[0], min_length=1)
    precision: float | None = Field(default=None, gt=0, description="half the width that intervals may have")
    max_seeds: Whole | None = Field(default=None, ge=2, description="seeds per row, at most, for precision; none: 20")
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


class FollowUp(BaseModel):
    """Rows that were added to a screening study to tell the interaction `resolve` from its aliases.

    `apart` are that interaction and its aliases, each written as two flags: stem:norm.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    resolve: str
    apart: list[str]
    rows: list[str]


class Screen(BaseModel):
    """The design of a screening study: each flag with its base value and its final value, and how rows were chosen.

    `max_cost` is in units of the base's multiply-adds. `generators` are those of a regular fraction, in words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    flags: dict[str, list[Any]]
    resolution: Resolution
    max_cost: float
    method: str
    generators: list[str] = []
    follow_ups: list[FollowUp] = []


class Study(BaseModel):
    """A study with everything resolved, as `study.yaml` in its folder holds it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Kind
    base: str
    data: str
    data_checksum: str = ""
    evaluate: Literal["test", "validation"]
    measure: Measure = "top1"
    seeds: list[Seed]
    budget: str | None
    recipes: dict[str, TrainingConfig]
    rows: list[StudyRow]
    orders: list[list[str]] = []
    screen: Screen | None = None
    cluster: Cluster | None = None
    precision: Precision | None = None
    stages: list[Stage] = Field(default=[], description="none in folders made before stages were recorded: one stage")

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
