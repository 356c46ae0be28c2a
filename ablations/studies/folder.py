"""A study's folder: made, read, and compared with the study that is asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ablations.errors import RequestError, RunError
from ablations.recipes import MAY_CHANGE, check, read_yaml
from ablations.studies.run import RunConfig
from ablations.studies.schema import Study

if TYPE_CHECKING:
    pass


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
