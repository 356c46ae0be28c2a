"""Make, read and extend the folder of a study."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

from filelock import FileLock

from ablations.errors import RequestError, writing
from ablations.recipes import as_stored, read_yaml, recipe_names, without_newer
from ablations.store import write_bytes
from ablations.studies.own_code import refuse_other_code
from ablations.studies.plugin_files import keep_plugins, read_with_plugins, refuse_other_plugins
from ablations.studies.run import RunConfig, finished
from ablations.studies.schema import Study
from ablations.studies.stages import begun, extended, stage_numbers
from ablations.studies.starting_weights import WEIGHTS_MAY_CHANGE
from ablations.training_config import MAY_CHANGE, TrainingConfig
from modernize.design import split_commas
from modernize.yaml_file import as_yaml

_OF_BUDGET = ("max_epochs", "warmup_epochs", "step_epochs")  # settings that follow from a study's budget
COMBINED = "combined"  # kind of a study of several studies; its folder has combined.yaml and a folder per study


def open_folder(study: Study, folder: Path) -> Study:
    """Make the study's folder, or add this study's new rows and seeds to it; return the study that it then holds.

    Added rows and seeds are recorded. Raises RequestError naming anything else that differs.
    """
    with writing(f"study folder {folder}"):
        whole = planned(study, folder)
        if (folder / "study.yaml").exists() and whole == read_study(folder):
            return whole  # a read-only folder can be opened
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".study.yaml.lock"):
            whole = planned(study, folder)
            _refuse_names_alike(whole, folder)
            write_study(whole, folder)
            keep_plugins(whole.plugins, folder)
    return whole


def _refuse_names_alike(study: Study, folder: Path) -> None:
    """Raise RequestError if two rows would share run folders, as the usual disk of a Mac ignores case in names."""
    if not (folder / ".STUDY.YAML.LOCK").exists():  # as the lock is called there, too
        return
    names: dict[str, str] = {}
    for row in study.rows:
        if (other := names.setdefault(row.row.casefold(), row.row)) != row.row:
            raise RequestError(
                f"study folder {folder}: its disk ignores case, so the rows {other!r} and {row.row!r} would share "
                "folders; rename one, or choose another --out"
            )


def planned(study: Study, folder: Path) -> Study:
    """Return the study that `open_folder` leaves in the folder, and refuse what it refuses; write nothing."""
    _refuse_place(folder)
    if (folder / "study.yaml").exists():
        return _with_additions(read_study(folder), study, folder)
    return begun(study)


def refuse_before_data(study: Study, folder: Path) -> None:
    """Refuse what `planned` refuses, as far as it does not depend on the data, which may have to be downloaded."""
    _refuse_place(folder)
    if (folder / "study.yaml").exists():
        before = read_study(folder)
        _refuse_changes(before, _as_stored(study, before), folder, without_data=True)


def _refuse_place(folder: Path) -> None:
    """Raise RequestError if a folder can be that of no study."""
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"study folder {folder} is a file; choose another --out")
    refuse_published(folder)
    if (folder / "study.yaml").exists():
        return
    others = [one for one in (folder.iterdir() if folder.exists() else ()) if not one.name.startswith(".study.yaml.")]
    if others and not (folder / "study.yaml").exists():  # otherwise another command has just made it
        raise RequestError(f"{folder} is not empty and contains no study.yaml; choose another --out")


def is_published(folder: Path) -> bool:
    """Whether a study's folder holds its results without its run folders."""
    path = folder / "results.csv"
    if not path.exists() or (folder / "runs").exists():
        return False
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        statuses = {line.get("status") for line in csv.DictReader(file)}
    return statuses != {"left"}  # a study of which no run was begun has no results


def refuse_published(folder: Path) -> None:
    """Raise RequestError if runs would replace the only record of earlier ones."""
    if is_published(folder):
        raise RequestError(
            f"study folder {folder} holds published results without their runs, which new runs would replace; "
            "choose another --out"
        )


def write_study(study: Study, folder: Path) -> None:
    """Write `study.yaml`."""
    path = folder / "study.yaml"
    before = read_yaml(path, "study")["recipes"].values() if path.exists() else []
    values = study.model_dump(mode="json")
    values["recipes"] = {name: as_stored(recipe, before) for name, recipe in study.recipes.items()}
    if not study.plugins:
        del values["plugins"]
    write_bytes(path, as_yaml(values).encode())


def _with_additions(before: Study, requested: Study, folder: Path) -> Study:
    """Return the study of a folder with additions from `requested`; raises RequestError if anything else differs."""
    requested = _as_stored(requested, before)
    _refuse_changes(before, requested, folder)
    last = stage_numbers(before)
    newest = max(len(before.stages), 1)
    looked = any(
        finished(run_folder(folder, before.run(row, seed)))
        for row in before.rows
        for seed in before.seeds
        if last(row.row, seed) == newest
    )
    return extended(before, requested, looked)


def _as_stored(requested: Study, before: Study) -> Study:
    """Return a study with its recipes as the folder has them, if only the version that made it sets them apart."""
    requested = _with_stored_names(requested, before)
    stored = before.recipes.values()
    recipes = {name: without_newer(recipe, stored) for name, recipe in requested.recipes.items()}
    recipes = {name: batch_as_begun(name, recipe, before, requested) for name, recipe in recipes.items()}
    return requested.model_copy(update={"recipes": recipes})


def _refuse_changes(before: Study, requested: Study, folder: Path, without_data: bool = False) -> None:
    """Raise RequestError if more differs than what may be added to a study; `without_data` what follows from its data.

    A study has the checksum of its data, its weights' fit and the epochs of its budget once its data is loaded.
    """
    refuse_other_code(before.rows, requested.rows, f"study folder {folder}")
    refuse_other_plugins(before.plugins, requested.plugins, f"study folder {folder}")
    old, new = _fixed(before, before), _fixed(requested, before)
    for values in (old, new):  # a recipe that one of them lacks is another recipe of a row
        both = [name for name in values["recipes"] if name in before.recipes and name in requested.recipes]
        values |= {
            key: {name: one for name, one in values[key].items() if name in both} for key in ("recipes", "factors")
        }
    if without_data:
        of_budget = _OF_BUDGET if requested.budget else ()
        for values in (old, new):
            values |= {"data_checksum": "", "weights": None}
            values["recipes"] = {
                name: {key: value for key, value in recipe.items() if key not in of_budget}
                for name, recipe in values["recipes"].items()
            }
    lost = [name for name in old["rows"] if name not in new["rows"]]  # such as those of a grid of other flags
    old["rows"] = {name: row for name, row in old["rows"].items() if name in new["rows"]}
    changed = ([f"the new study lacks {_some_rows(lost)}"] if lost else []) + differences(old, new)
    if changed:
        shown = "; ".join(changed[:3]) + (f"; and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise RequestError(f"study folder {folder} was made with another configuration: {shown}; choose another --out")


def _some_rows(names: list[str]) -> str:
    """Name up to two rows: `row norm=bn`, `8 rows, such as norm=bn and norm=ln`."""
    many = f"{len(names)} rows, such as" if names[2:] else f"row{'s' * (len(names) > 1)}"
    return f"{many} {' and '.join(names[:2])}"


def _with_stored_names(requested: Study, before: Study) -> Study:
    """Name recipes as the folder does: earlier versions wrote a recipe's changed settings in an order of chance."""
    stored = {row.row: row for row in before.rows}
    rows = []
    for row in requested.rows:
        one = stored.get(row.row, row)
        same = one.recipe != row.recipe and _settings(one.recipe) == _settings(row.recipe)
        rows.append(row.model_copy(update={"recipe": one.recipe, "same_as": one.same_as}) if same else row)
    if rows == requested.rows:
        return requested
    named = {row.recipe: was.recipe for row, was in zip(rows, requested.rows, strict=True)}
    recipes = {name: requested.recipes[was] for name, was in named.items()}
    factors = {name: requested.factors[was] for name, was in named.items() if was in requested.factors}
    return requested.model_copy(update={"rows": rows, "recipes": recipes, "factors": factors})


def _settings(recipe: str) -> tuple[str, frozenset[str]]:
    """Return a recipe's name and the settings that are written behind it."""
    base, *settings = split_commas(recipe)
    return base, frozenset(settings)


def batch_as_begun(name: str, recipe: TrainingConfig, before: Study, requested: Study) -> TrainingConfig:
    """Return a recipe as its folder has it, if an earlier version gave it the batch size of `--set` for another one."""
    stored = before.recipes.get(name)
    if stored is None or name not in recipe_names() or stored.batch_size == recipe.batch_size:
        return recipe
    own = {"batch_size", *(_OF_BUDGET if requested.budget else ()), *MAY_CHANGE}
    same = stored.model_dump(exclude=own) == recipe.model_dump(exclude=own)
    others = {one.batch_size for other, one in requested.recipes.items() if other != name}
    return stored if same and stored.batch_size in others else recipe


def _fixed(study: Study, before: Study) -> dict[str, Any]:
    """Return what may not change of a study as plain values, rows by name, without additions to `before`."""
    # Of a roadmap's file the rows have what determines results; words and printed results may be corrected.
    values = study.model_dump(
        mode="json",
        exclude={
            **{"cluster": True, "precision": True, "stages": True, "roadmap": True, "asked": True},
            **{"recipes": {"__all__": set(MAY_CHANGE)}, "weights": WEIGHTS_MAY_CHANGE},
        },
    )
    names = {row.row for row in before.rows}
    if {one.sha256 for one in before.plugins} <= {one.sha256 for one in study.plugins}:
        del values["plugins"]  # added rows may need more
    values["rows"] = {row["row"]: row for row in values["rows"] if row["row"] in names}
    if _has_seeds(study, before):
        values["seeds"] = before.seeds
    if study.orders[: len(before.orders)] == before.orders:
        values["orders"] = before.orders
    if (
        study.screen
        and before.screen
        and study.screen.follow_ups[: len(before.screen.follow_ups)] == (before.screen.follow_ups)
    ):
        del values["screen"]["follow_ups"]
    return values


def _has_seeds(study: Study, before: Study) -> bool:
    """Whether a study has all seeds of `before`, or those of its first stage and the same precision."""
    if study.precision is not None and study.precision == before.precision:
        return set(before.stages[0].seeds) <= set(study.seeds)
    return set(before.seeds) <= set(study.seeds)


def refuse_combined(folder: Path) -> None:
    """Raise RequestError, naming a study of several, if a folder is that of a combined study."""
    if (folder / f"{COMBINED}.yaml").is_file():
        names = [path.parent.name for path in sorted(folder.glob("*/study.yaml"))] or ["NAME"]
        raise RequestError(f"{folder} is the folder of several studies; name one of them, such as {folder / names[0]}")


def read_study(folder: Path) -> Study:
    """Read the study of a folder; raises RequestError if it holds none."""
    if not (folder / "study.yaml").is_file():
        refuse_combined(folder)
        raise RequestError(f"{folder} is not a study folder: it has no study.yaml")
    return read_with_plugins(Study, folder / "study.yaml", "study")


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """List where two nested values differ, as `recipes.quick.learning_rate was 0.004 and is now 0.002`."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [line for key in keys for line in differences(before.get(key), now.get(key), f"{path}.{key}".strip("."))]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [line for index, pair in pairs for line in differences(*pair, f"{path}[{index}]")]
    return [] if before == now else [f"{path} was {_brief(before)} and is now {_brief(now)}"]


def _brief(value: Any) -> str:
    if isinstance(value, dict):  # of weights, the rest follows from the file
        value = value.get("source") or ", ".join(f"{key}={one}" for key, one in value.items())
    text = "not set" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def run_folder(study_folder: Path, run: RunConfig) -> Path:
    """Return the folder of a study's run; a link to another place, as of single runs, gives that place."""
    folder = study_folder / "runs" / run.name
    return folder.resolve() if folder.is_symlink() else folder


def slug(design: str) -> str:
    """Turn a design's name into a folder's."""
    return re.sub(r"[^A-Za-z0-9@=_.,-]+", "-", design).strip("-.,")
