"""How an image becomes a network's input in evaluation; stored with each run, for whoever uses its network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ablations.training_config import TrainingConfig


@dataclass(frozen=True)
class Preprocessing:
    """Resize an image's shorter side, crop its center, divide its values by 255, subtract `mean`, divide by `std`.

    Attributes:
        resize: Length of the shorter side after resizing, in pixels.
        image_size: Side of the center crop, in pixels.
        interpolation: `bilinear` or `bicubic`, with antialiasing.
        mean: Mean per channel, of values in [0, 1].
        std: Standard deviation per channel, of values in [0, 1].
    """

    resize: int
    image_size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def evaluation_steps(config: TrainingConfig, size: int, mean: Iterable[float], std: Iterable[float]) -> Preprocessing:
    """Describe how a recipe prepares an image for evaluation; mean and std are per channel, of values in [0, 1]."""
    shorter = round(size / config.evaluation_crop)
    return Preprocessing(shorter, size, config.interpolation, tuple(map(float, mean)), tuple(map(float, std)))
