"""Transform images one by one: random resized crop, RandAugment or TrivialAugment, normalization, random erasing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from ablations.data.preprocessing import Preprocessing
from ablations.training_config import TrainingConfig

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # per channel, of images in [0, 1]
OPERATIONS = 2  # of RandAugment per image
APPLIED = 0.5  # probability that each is applied, as in timm's rand-m9-mstd0.5-inc1, which the paper used


def training_transform(config: TrainingConfig, size: int, mean: Any, std: Any) -> Callable[[Any], Tensor]:
    """Compose the random transform of an image, PIL or uint8 (C, H, W), to a normalized float tensor (C, size, size).

    `mean` and `std` are per channel, of values in [0, 1].
    """
    smooth = InterpolationMode(config.interpolation)
    steps: list[nn.Module] = []
    if config.crop_scale:
        steps.append(v2.RandomResizedCrop(size, config.crop_scale, interpolation=smooth))
    else:
        steps += [v2.Resize(size, smooth), v2.CenterCrop(size)]
        steps += [v2.RandomCrop(size, config.crop_padding)] if config.crop_padding else []
    if config.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip())
    if config.randaugment is not None:
        fill = [round(255 * float(value)) for value in mean]
        assert config.randaugment_std is not None
        steps.append(RandAugment(config.randaugment, config.randaugment_std, fill, smooth))
    if config.trivialaugment:
        steps.append(TrivialAugment(smooth))
    steps += _normalized(mean, std)
    if config.erasing:
        steps.append(v2.RandomErasing(config.erasing, value="random" if config.erasing_fill == "noise" else 0.0))
    return v2.Compose(steps)


def evaluation_transform(steps: Preprocessing) -> Callable[[Any], Tensor]:
    """Compose the evaluation transform: resize, crop the center, normalize."""
    resize = v2.Resize(steps.resize, InterpolationMode(steps.interpolation))
    return v2.Compose([resize, v2.CenterCrop(steps.image_size), *_normalized(steps.mean, steps.std)])


def _normalized(mean: Any, std: Any) -> list[nn.Module]:
    scaled = v2.ToDtype(torch.float32, scale=True)
    return [v2.ToImage(), scaled, v2.Normalize([float(value) for value in mean], [float(value) for value in std])]


class TrivialAugment(nn.Module):
    """Apply one operation at one strength, both uniformly random, as torchvision's TrivialAugmentWide does.

    Pixels from outside the image are black. Of tensors torchvision offers no bicubic affine transform, hence bilinear.
    Source: Müller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation" (2021).
    """

    def __init__(self, interpolation: InterpolationMode):
        super().__init__()
        self.of_pictures = v2.TrivialAugmentWide(interpolation=interpolation)
        self.of_tensors = v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)

    def forward(self, image: Any) -> Any:
        return (self.of_pictures if isinstance(image, Image) else self.of_tensors)(image)


@dataclass(frozen=True)
class Operation:
    """An operation of RandAugment: `apply` it at a strength; `strength` maps a level in [0, 1] to its strength."""

    apply: Callable[[Any, Any, RandAugment], Any]
    strength: Callable[[float], Any] = lambda level: None
    either_way: bool = False  # the strength's sign is random


def _affine(
    image: Any, chosen: RandAugment, angle: float = 0, move: Any = (0, 0), shear: Any = (0, 0), center: Any = None
) -> Any:
    # of tensors torchvision offers no bicubic affine transform
    smooth = chosen.interpolation if isinstance(image, Image) else InterpolationMode.BILINEAR
    return F.affine(image, angle, list(move), 1.0, list(shear), interpolation=smooth, fill=chosen.fill, center=center)


def _sheared(image: Any, tangent: float, chosen: RandAugment, across: bool) -> Any:
    """Shear around the first row or column, as AutoAugment and timm do; torchvision shears around the center."""
    degrees = torch.atan(torch.tensor(tangent)).rad2deg().item()
    return _affine(image, chosen, shear=(degrees, 0) if across else (0, degrees), center=[0, 0])


def _moved(image: Any, fraction: float, chosen: RandAugment, across: bool) -> Any:
    height, width = F.get_size(image)
    return _affine(image, chosen, move=(round(fraction * width), 0) if across else (0, round(fraction * height)))


def _posterized(image: Any, bits: int, chosen: RandAugment) -> Any:
    """Keep the top `bits` bits of each value; 0 bits, which Pillow refuses, give black."""
    return F.posterize(image, bits) if bits else F.adjust_brightness(image, 0.0)


def _solarize_add(image: Any, amount: int, chosen: RandAugment) -> Any:
    """Add `amount` to values below 128, up to 255."""
    table = [min(255, value + amount) if value < 128 else value for value in range(256)]
    if isinstance(image, Image):
        return image.point(table * len(image.getbands()))
    return torch.tensor(table, dtype=torch.uint8)[image.int()]


def _enhanced(level: float) -> float:
    return 0.9 * level


# The operations of timm's "increasing" RandAugment (Cubuk et al., 2020), which the paper used: strengths grow with
# the magnitude.
OPERATIONS_BY_NAME: dict[str, Operation] = {
    "auto contrast": Operation(lambda image, _, chosen: F.autocontrast(image)),
    "equalize": Operation(lambda image, _, chosen: F.equalize(image)),
    "invert": Operation(lambda image, _, chosen: F.invert(image)),
    "rotate": Operation(lambda image, by, chosen: _affine(image, chosen, angle=by), lambda level: 30 * level, True),
    "posterize": Operation(_posterized, lambda level: 4 - int(4 * level)),
    "solarize": Operation(
        lambda image, above, chosen: F.solarize(image, above) if above < 256 else image,
        lambda level: 256 - min(256, int(256 * level)),
    ),
    "solarize add": Operation(_solarize_add, lambda level: min(128, int(110 * level))),
    "color": Operation(lambda image, by, chosen: F.adjust_saturation(image, max(0.1, 1 + by)), _enhanced, True),
    "contrast": Operation(lambda image, by, chosen: F.adjust_contrast(image, max(0.1, 1 + by)), _enhanced, True),
    "brightness": Operation(lambda image, by, chosen: F.adjust_brightness(image, max(0.1, 1 + by)), _enhanced, True),
    "sharpness": Operation(lambda image, by, chosen: F.adjust_sharpness(image, max(0.1, 1 + by)), _enhanced, True),
    "shear x": Operation(lambda image, by, chosen: _sheared(image, by, chosen, True), lambda level: 0.3 * level, True),
    "shear y": Operation(lambda image, by, chosen: _sheared(image, by, chosen, False), lambda level: 0.3 * level, True),
    "move x": Operation(lambda image, by, chosen: _moved(image, by, chosen, True), lambda level: 0.45 * level, True),
    "move y": Operation(lambda image, by, chosen: _moved(image, by, chosen, False), lambda level: 0.45 * level, True),
}


class RandAugment(nn.Module):
    """Sample two operations per image, and apply each with probability 0.5 at a magnitude of its own.

    Magnitudes are normal with mean `magnitude` and standard deviation `std`, clamped to [0, 10]. torchvision's
    RandAugment has neither the probability nor the random magnitude. `fill` is the color per channel of pixels from
    outside the image. Rotations, shears and translations use `interpolation`, for tensors always bilinear.
    """

    def __init__(
        self,
        magnitude: float,
        std: float,
        fill: list[int],
        interpolation: InterpolationMode = InterpolationMode.BILINEAR,
    ):
        super().__init__()
        self.magnitude, self.std, self.fill, self.interpolation = magnitude, std, fill, interpolation

    def forward(self, image: Any) -> Any:
        names = list(OPERATIONS_BY_NAME)
        for _ in range(OPERATIONS):
            operation = OPERATIONS_BY_NAME[names[int(torch.randint(len(names), ()))]]
            strength = operation.strength(self.level())
            backwards = bool(torch.rand(()) < 0.5)
            if torch.rand(()) < APPLIED:
                strength = -strength if operation.either_way and backwards else strength
                image = operation.apply(image, strength, self)
        return image

    def level(self) -> float:
        """Sample a magnitude, divided by 10."""
        return float(torch.normal(self.magnitude, self.std, (1,)).clamp(0, 10)) / 10
