"""Mixup and CutMix of a micro-batch; `Trainer.add_gradient` applies them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ablations.data.batches import MicroBatch
from ablations.seeding import seed_of, seeded
from ablations.training_config import TrainingConfig

Mixing = Callable[[MicroBatch, Tensor, Tensor], tuple[Tensor, Tensor]]


def mixing(config: TrainingConfig, classes: int, seed: int) -> Mixing:
    """Create the function that mixes images by Mixup (Zhang et al., 2018) or CutMix (Yun et al., 2019).

    The function maps a micro-batch, its images (N, C, H, W) and labels (N) to mixed images and targets (N, classes).
    Images are paired within the micro-batch. The method and its strength are sampled once per training step.
    """
    from torchvision.transforms import v2  # takes longer to import than torch

    methods: list[v2.Transform] = []
    probabilities: list[float] = []
    both = bool(config.mixup and config.cutmix)
    switch = config.mix_switch if config.mix_switch is not None else 0.5
    if config.mixup:
        methods.append(v2.MixUp(alpha=config.mixup, num_classes=classes))
        probabilities.append(1 - switch if both else 1.0)
    if config.cutmix:
        methods.append(v2.CutMix(alpha=config.cutmix, num_classes=classes))
        probabilities.append(switch if both else 1.0)
    one_of = v2.RandomChoice(methods, p=probabilities)

    def mix(micro_batch: MicroBatch, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with seeded(seed_of(seed, "mix", micro_batch.epoch, micro_batch.position)):
            if torch.rand(()) < (1.0 if config.mix_probability is None else config.mix_probability):
                return one_of(images, labels)
        return images, torch.nn.functional.one_hot(labels, classes).to(images.dtype)

    return mix
