"""From a study's name, kind or YAML file to a study with everything resolved."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ablations.errors import RequestError
from ablations.recipes import MAY_CHANGE, check, load_recipe, read_yaml
from ablations.studies.folder import read_study
from ablations.studies.kinds import _ROWS, _orders, _recipe, _references
from ablations.studies.schema import KINDS, Screen, Study, StudyFile, StudyRow, read_budget
from ablations.studies.stages import MAX_SEEDS, PILOT_SEEDS, Precision, Seed
from modernize.design import DesignError, nearest

if TYPE_CHECKING:
    pass


_LONGEST = 240  # letters of a row's name, which with the seed names a folder
# What each kind reads beside the keys of every study.
_READS: dict[str, tuple[str, ...]] = {
    "roadmap": ("recipe", "original_recipe", "extras", "measure"),
    "one-in": ("recipe", "end", "flags", "measure"),
    "one-out": ("recipe", "end", "flags", "measure"),
    "sweep": ("recipe", "flags", "measure"),
    "grid": ("recipe", "flags"),
    "orders": ("recipe", "end", "flags", "orders", "orders_seed"),
    "recipes": ("recipes", "measure"),
    "screen": ("recipe", "end", "flags", "resolution", "runs", "max_cost"),
}


def study_names() -> list[str]:
    """The studies that come with the project."""
    return sorted(Path(entry.name).stem for entry in files("ablations").joinpath("shipped", "studies").iterdir())


def is_folder(name: str) -> bool:
    """Whether `load_study` takes the name for the path of a study's folder."""
    return bool(name) and name not in (*study_names(), *KINDS) and Path(name).is_dir()


def load_study(name: str, changes: Mapping[str, Any], settings: Mapping[str, str]) -> Study:
    """The study of that name, kind or YAML file, checked whole: `changes` over its keys, `settings` over its recipes'.

    Raises RequestError naming the file, the key and the right value.
    """
    if name.endswith((".yaml", ".yml")):
        values = read_yaml(Path(name), "study")
    elif name in study_names():
        values = yaml.safe_load(
            files("ablations").joinpath("shipped", "studies", f"{name}.yaml").read_text(encoding="utf-8")
        )
    elif name in KINDS:
        values = {"kind": name}
    elif is_folder(name):
        return _reopen(Path(name), changes, settings)
    else:
        known = [*study_names(), *KINDS]
        raise RequestError(f"unknown study {name!r} (and no YAML file or folder): {nearest(name, known)}")
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


_REOPENED = ("seeds", "precision", "max_seeds", "cluster")  # what may be given with a folder's path


def _reopen(folder: Path, changes: Mapping[str, Any], settings: Mapping[str, str]) -> Study:
    """The study of a folder, with other seeds or another precision."""
    study, place = read_study(folder), f"study folder {folder}"
    kept = [*(key for key in changes if key not in _REOPENED), *(["set"] if settings else [])]
    if kept:
        option = kept[0].replace("_", "-")
        raise RequestError(f"{place}: --{option}: the folder keeps its study; only seeds and precision may be given")
    block = study.cluster.model_dump(exclude_unset=True) if study.cluster else {}
    wanted = {
        "kind": study.kind,
        "base": study.base,
        "seeds": changes.get("seeds", study.seeds),
        "cluster": {**block, **changes["cluster"]} if "cluster" in changes else study.cluster,
        "precision": changes.get("precision"),
        "max_seeds": changes.get("max_seeds"),
    }
    if study.precision and "seeds" not in changes:  # else the seeds are what is asked for
        wanted["precision"] = wanted["precision"] or study.precision.half_width
        wanted["max_seeds"] = wanted["max_seeds"] or study.precision.max_seeds
    given = check(StudyFile, wanted, place)
    try:
        precision, seeds = _precision(given, study.rows)
    except RequestError as error:
        raise RequestError(f"{place}: {error}") from None
    return study.model_copy(update={"seeds": seeds, "cluster": given.cluster, "precision": precision})


def _precision(given: StudyFile, rows: list[StudyRow]) -> tuple[Precision | None, list[Seed]]:
    """The precision that a study asks for, and the seeds that it begins with: with a precision, two at least."""
    if len(set(given.seeds)) < len(given.seeds):
        raise RequestError(f"seeds={given.seeds}: each may be there once")
    if given.precision is None:
        if given.max_seeds is not None:
            raise RequestError(f"max_seeds={given.max_seeds}: only with precision")
        return None, given.seeds
    if not any(row.compared_with for row in rows):
        raise RequestError(f"precision: a study of kind {given.kind} compares no two rows; give seeds")
    seeds = list(given.seeds)
    while len(seeds) < (PILOT_SEEDS if len(given.seeds) < 2 else 2):
        seeds.append(next(seed for seed in itertools.count() if seed not in seeds))
    most = given.max_seeds or max(MAX_SEEDS, len(seeds))
    if most < len(seeds):
        raise RequestError(f"max_seeds={most}: the study begins with {len(seeds)} seeds, so {len(seeds)} or more")
    return Precision(half_width=given.precision, max_seeds=most), seeds


def _resolve(name: str, given: StudyFile, settings: Mapping[str, str]) -> Study:
    from ablations.data.datasets import LOADERS

    if given.data not in LOADERS:
        raise RequestError(f"data: unknown data set {given.data!r}: {nearest(given.data, LOADERS)}")
    if given.budget is not None:
        read_budget(given.budget)
    orders = list(_orders(given)) if given.kind == "orders" else []
    screen, designs = _designs(given, orders)
    rows = _once(itertools.chain(designs, _references(given)))
    precision, seeds = _precision(given, rows)
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
        measure=given.measure or "top1",
        seeds=seeds,
        budget=given.budget,
        recipes=recipes,
        rows=rows,
        orders=orders,
        screen=screen,
        cluster=given.cluster,
        precision=precision,
    )


def _designs(given: StudyFile, orders: list[list[str]]) -> tuple[Screen | None, Iterable[StudyRow]]:
    """Choose the rows of a study, and what a screening study records of its design."""
    if given.kind == "screen":
        from ablations.studies.screen import screen_of

        return screen_of(given)
    return None, _ROWS[given.kind](given, orders) if given.kind == "orders" else _ROWS[given.kind](given)


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
