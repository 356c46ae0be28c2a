"""Recall per class, balanced accuracy, confusions and the largest-class baseline, from the predictions of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.predictions import Predicted

Counts = NDArray[np.int64]


def recalls(labels: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> NDArray[np.float64]:
    """Return the recall (%) of each class (C), the share of its images that are classified correctly; NaN: none."""
    images = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[predicted == labels], minlength=classes)
    with np.errstate(invalid="ignore"):
        return 100 * right / images


def balanced_accuracy(labels: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> float:
    """Return the mean recall (%) over the classes that have images."""
    return float(np.nanmean(recalls(labels, predicted, classes)))


def largest_class_top1(labels: NDArray[np.integer], training: NDArray[np.integer]) -> float:
    """Return top-1 (%) on images with these labels of predicting the class with most training images for all of them.

    `training` has the number of training images of each class (C). If several classes have as many, it is the mean of
    their top-1.
    """
    largest = np.flatnonzero(training == training.max())
    return float(100 * np.bincount(labels, minlength=len(training))[largest].mean() / len(labels))


@dataclass(frozen=True, eq=False)
class ClassResults:
    """What the rows of a study get right and wrong of each class, on the images that all of its runs read.

    Attributes:
        names: Names of the classes (C); numbers if not recorded.
        images: Evaluated images of each class (C).
        training: Training images of each class (C); None if not recorded.
        rows: A line per row: row, label, seeds, top1_mean, top1_sd, balanced_mean, balanced_sd (%).
        recall: A line per row and class: row, label, class, training_images, test_images, seeds, recall_mean,
            recall_sd (%); the classes in their order.
        pairs: A line per row, class and predicted class that occurs: row, label, class, predicted, test_images, images
            (mean over seeds), share_mean, share_sd (% of the class's images), seeds, and both classes' numbers.
        notes: What is not recorded, and which runs are left out.
        absent: Labels of the rows without a finished run.
    """

    names: tuple[str, ...]
    images: Counts
    training: NDArray[np.integer] | None
    rows: pd.DataFrame
    recall: pd.DataFrame
    pairs: pd.DataFrame
    notes: tuple[str, ...]
    absent: tuple[str, ...] = ()

    @property
    def largest_classes(self) -> list[str]:
        """Names of the classes with most training images; empty if these are not recorded."""
        if self.training is None:
            return []
        return [self.names[place] for place in np.flatnonzero(self.training == self.training.max())]

    @property
    def largest_class_top1(self) -> float | None:
        """Top-1 (%) of predicting the class with most training images for every image; None if not recorded."""
        if self.training is None:
            return None
        return largest_class_top1(np.repeat(np.arange(len(self.images)), self.images), self.training)


Read = Callable[[str, int], Predicted | None]
_Evaluated = tuple[NDArray[np.integer], NDArray[np.integer]]  # labels and predicted classes of a run (N)


def class_results(runs: pd.DataFrame, read: Read) -> ClassResults | None:
    """Gather the results per class of a study.

    Args:
        runs: The study's tidy frame, see `Report`.
        read: Returns the predictions of a row and seed; None if they are missing.

    Returns:
        The results of the runs whose predictions are there; None if there are none.
    """
    done = runs[runs["status"] == "done"]
    places = [(str(row), int(seed)) for row, seed in zip(done["row"], done["seed"], strict=True)]
    found = {place: run for place in places if (run := read(*place)) is not None and len(run.labels)}
    kept = {place: run for place, run in found.items() if _same_images(run, next(iter(found.values())))}
    if not kept:
        return None
    evaluated = dict(zip(kept, _on_common_images(list(kept.values())), strict=True))
    recorded = next((run.classes for run in kept.values() if run.classes), ())
    training = next((run.training for run in kept.values() if run.training is not None), None)
    count = max(len(recorded), *(int(max(map(np.max, arrays))) + 1 for arrays in evaluated.values()))
    names = (*recorded, *map(str, range(len(recorded), count)))
    images = np.bincount(next(iter(evaluated.values()))[0], minlength=count).astype(np.int64)
    by_row = {row: [evaluated[place] for place in evaluated if place[0] == row] for row, _ in evaluated}
    labels = dict(zip(runs["row"].astype(str), runs["label"].astype(str), strict=True))
    heads = {row: {"row": row, "label": labels[row], "seeds": len(seeds)} for row, seeds in by_row.items()}
    recall = {row: np.array([recalls(*seed, count) for seed in seeds]) for row, seeds in by_row.items()}
    counts = _Counts(names, images, None if training is None or len(training) != count else training)
    return ClassResults(
        *(names, images, counts.training),
        rows=pd.DataFrame([heads[row] | _row_line(seeds, recall[row]) for row, seeds in by_row.items()]),
        recall=pd.concat([_recall_lines(heads[row], recall[row], counts) for row in by_row], ignore_index=True),
        pairs=pd.concat([_pair_lines(heads[row], by_row[row], counts) for row in by_row], ignore_index=True),
        notes=tuple(_notes(places, kept, bool(recorded), counts)),
        absent=tuple(dict.fromkeys(label for row, label in labels.items() if row not in {row for row, _ in places})),
    )


@dataclass(frozen=True, eq=False)
class _Counts:
    """The classes' names, evaluated images and training images (None: not recorded)."""

    names: tuple[str, ...]
    images: Counts
    training: NDArray[np.integer] | None


def _same_images(run: Predicted, first: Predicted) -> bool:
    """Whether a run's images are of the same test set as those of the first run."""
    if run.indices is None or first.indices is None:
        return np.array_equal(run.labels, first.labels)
    return not run.disagrees_with(first)


def _on_common_images(runs: Sequence[Predicted]) -> list[_Evaluated]:
    """Return labels and predicted classes of each run on the images that all of them read."""
    indices = [run.indices for run in runs if run.indices is not None]
    if len(indices) < len(runs):  # as many images with the same labels, in the same order
        return [(run.labels, run.predicted) for run in runs]
    common = reduce(np.intersect1d, indices)
    kept = [np.isin(mine, common) for mine in indices]
    return [(run.labels[here], run.predicted[here]) for run, here in zip(runs, kept, strict=True)]


def _row_line(seeds: Sequence[_Evaluated], recall: NDArray[np.float64]) -> dict[str, float]:
    """Return a row's top-1 and balanced accuracy over its seeds; `recall` has a line per seed."""
    from reports.statistics.values import summarise  # here, so that launching does not load the statistics

    top1 = summarise(100 * float((labels == predicted).mean()) for labels, predicted in seeds)
    balanced = summarise(np.nanmean(recall, axis=1))
    line = {"top1_mean": top1.mean, "top1_sd": top1.sd}
    return line | {"balanced_mean": balanced.mean, "balanced_sd": balanced.sd}


def _recall_lines(head: Mapping[str, Any], recall: NDArray[np.float64], counts: _Counts) -> pd.DataFrame:
    """Return a line per class of a row."""
    sd = recall.std(axis=0, ddof=1) if len(recall) > 1 else np.full(recall.shape[1], np.nan)
    training = pd.array([pd.NA] * len(sd) if counts.training is None else counts.training, dtype="Int64")
    lines = pd.DataFrame({"class": counts.names, "training_images": training, "test_images": counts.images})
    return lines.assign(recall_mean=recall.mean(axis=0), recall_sd=sd).assign(**head)[_RECALL]


_RECALL = ["row", "label", "class", "training_images", "test_images", "seeds", "recall_mean", "recall_sd"]


def _pair_lines(head: Mapping[str, Any], seeds: Sequence[_Evaluated], counts: _Counts) -> pd.DataFrame:
    """Return a line per class and predicted class that occurs in a row, with the number of images over its seeds."""
    size = len(counts.names)
    coded = [np.unique(labels.astype(np.int64) * size + predicted, return_counts=True) for labels, predicted in seeds]
    codes, places = np.unique(np.concatenate([one for one, _ in coded]), return_inverse=True)
    each = np.zeros((len(seeds), len(codes)))  # a seed without a pair has none of its images
    seed_of = np.repeat(np.arange(len(seeds)), [len(one) for one, _ in coded])
    each[seed_of, places] = np.concatenate([number for _, number in coded])
    true, predicted = np.divmod(codes, size)
    share = 100 * each / counts.images[true]
    lines = pd.DataFrame(
        {
            "class": np.array(counts.names, dtype=object)[true],
            "predicted": np.array(counts.names, dtype=object)[predicted],
            "test_images": counts.images[true],
            "images": each.mean(axis=0),
            "share_mean": share.mean(axis=0),
            "share_sd": share.std(axis=0, ddof=1) if len(seeds) > 1 else np.nan,
            "class_index": true,
            "predicted_index": predicted,
        }
    )
    return lines.assign(**head)[_PAIRS]


_PAIRS = ["row", "label", "class", "predicted", "test_images", "images", "share_mean", "share_sd", "seeds"]
_PAIRS += ["class_index", "predicted_index"]


def _notes(
    places: Sequence[tuple[str, int]], kept: Mapping[tuple[str, int], Predicted], named: bool, counts: _Counts
) -> Iterator[str]:
    """Say what is not recorded, and which finished runs are left out."""
    if not named:
        yield "Names of classes are not recorded, because an earlier version trained these runs: classes are numbered."
    if counts.training is None:
        yield (
            "Training images per class are not recorded, because an earlier version trained these runs: there is no "
            "largest-class baseline."
        )
    left_out: dict[str, list[str]] = {}
    for row, seed in places:
        if (row, seed) not in kept:
            left_out.setdefault(row, []).append(str(seed))
    if left_out:
        named_runs = "; ".join(f"{row} seed {', '.join(seeds)}" for row, seeds in left_out.items())
        yield f"Left out, because their predictions are missing or those of other data: {named_runs}."
