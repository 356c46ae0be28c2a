"""Augmentation of whole batches: each image is cropped and flipped by a draw of its own, in one gather."""

from __future__ import annotations

import torch
from torch import Tensor

from ablations.data import Split


class Batches:
    """Normalised batches of a split, N×C×H×W in channels-last memory, on one device.

    `mean` and `std` are the training split's, a channel each, in units of uint8.
    """

    def __init__(self, split: Split, mean: Tensor, std: Tensor, device: torch.device, crop_padding: int = 0):
        self.size = split.images.shape[1]
        self.padding = crop_padding
        padded = torch.nn.functional.pad(split.images, (0, 0, crop_padding, crop_padding, crop_padding, crop_padding))
        self.images = padded.to(device)
        self.labels = split.labels.to(device)
        self.scale = (1 / std).to(device)
        self.shift = (-mean / std).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def plain(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images of these indices as they are, and their labels."""
        middle = slice(self.padding, self.padding + self.size)
        return self._normalised(self.images[indices][:, middle, middle]), self.labels[indices]

    def augmented(self, indices: Tensor, flip: bool, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        """These images, each cropped at random from its padded self and, with `flip`, mirrored or not."""
        count, device = len(indices), self.images.device
        top, left = torch.randint(2 * self.padding + 1, (2, count, 1), generator=chance)
        mirrored = torch.rand((count, 1), generator=chance) < (0.5 if flip else 0.0)
        offsets = torch.arange(self.size)
        rows = (top + offsets).to(device)
        columns = (left + torch.where(mirrored, offsets.flip(0), offsets)).to(device)
        indices = indices.to(device)
        images = self.images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self._normalised(images), self.labels[indices]

    def _normalised(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images, self.scale).permute(0, 3, 1, 2)


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
