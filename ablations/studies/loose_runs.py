"""Single runs, such as those of `ablations train`, read as a study: to report, compare and load them together."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.errors import RequestError
from ablations.studies.folder import read_study, refuse_combined, slug
from ablations.studies.how_made import EXECUTION_ONLY
from ablations.studies.run import RunConfig
from ablations.studies.schema import Study, StudyRow
from ablations.studies.trained import read_config
from ablations.studies.variants import plain_setting, variant, with_name
from ablations.training_config import TrainingConfig
from modernize.design import DesignError


@dataclass(frozen=True)
class _Run:
    """A run's folder, its configuration, and its recipe's name with every change."""

    folder: Path
    config: RunConfig
    recipe: str

    @property
    def weights(self) -> str:
        """Describe the weights that it starts from; empty for newly initialized ones."""
        return "" if self.config.weights is None else str(self.config.weights)


@contextmanager
def opened(paths: Sequence[Path]) -> Iterator[tuple[Study, Path]]:
    """Yield a study and its folder, from the folder of a study or from folders of runs.

    The folder of single runs is temporary and links to them. A folder that contains folders of runs stands for these.
    Raises RequestError if a path is none of these, or the runs cannot be compared.
    """
    if len(paths) == 1 and ((paths[0] / "study.yaml").exists() or not paths[0].is_dir()):
        yield read_study(paths[0]), paths[0]
        return
    study, folders = _study_of(list(_read(folder for path in paths for folder in _folders(path))))
    with tempfile.TemporaryDirectory(prefix="ablations-") as place:
        (Path(place) / "runs").mkdir()
        for name, folder in folders.items():
            (Path(place) / "runs" / name).symlink_to(folder.resolve(), target_is_directory=True)
        yield study, Path(place)


def _folders(path: Path) -> list[Path]:
    """Return the folders of runs that a path stands for."""
    if (path / "study.yaml").exists():
        raise RequestError(f"{path} is a study's folder; give one study alone, or folders of runs")
    if (path / "config.yaml").exists():
        return [path]
    found = sorted(one.parent for one in path.glob("*/config.yaml"))
    if not found:
        refuse_combined(path)
        raise RequestError(f"{path} is not a folder of a study or of runs: it has no study.yaml and no config.yaml")
    return found


def _read(folders: Iterable[Path]) -> Iterator[_Run]:
    """Read runs; behind a recipe's name are its settings in which runs with a recipe of that name differ.

    Settings that change no result do not count.
    """
    configs = [(folder, read_config(folder)) for folder in folders]
    named: dict[str, list[TrainingConfig]] = {}
    for _, config in configs:
        named.setdefault(config.recipe_name, []).append(config.recipe)
    for folder, config in configs:
        alike = named[config.recipe_name]
        differ = {key: value for key, value in config.recipe if any(getattr(one, key) != value for one in alike)}
        changes = {key: value for key, value in differ.items() if key not in EXECUTION_ONLY}
        yield _Run(folder, config, with_name(config.recipe_name, changes))


def _study_of(runs: Sequence[_Run]) -> tuple[Study, dict[str, Path]]:
    """Return a study whose rows are the networks and recipes of single runs, and the folder of each of its runs."""
    first = runs[0]
    for run in runs:
        for key in ("data", "evaluate"):
            ours, theirs = (getattr(one.config, key) for one in (run, first))
            if ours != theirs:
                raise RequestError(
                    f"{run.folder} and {first.folder} cannot be compared: {key} is {ours} there and {theirs} here"
                )
    rows: dict[tuple[str, ...], list[_Run]] = {}
    for run in runs:
        network = f"{run.config.reference} {run.config.code_sha256} {run.config.flags}"
        rows.setdefault((network, run.recipe, run.weights), []).append(run)
    named = _named([of_row[0] for of_row in rows.values()])
    seeds = sorted({run.config.seed for run in runs})
    folders: dict[str, Path] = {}
    for row, of_row in zip(named, rows.values(), strict=True):
        for run in of_row:
            name = f"{row.row}-s{run.config.seed}"
            if name in folders:
                raise RequestError(
                    f"{folders[name]} and {run.folder} have the same design, recipe and seed; leave one out"
                )
            folders[name] = run.folder
    weights = {run.weights for run in runs}
    starts = {row.row: of_row[0].config.weights for row, of_row in zip(named, rows.values(), strict=True)}
    study = Study(
        name=(first.folder.resolve() if len(runs) == 1 else first.folder.resolve().parent).name or "runs",
        kind="designs",
        base=_base(first.config),
        data=first.config.data,
        evaluate=first.config.evaluate,
        plugins=list({one.sha256: one for run in runs for one in run.config.plugins}.values()),
        seeds=seeds,
        budget=None,
        recipes={run.recipe: run.config.recipe for run in runs},
        rows=[named[0], *(row.model_copy(update={"compared_with": named[0].row}) for row in named[1:])],
        weights=first.config.weights if len(weights) == 1 else None,
        weights_of={row: start for row, start in starts.items() if start is not None} if len(weights) > 1 else {},
        absent=[name for row in named for seed in seeds if (name := f"{row.row}-s{seed}") not in folders],
    )
    return study, folders


def _row(run: _Run) -> StudyRow:
    config = run.config
    return StudyRow(
        row=config.row,
        label=config.label,
        flags=config.flags,
        reference=config.reference,
        code_sha256=config.code_sha256,
        recipe=run.recipe,
        settings=_settings(config),
    )


def _settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings of the recipe that a run's design names."""
    try:
        named = variant(config.label)
    except (DesignError, RequestError):
        return {}
    same = named.design.flags() == config.flags
    return {key: plain_setting(value) for key, value in named.settings.items()} if same else {}


def _base(config: RunConfig) -> str:
    """Return the name of a run's design, as the command line takes it."""
    try:
        return config.label if variant(config.label).design.flags() == config.flags else "resnet50"
    except (DesignError, RequestError):
        return "resnet50"


def _named(runs: Sequence[_Run]) -> list[StudyRow]:
    """Return the row of each run; of those of one name, all but the first get recipe, weights or a number behind it.

    If runs start from different weights, each label says from which.
    """
    many = Counter(run.config.row for run in runs)
    rows: list[StudyRow] = []
    for run in runs:
        row, alike = _row(run), [one for one in runs if one.config.row == run.config.row]
        start = [f"from {run.weights or 'new weights'}"] if len({one.weights for one in runs}) > 1 else []
        if many[row.row] == 1 and start:  # the study as a whole has no weights to name
            row = row.model_copy(update={"label": ", ".join([row.label, *start])})
        if many[row.row] > 1:
            parts = [run.recipe] if len({one.recipe for one in alike}) > 1 else []
            parts += start
            label, name = ", ".join([row.label, *parts]), slug(",".join([row.row, *parts]))
            names = (row.row, name, *(f"{name},{number}" for number in range(2, len(runs) + 2)))
            taken = [one.row for one in rows]
            row = row.model_copy(update={"row": next(one for one in names if one not in taken), "label": label})
        rows.append(row)
    return rows
