"""Datasets of a user's own function, as my_data.py:function: it returns a training and a test set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablations.data.decode import as_uint8
from ablations.data.held import held, normalized
from ablations.data.labels import label_of, label_tensor
from ablations.data.map_images import MapImages, map_images
from ablations.data.splits import DataSet, Wanted, assemble
from ablations.errors import RequestError
from ablations.seeding import seed_of, seeded
from modernize.design import printable
from modernize.names import nearest
from modernize.user_code import Call, Imported, UserCodeError, call_function, failures_of, read_call

KEYS = ("train", "test", "classes", "mean", "std")
EXPECTED = (
    "return train, test, or a dictionary of train, test and, if known, classes, mean and std; train and test are "
    "(images, labels) arrays, or datasets of (image, label)"
)
SPLITS = {"train": "training", "test": "test"}


@dataclass(frozen=True)
class Returned:
    """What a user's function has returned."""

    train: Any
    test: Any
    classes: Any = None
    mean: Any = None
    std: Any = None


def check_name(name: str) -> Call:
    """Return the function and its settings of FILE.py:FUNCTION(setting=value); raises RequestError."""
    try:
        return read_call(name)
    except UserCodeError as error:
        raise RequestError(f"dataset {error}") from None


def own_data(name: str) -> Callable[[Path, Wanted], DataSet]:
    """Return the function that loads FILE.py:FUNCTION; raises RequestError for a name that is not written so."""
    call = check_name(name)

    def load(data_dir: Path, wanted: Wanted) -> DataSet:
        try:
            with seeded(seed_of("own data")):  # each process of a study calls the function
                found = _checked(call_function(call))
            return _dataset(name, call, found, wanted)
        except UserCodeError as error:
            raise RequestError(f"dataset {error}") from None
        except RequestError as error:
            at = f"dataset {name}: "
            raise RequestError(str(error) if str(error).startswith("dataset ") else f"{at}{error}") from None

    return load


def _checked(value: Any) -> Returned:
    """Return what a function has returned by name; raises RequestError if it is something else."""
    if isinstance(value, Mapping):
        unknown = [key for key in value if key not in KEYS]
        if unknown:
            raise RequestError(f"the function returns a key {unknown[0]!r}: {nearest(str(unknown[0]), KEYS)}")
        missing = [key for key in SPLITS if key not in value]
        if missing:
            raise RequestError(f"the function returns no {missing[0]!r}; {EXPECTED}")
        return Returned(**value)
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        count = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
        raise RequestError(f"the function returns a {type(value).__name__}{count}; {EXPECTED}")
    return Returned(*value)


def _dataset(name: str, call: Call, found: Returned, wanted: Wanted) -> DataSet:
    """Check what a function has returned, and make the dataset: arrays stay in memory, if they are square."""
    place = str(call.file)
    train, test = (_columns(getattr(found, key), split) for key, split in SPLITS.items())
    if train and test and isinstance(train[0], np.ndarray) and isinstance(test[0], np.ndarray):
        _check_shapes(train[0], test[0])
        height, width, channels = train[0].shape[1:]
        if height == width:
            classes = _classes(found, label_tensor(train[1], "the training split", len(train[0])))
            data = assemble(name, train, test, classes, place)
            return normalized(data, _mean_and_std(found, channels))
    splits = [
        _images(name, call.file, getattr(found, key), columns, split)
        for (key, split), columns in zip(SPLITS.items(), (train, test), strict=True)
    ]
    classes = _classes(found, splits[0].labels)
    for one in splits:
        label_tensor(one.labels, f"dataset {name}: {one.what}", len(one), len(classes))
    mean_and_std = _mean_and_std(found, len(splits[0].mode))
    splits = [replace(one, mode=splits[0].mode, normalization=mean_and_std) for one in splits]
    return held(name, splits[0], splits[1], classes, place, wanted, "")


def _columns(value: Any, split: str) -> tuple[Any, Any] | None:
    """Return the images and labels of a split that is such a pair, arrays as uint8 (N, H, W, C); None for others."""
    if not isinstance(value, tuple):
        return None
    if len(value) != 2:
        raise RequestError(f"the {split} split is a tuple of {len(value)}; it must be (images, labels), or a dataset")
    images, labels = value
    if not isinstance(images, (np.ndarray, Tensor)):
        return images, labels
    if images.ndim not in (3, 4):
        layout = "(N, C, H, W)" if isinstance(images, Tensor) else "(N, H, W, C)"
        shape = "×".join(map(str, images.shape))
        raise RequestError(f"the {split} split's images are {shape}; they must be {layout}, or gray (N, H, W)")
    if isinstance(images, Tensor):
        images = (images.movedim(1, -1) if images.ndim == 4 else images).numpy()
    try:
        images = as_uint8(images)
    except ValueError as error:
        raise RequestError(f"the {split} split has {error}") from None
    return (images if images.ndim == 4 else images[..., None]), labels


def _check_shapes(train: np.ndarray, test: np.ndarray) -> None:
    """Raise RequestError if the images of both splits are not alike, or are neither square nor gray or RGB."""
    if train.shape[1:] != test.shape[1:]:
        shapes = ["×".join(map(str, images.shape[1:])) for images in (train, test)]
        raise RequestError(f"training images are {shapes[0]} and test images {shapes[1]}; they must be alike")
    height, width, channels = train.shape[1:]
    if height != width and channels not in (1, 3):
        raise RequestError(
            f"images are {height}×{width} of {channels} channels; images that are not gray or RGB must be square "
            "(arrays are (N, H, W, C), tensors are (N, C, H, W))"
        )


def _images(name: str, file: Path, value: Any, columns: tuple[Any, Any] | None, split: str) -> MapImages:
    """Return the images of a split that are not all of one shape, or not in memory."""
    pictures, labels = columns or (value, None)
    if not hasattr(pictures, "__len__") or not hasattr(pictures, "__getitem__") or isinstance(pictures, (str, Mapping)):
        raise RequestError(f"the {split} split is a {type(pictures).__name__}; {EXPECTED}")
    pictures = _Own(pictures, file)
    if columns is None:
        pictures = _Items(pictures, split, file)
        if len(pictures):
            labels = _labels_of(value, pictures, split)
    found = label_tensor([] if labels is None else labels, f"the {split} split", len(pictures))
    return map_images(name, split, pictures, found)


class _Own:
    """Rows that a user's function has returned; another process imports the file before it unpickles them."""

    def __init__(self, rows: Any, file: Path):
        self.rows, self.file = rows, file

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Any:
        return self.rows[row]

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (Imported(self.file), self.rows, self.file)


def _unpickled(_: Imported, rows: Any, file: Path) -> _Own:
    return _Own(rows, file)


class _Items:
    """The images of a dataset of pairs (image, label), by row."""

    def __init__(self, dataset: Any, split: str, file: Path):
        self.dataset, self.split, self.file = dataset, split, file

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Any:
        return self.pair(row)[0]

    def pair(self, row: int) -> tuple[Any, Any]:
        """Return an image and its label; raises RequestError if the dataset does not, or fails."""
        try:
            with failures_of(self.file):
                item = self.dataset[row]
        except UserCodeError as error:
            raise RequestError(f"{error} (item {row} of the {self.split} split)") from None
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise RequestError(
                f"item {row} of the {self.split} split is a {type(item).__name__}; it must be a pair (image, label)"
            )
        return item[0], item[1]


def _labels_of(dataset: Any, items: _Items, split: str) -> list[Any] | Tensor:
    """Return the labels of a dataset: its `targets` or `labels`, if they are those of its items, else its items'."""
    known = _known_labels(dataset)
    if known is None or len(known) != len(items):
        with seeded(seed_of("own labels")):
            return [label_of(items.pair(row)[1], f"the {split} split", row) for row in range(len(items))]
    labels = label_tensor(known, f"the {split} split", len(items))
    for row in {0, len(items) - 1}:
        with seeded(seed_of("own labels")):
            given = label_of(items.pair(row)[1], f"the {split} split", row)
        if given != labels[row]:
            raise RequestError(
                f"item {row} of the {split} split has label {given}, and the dataset's targets say {labels[row]}"
            )
    return labels


def _known_labels(dataset: Any) -> Any:
    """Return the labels that a dataset lists, those of a part (torch's Subset) too; None if it lists none."""
    for name in ("targets", "labels"):
        if hasattr(dataset, name) and hasattr(getattr(dataset, name), "__len__"):
            return getattr(dataset, name)
    if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        whole = _known_labels(dataset.dataset)
        return None if whole is None else [whole[index] for index in dataset.indices]
    return None


def _classes(found: Returned, labels: Tensor) -> list[str]:
    """Return the names of the classes: returned ones, else the training set's, else the integers up to the largest."""
    names = found.classes
    if names is None:
        names = getattr(found.train, "classes", getattr(getattr(found.train, "dataset", None), "classes", None))
        names = names if isinstance(names, (list, tuple)) else [*range(int(labels.max()) + 1 if len(labels) else 0)]
    if isinstance(names, str) or not isinstance(names, (Sequence, np.ndarray)) or not len(names):
        raise RequestError(f"classes is a {type(names).__name__}; it must be a list of the classes' names")
    words = [str(name) for name in names]
    for name in words:
        if words.count(name) > 1:
            raise RequestError(f"classes lists {printable(name)!r} twice")
    return words


def _mean_and_std(found: Returned, channels: int) -> tuple[Tensor, Tensor] | None:
    """Return the mean and standard deviation per channel in units of uint8 values; None if they are not returned."""
    if found.mean is None and found.std is None:
        return None
    values = []
    for name, value in (("mean", found.mean), ("std", found.std)):
        wrong = f"{name} must be {channels} numbers per channel, of image values from 0 to 1; both mean and std"
        try:
            numbers = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
        except (TypeError, ValueError, RuntimeError):
            raise RequestError(wrong) from None
        if len(numbers) != channels or not bool(((numbers >= 0) & (numbers <= 1)).all()):
            raise RequestError(wrong)
        values.append((numbers * 255).float())
    if not bool((values[1] > 0).all()):
        raise RequestError("std must be above 0")
    return values[0], values[1]
