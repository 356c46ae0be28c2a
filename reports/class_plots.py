"""The figures of results per class: recall of each row and class, and a confusion matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from reports.class_tables import (
    best_row,
    confusion_shares,
    describe_absent,
    describe_baseline,
    most_confused,
    shown_classes,
)
from reports.header import facts
from reports.marks import row_mark_notes
from reports.per_class import ClassResults
from reports.report import Plot
from reports.tables import Footnotes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOWEST, _HIGHEST, _FEW = 8, 4, 12  # classes with columns of their own
_MATRIX = 12  # classes of a matrix


def class_plots(title: str, runs: pd.DataFrame, results: ClassResults) -> Iterator[Plot]:
    """Return the heat map of recall per row and class, and the confusion matrix of one row."""
    yield _recall_plot(title, runs, results)
    yield _confusion_plot(title, runs, results)


def _recall_plot(title: str, runs: pd.DataFrame, results: ClassResults) -> Plot:
    shown = shown_classes(results, _FEW, _LOWEST, _HIGHEST)
    there = int((results.images > 0).sum())
    caption = (
        "Recall (%) per class: mean over seeds of the share of a class's evaluated images that is classified correctly."
    )
    if len(shown) < there:
        caption += f" Of {there:,} classes, the {_LOWEST} of the lowest and the {_HIGHEST} of the highest mean recall."
    caption = " ".join([caption, *describe_absent(results), *describe_baseline(results)])
    heading, count = f"{title}: recall per class", len(results.names)

    def draw() -> Figure:
        from reports.figures.classes import Cells, class_map

        by_row = {str(row): group for row, group in runs.groupby("row", sort=False)}
        notes = Footnotes()
        sides = [
            (str(label), notes.marks(row_mark_notes(by_row[row])))
            for row, label in zip(results.rows["row"], results.rows["label"], strict=True)
        ]
        recall = results.recall["recall_mean"].to_numpy().reshape(-1, count)
        places = np.arange(recall.size).reshape(-1, count)
        heads = [results.names[place] for place in shown]
        between = _LOWEST if len(shown) < there else 0
        cells = Cells(sides, heads, recall[:, shown], places[:, shown], "row", "recall (%) of class", between)
        return class_map(cells, heading, facts(runs), caption, notes.texts)

    return Plot("classes", heading, caption, results.recall, draw)


def _confusion_plot(title: str, runs: pd.DataFrame, results: ClassResults) -> Plot:
    row, label = best_row(results)
    heading = f"{title}: confusion matrix of {label}"
    caption = (
        "Of the images of each class (lines), the share (%) that is predicted as each class (columns), mean over seeds."
    )
    shown = np.flatnonzero(results.images).tolist()
    if len(results.names) > _MATRIX:
        pairs = most_confused(results, row)[["class_index", "predicted_index"]].to_numpy().ravel()
        shown = sorted(_first(pairs)) or shown[:_MATRIX]
        caption += f" Of {len(results.names):,} classes, those of the most frequent confusions."
    if len(results.rows) > 1:
        caption += f" The row has the highest balanced accuracy of {len(results.rows)}."

    def draw() -> Figure:
        from reports.figures.classes import Cells, class_map

        columns = shown if len(results.names) > _MATRIX else list(range(len(results.names)))
        mine = results.pairs[results.pairs["row"] == row]
        places = np.full((len(results.names),) * 2, -1)
        places[mine["class_index"], mine["predicted_index"]] = mine.index
        heads = [results.names[place] for place in columns]
        names: list[tuple[str, tuple[int, ...]]] = [(results.names[place], ()) for place in shown]
        grid = np.ix_(shown, columns)
        cells = Cells(names, heads, confusion_shares(results, row)[grid], places[grid], "class", "predicted as (%)")
        return class_map(cells, heading, facts(runs), caption)

    return Plot("confusion", heading, caption, results.pairs, draw)


def _first(pairs: np.ndarray) -> list[int]:
    """Return the first classes of these pairs, as many as a matrix holds."""
    return list(dict.fromkeys(pairs.tolist()))[:_MATRIX]
