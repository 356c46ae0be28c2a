"""Figures from a study's frames: matplotlib objects that a script can change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from modernize.roadmap import Roadmap, nearest, roadmap, split_commas
from reports.class_plots import class_plots
from reports.errors import ReportError
from reports.layout import Layout
from reports.per_class import class_results
from reports.predictions import Predicted, on_compared_images
from reports.report import Plot, report_tables
from reports.statistics import Measure
from reports.statistics.factorial import factorial_of
from reports.study_figures import study_plots
from reports.view import View, check, select, select_classes, shown_rows, with_labels, with_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure"]

_DESIGNED = ("orders", "screen")  # kinds whose figures need the study's design


def figure(
    name: str,
    runs: pd.DataFrame,
    *,
    curves: pd.DataFrame | None = None,
    predictions: pd.DataFrame | None = None,
    measure: Measure = "top1",
    title: str = "",
    rows: Sequence[str] = (),
    order: str | Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    width: float | None = None,
    font_size: float | None = None,
    heading: bool = True,
) -> Figure:
    """Draw a figure of a study.

    Args:
        name: Name of the figure's files in a report: roadmap, steps, one-in, tradeoff, heatmap, …
        runs: The study's runs: `runs` of `ablations.load_study`, or its `results.csv`.
        curves: `curves` of `ablations.load_study`; curves-loss and curves-top1 need it.
        predictions: `predictions` of `ablations.load_study`; classes and confusion need it.
        measure: What comparisons are about, `top1` or `loss`.
        title: Title in place of the study's name.
        rows: Names of the rows to show; empty: all. Verdicts stay those of the whole study.
        order: A key of `ablations report --order`, or names of rows to list first.
        labels: Labels in place of the study's, by row.
        width: Exact width in millimeters; None: as wide as the contents.
        font_size: Size of the text in points; None: 9, with a width 8.
        heading: Whether title, facts and caption are drawn.

    Returns:
        A matplotlib figure, without a window. Change it, then save it with `savefig`.

    Raises:
        ReportError: If the runs have no such figure, or a row is unknown.
    """
    first = (order,) if isinstance(order, str) and order else tuple(order)
    view = View(title, tuple(rows), dict(labels or {}), first, Layout(width, font_size, heading))
    results = _plain(runs)
    check(view, results)
    plots = {plot.name: plot for plot in _plots(results, curves, predictions, measure, view)}
    if name not in plots:
        raise ReportError(f"figure {name!r} cannot be drawn of these frames: {nearest(name, plots)}")
    return replace(plots[name], layout=view.layout).figure


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with numpy's types, as `results.csv` is read; missing text is None."""
    columns = {}
    for name, values in frame.items():
        if pd.api.types.is_numeric_dtype(values):
            whole = pd.api.types.is_integer_dtype(values) and not values.isna().any()
            columns[name] = values.astype("int64" if whole else "float64")
        else:
            columns[name] = values.astype(object).where(values.notna(), None)
    plain = pd.DataFrame(columns, index=frame.index)
    settings = frame.attrs.get("settings")  # of each recipe, kept by `ablations.load_study`
    return plain if settings is None else plain.assign(settings=plain["recipe"].map(settings))


def _plots(
    results: pd.DataFrame, curves: pd.DataFrame | None, predictions: pd.DataFrame | None, measure: Measure, view: View
) -> list[Plot]:
    """Return the figures that these frames have."""
    kind = str(results["kind"].iloc[0])
    if kind in _DESIGNED:
        raise ReportError(f"figures of {kind} studies need the study's design: use `ablations report`")
    runs = with_names(on_compared_images(results), view)
    title = view.title or str(results["study"].iloc[0])
    steps = _steps(runs)
    grid = factorial_of({row: _flags(row) for row in runs["row"].unique()}) if kind == "grid" else None
    tables = report_tables(runs, title, grid=grid, measure=measure, steps=steps)
    rows, labels = shown_rows(runs, tables, view, measure), dict(zip(runs["row"], runs["label"], strict=True))
    tables = [select(table, rows, labels, reorder=table.name != "roadmap") for table in tables]
    lines = pd.DataFrame(columns=["row"]) if curves is None else with_names(_plain(curves), view)
    classes = None if predictions is None else class_results(runs, _Read(predictions, runs))
    classes = classes and select_classes(classes, rows)
    return [
        *study_plots(title, runs, tables, lines, pd.DataFrame(), grid, measure, steps, rows, bool(view.order)),
        *(class_plots(title, runs, classes) if classes else ()),
    ]


def _steps(runs: pd.DataFrame) -> Roadmap | None:
    """Return the roadmap that the runs are of, with their labels; None for another kind of study."""
    names = [name for name in runs["roadmap"].unique() if isinstance(name, str)]
    labels = dict(zip(runs["row"], runs["label"], strict=True))
    return with_labels(roadmap(names[0]), View(labels=labels)) if names else None


def _flags(row: str) -> dict[str, str]:
    """Return the values in the name of a grid's row, `norm=bn,kernel_size=3`."""
    pairs = (part.partition("=") for part in split_commas(row))
    return {flag: value for flag, _, value in pairs}


class _Read:
    """The predictions of each row and seed, from a frame of them; rows that share their runs share predictions."""

    def __init__(self, predictions: pd.DataFrame, runs: pd.DataFrame) -> None:
        frame = _plain(predictions)
        by_run = dict(list(frame.groupby("run", sort=False)))
        lines = runs[["row", "seed", "run"]].itertuples(index=False, name=None)
        self.runs = {(str(row), int(seed)): by_run[run] for row, seed, run in lines if run in by_run}
        self.classes = predictions.attrs.get("classes") or _class_names(frame)
        training = predictions.attrs.get("training_images")
        self.training = None if training is None else np.array(training)

    def __call__(self, row: str, seed: int) -> Predicted | None:
        lines = self.runs.get((row, seed))
        if lines is None:
            return None
        predicted, labels = (lines[name].to_numpy(np.int64) for name in ("predicted", "label"))
        indices = None if lines["image"].isna().any() else lines["image"].to_numpy(np.int64)
        name = str(lines["run"].iloc[0])
        return Predicted(name, predicted, labels, indices, classes=self.classes, training=self.training)


def _class_names(frame: pd.DataFrame) -> tuple[str, ...] | None:
    """Return the names of the classes that occur in predictions; None if they have none."""
    both = [frame[["label", "label_name"]], frame[["predicted", "predicted_name"]]]
    pairs = pd.concat([pair.set_axis(["class", "name"], axis=1) for pair in both]).dropna().drop_duplicates()
    names = dict(zip(pairs["class"].astype(int), pairs["name"], strict=True))
    return tuple(names.get(place, str(place)) for place in range(max(names, default=-1) + 1)) or None
