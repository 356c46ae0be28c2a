"""The network: one block class and one network class, compiled from a plan."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modernize import plan as p
from modernize.depthwise import DepthwiseConv

LAYER_NORM_EPS = RESPONSE_NORM_EPS = 1e-6


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of an N×C×H×W tensor; no copy is made where the tensor is channels-last."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class GELU(nn.GELU):
    """The exact GELU; torch is shown a channels-last tensor as it lies in memory, for which it is faster on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.is_contiguous():
            return super().forward(x)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    """A learned factor a channel, all `init` at first."""

    def __init__(self, channels: int, init: float):
        super().__init__()
        self.init = init
        self.weight = nn.Parameter(torch.full((channels, 1, 1), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class ResponseNorm(nn.Module):
    """x + weight · x · n + bias, n a channel's norm over positions by the mean of all channels' (ConvNeXt V2, eq. 3).

    Weight and bias are 0 at first: the identity.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        share = norms / (norms.mean(1, keepdim=True) + RESPONSE_NORM_EPS)
        return torch.addcmul(self.bias, x, 1 + self.weight * share)


class Head(nn.Sequential):
    """Pooling, norm and classifier: N×C×H×W to N×classes."""

    linear: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        for module in self[:-1]:
            x = module(x)
        return self.linear(x.flatten(1))


class Block(nn.Module):
    """after(shortcut(x) + residual(x)); in training an image loses its residual with probability `drop_rate`."""

    def __init__(self, plan: p.BlockPlan, drop_rate: float):
        super().__init__()
        self.residual = sequence(plan.residual)
        self.shortcut = sequence(plan.shortcut)
        self.after = sequence(plan.after)
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        residual = self.residual(x)
        if self.training and self.drop_rate:
            residual = stochastic_depth(residual, self.drop_rate)
        return self.after(residual.add_(self.shortcut(x)))


class Network(nn.Module):
    """A plan as a module: images N×C×H×W to logits N×classes."""

    def __init__(self, plan: p.Plan, drop_path_rate: float = 0.0):
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
        self.head = Head(OrderedDict((layer.name, module(layer)) for layer in plan.head))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)))


def linear_rates(last: float, blocks: int) -> list[float]:
    """Stochastic depth's rate for each block: from 0 at the first to `last` at the last (Huang et al., 2016)."""
    return [last * index / max(blocks - 1, 1) for index in range(blocks)]


def stochastic_depth(x: Tensor, rate: float) -> Tensor:
    """Zeroes whole images of x with probability `rate` and scales the others so that the mean stays."""
    keep = torch.empty((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device).bernoulli_(1 - rate)
    return x * keep.div_(1 - rate)


def sequence(layers: p.Layers) -> nn.Sequential:
    """The layers as a Sequential with the plan's names; empty, it is the identity."""
    return nn.Sequential(OrderedDict((layer.name, module(layer)) for layer in layers))


def module(layer: p.Layer) -> nn.Module:
    """The module a layer description stands for."""
    match layer:
        case p.Conv(groups=groups) if groups == layer.in_channels > 1:
            return DepthwiseConv(groups, layer.kernel_size, layer.stride, layer.bias)
        case p.Conv():
            return nn.Conv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,
                layer.stride,
                layer.padding,
                groups=layer.groups,
                bias=layer.bias,
            )
        case p.Norm(kind="ln"):
            return ChannelNorm(layer.channels, eps=LAYER_NORM_EPS)
        case p.Norm():
            return nn.BatchNorm2d(layer.channels)
        case p.Activation(kind="gelu"):
            return GELU()
        case p.Activation():
            return nn.ReLU(inplace=True)
        case p.MaxPool():
            return nn.MaxPool2d(3, 2, 1)
        case p.GlobalAveragePool():
            return nn.AdaptiveAvgPool2d(1)
        case p.LayerScale():
            return LayerScale(layer.channels, layer.init)
        case p.ResponseNorm():
            return ResponseNorm(layer.channels)
        case p.Linear():
            return nn.Linear(layer.in_features, layer.out_features)


def initialise(network: nn.Module, scheme: str, head_init_scale: float = 1.0) -> None:
    """Draws the weights anew, in place, from torch's global generator.

    `trunc_normal`: standard deviation 0.02, zero bias, for convolutions and linear layers (ConvNeXt, Table 5).
    `kaiming`: normal over the fan out for convolutions, torch's default for the classifier (torchvision's ResNet).
    `head_init_scale` multiplies the classifier's weight and bias.
    """
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            if scheme == "trunc_normal":
                nn.init.trunc_normal_(layer.weight, std=0.02)
            elif isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            else:
                layer.reset_parameters()
            if layer.bias is not None and (scheme == "trunc_normal" or isinstance(layer, nn.Conv2d)):
                nn.init.zeros_(layer.bias)
    head = network.head.linear if isinstance(network, Network) else None
    if head is not None and head_init_scale != 1.0:
        with torch.no_grad():
            head.weight.mul_(head_init_scale)
            head.bias.mul_(head_init_scale)
