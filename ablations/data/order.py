"""The order of an epoch's training images; with repeated augmentation, each image several times."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Order:
    """The images of an epoch in order: their indices (N), and the number of each copy (N) or None."""

    indices: Tensor
    copies: Tensor | None

    def part(self, start: int, end: int) -> tuple[Tensor, Tensor | None]:
        """Return the indices and copies from `start` up to `end`."""
        return self.indices[start:end], None if self.copies is None else self.copies[start:end]


def epoch_order(images: int, batch_size: int, repetitions: int, random: torch.Generator) -> Order:
    """Return a random order of the images, or of one in `repetitions` of them, each repeated so often.

    Each batch has the images that torchvision's RASampler gives all processes at that step: those of the shuffled
    dataset, each repeated in place, until the epoch is as long as without repetition. Within a batch all first copies
    come first, then all second ones: a process or a micro-batch has different images as far as possible, and Mixup
    does not mix an image with itself.

    Source: Hoffer et al., "Augment your batch" (2020); Berman et al., "MultiGrain" (2019).
    """
    order = torch.randperm(images, generator=random)
    if repetitions == 1:
        return Order(order, None)
    places = torch.arange(images // batch_size * batch_size)
    copies = places % repetitions
    by_copy = copies.view(-1, batch_size).argsort(dim=1, stable=True) + places[::batch_size, None]
    return Order(order[places // repetitions][by_copy.flatten()], copies[by_copy.flatten()])
