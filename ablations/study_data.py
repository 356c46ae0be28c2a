"""A study as data: its runs, learning curves, predictions and comparisons as tidy frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablations.reporting import report_of
from ablations.studies.loose_runs import opened
from ablations.studies.results import curves_frame, predictions, study_runs
from ablations.studies.schema import Study
from reports.predictions import Predicted
from reports.statistics import Measure
from reports.study_tables import compared_rows

__all__ = ["StudyData", "load_study"]

_TEXT, _COUNT, _NUMBER = "string", "Int64", "float64"
# Columns and their types, in order; docs/frames.md says what each contains.
RUNS = {
    **dict.fromkeys(("study", "kind", "roadmap", "row", "label", "base", "run"), _TEXT),
    **dict.fromkeys(("seed", "stage"), "int64"),
    **dict.fromkeys(("added", "recipe", "dataset", "evaluate", "status", "reason"), _TEXT),
    **dict.fromkeys(("top1", "ema_top1"), _NUMBER),
    "note": _TEXT,
    **dict.fromkeys(("loss", "balanced_accuracy", "largest_class_top1"), _NUMBER),
    **dict.fromkeys(("params", "macs", "activations"), _COUNT),
    **dict.fromkeys(("image_size", "in_channels", "num_classes", "images_seen"), _COUNT),
    **dict.fromkeys(("images_per_second", "seconds"), _NUMBER),
    "weights_sha256": _TEXT,
    **dict.fromkeys(("train_top1", "chance_top1"), _NUMBER),
    **dict.fromkeys(("test_images", "evaluated_images"), _COUNT),
    **dict.fromkeys(("unread", "data_checksum"), _TEXT),
    "compared_images": _COUNT,
    **dict.fromkeys(("compared_top1", "compared_loss"), _NUMBER),
    **dict.fromkeys(("not_compared", "weights"), _TEXT),
    "processor_seconds": _NUMBER,
    **dict.fromkeys(("machine", "software", "data_folder", "warnings"), _TEXT),
}
CURVES = {
    **dict.fromkeys(("row", "label"), _TEXT),
    **dict.fromkeys(("seed", "images"), "int64"),
    **dict.fromkeys(("loss", "top1"), _NUMBER),
}
PREDICTIONS = {
    **dict.fromkeys(("row", "run"), _TEXT),
    "seed": "int64",
    **dict.fromkeys(("image", "label", "predicted"), _COUNT),
    **dict.fromkeys(("label_name", "predicted_name"), _TEXT),
    "correct": "bool",
    "loss": _NUMBER,
}
COMPARISONS = {
    **dict.fromkeys(("row", "label", "base"), _TEXT),
    **dict.fromkeys(("mean", "sd"), _NUMBER),
    "seeds": "int64",
    **dict.fromkeys(("base_mean", "base_sd"), _NUMBER),
    "base_seeds": "int64",
    **dict.fromkeys(("difference", "se", "df", "low", "high", "p", "p_adjusted"), _NUMBER),
    **dict.fromkeys(("verdict", "reason", "method", "note"), _TEXT),
}


@dataclass(frozen=True, eq=False)
class StudyData:
    """A study's results as tidy frames; docs/frames.md describes each column.

    Attributes:
        name: The study's name.
        kind: The kind of study, such as roadmap or sweep.
        measure: What the comparisons are about: top1 or loss.
        runs: One line per row and seed, as in `results.csv`.
        curves: One line per line of a run's log.
        predictions: One line per finished run and test image; empty for a study without run folders.
        comparisons: One line per comparison of two rows, with the numbers and verdicts of the report.
        tables: The raw numbers of each table of the report, by the table's name.
    """

    name: str
    kind: str
    measure: str
    runs: pd.DataFrame
    curves: pd.DataFrame
    predictions: pd.DataFrame
    comparisons: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]


def load_study(folder: str | Path) -> StudyData:
    """Load a study's results as tidy frames; write nothing.

    Args:
        folder: The study's folder, as `ablations run` made it, with or without its run folders; or that of a run, or
            of several runs of `ablations train`. Runs may be running, failed or pending.

    Returns:
        The frames. Comparisons and verdicts are those of `ablations report`.

    Raises:
        RequestError: If the folder is not a study's, or its results are corrupt.
        ReportError: If its runs cannot be compared.
    """
    with opened([Path(folder)]) as (study, place):
        return _load(study, place)


def _load(study: Study, place: Path) -> StudyData:
    runs = study_runs(study, place)
    report = report_of(study, place, runs)
    return StudyData(
        name=study.name,
        kind=study.kind,
        measure=study.measure,
        runs=_with_settings(_typed(runs, RUNS), runs),
        curves=_typed(curves_frame(study, place), CURVES),
        predictions=_predictions(study, place),
        comparisons=_comparisons(report.runs, study.measure),
        tables={table.name: table.frame for table in report.every_table},
    )


def _typed(frame: pd.DataFrame, types: Mapping[str, str]) -> pd.DataFrame:
    """Return these columns of a frame with their types; a column that it lacks is missing."""
    return pd.DataFrame({name: _column(frame.get(name), kind, frame.index) for name, kind in types.items()})


def _with_settings(frame: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return a frame that keeps each recipe's settings in its attributes, for the headers of `reports.figure`."""
    if "settings" in runs:
        known = runs.dropna(subset=["settings"])
        frame.attrs["settings"] = dict(zip(known["recipe"], known["settings"], strict=True))
    return frame


def _column(values: Any, kind: str, index: pd.Index) -> pd.Series:
    if values is None:
        return pd.Series(pd.NA, index, dtype=kind)
    typed: pd.Series = pd.to_numeric(values).astype(kind) if kind in (_COUNT, _NUMBER) else values.astype(kind)
    return typed


def _predictions(study: Study, folder: Path) -> pd.DataFrame:
    """Return the prediction of each finished run for each test image that it read.

    Its attributes have the classes' names and numbers of training images, which its lines may lack.
    """
    read = predictions(study, folder)
    parts: list[pd.DataFrame] = []
    classes: dict[str, Any] = {}
    for run in study.runs:
        predicted = read(run.row, run.seed)
        if predicted is not None:
            parts.append(_of_run(predicted).assign(row=run.row, run=run.name, seed=run.seed))
            training = None if predicted.training is None else tuple(predicted.training.tolist())
            classes.setdefault("classes", predicted.classes)
            classes.setdefault("training_images", training)
    frame = _typed(pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(), PREDICTIONS)
    frame.attrs.update(classes)
    return frame


def _of_run(run: Predicted) -> pd.DataFrame:
    names = None if run.classes is None else np.array(run.classes, dtype=object)
    return pd.DataFrame(
        {
            "image": None if run.indices is None else run.indices,
            "label": run.labels,
            "predicted": run.predicted,
            "label_name": None if names is None else names[run.labels],
            "predicted_name": None if names is None else names[run.predicted],
            "correct": run.correct,
            "loss": np.nan if run.losses is None else run.losses,
        }
    )


def _comparisons(runs: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Return the comparisons of the report, with the labels of their rows."""
    labels = dict(zip(runs["row"], runs["label"], strict=True))
    found = compared_rows(runs, measure)
    return _typed(found.assign(label=found["row"].map(labels)), COMPARISONS)
