"""The network: plain torch modules built from a plan, one block class for all designs.

`modernize.accelerate` swaps in faster modules for training.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modernize import layers as described
from modernize.custom_layers import make_module
from modernize.layers import BlockPlan, Plan

LAYER_NORM_EPS = RESPONSE_NORM_EPS = 1e-6


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W). A channels-last tensor is not copied."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class _PerChannel(nn.Module):
    """A module whose weights are vectors (C,). It also loads the shape that version 0.1 saved, (C, 1, 1)."""

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for key in (f"{prefix}{name}" for name, _ in self.named_parameters()):
            if key in state_dict and state_dict[key].shape[1:] == (1, 1):
                state_dict[key] = state_dict[key].flatten()
        super()._load_from_state_dict(state_dict, prefix, *args)


class LayerScale(_PerChannel):
    """Learnable per-channel scale, initialized to `init`; (N, C, H, W) (Touvron et al., 2021)."""

    def __init__(self, channels: int, init: float):
        super().__init__()
        self.init = init
        self.weight = nn.Parameter(torch.full((channels,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(-1, 1, 1)


class GlobalResponseNorm(_PerChannel):
    """Global response normalization: x + weight · x · n + bias, (N, C, H, W) (ConvNeXt V2, eq. 3).

    n is a channel's L2 norm over positions, divided by the mean of all channels' norms. Weight and bias are
    initialized to 0, which makes the module the identity.
    """

    __constants__ = ("eps",)  # as in torch's norms: what `export_weights` compares

    def __init__(self, channels: int):
        super().__init__()
        self.eps = RESPONSE_NORM_EPS
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        relative = norms / (norms.mean(1, keepdim=True) + self.eps)
        return torch.addcmul(self.bias.view(-1, 1, 1), x, 1 + self.weight.view(-1, 1, 1) * relative)


class Head(nn.Sequential):
    """Pooling, norm, flattening and, if there are classes, classifier: (N, C, H, W) to (N, num_classes) or (N, C)."""

    if TYPE_CHECKING:  # at run time, torch.jit.script would need a linear layer even without classes
        linear: nn.Linear


class StochasticDepth(nn.Module):
    """In training, zero each image of (N, C, H, W) with probability `rate` and scale the rest to keep the expectation.

    (Huang et al., 2016; drop path in timm.)
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        survival = 1 - self.rate
        keep = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(survival)
        return x * (keep.div_(survival) if survival else keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class Block(nn.Module):
    """after(shortcut(x) + residual(x)), (N, C, H, W). In training, `drop_rate` is the rate of stochastic depth."""

    def __init__(self, plan: BlockPlan, drop_rate: float):
        super().__init__()
        self.residual = sequence(plan.residual)
        self.shortcut = sequence(plan.shortcut)
        self.drop_path = StochasticDepth(drop_rate)
        self.after = sequence(plan.after)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.drop_path(self.residual(x)) + self.shortcut(x))


class Network(nn.Module):
    """A plan as a module: images (N, C, H, W) to logits (N, num_classes), or to pooled features without classes."""

    def __init__(self, plan: Plan, drop_path_rate: float = 0.0):
        super().__init__()
        self.plan = plan
        rates = iter(linear_rates(drop_path_rate, sum(plan.design.depths)))
        self.stem = sequence(plan.stem)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    OrderedDict(
                        downsampling=sequence(stage.downsampling),
                        blocks=nn.Sequential(*(Block(block, next(rates)) for block in stage.blocks)),
                    )
                )
                for stage in plan.stages
            )
        )
        layers = [(layer.name, module(layer)) for layer in plan.head]
        layers.insert(len(layers) - bool(plan.num_classes), ("flatten", nn.Flatten()))
        self.head = Head(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)))


def linear_rates(last: float, blocks: int) -> list[float]:
    """Return the stochastic depth rate per block, rising linearly from 0 to `last` (Huang et al., 2016)."""
    return [last * index / max(blocks - 1, 1) for index in range(blocks)]


def sequence(layers: described.Layers) -> nn.Sequential:
    """Return the layers as a Sequential with the plan's names; without layers it is the identity."""
    return nn.Sequential(OrderedDict((layer.name, module(layer)) for layer in layers))


def module(layer: described.Layer) -> nn.Module:
    """Return the module of a layer description."""
    match layer:
        case described.Conv():
            return nn.Conv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,
                layer.stride,
                layer.padding,
                groups=layer.groups,
                bias=layer.bias,
            )
        case described.Norm(kind="ln"):
            return LayerNorm2d(layer.channels, eps=LAYER_NORM_EPS)
        case described.Norm():
            return nn.BatchNorm2d(layer.channels)
        case described.Activation(kind="gelu"):
            return nn.GELU()
        case described.Activation():
            return nn.ReLU()
        case described.MaxPool():
            return nn.MaxPool2d(3, layer.stride, 1)
        case described.GlobalAveragePool():
            return nn.AdaptiveAvgPool2d(1)
        case described.LayerScale():
            return LayerScale(layer.channels, layer.init)
        case described.GlobalResponseNorm():
            return GlobalResponseNorm(layer.channels)
        case described.Linear():
            return nn.Linear(layer.in_features, layer.out_features)
        case described.CustomLayer():
            return make_module(layer)


def initialise(network: nn.Module, scheme: str, head_init_scale: float = 1.0) -> None:
    """Initialize the weights in place (global torch RNG).

    Args:
        network: The network, or any module.
        scheme: `trunc_normal`: standard deviation 0.02 and zero bias for convolutions and linear layers (ConvNeXt,
            Table 5). `kaiming`: normal with fan-out for convolutions, torch's default for the classifier
            (torchvision's ResNet). Torch's fan-out is not divided by the groups, so a depthwise convolution of C
            channels starts sqrt(C) times smaller than what preserves variance. `lecun_normal`: normal with variance
            1 / fan-in, which is per group, and zero bias (LeCun et al., 1998).
        head_init_scale: Factor on the classifier's weights and bias.
    """
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            if scheme == "trunc_normal":
                nn.init.trunc_normal_(layer.weight, std=0.02)
            elif scheme == "lecun_normal":
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="linear")
            elif isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            else:
                layer.reset_parameters()
            if layer.bias is not None and (scheme != "kaiming" or isinstance(layer, nn.Conv2d)):
                nn.init.zeros_(layer.bias)
    if isinstance(network, Network) and network.plan.num_classes and head_init_scale != 1.0:
        with torch.no_grad():
            for weights in network.head.linear.parameters():
                weights.mul_(head_init_scale)
