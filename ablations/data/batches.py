"""Batches of images held in memory: whole-batch random crop, horizontal flip and random erasing in one gather."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ablations.data.datasets import Split
from ablations.seeding import generator
from ablations.training_config import TrainingConfig

ERASED_AREA, ERASED_RATIO, TRIES = (0.02, 0.33), (0.3, 3.3), 10  # as torchvision's RandomErasing (Zhong et al., 2020)


@dataclass(frozen=True)
class MicroBatch:
    """Which images of a training step's batch one process computes at once.

    `position` is the step's number within its epoch; `first` is the place of `indices[0]` in the global batch.
    `copies` numbers the copies of repeated images, from 0; None if no image is repeated.
    """

    epoch: int
    position: int
    first: int
    indices: Tensor
    copies: Tensor | None = None


@dataclass(frozen=True)
class Damaged:
    """A skipped image: its index in the split, and why it cannot be read."""

    index: int
    reason: str


@dataclass(frozen=True)
class Batch:
    """The readable images (N, C, H, W) of a micro-batch, their labels (N) and indices (N), and the corrupt images."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    damaged: tuple[Damaged, ...] = ()

    def pin_memory(self) -> Batch:
        """Pin images and labels, so that a GPU copies them while it computes; called by torch's DataLoader."""
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


class Batches:
    """Normalized batches (N, C, H, W), channels-last, of a split held in memory on one device.

    `mean` and `std` are the training split's, per channel, in units of uint8 values.
    """

    def __init__(self, split: Split, mean: Tensor, std: Tensor, device: torch.device, crop_padding: int = 0):
        self.device = device
        self.size = split.images.shape[1]
        self.padding = crop_padding
        self.images = split.images.to(device)
        self.labels = split.labels.cpu()  # read without waiting for a GPU
        self.labels_there = split.labels.to(device)
        self.scale = (1 / std).to(device)
        self.shift = (-mean / std).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def training(self, micro_batches: Iterable[MicroBatch], config: TrainingConfig, seed: int) -> Iterator[Batch]:
        """Yield each micro-batch's augmented images and their labels."""
        for micro_batch in micro_batches:
            yield Batch(*self.augmented(micro_batch, config, seed), micro_batch.indices)

    def evaluation(self, indices: Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield the unaugmented images of these indices, at most `batch_size` at once."""
        for chosen in indices.split(batch_size):
            yield Batch(*self.plain(chosen), chosen)

    def plain(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unaugmented images of these indices and their labels."""
        (indices,) = to_device(self.device, indices)
        return self._normalized(self.images.index_select(0, indices)), self.labels_there[indices]

    def augmented(self, micro_batch: MicroBatch, config: TrainingConfig, seed: int) -> tuple[Tensor, Tensor]:
        """Return a micro-batch's images after random crop, horizontal flip and random erasing, and their labels.

        Random numbers are sampled for the global batch: an image's crop does not depend on how the batch is split.
        """
        count = config.batch_size
        own = slice(micro_batch.first, micro_batch.first + len(micro_batch.indices))
        epoch, position = micro_batch.epoch, micro_batch.position
        random = generator(seed, "augment", epoch, position)
        top, left = torch.randint(2 * self.padding + 1, (2, count, 1), generator=random)[:, own]
        flipped = torch.rand((count, 1), generator=random)[own] < (0.5 if config.horizontal_flip else 0.0)
        offsets = torch.arange(self.size)
        columns = left + torch.where(flipped, offsets.flip(0), offsets)
        boxes = [erased_boxes(count, self.size, config.erasing, random)[own]] if config.erasing else []
        indices, rows, columns, *boxes = to_device(self.device, micro_batch.indices, top + offsets, columns, *boxes)
        # padded batch by batch: all images padded would be a second copy of them
        padded = torch.nn.functional.pad(self.images.index_select(0, indices), (0, 0, *[self.padding] * 4))
        places = torch.arange(len(indices), device=self.device)[:, None, None]
        images = self._normalized(padded[places, rows[:, :, None], columns[:, None, :]])
        if boxes:
            noise = generator(seed, "noise", epoch, position, micro_batch.first, device=self.device)
            images = erased(images, boxes[0], noise if config.erasing_fill == "noise" else None)
        return images, self.labels_there[indices]

    def _normalized(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images, self.scale).permute(0, 3, 1, 2)


def to_device(device: torch.device, *tensors: Tensor) -> list[Tensor]:
    """Copy integer tensors to a device in one transfer from pinned memory, which does not block the CPU."""
    if device.type == "cpu":
        return list(tensors)
    together = torch.cat([tensor.flatten() for tensor in tensors]).pin_memory().to(device, non_blocking=True)
    parts = together.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def erased_boxes(count: int, size: int, probability: float, random: torch.Generator) -> Tensor:
    """Sample a box to erase for each of `count` square images, (count, 4).

    Columns are top, left, height and width in pixels; the height is 0 where nothing is erased.
    """
    low, high = ERASED_AREA
    area = size**2 * torch.empty(count, TRIES).uniform_(low, high, generator=random)
    low, high = torch.tensor(ERASED_RATIO).log().tolist()
    ratio = torch.empty(count, TRIES).uniform_(low, high, generator=random).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], -1).round().long()
    fits = (sides < size).all(-1)
    chosen = sides[torch.arange(count), fits.int().argmax(1)]  # the first that fits
    corner = (torch.rand((count, 2), generator=random) * (size - chosen + 1)).long()
    erase = (torch.rand(count, generator=random) < probability) & fits.any(1)
    return torch.cat([corner, chosen], 1) * erase[:, None]


def erased(images: Tensor, boxes: Tensor, random: torch.Generator | None) -> Tensor:
    """Replace each image's box with normal noise, sampled per value, or with 0; `images` are (N, C, H, W)."""
    place = torch.arange(images.shape[-1], device=images.device)
    top, left, height, width = (side[:, None] for side in boxes.unbind(1))
    rows, columns = (place >= top) & (place < top + height), (place >= left) & (place < left + width)
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    if random is None:
        return images.masked_fill(inside, 0.0)
    noise = torch.randn(images.shape, generator=random, device=images.device, dtype=images.dtype)
    return torch.where(inside, noise, images)


def mean_and_std(split: Split) -> tuple[Tensor, Tensor]:
    """Compute the exact mean and standard deviation per channel, in uint8 units; a constant channel gets std 1.

    A split that has a normalization of its own keeps it.
    """
    return split.measured if split.normalization is None else split.normalization
