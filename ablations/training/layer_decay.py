"""Layer-wise learning-rate decay: which layer each parameter belongs to, and the factor of its learning rate."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

# A stage and a block in it, both from 0. The stem comes before all stages and the head after them.
Position = tuple[float, int]
STEM: Position = (-1, 0)
_HEAD: Position = (math.inf, 0)
_BLOCKS = 3  # consecutive blocks of a stage that form a layer


def learning_rate_factors(model: nn.Module, decay: float) -> dict[str, float]:
    """Return the factor of the learning rate of each parameter, by name: `decay` to the power of the layers above it.

    The head's factor is 1. As in the official ConvNeXt (`get_num_layer_for_convnext` in its `optim_factory.py`), a
    layer is up to three consecutive blocks of a stage, with the downsampling before them. In torchvision's ViT and Swin
    a layer is one block, as in the official code of MAE and SimMIM. Raise ValueError for another network.
    """
    position = positions_of(model)
    positions = {name: position(name) for name, _ in model.named_parameters()}
    number = {one: index for index, one in enumerate(sorted(set(positions.values())))}
    return {name: decay ** (len(number) - 1 - number[one]) for name, one in positions.items()}


def positions_of(model: nn.Module) -> Callable[[str], Position]:
    """Return the function from the name of one of the network's parameters to its position.

    Raise ValueError for a network whose layers are not known.
    """
    from torchvision.models import ConvNeXt, ResNet, SwinTransformer, VisionTransformer

    from modernize.network import Network

    known: dict[type[nn.Module], Callable[[str], Position]] = {
        Network: _in_ours,
        ResNet: _in_resnet,
        ConvNeXt: _in_convnext,
        SwinTransformer: partial(_in_swin, model),
        VisionTransformer: _in_vit,
    }
    for kind, position in known.items():
        if isinstance(model, kind):
            return position
    raise ValueError(
        f"layer_decay: the layers of {type(model).__name__} are not known; it supports designs, and torchvision's "
        "ResNet, ConvNeXt, Swin and ViT"
    )


def _in_ours(name: str) -> Position:
    if match := re.match(r"stages\.(\d+)\.(?:blocks\.(\d+)|downsampling)\.", name):
        return int(match[1]), int(match[2] or 0) // _BLOCKS
    return STEM if name.startswith("stem.") else _HEAD


def _in_resnet(name: str) -> Position:
    if match := re.match(r"layer(\d+)\.(\d+)\.", name):
        return int(match[1]) - 1, int(match[2]) // _BLOCKS
    return _HEAD if name.startswith("fc.") else STEM


def _in_convnext(name: str) -> Position:
    """Stage s is `features.{2s + 1}`, and the downsampling before it `features.{2s}`; `features.0` is the stem."""
    match = re.match(r"features\.(\d+)\.(\d+)\.", name)
    if match is None:
        return _HEAD
    half, block = int(match[1]), int(match[2])
    return (half // 2, block // _BLOCKS if half % 2 else 0) if half else STEM


def _in_swin(model: Any, name: str) -> Position:
    """Stage s is `features.{2s + 1}`; the patch merging after it belongs to its last block."""
    match = re.match(r"features\.(\d+)\.(\d+)?", name)
    if match is None:
        return _HEAD
    number = int(match[1])
    if number == 0:
        return STEM
    return ((number - 1) // 2, int(match[2]) if number % 2 else len(model.features[number - 1]) - 1)


def _in_vit(name: str) -> Position:
    if match := re.match(r"encoder\.layers\.encoder_layer_(\d+)\.", name):
        return 0, int(match[1])
    return STEM if name.startswith(("conv_proj.", "class_token", "encoder.pos_embedding")) else _HEAD
