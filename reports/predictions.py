"""A run's prediction for each test image, and the comparison of runs on the images that both read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.errors import ReportError
from reports.statuses import NOT_COMPARED

Correct = NDArray[np.bool_]  # for each image, whether the run named its class


@dataclass(frozen=True, eq=False)
class Predicted:
    """The predictions of run `name` for the N test images that it read.

    predicted  predicted class of each (N)
    labels     their labels (N)
    indices    which images of the test set they are (N), ascending; None: not recorded
    losses     cross-entropy of each (N); None: not recorded
    images     number of images in the test set; None: not recorded
    data       checksum of the dataset; None: not recorded
    classes    names of the classes (C); None: not recorded
    training   training images of each class (C); None: not recorded
    """

    name: str
    predicted: NDArray[np.integer]
    labels: NDArray[np.integer]
    indices: NDArray[np.integer] | None = None
    losses: NDArray[np.floating] | None = None
    images: int | None = None
    data: str | None = None
    classes: tuple[str, ...] | None = None
    training: NDArray[np.integer] | None = None

    @property
    def correct(self) -> Correct:
        """Whether each image was classified correctly (N)."""
        return self.predicted == self.labels

    @property
    def unknown(self) -> str:
        """Say why it is unknown which images were read."""
        images = "an unknown number of" if self.images is None else f"{self.images:,}"
        read = f"evaluated on {len(self.labels):,} of {images} test images"
        return f"{read}, and the version that trained it did not record which"

    def disagrees_with(self, other: Predicted) -> str:
        """Say what rules out that two runs saw the same images: `its data is not that`; empty if nothing does."""
        if None not in (self.data, other.data) and self.data != other.data:
            return "its data is not that"
        if None not in (self.images, other.images) and self.images != other.images:
            return "the number of its test images is not that"
        ours, theirs = _places(self, other)
        return "" if (self.labels[ours] == other.labels[theirs]).all() else "its test labels are not those"

    def measures(self, indices: NDArray[np.integer]) -> tuple[float, float | None]:
        """Return top-1 (%) and mean loss on these images; the loss is None if not recorded."""
        assert self.indices is not None
        kept = np.isin(self.indices, indices)
        loss = None if self.losses is None else float(self.losses[kept].mean(dtype=np.float64))
        return 100 * int(self.correct[kept].sum()) / max(int(kept.sum()), 1), loss


def _places(one: Predicted, other: Predicted) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where the images that both read are stored in each."""
    if one.indices is None or other.indices is None:
        raise ReportError(next(f"run {run.name}: {run.unknown}" for run in (one, other) if run.indices is None))
    _, ours, theirs = np.intersect1d(one.indices, other.indices, assume_unique=True, return_indices=True)
    return ours, theirs


def joined(ours: Predicted, base: Predicted) -> tuple[Correct, Correct]:
    """Return what each of two runs classified correctly among the test images that both read, matched by index.

    Raises:
        ReportError: If it is unknown which images a run read, or the runs had other data.
    """
    if odd := ours.disagrees_with(base):
        raise ReportError(f"run {ours.name}: {odd} of run {base.name}")
    here, there = _places(ours, base)
    return ours.correct[here], base.correct[there]


def on_compared_images(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a study's runs with top-1 and loss on the test images that all of them read.

    A run that is not compared has that as its status, with the reason. Results published without the images that runs
    were compared on are returned as they are.
    """
    if "not_compared" not in runs:
        return runs
    left_out = runs["not_compared"].notna()
    here = runs["compared_top1"].notna()
    status, reason = runs["status"].mask(left_out, NOT_COMPARED), runs["reason"].mask(left_out, runs["not_compared"])
    measured = {name: runs[name].mask(here, runs[f"compared_{name}"]) for name in ("top1", "loss")}
    return runs.assign(status=status, reason=reason, **measured)


def images_of(runs: pd.DataFrame) -> int | None:
    """Return the number of test images that a study's runs are compared on; None if not recorded."""
    known = runs["compared_images"].dropna() if "compared_images" in runs else pd.Series(dtype=float)
    return int(known.iloc[0]) if len(known) and known.nunique() == 1 else None


def describe_images(runs: pd.DataFrame) -> str:
    """Say on how many test images a study's runs are compared, if not on all: `on 9,998 of 10,000 test images`."""
    compared, known = images_of(runs), runs["test_images"].dropna() if "test_images" in runs else ()
    images = max((int(value) for value in known), default=None)
    if compared is None or images is None or compared == images:
        return ""
    return f"on the {compared:,} of {images:,} test images that all runs read"


def unread_note(runs: pd.DataFrame) -> str:
    """Say which test images a row's runs could not read: `evaluated on 9,999 of 10,000 test images: not read: …`."""
    if "evaluated_images" not in runs:
        return ""
    done = runs[(runs["evaluated_images"] < runs["test_images"]).fillna(False)]
    notes: dict[str, list[int]] = {}
    for line in done.to_dict("records"):
        names = f"; not read: {line['unread']}" if isinstance(line["unread"], str) else ""
        text = f"evaluated on {line['evaluated_images']:,.0f} of {line['test_images']:,.0f} test images{names}"
        notes.setdefault(text, []).append(int(line["seed"]))
    if len(notes) == 1 and len(done) == len(runs):
        return next(iter(notes))
    return "; ".join(f"seed{'s' * (len(s) > 1)} {', '.join(map(str, s))} {text}" for text, s in notes.items())


__all__ = ["Correct", "Predicted", "describe_images", "images_of", "joined", "on_compared_images", "unread_note"]
