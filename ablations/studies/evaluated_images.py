"""Which test images a run was evaluated on, its prediction for each, and what runs of a study have in common."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.store import DamagedError, read_json, write_bytes
from reports.per_class import balanced_accuracy, largest_class_top1
from reports.predictions import Predicted

if TYPE_CHECKING:
    from ablations.data.splits import DataSet
    from ablations.training.evaluation import Evaluation

SETTLED_STEPS = 50  # training steps, at least, that the final training accuracy is averaged over
_NAMED = 3  # unread images named in a table


def train_top1(log: Sequence[Mapping[str, Any]]) -> float | None:
    """Return top-1 (%) on augmented training images at the end of training; None without a log.

    It is that of the last line of the log, with the lines before it if it covers fewer than `SETTLED_STEPS` steps.
    """
    steps = [0, *(line["step"] for line in log)]
    windows = [(after - before, line["top1"]) for (before, after), line in zip(pairwise(steps), log, strict=True)]
    covered, correct = 0, 0.0
    for width, top1 in reversed(windows):
        covered, correct = covered + width, correct + width * top1
        if covered >= SETTLED_STEPS:
            break
    return correct / covered if covered else None


def evaluated(evaluation: Evaluation, unread: Mapping[int, str]) -> dict[str, Any]:
    """Return what a result records of the test images: how many, how many were read, which not, and chance."""
    facts: dict[str, Any] = {"test_images": evaluation.images, "evaluated_images": len(evaluation.labels)}
    facts |= {"chance_top1": _chance(evaluation.labels.numpy())}
    return facts | ({"unread": {str(index): reason for index, reason in unread.items()}} if unread else {})


def per_class(evaluation: Evaluation, data: DataSet) -> dict[str, Any]:
    """Return a result's balanced accuracy (%), and top-1 (%) of predicting the class with most training images."""
    labels, predicted = evaluation.labels.numpy(), evaluation.predictions.numpy()
    facts = {"balanced_accuracy": balanced_accuracy(labels, predicted, len(data.classes))}
    return facts | {"largest_class_top1": largest_class_top1(labels, _training_images(data))}


def _training_images(data: DataSet) -> np.ndarray:
    """Return the number of training images of each class (C)."""
    return np.bincount(data.train.labels.cpu().numpy(), minlength=len(data.classes))


def _chance(labels: np.ndarray) -> float:
    """Top-1 (%) of predicting the most frequent class for every image."""
    return float(100 * np.bincount(labels).max() / len(labels))


def write_predictions(folder: Path, evaluation: Evaluation, data: DataSet) -> str:
    """Write index, predicted class, label and loss of each test image that was read; return the file's checksum.

    The file also has the classes' names, and the number of training images of each class.
    """
    written = io.BytesIO()
    np.savez(
        written,
        predicted=evaluation.predictions.numpy().astype(np.uint16),
        labels=evaluation.labels.numpy().astype(np.uint16),
        indices=evaluation.indices.numpy().astype(np.uint32),
        losses=evaluation.losses.float().numpy(),
        classes=np.array(data.classes, dtype=np.str_),
        training_images=_training_images(data).astype(np.uint32),
    )
    write_bytes(folder / "predictions.npz", written.getvalue())
    return sha256(written.getvalue()).hexdigest()


def read_predictions(folder: Path, result: Mapping[str, Any]) -> Predicted | None:
    """Read the predictions of a finished run; None if they are missing or not those of its result."""
    try:
        written = (folder / "predictions.npz").read_bytes()
        if sha256(written).hexdigest() != result["predictions_sha256"]:
            return None
        with np.load(io.BytesIO(written)) as stored:
            arrays = {name: stored[name] for name in stored.files}
        labels, predicted = arrays["labels"], arrays["predicted"]
    except (OSError, ValueError, KeyError):
        return None
    images = _test_images(folder, result, len(labels))
    indices = arrays.get("indices")
    if indices is None and images == len(labels):  # written before indices were
        indices = np.arange(len(labels))
    names = arrays.get("classes", result.get("classes"))
    return Predicted(
        *(folder.name, predicted, labels, indices, arrays.get("losses"), images, result.get("data_checksum")),
        classes=None if names is None else tuple(map(str, names)),
        training=arrays.get("training_images"),
    )


def _test_images(folder: Path, result: Mapping[str, Any], predicted: int) -> int | None:
    """Return the number of test images; results of earlier versions do not have it, but the run's environment does."""
    if "test_images" in result:
        return int(result["test_images"])
    if "damaged" not in result:  # nothing was skipped
        return predicted
    try:
        return int(read_json(folder / "environment.json")["sessions"][-1]["data"]["test"])
    except (OSError, DamagedError, LookupError, TypeError):
        return None


@dataclass(frozen=True)
class EvaluatedImages:
    """The test images of a finished run: how many there are, how many it read, and which it did not.

    Everything is None if not recorded. `unread` has their names, `indices` their indices, which earlier versions did
    not record. `chance` is the top-1 (%) of predicting the most frequent class.
    """

    images: int | None = None
    read: int | None = None
    unread: tuple[str, ...] | None = None
    indices: tuple[str, ...] | None = None
    chance: float | None = None

    @property
    def names(self) -> str | None:
        """Name the unread images, the first few in full."""
        if not self.unread:
            return None
        rest = len(self.unread) - _NAMED
        return "; ".join(self.unread[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def evaluated_images(folder: Path, result: Mapping[str, Any]) -> EvaluatedImages:
    """Return the test images of a finished run, from its result or, if an earlier version wrote it, its predictions."""
    if "test_images" in result:
        unread = result.get("unread", {})
        names, indices = tuple(_name(reason) for reason in unread.values()), tuple(unread)
        images, read = result["test_images"], result["evaluated_images"]
        return EvaluatedImages(images, read, names, indices, result["chance_top1"])
    predicted = read_predictions(folder, result)
    if predicted is None:
        return EvaluatedImages() if "damaged" in result else EvaluatedImages(unread=(), indices=())
    labels, images = predicted.labels, predicted.images
    chance = _chance(labels) if len(labels) else None
    skipped = [_name(reason) for reason in result.get("damaged", ())]
    unread = tuple(name for name in skipped if "val" in name.partition("/")[0])  # the folder's or shard's name
    known = images is not None and images - len(labels) == len(unread)
    return EvaluatedImages(images, len(labels), unread if known else None, () if known and not unread else None, chance)


def _name(reason: str) -> str:
    """Return the image's name from why it cannot be read."""
    return reason.partition(": ")[0]


@dataclass(frozen=True)
class Compared:
    """A run's results on the test images that all runs of the study read, or why it is left out."""

    images: int | None = None
    top1: float | None = None
    loss: float | None = None
    left_out: str | None = None


def on_common_images(
    results: Mapping[str, Mapping[str, Any]],
    tests: Mapping[str, EvaluatedImages],
    read: Callable[[str], Predicted | None],
) -> dict[str, Compared]:
    """Compute the results of a study's finished runs on the test images that all of them read.

    Args:
        results: The result of each finished run by name.
        tests: The test images of each.
        read: Reads the predictions of a run; called only if runs read different images.

    Returns:
        For each run its results on the common images. A run with other data than most, or of which it is not known
        which images it read although others read different ones, is left out.
    """
    checksums = _checksums(results)
    usual = Counter(filter(None, checksums.values())).most_common(1)
    compared = {
        run: Compared(left_out=f"made with other data: checksum {checksum[:12]}, most runs {usual[0][0][:12]}")
        for run, checksum in checksums.items()
        if checksum is not None and checksum != usual[0][0]
    }
    rest = [run for run in results if run not in compared]
    if _same_images([tests[run] for run in rest]):
        own = {run: Compared(tests[run].read, results[run].get("top1"), results[run].get("loss")) for run in rest}
        return compared | own
    return compared | _intersected({run: read(run) for run in rest})


def _checksums(results: Mapping[str, Mapping[str, Any]]) -> dict[str, str | None]:
    """Return the checksum of each run's data; of images that were resized from files, that of the files."""
    files = {
        result.get("data_checksum"): result["files_checksum"]
        for result in results.values()
        if "files_checksum" in result
    }
    found = {run: result.get("data_checksum") for run, result in results.items()}
    return {run: files.get(checksum, checksum) for run, checksum in found.items()}


def _same_images(tests: Sequence[EvaluatedImages]) -> bool:
    """Whether runs read the same test images: by index, or by name if some do not have indices."""
    indices = {test.indices for test in tests}
    if None not in indices:
        return len(indices) <= 1
    names = {test.unread for test in tests}
    return None not in names and len(names) == 1


def _intersected(predictions: Mapping[str, Predicted | None]) -> dict[str, Compared]:
    """Restrict runs that read different images to the images that all of them read."""
    compared: dict[str, Compared] = {}
    usable: dict[str, Predicted] = {}
    common: Any = np.empty(0)
    for run, predicted in predictions.items():
        if predicted is None:
            compared[run] = Compared(left_out="runs read different test images, and its predictions are missing")
        elif predicted.indices is None:
            compared[run] = Compared(left_out=predicted.unknown)
        elif usable and (odd := predicted.disagrees_with(first := next(iter(usable.values())))):
            compared[run] = Compared(left_out=f"{odd} of run {first.name}")
        else:
            common = np.intersect1d(common, predicted.indices) if usable else predicted.indices
            usable[run] = predicted
    for run, predicted in usable.items():
        none = Compared(left_out="no test image was read by all runs")
        compared[run] = Compared(len(common), *predicted.measures(common)) if len(common) else none
    return compared
