"""What a plan is made of: descriptions of layers, with their sizes and cost, in blocks, stages and networks.

Nothing here needs torch. Plugins bring layers of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modernize.arguments import Size
from modernize.design import Design

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class _Layer:
    """A layer that keeps the resolution, and has neither parameters nor MACs."""

    name: str

    @property
    def params(self) -> int:
        """Number of parameters."""
        return 0

    @property
    def in_and_out(self) -> tuple[int, int] | None:
        """Input and output channels; None if the layer takes any number and keeps it."""
        return None

    def out_size(self, size: Size) -> Size:
        """Return the size of the output for that of the input."""
        return size

    def macs(self, size: Size) -> int:
        """Return the multiply-adds for one input of a size."""
        return 0

    def activations(self, size: Size) -> int:
        """Return the elements of the output of a convolution or linear layer, for one input of a size."""
        return 0


@dataclass(frozen=True)
class Conv(_Layer):
    """A 2-d convolution with a square kernel."""

    in_channels: int
    out_channels: int
    kernel_size: int = 1
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = False

    @property
    def params(self) -> int:
        return self.kernel_size**2 * self.in_channels // self.groups * self.out_channels + self.bias * self.out_channels

    @property
    def in_and_out(self) -> tuple[int, int]:
        return self.in_channels, self.out_channels

    def out_size(self, size: Size) -> Size:
        beyond, stride = 2 * self.padding - self.kernel_size, self.stride
        return Size((size.height + beyond) // stride + 1, (size.width + beyond) // stride + 1)

    def macs(self, size: Size) -> int:
        per_position = self.kernel_size**2 * self.in_channels // self.groups * self.out_channels
        return self.out_size(size).pixels * per_position

    def activations(self, size: Size) -> int:
        return self.out_size(size).pixels * self.out_channels

    def __str__(self) -> str:
        grouped = "depthwise " if self.groups == self.in_channels > 1 else ""
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"{grouped}conv {self.kernel_size}×{self.kernel_size}, {self.in_channels}→{self.out_channels}{stride}"


@dataclass(frozen=True)
class Norm(_Layer):
    """BatchNorm (`bn`) or LayerNorm over channels (`ln`)."""

    kind: str
    channels: int

    @property
    def params(self) -> int:
        return 2 * self.channels

    @property
    def in_and_out(self) -> tuple[int, int]:
        return self.channels, self.channels

    def __str__(self) -> str:
        return f"{ {'bn': 'BatchNorm', 'ln': 'LayerNorm'}[self.kind] } {self.channels}"


@dataclass(frozen=True)
class Activation(_Layer):
    """An activation function, `relu` or `gelu`."""

    kind: str

    def __str__(self) -> str:
        return {"relu": "ReLU", "gelu": "GELU"}[self.kind]


@dataclass(frozen=True)
class MaxPool(_Layer):
    """ResNet's overlapping 3×3 max-pool."""

    stride: int = 2

    def out_size(self, size: Size) -> Size:
        return Size((size.height - 1) // self.stride + 1, (size.width - 1) // self.stride + 1)

    def __str__(self) -> str:
        return f"max-pool 3×3, stride {self.stride}"


@dataclass(frozen=True)
class GlobalAveragePool(_Layer):
    """The mean over positions, with output size 1×1."""

    def out_size(self, size: Size) -> Size:
        return Size(1, 1)

    def __str__(self) -> str:
        return "global average pool"


@dataclass(frozen=True)
class LayerScale(_Layer):
    """A learnable per-channel scale (Touvron et al., 2021)."""

    channels: int
    init: float

    @property
    def params(self) -> int:
        return self.channels

    @property
    def in_and_out(self) -> tuple[int, int]:
        return self.channels, self.channels

    def __str__(self) -> str:
        return f"layer scale {self.init:g}"


@dataclass(frozen=True)
class GlobalResponseNorm(_Layer):
    """Global response normalization, GRN (Woo et al., 2023)."""

    channels: int

    @property
    def params(self) -> int:
        return 2 * self.channels

    @property
    def in_and_out(self) -> tuple[int, int]:
        return self.channels, self.channels

    def __str__(self) -> str:
        return f"GRN {self.channels}"


@dataclass(frozen=True)
class Linear(_Layer):
    """The classifier, on the pooled channels."""

    in_features: int
    out_features: int

    @property
    def params(self) -> int:
        return (self.in_features + 1) * self.out_features

    @property
    def in_and_out(self) -> tuple[int, int]:
        return self.in_features, self.out_features

    def out_size(self, size: Size) -> Size:
        return Size(1, 1)

    def macs(self, size: Size) -> int:
        return self.in_features * self.out_features

    def activations(self, size: Size) -> int:
        return self.out_features

    def __str__(self) -> str:
        return f"linear, {self.in_features}→{self.out_features}"


@dataclass(frozen=True)
class CustomLayer(_Layer):
    """Base class of the layers that plugins bring: a frozen dataclass that describes a layer and makes its module.

    A layer overrides `module`, and of `params`, `out_size` and `macs` what is not as in a layer without parameters and
    MACs that keeps the resolution. Before its numbers are shown, they are compared with those of the module. Its
    activations are counted on the module.

    Attributes:
        name: Name of the module among its neighbors.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    in_channels: int
    out_channels: int

    @property
    def in_and_out(self) -> tuple[int, int]:
        return self.in_channels, self.out_channels

    def module(self) -> nn.Module:
        """Return a new module, images (N, in_channels, H, W) to (N, out_channels, *out_size((H, W)))."""
        raise NotImplementedError(f"{type(self).__name__} needs a method `module` that returns its torch.nn.Module")

    def __str__(self) -> str:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(self).__name__).lower()
        across = (
            self.in_channels if self.in_channels == self.out_channels else f"{self.in_channels}→{self.out_channels}"
        )
        return f"{words} {across}"


Layer = Conv | Norm | Activation | MaxPool | GlobalAveragePool | LayerScale | GlobalResponseNorm | Linear | CustomLayer
Layers = tuple[Layer, ...]


@dataclass(frozen=True)
class BlockPlan:
    """A block, `after(shortcut(x) + residual(x))`; an empty shortcut is the identity."""

    residual: Layers
    shortcut: Layers
    after: Layers


@dataclass(frozen=True)
class StagePlan:
    """A stage: the downsampling before it, and its blocks."""

    downsampling: Layers
    blocks: tuple[BlockPlan, ...]


@dataclass(frozen=True)
class Plan:
    """All layers of a network. Without classes the head has no classifier."""

    design: Design
    in_channels: int
    num_classes: int
    stem: Layers
    stages: tuple[StagePlan, ...]
    head: Layers
