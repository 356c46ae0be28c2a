"""Hold a dataset's images in memory if they fit, at the run's resolution if they differ in size; else leave them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ablations.data.decode import DamagedImageError
from ablations.data.image_files import ImageFiles
from ablations.data.map_images import MapImages
from ablations.data.splits import DataSet, Normalization, Split, Wanted, assemble, check_memory
from ablations.errors import RequestError
from ablations.seeding import seed_of, seeded

IN_MEMORY = 2**32  # bytes: the images of larger datasets are decoded while training, whatever the machine
DIGESTED = 2_000  # images of each split whose contents are part of the checksum
Encoded = ImageFiles | MapImages


def held(
    name: str, train: Encoded, test: Encoded, classes: Sequence[str], place: str | Path, wanted: Wanted, origin: str
) -> DataSet:
    """Make a dataset of images that are decoded when they are read.

    They are held in memory unless the recipe transforms images one by one, or they take more than `IN_MEMORY` bytes.
    Images of one square size are held as they are; others are resized and cropped to the run's resolution.

    Raises:
        RequestError: If an image is unreadable, or the images differ in size and the run has no resolution.
    """
    channels, mean_and_std = (len(train.mode), train.normalization) if isinstance(train, MapImages) else (3, None)
    checksum = hashlib.sha256(_digest(train) + _digest(test) + _as_bytes(mean_and_std)).hexdigest()
    large = wanted.image_size is not None and _bytes(train, test, wanted.image_size, channels) > IN_MEMORY
    arrays = None if large or (wanted.one_by_one and wanted.image_size) else _arrays(name, (train, test), wanted)
    if arrays is None:
        size = wanted.size(name, "its images differ in size, or do not fit in memory")
        return DataSet(name, train, test, tuple(classes), checksum, str(place), size, channels, origin=origin)
    images, own = arrays
    data = assemble(name, (images[: len(train)], train.labels), (images[len(train) :], test.labels), classes, place)
    data = replace(data, own_size=data.image_size if own else None, origin=origin)
    return replace(normalized(data, mean_and_std), checksum=checksum)


def _digest(split: Encoded) -> bytes:
    """Return a checksum of a split: names and labels of all images, contents of at most `DIGESTED`, spread evenly.

    It is the same for all recipes, whether they hold the images in memory or not.
    """
    found = hashlib.sha256(split.digest())
    for index in np.unique(np.linspace(0, len(split) - 1, min(len(split), DIGESTED)).round().astype(int)).tolist():
        try:
            found.update(hashlib.sha256(split.read(index)).digest())
        except (OSError, DamagedImageError):  # an error in memory, and counted while training
            found.update(b"unreadable")
    return found.digest()


def _bytes(train: Encoded, test: Encoded, size: int, channels: int) -> int:
    return (len(train) + len(test)) * size * size * channels


def normalized(data: DataSet, mean_and_std: Normalization | None) -> DataSet:
    """Return a dataset in memory that is normalized by this mean and standard deviation instead of its own."""
    if mean_and_std is None:
        return data
    assert isinstance(data.train, Split)
    checksum = hashlib.sha256(data.checksum.encode() + _as_bytes(mean_and_std)).hexdigest()
    return replace(data, train=replace(data.train, normalization=mean_and_std), checksum=checksum)


def _as_bytes(mean_and_std: Normalization | None) -> bytes:
    return torch.stack(mean_and_std).double().numpy().tobytes() if mean_and_std else b""


def _arrays(name: str, splits: tuple[Encoded, Encoded], wanted: Wanted) -> tuple[np.ndarray, bool] | None:
    """Read the images of both splits, uint8 (N, H, W[, C]), and return whether they have their own size.

    That is so if it is one square size and they fit in memory; else they have the wanted size. Return None if no size
    is wanted then.
    """
    first = _read(name, splits[0], 0)
    count, size, channels = sum(map(len, splits)), wanted.image_size, first.shape[2:]
    own = first.shape[0] == first.shape[1] and count * first.size <= IN_MEMORY
    if not own and size is None:
        return None
    if not own:
        check_memory(name, count, channels[0] if channels else 1, size or 0)
    images = np.empty((count, *(first.shape if own else (size, size, *channels))), np.uint8)
    place = 0
    for split in splits:
        for index in range(len(split)):
            image = _read(name, split, index)
            if own and image.shape != first.shape:
                if size is None:
                    return None
                own = False
                earlier, images = images[:place], np.empty((count, size, size, *channels), np.uint8)
                for number, one in enumerate(earlier):
                    images[number] = _cropped(one, size, wanted.interpolation)
            images[place] = image if own else _cropped(image, size or 0, wanted.interpolation)
            place += 1
    return images, own


def _read(name: str, split: Encoded, index: int) -> np.ndarray:
    """Read an image, uint8 (H, W[, C]); random numbers of the dataset are the same at each call."""
    try:
        with seeded(seed_of("stored image", index)):
            return np.asarray(split[index][0])
    except DamagedImageError as error:
        raise RequestError(f"dataset {name}: {error}") from None


def _cropped(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Resize an image's shorter side and crop its center."""
    from PIL import Image
    from torchvision.transforms import functional as transforms

    resized = transforms.resize(Image.fromarray(image), size, transforms.InterpolationMode(interpolation))
    return np.asarray(transforms.center_crop(resized, [size, size]))
