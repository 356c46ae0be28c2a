"""Mixup and CutMix of a micro-batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ablations.data.batches import Part
from ablations.recipes import TrainingConfig
from ablations.seeding import seed_of, seeded


def mixing(config: TrainingConfig, classes: int, seed: int) -> Callable[[Part, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Mixup (Zhang et al., 2018) or CutMix (Yun et al., 2019) of a part's images with their neighbours.

    The function returned maps images N×C×H×W and labels N to mixed images and targets N×classes; which of the two, and
    by how much, is drawn for a step, the same for all its parts.
    """
    from torchvision.transforms import v2  # takes longer to import than torch

    ways: list[v2.Transform] = []
    chances: list[float] = []
    both = bool(config.mixup and config.cutmix)
    switch = config.mix_switch if config.mix_switch is not None else 0.5
    if config.mixup:
        ways.append(v2.MixUp(alpha=config.mixup, num_classes=classes))
        chances.append(1 - switch if both else 1.0)
    if config.cutmix:
        ways.append(v2.CutMix(alpha=config.cutmix, num_classes=classes))
        chances.append(switch if both else 1.0)
    one_of = v2.RandomChoice(ways, p=chances)

    def mix(part: Part, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with seeded(seed_of(seed, "mix", part.epoch, part.position)):
            if torch.rand(()) < (1.0 if config.mix_probability is None else config.mix_probability):
                return one_of(images, labels)
        return images, torch.nn.functional.one_hot(labels, classes).to(images.dtype)

    return mix
