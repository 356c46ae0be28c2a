"""A network's stages as a backbone: their feature maps, for feature pyramids, detection and segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor, nn

from modernize.alterations import unwrapped
from modernize.arguments import Size, read_stages
from modernize.design import DesignError
from modernize.layers import CustomLayer, Layers
from modernize.network import Network

__all__ = ["Features", "features"]

_LARGE = 1 << 16  # pixels: strides are ratios of sizes, but for rounding


class Features(nn.Module):
    """The chosen stages of a network, as `features` makes them: images (N, C, H, W) to feature maps by stage.

    Attributes:
        channels: Channels of each feature map.
        strides: Stride of each feature map, in pixels of the image.
    """

    def __init__(self, network: Network, stages: Sequence[int]):
        super().__init__()
        self.stem = network.stem
        self.stages = network.stages[: max(stages) + 1]
        self.names = {index: str(index) for index in stages}
        strides = _strides(network)
        self.channels = tuple(_channels(network, index) for index in stages)
        self.strides = tuple(strides[index] for index in stages)
        self.training = network.training

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        maps = {}
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.names:
                maps[self.names[index]] = x
        return maps


def features(network: nn.Module, stages: Sequence[int] | None = None) -> Features:
    """Return a network's stages as a module that gives their feature maps, for feature pyramids and detectors.

    The module has the network's own stem and stages, so that both share their weights. Stages after the last one that
    is chosen, and the head, are left out. Feature maps are named "0", "1", … by stage, as torchvision's detectors
    expect.

    Args:
        network: Network of `build`, also within torch.compile's, DDP's or EMA wrappers.
        stages: Stages to give, from 0. Default: all.

    Returns:
        Module from images (N, C, H, W) to a dict of feature maps (N, channels, H / stride, W / stride) by stage, with
        the attributes `channels` and `strides`. If a layer's stride does not divide the size of its input, ResNet's
        stem and blocks round up; a patchify stem and separate downsampling round down. `trace` gives the exact sizes.

    Raises:
        DesignError: If the network is not one of `build`, or lacks a stage.
    """
    inner = unwrapped(network, DesignError)
    return Features(inner, read_stages(stages, len(inner.stages)))


def _channels(network: Network, index: int) -> int:
    """Return the channels of a stage's output."""
    plan = network.plan.stages[index].blocks[-1]
    if network.plan.design.added:
        return next(layer.in_and_out[1] for layer in reversed(plan.residual + plan.after) if layer.in_and_out)
    stages: Any = network.stages
    convs = (conv for conv in stages[index].blocks[-1].residual.modules() if isinstance(conv, nn.Conv2d))
    return [conv.out_channels for conv in convs][-1]


def _strides(network: Network) -> list[int]:
    """Return the stride of each stage's output, from the modules, because strides are often changed to dilations."""
    stages: Any = network.stages
    plan = network.plan
    strides = [_stride(network.stem, plan.stem)]
    for stage, planned in zip(stages, plan.stages, strict=True):
        strides.append(strides[-1] * _stride(stage.downsampling, planned.downsampling))
        for block, its in zip(stage.blocks, planned.blocks, strict=True):
            strides[-1] *= _stride(block.residual, its.residual) * _stride(block.after, its.after)
    return strides[1:]


def _stride(part: nn.Module, layers: Layers) -> int:
    """Return the stride of modules in sequence; of a plugin's, as its layer says."""
    custom = {layer.name: layer for layer in layers if isinstance(layer, CustomLayer)}
    stride = prod(_LARGE // Size(*layer.out_size(Size(_LARGE, _LARGE))).height for layer in custom.values())
    built_in = (module for name, child in part.named_children() if name not in custom for module in child.modules())
    for module in built_in:
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
            stride *= module.stride if isinstance(module.stride, int) else module.stride[0]
    return stride
