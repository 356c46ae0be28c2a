"""The tables of results per class: recall, balanced accuracy, and what is confused with what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from reports.header import facts
from reports.kind_words import WORDS
from reports.marks import row_mark_notes
from reports.numbers import fixed
from reports.per_class import ClassResults
from reports.tables import Cell, Column, Footnotes, Table, mean_sd

FEW = 12  # classes that are shown one and all
_LOWEST, _HIGHEST = 6, 4  # of more
_PAIRS = 15  # confusions shown of more classes
_NAMED = 8  # rows without a finished run
_NAME = 28  # letters of a class's name in a heading


def class_tables(title: str, runs: pd.DataFrame, results: ClassResults) -> tuple[Table, Table]:
    """Tabulate each row's recall per class, and the confusions of the row with the highest balanced accuracy."""
    return _recall_table(title, runs, results), _confusion_table(title, runs, results)


def shown_classes(results: ClassResults, few: int = FEW, lowest: int = _LOWEST, highest: int = _HIGHEST) -> list[int]:
    """Return the classes to show: all that have images if they are few, else those of the lowest and highest recall.

    Recall is the mean over rows; the highest comes last.
    """
    there = np.flatnonzero(results.images)
    if len(there) <= few:
        return there.tolist()
    order = there[np.argsort(_mean_recall(results)[there], kind="stable")]
    return [*order[:lowest].tolist(), *order[len(order) - highest :].tolist()]


def _mean_recall(results: ClassResults) -> np.ndarray:
    """Return each class's recall (%), averaged over rows (C)."""
    return results.recall["recall_mean"].to_numpy().reshape(-1, len(results.names)).mean(axis=0)


def _recall_table(title: str, runs: pd.DataFrame, results: ClassResults) -> Table:
    """A line per row: top-1, balanced accuracy, and the recall of each shown class."""
    shown = shown_classes(results)
    recall = results.recall.set_index("row")
    by_row = {str(row): group for row, group in runs.groupby("row", sort=False)}
    footnotes, lines = Footnotes(), []
    for row in results.rows.to_dict("records"):
        mine = recall.loc[[row["row"]]]
        cells = [mean_sd(mine["recall_mean"].iloc[place], mine["recall_sd"].iloc[place], 1) for place in shown]
        top1, balanced = (mean_sd(row[f"{name}_mean"], row[f"{name}_sd"]) for name in ("top1", "balanced"))
        marks = footnotes.marks(row_mark_notes(by_row[row["row"]]))
        lines.append((Cell(row["label"], marks), *map(Cell, (top1, balanced, *cells))))
    sizes = {int(results.images[place]) for place in shown}
    equal = f" of each class's {sizes.pop():,} images" if len(sizes) == 1 else ""
    headings = [_name(results, place) + ("" if equal else f" (n = {results.images[place]:,})") for place in shown]
    return Table(
        name="classes",
        title=f"{title}: recall per class",
        subtitle=facts(runs),
        legend=" ".join(_recall_legend(results, shown)),
        columns=(
            Column("label", WORDS[str(runs["kind"].iloc[0])].subject, number=False),
            Column("top1_mean", "top-1 (%)"),
            Column("balanced_mean", "balanced accuracy (%)", short="balanced (%)"),
            *(
                Column(f"recall_{place}", heading, f"recall (%){equal}")
                for place, heading in zip(shown, headings, strict=True)
            ),
        ),
        rows=tuple(lines),
        sections=(),
        notes=tuple(footnotes.texts),
        frame=results.recall,
    )


def _name(results: ClassResults, place: int) -> str:
    """Return a class's name, shortened."""
    name = results.names[place]
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _recall_legend(results: ClassResults, shown: Sequence[int]) -> Iterator[str]:
    """How to read the table, what the baseline is, and what is not recorded."""
    yield (
        "Recall: the share of a class's n evaluated images that are classified correctly, mean over seeds ± standard "
        "deviation. It covers seed-to-seed variance, not the sampling of images: of 20 images, one is 5 pp. Balanced "
        "accuracy: the mean recall over classes. Nothing is tested here."
    )
    there = int((results.images > 0).sum())
    if len(shown) < there:
        yield (
            f"Shown are {len(shown)} of {there:,} classes, those of the lowest and of the highest recall averaged over "
            "rows; the CSV table has all. The extremes of many classes are partly due to chance."
        )
    if there < len(results.names):
        yield f"{len(results.names) - there} of {len(results.names)} classes have no evaluated images."
    yield from describe_absent(results)
    yield from describe_baseline(results)
    if results.training is not None:
        counts = ", ".join(f"{_name(results, place)} {results.training[place]:,}" for place in shown)
        same = len(results.largest_classes) == len(results.names)
        yield f"Training images: {f'{results.training[0]:,} of each class' if same else counts}."
    yield from results.notes


def describe_absent(results: ClassResults) -> Iterator[str]:
    """Name the rows that are missing because none of their runs is finished."""
    if results.absent:
        more = f" and {len(results.absent) - _NAMED} more" if len(results.absent) > _NAMED else ""
        yield f"No finished run: {', '.join(results.absent[:_NAMED])}{more}."


def describe_baseline(results: ClassResults) -> Iterator[str]:
    """Say what predicting the class with most training images for every image gives; nothing if it is not recorded."""
    largest, top1 = results.largest_classes, results.largest_class_top1
    if top1 is None:
        return
    if len(largest) == 1:
        guess = f"predicting the class with most training images ({largest[0]}) for every image has"
    else:
        guess = (
            f"predicting one of the {len(largest):,} classes with most training images for every image has, on average,"
        )
    balanced = 100 / int((results.images > 0).sum())
    means = f"a top-1 of {fixed(top1, 2)}% and a balanced accuracy of {fixed(balanced, 2)}%"
    yield f"Largest-class baseline: {guess} {means}."


def baseline_notes(runs: pd.DataFrame) -> list[str]:
    """Say, for a summary, what guessing the largest class gives, if the classes have unequal numbers of test images."""
    columns = ["largest_class_top1", "chance_top1", "num_classes"]
    known = runs[columns].dropna().astype(float).drop_duplicates() if set(columns) <= set(runs) else pd.DataFrame()
    unequal = known[(known["chance_top1"] - 100 / known["num_classes"]).abs() > 1e-9] if len(known) else known
    shown = sorted({fixed(value, 2) for value in unequal.get("largest_class_top1", ())}, key=float)
    top1 = " to ".join(dict.fromkeys([*shown[:1], *shown[-1:]]))
    return [f"Largest-class baseline: predicting the class with most training images gives {top1}%."] if top1 else []


def best_row(results: ClassResults) -> tuple[str, str]:
    """Return the name and the label of the row with the highest balanced accuracy."""
    best = results.rows.iloc[int(results.rows["balanced_mean"].argmax())]
    return str(best["row"]), str(best["label"])


def _confusion_table(title: str, runs: pd.DataFrame, results: ClassResults) -> Table:
    """The confusion matrix of one row, or of many classes its most frequent confusions."""
    row, label = best_row(results)
    there = np.flatnonzero(results.images).tolist()
    columns, lines = (_matrix if len(results.names) <= FEW else _most_confused)(results, row, there)
    few = len(results.names) <= FEW
    what = "confusion matrix" if few else "most frequent confusions"
    return Table(
        name="confusion",
        title=f"{title}: {what} of {label}",
        subtitle=facts(runs),
        legend=" ".join(_confusion_legend(results, few)),
        columns=columns,
        rows=lines,
        sections=(),
        notes=(),
        frame=results.pairs,
    )


def _confusion_legend(results: ClassResults, few: bool) -> Iterator[str]:
    if few:
        yield "Of the images of each class (n), the share that is predicted as each class (%), mean over seeds."
    else:
        yield (
            f"The {_PAIRS} pairs of a class and another one predicted for it with most images. Images: mean over "
            "seeds; share: of the class's n images, mean over seeds ± standard deviation."
        )
    if len(results.rows) > 1:
        yield (
            f"Shown is the row with the highest balanced accuracy of {len(results.rows)}; the CSV table has all rows, "
            "without pairs that do not occur."
        )
    yield from results.notes


_Lines = tuple[tuple[Column, ...], tuple[tuple[Cell, ...], ...]]


def _matrix(results: ClassResults, row: str, there: Sequence[int]) -> _Lines:
    """A line per class, a column per predicted class."""
    shares = confusion_shares(results, row)
    columns = [Column("class", "class", number=False), Column("test_images", "n")]
    columns += [
        Column(f"predicted_{place}", _name(results, place), "predicted as (%)") for place in range(len(results.names))
    ]
    lines = [
        (
            Cell(results.names[place]),
            Cell(f"{results.images[place]:,}"),
            *(Cell(fixed(share, 1) if share else "0") for share in shares[place]),
        )
        for place in there
    ]
    return tuple(columns), tuple(lines)


def confusion_shares(results: ClassResults, row: str) -> np.ndarray:
    """Return a row's confusion matrix (C, C): the share (%) of each class's images predicted as each class."""
    shares = np.zeros((len(results.names), len(results.names)))
    mine = results.pairs[results.pairs["row"] == row]
    shares[mine["class_index"], mine["predicted_index"]] = mine["share_mean"]
    return shares


def most_confused(results: ClassResults, row: str) -> pd.DataFrame:
    """Return the pairs of different classes of a row, those with most images first."""
    mine = results.pairs[results.pairs["row"] == row]
    wrong = mine[mine["class_index"] != mine["predicted_index"]]
    return wrong.sort_values(["images", "share_mean"], ascending=False, kind="stable")


def _most_confused(results: ClassResults, row: str, there: Sequence[int]) -> _Lines:
    """A line per pair of a class and one that is predicted in its place."""
    columns = (
        Column("class", "class", number=False),
        Column("predicted", "predicted as", number=False),
        Column("test_images", "n"),
        Column("images", "images"),
        Column("share", "share (%)"),
    )
    lines = [
        (
            Cell(pair["class"]),
            Cell(pair["predicted"]),
            Cell(f"{pair['test_images']:,}"),
            Cell(fixed(pair["images"], 1)),
            Cell(mean_sd(pair["share_mean"], pair["share_sd"])),
        )
        for pair in most_confused(results, row).head(_PAIRS).to_dict("records")
    ]
    return columns, tuple(lines)
