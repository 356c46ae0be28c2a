"""Studies: which designs are trained, under which recipe, on which data, with which seeds; and their folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from ablations.errors import RequestError
from ablations.recipes import TrainingConfig, check, load_recipe, read_yaml
from ablations.runs import RunConfig
from modernize.design import DesignError, nearest
from modernize.roadmap import roadmap

Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]


class StudyFile(BaseModel):
    """What a study's YAML file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["roadmap"] = Field(description="roadmap: every row of the base's roadmap, in order")
    base: str = Field(description="where the roadmap starts: resnet50, resnet200 or pocket")
    recipe: str = Field(description="a recipe's name or YAML file, for every row")
    original_recipe: str | None = Field(default=None, description="for the row of the original recipe, `resnet`")
    data: str = "fashion_mnist"
    evaluate: Literal["test", "validation"] = "test"
    seeds: list[Seed] = Field(default=[0], min_length=1)


class StudyRow(BaseModel):
    """A design of a study."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: str
    label: str
    flags: dict[str, Any]
    recipe: str


class Study(BaseModel):
    """A study with everything resolved, as `study.yaml` in its folder holds it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["roadmap"]
    roadmap: str
    data: str
    evaluate: Literal["test", "validation"]
    seeds: list[Seed]
    recipes: dict[str, TrainingConfig]
    rows: list[StudyRow]

    @property
    def runs(self) -> list[RunConfig]:
        """The runs, seed by seed, so that the whole roadmap is there once before any row has a second seed."""
        return [
            RunConfig(
                row=row.row,
                label=row.label,
                flags=row.flags,
                recipe_name=row.recipe,
                recipe=self.recipes[row.recipe],
                data=self.data,
                evaluate=self.evaluate,
                seed=seed,
            )
            for seed in self.seeds
            for row in self.rows
        ]


def study_names() -> list[str]:
    """The studies that come with the project."""
    return sorted(Path(entry.name).stem for entry in files("ablations").joinpath("studies").iterdir())


def load_study(name: str, changes: Mapping[str, Any], settings: Mapping[str, str]) -> Study:
    """The study of that name or YAML file, checked whole: `changes` over its keys, `settings` over its recipes'.

    Raises RequestError naming the file, the key and the right value.
    """
    if name.endswith((".yaml", ".yml")):
        values = read_yaml(Path(name), "study")
    elif name in study_names():
        values = yaml.safe_load(files("ablations").joinpath("studies", f"{name}.yaml").read_text(encoding="utf-8"))
    else:
        raise RequestError(f"unknown study {name!r}: {nearest(name, study_names())}, or a YAML file")
    place = f"study {name}"
    given = check(StudyFile, {**values, **changes}, place)
    if len(set(given.seeds)) < len(given.seeds):
        raise RequestError(f"{place}: seeds={given.seeds}: each may be there once")
    return _resolve(Path(name).stem, place, given, settings)


def _resolve(name: str, place: str, given: StudyFile, settings: Mapping[str, str]) -> Study:
    from ablations.data import LOADERS

    if given.data not in LOADERS:
        raise RequestError(f"{place}: unknown data set {given.data!r}: {nearest(given.data, LOADERS)}")
    try:
        rows = roadmap(given.base).rows
    except DesignError as error:
        raise RequestError(f"{place}: base: {error}") from None
    recipes = {given.recipe: load_recipe(given.recipe, settings)}
    original = given.original_recipe or given.recipe
    if original not in recipes:
        recipes[original] = load_recipe(original, {key: settings[key] for key in settings if _shared(original, key)})
    return Study(
        name=name,
        kind=given.kind,
        roadmap=given.base,
        data=given.data,
        evaluate=given.evaluate,
        seeds=given.seeds,
        recipes=recipes,
        rows=[
            StudyRow(
                row=row.name,
                label=row.label,
                flags=row.design.flags(),
                recipe=original if row.recipe == "original" else given.recipe,
            )
            for row in rows
        ],
    )


_SHARED = ("max_epochs", "batch_size", "image_size", "crop_padding", "horizontal_flip", "checkpoint_")


def _shared(recipe: str, key: str) -> bool:
    """Whether `--set key=…` holds for the original recipe too: it does for budget, data and checkpoints."""
    return key.startswith(_SHARED)


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
    if folder.exists() and any(folder.iterdir()):
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
        return [
            line for i, pair in enumerate(zip(before, now, strict=True)) for line in differences(*pair, f"{path}[{i}]")
        ]
    return [] if before == now else [f"{path} was {before} and is now {now}"]


def run_folder(study_folder: Path, run: RunConfig) -> Path:
    """Where a run of a study lies."""
    return study_folder / "runs" / run.name


def slug(design: str) -> str:
    """A design's name as a folder's."""
    return re.sub(r"[^A-Za-z0-9@=_.-]+", "-", design).strip("-.")
