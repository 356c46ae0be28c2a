"""A network's stages as a backbone: their feature maps, for feature pyramids, detection and segmentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any

from torch import Tensor, nn

from modernize.alterations import unwrapped
from modernize.arguments import read_stages
from modernize.design import DesignError
from modernize.network import Network

__all__ = ["Features", "features"]


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
        self.channels = tuple(_channels(network.stages[index]) for index in stages)
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


def _channels(stage: Any) -> int:
    """Return the channels of a stage's output."""
    return [conv.out_channels for conv in stage.blocks[-1].residual.modules() if isinstance(conv, nn.Conv2d)][-1]


def _strides(network: Network) -> list[int]:
    """Return the stride of each stage's output, from the modules, because strides are often changed to dilations."""
    stages: Any = network.stages
    parts = ((stage.downsampling, *(block.residual for block in stage.blocks)) for stage in stages)
    return list(accumulate(map(_stride, parts), mul, initial=_stride([network.stem])))[1:]


def _stride(parts: Iterable[nn.Module]) -> int:
    """Return the stride of modules in sequence."""
    layers = (layer for part in parts for layer in part.modules())
    strides = [layer.stride for layer in layers if isinstance(layer, (nn.Conv2d, nn.MaxPool2d))]
    return prod(stride if isinstance(stride, int) else stride[0] for stride in strides)
