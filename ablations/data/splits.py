"""What a dataset is: a training and a test split, whose images are in memory as uint8, in files, or as they come."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablations.data.decode import as_uint8
from ablations.data.image_files import ImageFiles
from ablations.data.inventory import Account
from ablations.data.labels import label_tensor
from ablations.data.map_images import MapImages, Normalization
from ablations.errors import RequestError
from ablations.seeding import generator

PART = 1024  # images that are copied at once where all would take much memory


@dataclass(frozen=True)
class Split:
    """Images in memory, uint8 (N, H, W, C), and their labels, int64 (N).

    `normalization` is the mean and standard deviation per channel, in units of uint8 values; None: those of the images.

    Raises:
        RequestError: If the labels are not one integer from 0 per image.
    """

    images: Tensor
    labels: Tensor
    normalization: Normalization | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", label_tensor(self.labels, "Split", len(self.images)).to(self.labels.device))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image, uint8 (C, H, W), and its label."""
        return self.images[index].permute(2, 0, 1), int(self.labels[index])

    def take(self, indices: Tensor) -> Split:
        """Return the split of these indices."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    @cached_property
    def measured(self) -> Normalization:
        """Mean and standard deviation per channel of the images, exact; a constant channel has 1."""
        values = torch.arange(256, dtype=torch.float64)
        means, stds = [], []
        for channel in self.images.unbind(-1):
            parts = channel.split(PART)  # flattening makes a copy
            counts = torch.stack([torch.bincount(part.flatten(), minlength=256) for part in parts]).sum(0).double()
            mean = (counts @ values) / counts.sum()
            means.append(mean)
            variance = (counts @ (values - mean) ** 2) / counts.sum()
            stds.append(variance.sqrt() if variance else torch.ones_like(variance))
        return torch.stack(means).float(), torch.stack(stds).float()


Images = Split | ImageFiles | MapImages


@dataclass(frozen=True)
class Wanted:
    """What a run, or an inspection, asks of a dataset's images.

    Attributes:
        image_size: Resolution in pixels; None keeps the dataset's own.
        one_by_one: Whether the recipe transforms images one by one, and may crop them at their own size.
        interpolation: "bilinear" or "bicubic".
        differing: Resolution of a dataset whose images differ in size if `image_size` is None; None refuses it.
    """

    image_size: int | None = None
    one_by_one: bool = False
    interpolation: str = "bilinear"
    differing: int | None = None

    def size(self, dataset: str, why: str = "its images differ in size") -> int:
        """Return the resolution of images without a common size; raises RequestError if there is none."""
        size = self.image_size or self.differing
        if size is None:
            raise RequestError(f"dataset {dataset}: {why}; set one, for example --set image_size=224")
        return size


Loader = Callable[[Path, Wanted], "DataSet"]  # called with the data folder


@dataclass(frozen=True)
class DataSet:
    """A training and a test split, their class names, and a checksum of both splits.

    `image_size` is the resolution in pixels that the network sees; images left in files are resized when read.
    `account` lists what a folder contains besides the images. `own_size` is the resolution of the images as they are
    stored; None if they differ. `origin` says which images are the training and the test split, if that is a choice.
    `files_checksum` is one of the files, if `checksum` is of the images resized from them.
    """

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    checksum: str
    place: str
    image_size: int
    channels: int
    account: Account | None = None
    own_size: int | None = None
    origin: str = ""
    files_checksum: str | None = None

    @property
    def notice(self) -> str | None:
        """Say in one line that files are left out, and what the splits are; None if there is nothing to say."""
        left_out = self.account.notice(self.name, self.place) if self.account else None
        return left_out or (f"{self.name}: {self.origin}" if self.origin else None)


def a_fifth(split: Images) -> tuple[Images, Images]:
    """Divide the only split of a dataset: a fixed fifth of it is the test split. Return training and test split."""
    order = torch.randperm(len(split), generator=generator("test split"))
    held = max(len(split) // 5, 1)
    return split.take(order[held:]), split.take(order[:held])


def check_memory(what: str, images: int, channels: int, size: int) -> None:
    """Raise RequestError if the resized images would take more than half of this machine's memory."""
    needed, installed = images * size * size * channels, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > installed // 2:
        raise RequestError(
            f"dataset {what} at image_size={size} needs {needed / 2**30:.0f} GiB of memory and this machine has "
            f"{installed / 2**30:.0f} GiB; nearest valid value: {int((installed / 2 / images / channels) ** 0.5)}"
        )


def assemble(
    name: str, train: tuple[Any, Any], test: tuple[Any, Any], classes: Sequence[str], place: str | Path
) -> DataSet:
    """Make a dataset of arrays (N, H, W) or (N, H, W, C) of uint8, or of 16 bits, and their checksum."""
    digest = hashlib.sha256()

    def split(part: str, images: Any, labels: Any) -> Split:
        images = np.ascontiguousarray(as_uint8(images))
        if not len(images):
            raise RequestError(f"dataset {name}: the {part} split has no images")
        labels = label_tensor(labels, f"dataset {name}: {part} split", len(images), len(classes))
        for content in (repr(images.shape).encode(), images, labels.numpy()):
            digest.update(content)  # an array without a copy
        images = images[..., None] if images.ndim == 3 else images
        return Split(torch.tensor(images), labels)

    splits = split("training", *train), split("test", *test)
    _, size, _, channels = splits[0].images.shape
    own = None if name == "folder" else size
    return DataSet(
        name, *splits, tuple(map(str, classes)), digest.hexdigest(), str(place), size, channels, own_size=own
    )
