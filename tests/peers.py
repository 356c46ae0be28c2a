"""The network of a plan, made of the modules of torch, torchvision and timm, with the module names of ours."""

from __future__ import annotations

from collections import OrderedDict

import torch
from timm.layers import LayerScale2d
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import StochasticDepth

from modernize import layers as p
from modernize.layers import BlockPlan
from modernize.network import Network, linear_rates


class PeerBlock(nn.Module):
    def __init__(self, block: BlockPlan, rate: float):
        super().__init__()
        self.residual, self.shortcut = sequence(block.residual), sequence(block.shortcut)
        self.drop_path, self.after = StochasticDepth(rate, "row"), sequence(block.after)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.shortcut(x) + self.drop_path(self.residual(x)))


def sequence(layers: p.Layers) -> nn.Sequential:
    return nn.Sequential(OrderedDict((layer.name, module(layer)) for layer in layers))


def module(layer: p.Layer) -> nn.Module:
    match layer:
        case p.Conv(_, channels, out, kernel, stride, padding, groups, bias):
            return nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=bias)
        case p.Norm(_, "ln", channels):
            return LayerNorm2d(channels, eps=1e-6)
        case p.Norm(_, _, channels):
            return nn.BatchNorm2d(channels)
        case p.Activation(_, kind):
            return nn.GELU() if kind == "gelu" else nn.ReLU()
        case p.MaxPool():
            return nn.MaxPool2d(3, layer.stride, 1)
        case p.GlobalAveragePool():
            return nn.AdaptiveAvgPool2d(1)
        case p.LayerScale(_, channels, init):
            return LayerScale2d(channels, init)
        case p.GlobalResponseNorm(_, channels):
            return GlobalResponseNorm(channels, channels_last=False)
        case p.Linear(_, channels, classes):
            return nn.Linear(channels, classes)
        case p.CustomLayer():
            return layer.module()


def peer(network: Network, drop_path_rate: float = 0.0) -> nn.Sequential:
    """Return the network of the same plan with the same weights, buffers, dtype and mode."""
    plan = network.plan
    rates = iter(linear_rates(drop_path_rate, sum(plan.design.depths)))
    stages = nn.Sequential()
    for stage in plan.stages:
        blocks = nn.Sequential(*(PeerBlock(block, next(rates)) for block in stage.blocks))
        stages.append(nn.Sequential(OrderedDict(downsampling=sequence(stage.downsampling), blocks=blocks)))
    head = OrderedDict((layer.name, module(layer)) for layer in plan.head[:-1])
    head.update(flatten=nn.Flatten(), linear=module(plan.head[-1]))
    whole = nn.Sequential(OrderedDict(stem=sequence(plan.stem), stages=stages, head=nn.Sequential(head)))
    ours = network.state_dict().values()
    whole.load_state_dict(dict(zip(whole.state_dict(), ours, strict=True)))
    return whole.to(next(network.parameters()).dtype).train(network.training)


def randomize(network: nn.Module) -> None:
    """Draw all weights and statistics, so that no norm, scale or bias is the identity (global torch RNG)."""
    with torch.no_grad():
        for weights in network.parameters():
            fan_in = weights[0].numel()
            weights.normal_(0, fan_in**-0.5) if weights.ndim > 1 else weights.normal_(0.5, 0.5)
        for name, buffer in network.named_buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_(0, 0.3)
