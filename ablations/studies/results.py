"""Read the runs of a study as one tidy frame, from its run folders or as published."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import click
import pandas as pd
from filelock import FileLock

from ablations.errors import RequestError, one_line
from ablations.store import read_log, write_bytes
from ablations.studies.evaluated_images import evaluated_images, on_common_images, read_predictions, train_top1
from ablations.studies.folder import is_published, read_study, run_folder, write_study
from ablations.studies.how_made import HOW_MADE, all_settings, full_name, how_made
from ablations.studies.networks import count_design
from ablations.studies.run import RunConfig, State, finished, locked, read_state
from ablations.studies.schema import Study
from ablations.studies.stages import START, retried, stage_numbers
from reports.predictions import Predicted
from reports.statuses import BETWEEN


def study_runs(study: Study, folder: Path) -> pd.DataFrame:
    """Return one line per row and seed, in the study's order, whatever the state of its run.

    A study published without its run folders is read from its `results.csv`. Rows of one design share a run.
    Raises RequestError if that file does not hold the results of this study.
    """
    return _published_runs(study, folder) if is_published(folder) else _runs_in_folders(study, folder)


def _runs_in_folders(study: Study, folder: Path) -> pd.DataFrame:
    rows = []
    states = {run.name: read_state(run_folder(folder, run)) for run in study.runs}
    made = {run.name: how_made(run_folder(folder, run)) for run in study.runs}
    labels = {row.row: study.label(row) for row in study.rows}
    recipes = {name: full_name(name, recipe) for name, recipe in study.recipes.items()}
    settings = {name: all_settings(recipe) for name, recipe in study.recipes.items()}
    evaluations = _evaluations(study, folder, states)
    stage_of = stage_numbers(study)
    for seed in study.seeds:
        for row in study.rows:
            run = study.run(row, seed)
            if run.name in study.absent:
                continue
            state = states[run.name]
            result = state.result
            stage = stage_of(row.row, seed)
            rows.append(
                {
                    "study": study.name,
                    "kind": study.kind,
                    "roadmap": study.base if study.kind == "roadmap" and row.reference is None else None,
                    "row": row.row,
                    "label": labels[row.row],
                    "base": BETWEEN.join(row.baselines) or None,
                    "run": run.name,
                    "seed": seed,
                    "stage": stage,
                    "added": study.stages[stage - 1].why if study.stages else START,
                    "recipe": recipes[row.recipe],
                    "dataset": study.data,
                    "evaluate": study.evaluate,
                    "status": state.status,
                    "reason": result.get("reason"),
                    "top1": result.get("top1"),
                    "ema_top1": result.get("ema_top1"),
                    "note": result.get("note"),
                    "loss": result.get("loss"),
                    "balanced_accuracy": result.get("balanced_accuracy"),
                    "largest_class_top1": result.get("largest_class_top1"),
                    "params": result.get("params"),
                    "macs": result.get("macs"),
                    "activations": _activations(run, result),
                    **{key: result.get(key) for key in ("image_size", "in_channels", "num_classes")},
                    "images_seen": result.get("images_seen", state.last.get("images")),
                    "images_per_second": result.get("images_per_second"),
                    "seconds": result.get("seconds", state.last.get("seconds")),
                    "weights_sha256": result.get("weights_sha256"),
                    **evaluations[run.name],
                    "weights": None if run.weights is None else str(run.weights),
                    "processor_seconds": result.get("processor_seconds"),
                    **made[run.name],
                    "warnings": _BETWEEN_WARNINGS.join(result.get("warnings", ())) or None,
                    "settings": settings[row.recipe],
                }
            )
    return pd.DataFrame(rows)


def _activations(run: RunConfig, result: Mapping[str, Any]) -> int | None:
    """Return a run's activations; those of a design that an earlier version trained are counted now.

    None if parameters and MACs are not those that it recorded, or the count would need torch.
    """
    if "activations" in result or run.reference is not None or run.design.added:
        return result.get("activations")
    recorded = [result.get(name) for name in ("image_size", "in_channels", "num_classes", "params", "macs")]
    if None in recorded:
        return None
    cost = count_design(run.design, *recorded[:3])
    return cost.activations if [cost.params, cost.macs] == recorded[3:] else None


_BETWEEN_WARNINGS = " | "
# Columns that results published by earlier versions lack.
EVALUATION = (
    *("train_top1", "chance_top1", "test_images", "evaluated_images", "unread", "data_checksum"),
    *("compared_images", "compared_top1", "compared_loss", "not_compared"),
)
PER_CLASS = ("balanced_accuracy", "largest_class_top1")
TIME_AND_PLACE = ("processor_seconds", *HOW_MADE, "warnings", "settings")
# Recorded by later versions only:
_NEWER = ("stage", "added", "activations", *EVALUATION, *PER_CLASS, "weights", *TIME_AND_PLACE)


def _evaluations(study: Study, folder: Path, states: Mapping[str, State]) -> dict[str, dict[str, Any]]:
    """Return for each run what it was evaluated on, its training accuracy, and its results on all runs' images."""
    places = {run.name: run_folder(folder, run) for run in study.runs}
    results = {name: state.result for name, state in states.items() if state.status == "done"}
    tests = {name: evaluated_images(places[name], result) for name, result in results.items()}
    compared = on_common_images(results, tests, lambda name: read_predictions(places[name], results[name]))
    columns: dict[str, dict[str, Any]] = {name: dict.fromkeys(EVALUATION) for name in places}
    for name, result in results.items():
        images, common = tests[name], compared[name]
        trained = result["train_top1"] if "train_top1" in result else train_top1(_log(places[name]))
        columns[name] |= {"train_top1": trained, "chance_top1": images.chance, "test_images": images.images}
        columns[name] |= {"evaluated_images": images.read, "unread": images.names}
        columns[name] |= {"data_checksum": result.get("data_checksum"), "compared_images": common.images}
        columns[name] |= {"compared_top1": common.top1, "compared_loss": common.loss, "not_compared": common.left_out}
    return columns


def _published_runs(study: Study, folder: Path) -> pd.DataFrame:
    path = folder / "results.csv"
    expected = _runs_in_folders(study, folder)
    try:
        runs = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise RequestError(f"{path}: cannot be read ({one_line(error)})") from None
    for column in _NEWER:
        if column not in runs:
            runs[column] = expected[column]
    missing = [column for column in expected if column not in runs]
    if not missing:  # whatever the order of the file's lines
        order = expected[["row", "seed"]].merge(runs[["row", "seed"]].reset_index(), how="left")["index"]
        runs = runs.loc[order].reset_index(drop=True) if order.notna().all() and len(order) == len(runs) else runs
    if missing or not runs[["row", "seed"]].equals(expected[["row", "seed"]]):
        problem = f"column {missing[0]} is missing" if missing else "rows and seeds differ"
        raise RequestError(f"{path}: not the results of {folder / 'study.yaml'}: {problem}")
    runs = runs.assign(**{column: expected[column] for column in ("label", "recipe", "settings")})  # of study.yaml
    texts = [str(column) for column in runs if not pd.api.types.is_numeric_dtype(runs[column])]
    return runs.assign(**{column: runs[column].astype(object).where(runs[column].notna(), None) for column in texts})


def update_results(study: Study, folder: Path) -> pd.DataFrame:
    """Write `results.csv` from the run folders, if there are any and the folder may be written; return the runs.

    A file with results of runs whose folders are gone is kept under another name, and a line on stderr says so.
    """
    runs = study_runs(study, folder)
    if (folder / "runs").is_dir():
        with suppress(OSError):  # the file is derived, and the report of a read-only study may be stored elsewhere
            _keep_lost_results(folder, runs)
            write_bytes(folder / "results.csv", results_csv(runs))
    return runs


def results_csv(runs: pd.DataFrame) -> bytes:
    """Return the contents of `results.csv`."""
    return runs.drop(columns="settings").to_csv(index=False).encode()  # study.yaml has them


def _keep_lost_results(folder: Path, runs: pd.DataFrame) -> None:
    """Keep a `results.csv` that has finished runs whose folders are gone: the only record of their results."""
    path = folder / "results.csv"
    try:
        before = pd.read_csv(path)
        had = set(before.loc[before["status"] == "done", "run"])
    except (FileNotFoundError, ValueError, KeyError):
        return
    begun = set(runs.loc[runs["status"] != "left", "run"])
    lost = [run for run in sorted(had - begun) if not (folder / "runs" / str(run) / "config.yaml").exists()]
    if not lost:
        return
    kept = path.with_name(f"results-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.csv")
    write_bytes(kept, path.read_bytes())
    many = f"{len(lost)} finished runs, such as {lost[0]}, have" if len(lost) > 1 else f"the finished run {lost[0]} has"
    click.echo(f"ablations: study {folder}: {many} no folder any more; results are kept in {kept.name}", err=True)


def recorded_warnings(study: Study, runs: pd.DataFrame) -> list[str]:
    """Return the warnings with which the runs of a study were trained, each with its recipes."""
    from ablations.studies.recipe_words import recipe_label

    names = {row.row: recipe_label(study, row.recipe) for row in study.rows}
    recipes: dict[str, dict[str, None]] = {}
    for row, texts in runs[["row", "warnings"]].dropna().itertuples(index=False, name=None):
        for warning in texts.split(_BETWEEN_WARNINGS):
            recipes.setdefault(warning, {})[names[row]] = None
    return [f"Warning (recipe {', '.join(names)}): {warning}." for warning, names in recipes.items()]


def predictions(study: Study, folder: Path) -> Callable[[str, int], Predicted | None]:
    """Return a function from row and seed to the predictions of its run; None if they are missing."""
    rows = {row.row: row for row in study.rows}

    def read(row: str, seed: int) -> Predicted | None:
        place = run_folder(folder, study.run(rows[row], seed))
        return read_predictions(place, read_state(place).result)

    return read


def curves_frame(study: Study, folder: Path) -> pd.DataFrame:
    """Return one line per log line of each run: row, label, seed, images seen, loss and top-1 since the line before.

    Rows of one design share a run and its log. A running run has the lines written so far. A log is read up to
    the first line that lacks one of the numbers.
    """
    logs = {run.name: _log(run_folder(folder, run)) for run in study.runs}
    lines = [
        (row.row, study.label(row), seed, line["images"], line["loss"], line["top1"])
        for row in study.rows
        for seed in study.seeds
        for line in logs.get(study.run(row, seed).name, ())
    ]
    return pd.DataFrame(lines, columns=["row", "label", "seed", "images", "loss", "top1"])


def _log(folder: Path) -> list[dict[str, Any]]:
    """Read a run's log up to the first line that lacks one of the numbers."""
    return list(takewhile(_has_numbers, read_log(folder)))


def _has_numbers(line: dict[str, Any]) -> bool:
    """Whether a log line has all the numbers it should have."""
    return all(type(line.get(key)) in (int, float) for key in ("step", "images", "loss", "top1"))


def forget_failures(study: Study, folder: Path) -> None:
    """Remove the results of failed runs, so that they are trained again from their last checkpoints.

    Runs that were missing at a look at the results are recorded as a stage: their results are new data after the look.
    """
    from reports.statistics.sequential import looks

    with FileLock(folder / ".study.yaml.lock"):
        whole = read_study(folder)
        runs = _runs_in_folders(whole, folder)
        looked = max((look.stage for look in looks(runs) if look.finished), default=0)
        missing = runs.loc[(runs["status"] == "failed") & (runs["stage"] <= looked), "run"].unique()
        if len(missing):
            write_study(retried(whole, missing.tolist()), folder)
    for run in study.runs:
        place = run_folder(folder, run)
        if finished(place) and read_state(place).status == "failed":
            with locked(place) as free:
                if free:
                    (place / "result.json").unlink(missing_ok=True)


def failures(study: Study, folder: Path) -> list[tuple[str, str]]:
    """Return the name of each failed run, and why it failed."""
    runs = study_runs(study, folder).drop_duplicates("run")
    failed = runs[runs["status"] == "failed"]
    return list(zip(failed["run"], failed["reason"].fillna("no reason"), strict=True))
