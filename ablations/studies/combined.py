"""A study of several studies: the same rows and comparisons under several settings, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ablations.errors import RequestError, writing
from ablations.recipes import check, read_yaml, shipped
from ablations.store import write_bytes
from ablations.studies.folder import COMBINED, planned, read_study, refuse_before_data, slug
from ablations.studies.load import is_folder, load_study, overridden, reopen, requested, study_names
from ablations.studies.schema import Study, StudyFile
from modernize.design import printable
from modernize.names import nearest
from modernize.yaml_file import as_yaml

STORED = f"{COMBINED}.yaml"  # of a folder
_TAKEN = ("report", "runs", STORED)  # names that the folder has for something else
_LONGEST = 240  # max characters of a study's name, which names its folder
# What may be changed of all studies at once; the rest of them is what tells their settings apart.
_FOR_ALL = ("seeds", "budget", "evaluate", "measure", "references", "extras", "cluster")
# Kinds whose reports have, instead of differences between rows:
_NOT_COMBINED = {
    "screen": "effects of flags",
    "orders": "effects averaged over orders",
}


class CombinedFile(BaseModel):
    """Contents of a combined study's YAML file; `combined.yaml` in its folder names the study.yaml of each.

    Further keys are those of a study file, for every study that does not set them itself.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: Literal["combined"]
    studies: dict[str, dict[str, Any] | str] = Field(description="keys, or the path of a study file, by name")

    @field_validator("studies", mode="before")
    @classmethod
    def _check_studies(cls, studies: Any) -> Any:
        if not isinstance(studies, dict):
            raise ValueError("write the keys of each study under its name, as in cifar: {kind: roadmap, base: pocket}")
        if len(studies) < 2:
            raise ValueError("write at least two; one study is a file without kind combined")
        for name, one in studies.items():
            _check_name(name, studies)
            if isinstance(one, str) and one.endswith((".yaml", ".yml")):
                continue
            if not isinstance(one, dict) or not all(isinstance(key, str) for key in one):
                raise ValueError(f"{name}: write the keys of a study, or the path of a study file")
            if one.get("kind") == COMBINED:
                raise ValueError(f"{name}: a combined study cannot be part of another")
        return studies

    @property
    def common(self) -> dict[str, Any]:
        """Return the keys for every study that does not set them itself."""
        return dict(self.model_extra or {})


def _check_name(name: Any, names: Mapping[Any, Any]) -> None:
    """Raise ValueError if no folder can have the name of a study, or another study's name gives the same folder."""
    if not isinstance(name, str):
        raise ValueError(f"a name is text; write '{name}' in quotes")
    if name != (valid := slug(name)):
        raise ValueError(f"name {printable(name)!r} must be valid for a folder, such as {valid or 'first'!r}")
    if name.lower() in _TAKEN:
        raise ValueError(f"name {name!r} is reserved in the folder; choose another, such as {name}-1")
    if len(name) > _LONGEST:
        raise ValueError(f"name '{name[:40]}…' has {len(name)} characters; choose one of at most {_LONGEST}")
    if [str(other).lower() for other in names].count(name.lower()) > 1:
        raise ValueError(f"{name!r} names two studies on disks that ignore case; rename one")


@dataclass(frozen=True)
class CombinedStudy:
    """Studies with the same rows and comparisons, by name; each is a study like any other."""

    name: str
    studies: Mapping[str, Study]


def is_combined(name: str) -> bool:
    """Whether `load_combined` takes this name: of a shipped study, a YAML file, or a combined study's folder."""
    if name in study_names():
        return shipped("studies", name).get("kind") == COMBINED
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path.is_file() and read_yaml(path, "study").get("kind") == COMBINED
    return is_folder(name) and is_combined_folder(path)


def is_combined_folder(folder: Path) -> bool:
    """Whether a folder is that of a combined study."""
    path = folder / STORED
    return path.is_file() and read_yaml(path, "study").get("studies") == _stored(_names(path))


def _names(path: Path) -> list[str]:
    names = read_yaml(path, "study").get("studies")
    return [name for name in names if isinstance(name, str)] if isinstance(names, dict) else []


def _stored(names: list[str]) -> dict[str, str]:
    """Return the studies of a folder as its `combined.yaml` has them: paths relative to it."""
    return {name: f"{name}/study.yaml" for name in names}


def study_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each study of a combined study's folder, by name in its order.

    Raises RequestError if the folder is none, or a study of it has not been made.
    """
    if not (folder / STORED).is_file():
        raise RequestError(f"{folder} is not the folder of a combined study: it has no {STORED}")
    if not is_combined_folder(folder):
        raise RequestError(f"{folder / STORED}: studies: name the folders beside it, as in cifar: cifar/study.yaml")
    folders = {name: folder / name for name in _names(folder / STORED)}
    for name, place in folders.items():
        if not (place / "study.yaml").is_file():
            raise RequestError(f"study folder {folder}: {name} is missing; rerun the command that made the folder")
    return folders


def read_combined(folder: Path) -> dict[str, tuple[Study, Path]]:
    """Read each study of a combined study's folder, with its folder; raises what `study_folders` does."""
    return {name: (read_study(place), place) for name, place in study_folders(folder).items()}


def load_combined(name: str, changes: Mapping[str, Any], settings: Mapping[str, str]) -> CombinedStudy:
    """Load and check a combined study; `changes` override keys of every study, `settings` those of its recipe.

    Raises RequestError naming the file, the study and the key.
    """
    path = Path(name)
    if is_folder(name):
        _refuse_settings(f"study folder {name}", changes, "begin another study")
        found = {key: reopen(one, changes, settings) for key, one in study_folders(path).items()}
        _refuse_different(found, f"study folder {name}")
        return CombinedStudy(path.resolve().name, found)
    place, edit = f"study {name}", f"edit it in {name}"
    if name in study_names():
        values, edit = shipped("studies", name), "write a study file with settings of your own"
    else:
        values = read_yaml(path, "study")
    file = check(CombinedFile, values, place)
    for key in file.common:
        if key not in StudyFile.model_fields:
            raise RequestError(f"{place}: unknown key {key!r}: {nearest(key, ('studies', *StudyFile.model_fields))}")
    _refuse_settings(place, changes, edit)
    found = {key: _loaded(key, one, file, path, changes, settings) for key, one in file.studies.items()}
    _refuse_different(found, place)
    for key, study in found.items():
        if study.precision is not None:
            raise RequestError(
                f"{place}: studies.{key}: precision: more seeds may never reach it over studies; set seeds instead"
            )
    return CombinedStudy(path.stem if path.name != STORED else path.resolve().parent.name, found)


def _refuse_settings(place: str, changes: Mapping[str, Any], edit: str) -> None:
    """Raise RequestError for an option that would make the settings of all studies the same."""
    others = [key for key in changes if key not in _FOR_ALL]
    if others:
        option = others[0].replace("_", "-")
        raise RequestError(f"{place}: --{option}: not for several studies at once; {edit}")


def _loaded(
    key: str,
    one: dict[str, Any] | str,
    file: CombinedFile,
    path: Path,
    changes: Mapping[str, Any],
    settings: Mapping[str, str],
) -> Study:
    """Load one of the studies of a file, which is named in `path`."""
    if isinstance(one, dict):
        values = overridden({**file.common, **one}, changes)
        return requested(key, values, settings, f"study {path}: studies.{key}")
    own = path.parent / one
    try:
        values = read_yaml(own, "study")
        if values.get("kind") == COMBINED:
            raise RequestError(f"{own}: a combined study cannot be part of another")
        common = {} if "rows" in values else {name: value for name, value in file.common.items() if name not in values}
        study = load_study(str(own), overridden(common, changes), settings)
    except RequestError as error:
        raise RequestError(f"study {path}: studies.{key}: {error}") from None
    return study.model_copy(update={"name": key})


def _refuse_different(studies: Mapping[str, Study], place: str) -> None:
    try:
        refuse_different(studies)
    except RequestError as error:
        raise RequestError(f"{place}: {error}") from None


def refuse_different(studies: Mapping[str, Study]) -> None:
    """Raise RequestError, naming study and row, unless all studies have the same rows, comparisons and measure."""
    (name, first), *others = studies.items()
    if not others:
        raise RequestError(f"{name}: one study is not combined; give two or more")
    if first.kind in _NOT_COMBINED:
        raise RequestError(
            f"{name} cannot be combined: its kind is {first.kind}, whose report has {_NOT_COMBINED[first.kind]}, not "
            "differences between rows; report it alone"
        )
    for other, study in others:
        for key in ("kind", "measure"):
            ours, theirs = getattr(first, key), getattr(study, key)
            if ours != theirs:
                raise RequestError(
                    f"{other} cannot be combined with {name}: its {key} is {theirs}, not {ours}; leave one of them out"
                )
        _refuse_other_rows(name, first, other, study)
    if not any(row.baselines for row in first.rows):
        raise RequestError(f"{name} cannot be combined: it compares no rows; report it alone")


def _refuse_other_rows(name: str, first: Study, other: str, study: Study) -> None:
    """Raise RequestError if a study lacks a row of the first one, has another, or compares one with other rows."""
    ours, theirs = ({row.row: row.baselines for row in one.rows} for one in (first, study))
    for lacking, without, having, whose in ((ours, theirs, name, other), (theirs, ours, other, name)):
        missing = [row for row in lacking if row not in without]
        if missing:
            lacks = f"{len(missing)} rows of {having}, such as" if missing[1:] else f"a row of {having},"
            raise RequestError(
                f"{whose} lacks {lacks} {missing[0]!r}; combine studies of the same rows, or leave one of them out"
            )
    for row, bases in ours.items():
        if bases != theirs[row]:
            raise RequestError(
                f"{other} compares row {row!r} with {_bases(theirs[row])}, {name} with {_bases(bases)}; combine "
                "studies of the same comparisons, or leave one of them out"
            )


def _bases(bases: Sequence[str]) -> str:
    return ", ".join(map(repr, bases)) or "no row"


def check_folder(study: CombinedStudy, folder: Path) -> None:
    """Raise RequestError if a combined study, on its data, cannot be run in a folder; write nothing."""
    check_place(study, folder)
    for name, one in study.studies.items():
        planned(one, folder / name)


def check_place(study: CombinedStudy, folder: Path) -> None:
    """Raise RequestError if a combined study cannot be run in a folder whatever its data are; write nothing."""
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"study folder {folder} is a file; choose another --out")
    names = list(study.studies)
    if is_combined_folder(folder):
        if (before := _names(folder / STORED)) != names:
            raise RequestError(
                f"study folder {folder} was made with the studies {', '.join(before)}, and not {', '.join(names)}; "
                "choose another --out"
            )
    elif others := [
        one for one in (folder.iterdir() if folder.exists() else ()) if not one.name.startswith(f".{STORED}.")
    ]:
        if folder / "study.yaml" in others:
            raise RequestError(f"{folder} is the folder of a single study; choose another --out")
        if not is_combined_folder(folder):  # otherwise another command has just made it
            what = f"a {STORED} that no study made" if folder / STORED in others else f"no {STORED}"
            raise RequestError(f"{folder} is not empty and contains {what}; choose another --out")
    for name, one in study.studies.items():
        refuse_before_data(one, folder / name)


def open_combined(study: CombinedStudy, folder: Path) -> None:
    """Make a combined study's folder, if it does not exist yet, without the folders of its studies.

    Raises what `check_folder` does, RunError if the folder cannot be written.
    """
    check_folder(study, folder)
    if is_combined_folder(folder):
        return
    with writing(f"study folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{STORED}.lock"):
            check_folder(study, folder)
            write_bytes(folder / STORED, as_yaml({"kind": COMBINED, "studies": _stored([*study.studies])}).encode())
