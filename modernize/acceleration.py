"""Faster modules for training on a CPU, swapped into a network and out again.

`build` gives plain torch modules, which every tool understands. `accelerate` gives some of them a faster subclass of
their own class. Parameters, hooks and module names stay; outputs and gradients are equal up to the order of summation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modernize.depthwise import COLUMNS, depthwise_conv2d
from modernize.network import Block, LayerNorm2d, LayerScale, Network

ROUNDING = 2  # raised when training steps, compiled or in bf16, come to round differently than before
_FAST_DTYPES = (torch.float32, torch.bfloat16)
# Layers whose outputs may be overwritten: they are new tensors, and no gradient needs them.
_FRESH = (nn.Conv2d, nn.modules.batchnorm._BatchNorm, LayerNorm2d)


class DepthwiseConv2d(nn.Conv2d):
    """Conv2d whose gradient is fast for a wide depthwise kernel on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or torch.jit.is_tracing() or not _is_slow(self):
            return super().forward(x)
        if x.ndim != 4 or x.device.type != "cpu":
            return super().forward(x)
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        if x.dtype is weight.dtype and x.dtype in _FAST_DTYPES:
            return depthwise_conv2d(x, weight, bias)
        return super().forward(x)


def _is_slow(conv: nn.Conv2d) -> bool:
    """Return whether oneDNN's gradient of a convolution is slow, and `depthwise_conv2d` computes the same."""
    kernel = conv.kernel_size[0]
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size == (kernel, kernel)
        and kernel % 2 == 1
        and kernel > COLUMNS
        and conv.padding == (kernel // 2, kernel // 2)
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
    )


class ChannelsLastGELU(nn.GELU):
    """GELU that reads a channels-last tensor, (N, C, H, W), as the contiguous (N, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.is_contiguous():
            return super().forward(x)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class InPlaceReLU(nn.ReLU):
    """ReLU that overwrites its input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x, inplace=True)


class InPlaceBlock(Block):
    """Block that adds the shortcut in place."""

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.drop_path(self.residual(x)).add_(self.shortcut(x)))


_FASTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: DepthwiseConv2d,
    nn.GELU: ChannelsLastGELU,
    nn.ReLU: InPlaceReLU,
    Block: InPlaceBlock,
}
_PLAIN = {faster: plain for plain, faster in _FASTER.items()}


def accelerate(network: nn.Module) -> nn.Module:
    """Swap faster modules into the blocks of a network, in place.

    Do this to train with a loop of your own; `Trainer` does it by itself. Tracing, quantization and other tools that
    rewrite a network need the plain one: call `decelerate` first.

    - Wide depthwise convolutions get a fast gradient, for float32, bfloat16 and bfloat16 autocast on a CPU. Others, and
      those whose stride, padding or dilation was changed, are computed as before.
    - GELU reads channels-last tensors as contiguous ones.
    - The shortcut is added, and ReLU applied, in place. A block with hooks keeps its own sum and ReLU, since a hook may
      keep a tensor; add hooks before this call.

    Args:
        network: Network of `build`, or any module that contains its blocks.

    Returns:
        The same network.
    """
    _swap(network)
    return network


def decelerate(network: nn.Module) -> nn.Module:
    """Undo `accelerate`, in place.

    Args:
        network: Network, accelerated or not.

    Returns:
        The same network.
    """
    _restore(network.modules())
    return network


@contextmanager
def accelerated(*networks: nn.Module) -> Iterator[None]:
    """Accelerate networks for the duration of a `with` block; what was accelerated before remains so."""
    swapped = [module for network in networks for module in _swap(network)]
    try:
        yield
    finally:
        _restore(swapped)


def _swap(network: nn.Module) -> list[nn.Module]:
    """Give modules their faster class; return these modules."""
    swapped = [module for module in dict.fromkeys(_swappable(network)) if type(module) in _FASTER]
    for module in swapped:
        module.__class__ = _FASTER[type(module)]
    return swapped


def _restore(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        if type(module) in _PLAIN:
            module.__class__ = _PLAIN[type(module)]


def _swappable(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the plain and faster modules of all blocks and stems that may be fast without changing a result."""
    for part in network.modules():
        if isinstance(part, Network) and not _has_hooks(part.stem):
            yield from _relus(part.stem)
        elif isinstance(part, Block):
            for module in part.modules():
                if isinstance(module, nn.GELU) or (isinstance(module, nn.Conv2d) and _is_slow(module)):
                    yield module
            if not _has_hooks(part):
                yield from (*_relus(part.residual), *_relus(part.after, after_sum=True))
                if isinstance(_last(part.residual), (*_FRESH, LayerScale)):
                    yield part


def _has_hooks(module: nn.Module) -> bool:
    return any(
        one._forward_hooks or one._forward_pre_hooks or one._backward_hooks or one._backward_pre_hooks
        for one in module.modules()
    )


def _relus(layers: nn.Module, after_sum: bool = False) -> Iterator[nn.Module]:
    """Yield the ReLUs of a sequence whose input nothing else reads."""
    if not isinstance(layers, nn.Sequential):
        return
    if after_sum and len(layers):
        yield layers[0]
    for before, layer in pairwise(layers):
        if isinstance(before, _FRESH) and isinstance(layer, nn.ReLU):
            yield layer


def _last(layers: nn.Module) -> nn.Module | None:
    return layers[-1] if isinstance(layers, nn.Sequential) and len(layers) else None
