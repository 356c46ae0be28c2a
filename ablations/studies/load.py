"""Load a study by name, kind, YAML file or folder, and resolve its designs and recipes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ablations.errors import RequestError
from ablations.recipe_checks import refuse_contradictions
from ablations.recipes import check, read_yaml, shipped
from ablations.studies.design_list import baseline_of, design_rows, stored_list
from ablations.studies.folder import COMBINED, read_study
from ablations.studies.kinds import ROWS, main_recipe, sample_orders, walks
from ablations.studies.own_rows import is_own, network_of, own_rows
from ablations.studies.plugin_files import read_with_plugins, used_plugins
from ablations.studies.reference_rows import reference_rows
from ablations.studies.schema import (
    KINDS,
    MAX_SEEDS,
    Asked,
    Precision,
    Screen,
    Seed,
    Study,
    StudyFile,
    StudyRow,
    read_budget,
)
from ablations.studies.stages import PILOT_SEEDS
from ablations.studies.starting_weights import locate
from ablations.studies.variants import Recipes, shared
from modernize.design import Design, DesignError, is_file, split_name
from modernize.named_designs import MODELS
from modernize.names import nearest
from modernize.reference import check_reference, is_reference, shown_reference
from modernize.roadmap import NAMES, named, roadmap_of

_STORED = "study.yaml"  # of a folder
_OF_FOLDERS = (_STORED, f"{COMBINED}.yaml")
_LONGEST = 240  # max characters of a row's name, which with the seed names a folder
# The keys that each kind reads, besides those of every study.
_READS: dict[str, tuple[str, ...]] = {
    "roadmap": ("base", "recipe", "original_recipe", "extras", "measure"),
    "one-in": ("base", "recipe", "end", "flags", "measure"),
    "one-out": ("base", "recipe", "end", "flags", "measure"),
    "sweep": ("base", "recipe", "flags", "measure"),
    "grid": ("base", "recipe", "flags", "measure"),
    "orders": ("base", "recipe", "end", "flags", "orders", "orders_seed", "measure"),
    "recipes": ("base", "recipes", "measure"),
    "screen": ("base", "recipe", "end", "flags", "resolution", "runs", "max_cost", "measure"),
    "designs": ("designs", "compared_with", "recipe", "recipes", "measure"),
}


def study_names() -> list[str]:
    """List the studies that come with the project."""
    return sorted(Path(entry.name).stem for entry in files("ablations").joinpath("shipped", "studies").iterdir())


def first_design(kind: str, data: str | None) -> str | None:
    """Return the starting design of a kind of study that is given none; None if it is no such kind."""
    if "base" not in _READS.get(kind, ()):
        return None
    return "resnet50" if data == "imagenet" else "pocket"


def is_design(name: str) -> bool:
    """Whether a name is that of a design, or has the form of a reference model's."""
    base = split_name(name).base
    if is_reference(name) or not (base in MODELS or base in NAMES or is_file(base)):
        return is_reference(name)
    try:
        named(name)
    except DesignError:
        return False
    return True


def _meant(name: str) -> str:
    """Return what an unknown study may mean."""
    if name == COMBINED:
        return f"kind {COMBINED}: it needs a study file with its studies, such as my-settings.yaml"
    if not is_design(name):
        return f"unknown study {name!r} (and no YAML file or folder): {nearest(name, [*study_names(), *KINDS])}"
    study = f"; or study it: ablations run one-in --base {name}" if not is_reference(name) else ""
    return f"{name!r} is a design, and no study: ablations train {name}{study}"


def is_folder(name: str) -> bool:
    """Whether `load_study` takes the name for the path of a study's folder."""
    return bool(name) and name not in (*study_names(), *KINDS) and Path(name).is_dir()


def refuse_two_meanings(name: str) -> None:
    """Raise RequestError if a study that comes with the project, or a kind, has the name of a study's folder here."""
    if name not in (*study_names(), *KINDS) or not any((Path(name) / one).is_file() for one in _OF_FOLDERS):
        return
    what = "shipped study" if name in study_names() else "kind of study"
    raise RequestError(
        f"{name} is a {what} and a study folder here: ablations run ./{name} for the folder; "
        f"for the {what}, name its folder with --out, such as --out {Path('runs') / name}"
    )


def load_study(name: str, changes: Mapping[str, Any], settings: Mapping[str, str]) -> Study:
    """Load and check a study; `changes` override its keys, `settings` those of its recipes.

    Raises RequestError naming the file, the key and the right value.
    """
    if name.endswith((".yaml", ".yml")):
        values = read_yaml(Path(name), "study")
        if "rows" in values:
            return _begun_anew(Path(name), changes, settings)
    elif name in study_names():
        values = shipped("studies", name)
    elif name in KINDS:
        values = {"kind": name}
    elif is_folder(name):
        return reopen(Path(name), changes, settings)
    else:
        raise RequestError(_meant(name))
    place = f"study {name}"
    if values.get("kind") == COMBINED:
        raise RequestError(f"{place}: kind {COMBINED}: it has several studies, and this takes one")
    return requested(Path(name).stem, overridden(values, changes), settings, place)


def overridden(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a study file with changes; those of Slurm resources are added to the file's."""
    if "cluster" in changes and isinstance(values.get("cluster"), dict):
        changes = {**changes, "cluster": {**values["cluster"], **changes["cluster"]}}
    return {**values, **changes}


def requested(name: str, values: Mapping[str, Any], settings: Mapping[str, str], place: str) -> Study:
    """Check the keys of a study file and resolve its study; raises RequestError that begins with the place."""
    request = check(StudyFile, values, place)
    for key in dict.fromkeys(key for reads in _READS.values() for key in reads):
        if key not in _READS[request.kind] and getattr(request, key) not in (None, ""):
            raise RequestError(f'{place}: {key}: not supported by "{request.kind}" studies')
    if "base" in _READS[request.kind] and "base" not in request.model_fields_set:
        raise RequestError(f"{place}: base is missing")
    try:
        return _resolve(name, request, settings)
    except (RequestError, DesignError) as error:
        raise RequestError(f"{place}: {error}") from None


# Keys that a study keeps outside its request.
_BESIDE = {"plugins", "seeds", "precision", "max_seeds", "weights", "cluster"}


def _asked(request: StudyFile, settings: Mapping[str, str]) -> Asked:
    """Return what a folder's study is made from, with whole paths of users' files."""
    values = request.model_dump(mode="json", exclude_unset=True, exclude=_BESIDE)
    if is_own(request):
        values["base"] = check_reference(request.base)
    if request.references:
        values["references"] = [check_reference(name) for name in request.references]
    if request.kind == "designs":
        values |= stored_list(request)
    return Asked(file=values, set=dict(settings))


# Options that may accompany a folder's path, and those that add to its rows.
_REOPENED = ("seeds", "precision", "max_seeds", "cluster", "weights")
_GROWING = ("flags", "recipes", "references", "extras", "orders", "designs")
_ANEW = ("data", "evaluate", "measure", "budget")  # further ones, if its study.yaml is begun anew elsewhere


def is_resolved(path: Path) -> bool:
    """Whether a file is the `study.yaml` of a folder, or a copy of one, rather than a study file as users write it."""
    return path.suffix in (".yaml", ".yml") and path.is_file() and "rows" in read_yaml(path, "study")


def reopen(folder: Path, changes: Mapping[str, Any], settings: Mapping[str, str]) -> Study:
    """Load the study of a folder, with further rows or seeds or another precision."""
    study, place = read_study(folder), f"study folder {folder}"
    _refuse_others(place, changes, settings, (*_REOPENED, *_GROWING))
    study = _grown(study, changes, place, folder)
    seeds = changes.get("seeds", study.seeds)
    if not set(seeds) <= set(study.seeds):  # those that it has stay
        seeds = [*study.seeds, *(seed for seed in seeds if seed not in study.seeds)]
    return _changed(study, changes, place, seeds)


def _begun_anew(path: Path, changes: Mapping[str, Any], settings: Mapping[str, str]) -> Study:
    """Load the `study.yaml` of another folder, or a copy of it, as a study that has not begun."""
    study, place = read_with_plugins(Study, path, "study"), f"study {path}"
    _refuse_others(place, changes, settings, (*_REOPENED, *_GROWING, *_ANEW))
    study = _grown(study, changes, place, path.parent)
    planned = study.stages[0].seeds if study.precision and study.stages else study.seeds
    changed = {key: changes[key] for key in _ANEW if key in changes}
    anew: dict[str, Any] = {"stages": [], "data_checksum": "", **changed}
    if study.asked is not None:  # further rows are made from it
        anew["asked"] = study.asked.model_copy(update={"file": study.asked.file | changed})
    anew |= {} if path.name == _STORED else {"name": path.stem}
    return _changed(study.model_copy(update=anew), changes, place, changes.get("seeds", planned))


def _refuse_others(place: str, changes: Mapping[str, Any], settings: Mapping[str, str], kept: Iterable[str]) -> None:
    """Raise RequestError for an option that cannot change a study that is resolved already."""
    others = [*(key for key in changes if key not in kept), *(["set"] if settings else [])]
    if others:
        option = others[0].replace("_", "-")
        raise RequestError(
            f"{place}: --{option}: the study of a folder is fixed; only seeds, precision and further rows may be added"
        )


def _grown(study: Study, changes: Mapping[str, Any], place: str, folder: Path) -> Study:
    """Return a study with the rows of further values, recipes or models."""
    more = [key for key in _GROWING if key in changes]
    if not more:
        return study
    if study.asked is None:
        raise RequestError(
            f"{place}: --{more[0]}: an earlier version made it and did not record its command; repeat that command, "
            f"with --{more[0]} and --out {folder}"
        )
    before = study.asked.file
    values = before | {key: _joined(before.get(key), changes[key]) for key in more}
    grown = requested(study.name, values, study.asked.set, place)
    same = {key: getattr(study, key) for key in ("seeds", "precision", "cluster", "weights", "stages")}
    return grown.model_copy(update=same)


def _joined(before: Any, more: Any) -> Any:
    """Return the values of a key of a study file with those of an option added that it lacks."""
    if isinstance(before, dict) and isinstance(more, dict):
        return before | {key: _joined(before.get(key), values) for key, values in more.items()}
    if isinstance(before, list) and isinstance(more, list):
        return [*before, *(value for value in more if str(value) not in map(str, before))]
    return more


def _changed(study: Study, changes: Mapping[str, Any], place: str, seeds: list[Seed]) -> Study:
    """Return a resolved study with these seeds, and with the precision, Slurm resources and weights of `changes`."""
    if "weights" in changes and study.weights is None:
        raise RequestError(f"{place}: --weights: the study starts from newly initialized weights; choose another --out")
    block = study.cluster.model_dump(exclude_unset=True) if study.cluster else {}
    wanted = {
        "kind": study.kind,
        "base": study.base,
        "seeds": seeds,
        "cluster": {**block, **changes["cluster"]} if "cluster" in changes else study.cluster,
        "precision": changes.get("precision"),
        "max_seeds": changes.get("max_seeds"),
    }
    if study.precision and "seeds" not in changes:  # else the seeds are what is asked for
        wanted["precision"] = wanted["precision"] or study.precision.half_width
        wanted["max_seeds"] = wanted["max_seeds"] or study.precision.max_seeds
    request = check(StudyFile, wanted, place)
    try:
        precision, seeds = _precision(request, study.rows)
    except RequestError as error:
        raise RequestError(f"{place}: {error}") from None
    weights = locate(changes["weights"]) if "weights" in changes else study.weights  # a file may have been moved
    return study.model_copy(
        update={"seeds": seeds, "cluster": request.cluster, "precision": precision, "weights": weights}
    )


def _precision(request: StudyFile, rows: list[StudyRow]) -> tuple[Precision | None, list[Seed]]:
    """Return the precision that a study asks for, and its first seeds: at least two with a precision."""
    if len(set(request.seeds)) < len(request.seeds):
        raise RequestError(f"seeds={request.seeds}: list each once")
    if request.precision is None:
        if request.max_seeds is not None:
            raise RequestError(f"max_seeds={request.max_seeds}: only with precision")
        return None, request.seeds
    if not any(row.compared_with for row in rows):
        raise RequestError(f"precision: a study of kind {request.kind} compares no rows; set seeds instead")
    seeds = list(request.seeds)
    while len(seeds) < (PILOT_SEEDS if len(request.seeds) < 2 else 2):
        seeds.append(next(seed for seed in itertools.count() if seed not in seeds))
    most = request.max_seeds or max(MAX_SEEDS, len(seeds))
    if most < len(seeds):
        raise RequestError(f"max_seeds={most}: the study starts with {len(seeds)} seeds; min. {len(seeds)}")
    return Precision(half_width=request.precision, max_seeds=most), seeds


def _resolve(name: str, request: StudyFile, settings: Mapping[str, str]) -> Study:
    from ablations.data.datasets import loader_of

    try:
        loader_of(request.data)
    except RequestError as error:
        raise RequestError(f"data: {error}") from None
    if request.budget is not None:
        read_budget(request.budget)
    compared = "recipes" if request.recipes else request.kind
    found = Recipes(main_recipe(request), settings, compared)
    orders = list(sample_orders(request, found)) if request.kind == "orders" and not is_own(request) else []
    screen, designs = _designs(request, found, orders)
    rows = _once(itertools.chain(designs, reference_rows(request)))
    _refuse_twice(rows)
    precision, seeds = _precision(request, rows)
    long = [row.row for row in rows if len(row.row) > _LONGEST]
    if long:
        raise RequestError(f"row {long[0][:40]}…: too long for a folder name; max. {_LONGEST} characters")
    names = dict.fromkeys(row.recipe for row in rows)
    alone = [key for key in settings if not shared(key, compared)]
    if compared == "recipes" and alone:
        raise RequestError(
            f"--set {alone[0]}: this study compares recipes; set it within one, as in quick,{alone[0]}=…"
        )
    recipes = {used: found.made[used] if used in found.made else found.load(used) for used in names}
    for used, recipe in recipes.items():
        refuse_contradictions(recipe, f"recipe {used}")
    base = baseline_of(request) if request.kind == "designs" else _shown(request.base)
    return Study(
        name=name,
        plugins=used_plugins(Design().with_flags(row.flags) for row in rows),
        kind=request.kind,
        base=base,
        roadmap=_contents(base),
        data=request.data,
        evaluate=request.evaluate,
        measure=request.measure or "top1",
        seeds=seeds,
        budget=request.budget,
        recipes=recipes,
        factors={used: factor for used, factor in found.factors.items() if used in recipes},
        rows=rows,
        orders=orders,
        screen=screen,
        weights=None if request.weights is None else locate(request.weights),
        cluster=request.cluster,
        precision=precision,
        asked=_asked(request, settings),
    )


def _shown(base: str) -> str:
    return shown_reference(base) if is_reference(base) else base


def _contents(base: str) -> dict[str, Any] | None:
    """Return the contents of the roadmap's file at the base, which may change later; None if there is no such file."""
    steps = roadmap_of(base)
    return steps.contents.as_values() if steps is not None and is_file(steps.base) else None


def _designs(request: StudyFile, recipes: Recipes, orders: list[list[str]]) -> tuple[Screen | None, Iterable[StudyRow]]:
    """Choose the rows of a study, and what a screening study records of its design."""
    if is_own(request):
        return None, own_rows(request, recipes)
    if request.kind == "screen":
        from ablations.studies.screen import screen_of

        return screen_of(request, recipes)
    if request.kind == "designs":
        return None, design_rows(request, recipes)
    return None, walks(request, recipes, orders) if request.kind == "orders" else ROWS[request.kind](request, recipes)


def _refuse_twice(rows: list[StudyRow]) -> None:
    """Raise RequestError if a reference model beside the rows is one of them."""
    names = [row.row for row in rows]
    for row in rows:
        if names.count(row.row) > 1:
            raise RequestError(f"references: {row.label} is a row of the study already; leave it out")


def _once(rows: Iterator[StudyRow]) -> list[StudyRow]:
    """Return the rows; those that repeat a design and recipe refer to the first that has them."""
    first: dict[tuple[str, str], str] = {}
    unique = []
    for row in rows:
        same = first.setdefault((network_of(row), row.recipe), row.row)
        unique.append(row if same == row.row else row.model_copy(update={"same_as": same}))
    return unique
