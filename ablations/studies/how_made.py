"""How runs were made: their recipe with every change, and the machine and software that trained them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from ablations.errors import RequestError
from ablations.recipes import load_recipe, recipe_names, settings_apart, stretched
from ablations.store import DamagedError, read_json
from ablations.studies.variants import setting_text
from ablations.training_config import MAY_CHANGE, OWNED, TrainingConfig
from modernize.design import split_commas

HOW_MADE = ("machine", "software", "data_folder")
EXECUTION_ONLY = tuple(key for key in MAY_CHANGE if key != "accumulation")  # these change no result
_SOFTWARE = ("torch", "torchvision", "numpy", "pillow")  # packages that may change results


def full_name(name: str, recipe: TrainingConfig) -> str:
    """Return a recipe's name with every setting in which it differs: `quick,batch_size=32`.

    After the name of a YAML file, which may have changed since, stand all settings that are not the defaults.
    """
    base, *parts = split_commas(name)
    values = {part.partition("=")[0].strip(): part.partition("=")[2].strip() for part in parts}
    values |= {key: _short(value) for key, value in _changes(name, recipe).items()}
    return ",".join([base, *(f"{key}={value}" for key, value in values.items())])


def _changes(name: str, recipe: TrainingConfig) -> dict[str, Any]:
    """Return the settings in which a recipe differs from the shipped one of its name, or else from the defaults.

    Warm-up and step schedule that scale with `max_epochs` are no changes of their own.
    """
    named = _shipped(name)
    if named is None:
        settings = settings_apart(recipe).items()
        return {key: value for key, value in settings if value != TrainingConfig.model_fields[key].default}
    scaled = dict(named if named.max_epochs == recipe.max_epochs else stretched(named, recipe.max_epochs))
    scaled["max_epochs"] = named.max_epochs
    return {key: value for key, value in recipe if not _same(value, scaled[key])}


@functools.cache
def _shipped(name: str) -> TrainingConfig | None:
    base = split_commas(name)[0]
    if base not in recipe_names():
        return None
    try:
        return load_recipe(name)
    except RequestError:  # of an earlier version, or valid with settings of --set alone
        return load_recipe(base)


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal, but for the rounding of a schedule that was scaled twice."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-9 * abs(other)
    return bool(one == other)


def all_settings(recipe: TrainingConfig) -> str:
    """Write the settings of a recipe that are in use and may change results: `max_epochs=1,batch_size=128`."""
    unused = {key for key, value in recipe if value is None and key in OWNED} | set(EXECUTION_ONLY)
    return ",".join(f"{key}={_short(value)}" for key, value in recipe if key not in unused)


def _short(value: Any) -> str:
    """Write a setting; of a computed one four digits."""
    text = setting_text(value)
    return f"{value:.4g}" if isinstance(value, float) and len(text) > 8 else text


def how_made(folder: Path) -> dict[str, str | None]:
    """Describe the machine and the software of a run's sessions, and name the folder of the user's own images.

    None if they are not recorded.
    """
    try:
        sessions = read_json(folder / "environment.json")["sessions"]
    except (FileNotFoundError, DamagedError, KeyError):
        return dict.fromkeys(HOW_MADE)
    folders = [session["data"]["folder"] for session in sessions if "folder" in session.get("data", {})]
    texts = (map(_machine, sessions), map(_software, sessions), folders)
    return {name: "; then ".join(dict.fromkeys(each)) or None for name, each in zip(HOW_MADE, texts, strict=True)}


def _machine(session: dict[str, Any]) -> str:
    threads, processes = session["threads"], session.get("processes", 1)
    device = session["device"] + (" with TF32" if session.get("float32") == "tf32" else "")
    parts = [session["machine"], device, f"{threads} {'threads' if threads > 1 else 'thread'} per run"]
    return ", ".join([*parts, *([f"{processes} processes per run"] if processes > 1 else [])])


def _software(session: dict[str, Any]) -> str:
    commit = f" ({session['commit']})" if session.get("commit") else ""
    packages = [f"{name} {session['packages'][name]}" for name in _SOFTWARE if name in session["packages"]]
    return ", ".join([f"modernize-convnets {session['code']}{commit}", f"Python {session['python']}", *packages])
