"""Augmentation of whole batches: crop, flip and erasing by a draw for each image; Mixup and CutMix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ablations.data.datasets import Split
from ablations.recipes import TrainingConfig
from ablations.seeding import generator

ERASED_AREA, ERASED_RATIO, TRIES = (0.02, 0.33), (0.3, 3.3), 10  # as torchvision's RandomErasing (Zhong et al., 2020)


@dataclass(frozen=True)
class Part:
    """What one process takes in at once of a step's batch: its indices, and the place of the first in the batch."""

    epoch: int
    position: int
    first: int
    indices: Tensor


@dataclass(frozen=True)
class Damaged:
    """An image that was skipped, and why."""

    index: int
    reason: str


@dataclass(frozen=True)
class Batch:
    """What came of a part: the images N×C×H×W and labels N of those that are whole, their indices, and the others."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    damaged: tuple[Damaged, ...] = ()

    def pin_memory(self) -> Batch:
        """Called by torch's DataLoader, so that a GPU may fetch the batch while it computes."""
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


class Batches:
    """Normalised batches of a split in memory, N×C×H×W in channels-last memory, on one device.

    `mean` and `std` are the training split's, a channel each, in units of uint8.
    """

    def __init__(self, split: Split, mean: Tensor, std: Tensor, device: torch.device, crop_padding: int = 0):
        self.device = device
        self.size = split.images.shape[1]
        self.padding = crop_padding
        padded = torch.nn.functional.pad(split.images, (0, 0, crop_padding, crop_padding, crop_padding, crop_padding))
        self.images = padded.to(device)
        self.labels = split.labels.to(device)
        self.scale = (1 / std).to(device)
        self.shift = (-mean / std).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def training(self, parts: Iterable[Part], config: TrainingConfig, seed: int) -> Iterator[Batch]:
        """Each part's images, augmented, and their labels."""
        for part in parts:
            yield Batch(*self.augmented(part, config, seed), part.indices)

    def evaluation(self, indices: Tensor, most: int) -> Iterator[Batch]:
        """The images of these indices as they are, at most so many at once."""
        for chosen in indices.split(most):
            yield Batch(*self.plain(chosen), chosen)

    def plain(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images of these indices as they are, and their labels."""
        middle = slice(self.padding, self.padding + self.size)
        indices = indices.to(self.images.device)
        return self._normalised(self.images[indices][:, middle, middle]), self.labels[indices]

    def augmented(self, part: Part, config: TrainingConfig, seed: int) -> tuple[Tensor, Tensor]:
        """A part's images, each cropped at random from its padded self, mirrored or not, erased in part or not.

        What is drawn is drawn for the whole batch: an image's crop does not depend on who takes it in.
        """
        count, device = config.batch_size, self.images.device
        mine = slice(part.first, part.first + len(part.indices))
        chance = generator(seed, "augment", part.epoch, part.position)
        top, left = torch.randint(2 * self.padding + 1, (2, count, 1), generator=chance)[:, mine]
        mirrored = torch.rand((count, 1), generator=chance)[mine] < (0.5 if config.horizontal_flip else 0.0)
        offsets = torch.arange(self.size)
        rows = (top + offsets).to(device)
        columns = (left + torch.where(mirrored, offsets.flip(0), offsets)).to(device)
        indices = part.indices.to(device)
        images = self.images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
        images = self._normalised(images)
        if config.erasing:
            boxes = erased_boxes(count, self.size, config.erasing, chance)[mine].to(device)
            noise = generator(seed, "noise", part.epoch, part.position, part.first, device=device)
            images = erased(images, boxes, noise)
        return images, self.labels[indices]

    def _normalised(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images, self.scale).permute(0, 3, 1, 2)


def erased_boxes(count: int, size: int, probability: float, chance: torch.Generator) -> Tensor:
    """For each of `count` square images a box to erase as top, left, height, width; of height 0 where none is."""
    low, high = ERASED_AREA
    area = size**2 * torch.empty(count, TRIES).uniform_(low, high, generator=chance)
    low, high = torch.tensor(ERASED_RATIO).log().tolist()
    ratio = torch.empty(count, TRIES).uniform_(low, high, generator=chance).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], -1).round().long()
    fits = (sides < size).all(-1)
    chosen = sides[torch.arange(count), fits.int().argmax(1)]  # the first that fits
    corner = (torch.rand((count, 2), generator=chance) * (size - chosen + 1)).long()
    erase = (torch.rand(count, generator=chance) < probability) & fits.any(1)
    return torch.cat([corner, chosen], 1) * erase[:, None]


def erased(images: Tensor, boxes: Tensor, chance: torch.Generator) -> Tensor:
    """N×C×H×W images with normal noise, a draw for each value, in each one's box."""
    place = torch.arange(images.shape[-1], device=images.device)
    top, left, height, width = (side[:, None] for side in boxes.unbind(1))
    rows, columns = (place >= top) & (place < top + height), (place >= left) & (place < left + width)
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    noise = torch.randn(images.shape, generator=chance, device=images.device, dtype=images.dtype)
    return torch.where(inside, noise, images)


def mean_and_std(split: Split) -> tuple[Tensor, Tensor]:
    """The mean and standard deviation (1 where all is one value) of each channel, exactly, from counts of values."""
    values = torch.arange(256, dtype=torch.float64)
    means, stds = [], []
    for channel in split.images.unbind(-1):
        counts = torch.bincount(channel.flatten(), minlength=256).double()
        mean = (counts @ values) / counts.sum()
        means.append(mean)
        variance = (counts @ (values - mean) ** 2) / counts.sum()
        stds.append(variance.sqrt() if variance else torch.ones_like(variance))
    return torch.stack(means).float(), torch.stack(stds).float()
