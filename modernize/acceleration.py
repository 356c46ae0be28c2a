"""Faster modules for training on a CPU, swapped into a network and out again.

`build` gives plain torch modules, which every tool understands. `accelerate` gives some of them a faster subclass of
their own class. Parameters, hooks and module names stay; outputs and gradients are equal up to the order of summation.
Each faster module checks, whenever it is called, that its shortcut is exact, and else computes as its plain class does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as hooks_of_all

from modernize.depthwise import COLUMNS, LARGEST_STRIDED, depthwise_conv2d, is_channels_last
from modernize.design import read_object
from modernize.network import Block, GlobalResponseNorm, LayerNorm2d, LayerScale, Network, StochasticDepth
from modernize.pointwise import is_slow_pointwise, is_small, pointwise_conv2d

ROUNDING = 5  # raised when runs come to compute differently than before; what and where: ablations/studies/older.py
_TENSORS = (Tensor, nn.Parameter)
_FAST_DTYPES = (torch.float32, torch.bfloat16)
_CAST_BY_AUTOCAST = (torch.float32, torch.bfloat16, torch.float16)


class DepthwiseConv2d(nn.Conv2d):
    """Conv2d whose gradient is fast for a wide depthwise kernel on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias  # read once: a parametrization may compute, and change, what it returns
        if _is_strided_cpu(x) and torch.is_grad_enabled() and not _is_transformed() and _is_slow(self, weight):
            cast_x, cast_weight, cast_bias = _autocast(x, weight, bias)
            stride = self.stride[0]
            dtypes = _FAST_DTYPES if stride == 1 else (torch.float32,)
            exact = stride == 1 or is_channels_last(cast_x)
            if exact and cast_x.dtype is cast_weight.dtype and cast_x.dtype in dtypes:
                return depthwise_conv2d(cast_x, cast_weight, cast_bias, stride)
        return self._conv_forward(x, weight, bias)


class PointwiseConv2d(nn.Conv2d):
    """Conv2d whose gradient is fast for a 1×1 kernel, from many channels to few or with a stride, on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if (
            _is_strided_cpu(x)
            and x.dtype is weight.dtype is torch.float32
            and not torch.is_autocast_enabled("cpu")
            and torch.is_grad_enabled()
            and not _is_transformed()
            and _is_pointwise(self, weight)
            and is_small(x, self.stride[0])
        ):
            return pointwise_conv2d(x, weight, self.stride[0])
        return self._conv_forward(x, weight, bias)


def _is_strided_cpu(x: Tensor) -> bool:
    """Return whether x is an ordinary batch of images: no proxy, subclass, or single image."""
    return type(x) in _TENSORS and x.ndim == 4 and x.layout is torch.strided and x.device.type == "cpu"


def _autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cast as autocast does, which leaves float64 and complex numbers alone."""
    if not torch.is_autocast_enabled("cpu") or not {x.dtype, weight.dtype} <= {*_CAST_BY_AUTOCAST}:
        return x, weight, bias
    dtype = torch.get_autocast_dtype("cpu")
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _is_slow(conv: nn.Conv2d, weight: Tensor) -> bool:
    """Return whether oneDNN's gradient of a convolution is slow, and `depthwise_conv2d` computes the same."""
    kernel = weight.shape[-1]
    return (
        type(weight) in _TENSORS
        and kernel > COLUMNS
        and kernel % 2 == 1
        and weight.shape == (conv.groups, 1, kernel, kernel)
        and conv.padding == (kernel // 2, kernel // 2)
        and (conv.stride == (1, 1) or (conv.stride == (2, 2) and conv.bias is None and kernel <= LARGEST_STRIDED))
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
    )


def _is_pointwise(conv: nn.Conv2d, weight: Tensor) -> bool:
    """Return whether oneDNN's gradient of a 1×1 convolution is slow, and `pointwise_conv2d` computes the same."""
    return (
        type(weight) in _TENSORS
        and weight.shape[2:] == (1, 1)
        and conv.groups == 1
        and conv.bias is None
        and conv.padding == (0, 0)
        and conv.stride in ((1, 1), (2, 2))
        and is_slow_pointwise(weight.shape[1], weight, conv.stride[0])
    )


class ChannelsLastGELU(nn.GELU):
    """GELU that reads a channels-last tensor, (N, C, H, W), as the contiguous (N, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is not Tensor or x.ndim != 4 or x.is_contiguous():
            return super().forward(x)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class InPlaceSequential(nn.Sequential):
    """Sequential whose ReLUs overwrite the output of the layer before them."""

    def forward(self, x: Tensor) -> Tensor:
        return _in_turn(self, x) if _may_overwrite(x) else super().forward(x)


class InPlaceBlock(Block):
    """Block that adds the shortcut, and applies the ReLU after the sum, in place."""

    def forward(self, x: Tensor) -> Tensor:
        if not _may_overwrite(x):
            return super().forward(x)
        residual, shortcut = self.drop_path(self.residual(x)), self.shortcut(x)
        if self._residual_is_new() and residual.dtype is shortcut.dtype and residual.shape == shortcut.shape:
            total = residual.add_(shortcut)
        else:
            total = residual + shortcut
        return _in_turn(self.after, total, new=True) if _is_plain(self.after, _SEQUENTIAL) else self.after(total)

    def _residual_is_new(self) -> bool:
        """Return whether nothing else holds the residual branch's output, and no gradient needs it."""
        return (
            _is_plain(self.drop_path, (StochasticDepth,))
            and _is_plain(self.residual, _SEQUENTIAL)
            and len(self.residual) > 0
            and _is_plain(self.residual[-1], _NEW)
        )


_SEQUENTIAL = (nn.Sequential, InPlaceSequential)
# Layers whose outputs may be overwritten: they are new tensors, and no gradient needs them.
_NEW = (
    nn.Conv2d,
    DepthwiseConv2d,
    PointwiseConv2d,
    nn.BatchNorm2d,
    nn.SyncBatchNorm,
    LayerNorm2d,
    LayerScale,
    GlobalResponseNorm,
)


def _in_turn(layers: nn.Sequential, x: Tensor, new: bool = False) -> Tensor:
    """Apply the layers; a ReLU overwrites its input if that is `new` or a layer's output that nothing else reads."""
    for layer in layers:
        x = x.relu_() if new and _is_plain(layer, (nn.ReLU,)) else layer(x)
        new = _is_plain(layer, _NEW)
    return x


def _is_plain(module: nn.Module, types: tuple[type[nn.Module], ...]) -> bool:
    """Return whether a module is of one of the types, and nothing sees its inputs and outputs: no hook, no wrapper."""
    return type(module) in types and not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def _may_overwrite(x: Tensor) -> bool:
    """Return whether tensors may be overwritten. Compilers do it by themselves, and graphs should not have it."""
    return (
        type(x) is Tensor
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not hooks_of_all._has_any_global_hook()
        and not torch._C._are_functorch_transforms_active()
    )


def _is_transformed() -> bool:
    """Return whether vmap, forward mode or tracing is active, for which the fast gradient has no rule."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return torch.jit.is_tracing() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


_FASTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.GELU: ChannelsLastGELU,
    nn.Sequential: InPlaceSequential,
    Block: InPlaceBlock,
}
_PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    **{faster: plain for plain, faster in _FASTER.items()},
    DepthwiseConv2d: nn.Conv2d,
    PointwiseConv2d: nn.Conv2d,
}


def _faster(module: nn.Module) -> type[nn.Module] | None:
    """Return the faster class of a module; None if it has none."""
    if type(module) is nn.Conv2d:
        if _is_slow(module, module.weight):
            return DepthwiseConv2d
        return PointwiseConv2d if _is_pointwise(module, module.weight) else None
    return _FASTER.get(type(module))


def accelerate(network: nn.Module) -> nn.Module:
    """Swap faster modules into the blocks of a network, in place.

    Do this to train with a loop of your own; `Trainer` does it by itself. Tools that look for torch's own modules, such
    as quantization, need the plain network: call `decelerate` first.

    - Wide depthwise convolutions get a fast gradient, for float32, bfloat16 and bfloat16 autocast on a CPU; with stride
      2 for kernels up to 13×13, channels-last float32 and without a bias. Others, and those whose padding or dilation
      was changed, are computed as before.
    - 1×1 convolutions of images up to 16×16 pixels, from many channels to few or with stride 2, get a fast gradient for
      channels-last batches of 16 or more in float32 on a CPU, if they have no bias.
    - GELU reads channels-last tensors as contiguous ones.
    - The shortcut is added, and ReLU applied, in place, unless a hook sees the tensor.

    Args:
        network: Network of `build`, or any module that contains its blocks.

    Returns:
        The same network.

    Raises:
        DesignError: If `network` is not a module.
    """
    _swap(read_object("network", network, nn.Module, "a torch.nn.Module"))
    return network


def decelerate(network: nn.Module) -> nn.Module:
    """Undo `accelerate`, in place.

    Args:
        network: Network, accelerated or not.

    Returns:
        The same network.

    Raises:
        DesignError: If `network` is not a module.
    """
    _restore(read_object("network", network, nn.Module, "a torch.nn.Module").modules())
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
    swapped = []
    for module in {*_swappable(network)}:
        if (faster := _faster(module)) is not None:
            module.__class__ = faster
            swapped.append(module)
    return swapped


def _restore(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        if type(module) in _PLAIN:
            module.__class__ = _PLAIN[type(module)]


def _swappable(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules of all stems and blocks that can be faster."""
    for part in network.modules():
        if isinstance(part, Network) and _has_relu(part.stem):
            yield part.stem
        elif isinstance(part, Block):
            yield part
            for module in part.modules():
                if type(module) in (nn.GELU, nn.Conv2d):
                    yield module
            if _has_relu(part.residual):
                yield part.residual


def _has_relu(layers: nn.Module) -> bool:
    """Return whether a ReLU follows a layer whose output it may overwrite."""
    return isinstance(layers, nn.Sequential) and any(
        type(layer) is nn.ReLU and type(before) in _NEW for before, layer in pairwise(layers)
    )
