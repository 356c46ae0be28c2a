"""Count MACs and activations of convolutions and linear layers with fvcore, without computing anything."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, NamedTuple

import torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # fvcore uses torch.jit, which is deprecated
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import conv_flop_count, get_shape


def _convolution(inputs: list[Any], outputs: list[Any]) -> int:
    """Return the MACs of a convolution for one image, by fvcore."""
    return int(conv_flop_count([1], get_shape(inputs[1]), get_shape(outputs[0])))


def _linear(inputs: list[Any], outputs: list[Any]) -> int:
    """Return the MACs of a linear layer for one image: one per weight and position."""
    return prod(get_shape(outputs[0])[1:]) * get_shape(inputs[0])[-1]


def _addmm(inputs: list[Any], outputs: list[Any]) -> int:
    return _linear(inputs[1:], outputs)


MACS = {"aten::_convolution": _convolution, "aten::linear": _linear, "aten::addmm": _addmm}


class Counts(NamedTuple):
    """Operations of a module for one image: MACs, and activations, the elements of the outputs."""

    macs: int
    activations: int


def _counted(macs: Callable[[list[Any], list[Any]], int]) -> Callable[[list[Any], list[Any]], Counter[str]]:
    """Count an operation's activations beside its MACs."""
    return lambda inputs, outputs: Counter(macs=macs(inputs, outputs), activations=prod(get_shape(outputs[0])[1:]))


def count_operations(network: nn.Module, image_shape: tuple[int, int, int], batch: int = 0) -> Mapping[str, Counts]:
    """Return MACs and activations of convolutions and linear layers for one image (C, H, W), per module.

    The network may be on the meta device. By default the batch is empty, so that nothing is computed. Modules of
    plugins need an image: reshaping to -1 fails without one, and torch's pixel_unshuffle then keeps the size.
    """
    # All kernels share this storage. It is never written, so it takes no memory; other weights repeat its first number.
    kernels = (weights.numel() for weights in network.parameters() if weights.ndim == 4)
    blank = torch.empty(max(kernels, default=1))
    for module in network.modules():
        for name, weights in module.named_parameters(recurse=False):
            kernel = weights.ndim == 4
            shared = blank[: weights.numel()].view(weights.shape) if kernel else blank[0].expand(weights.shape)
            setattr(module, name, nn.Parameter(shared, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.zeros((), dtype=buffer.dtype).expand(buffer.shape))
    analysis = FlopCountAnalysis(network, torch.zeros(batch, *image_shape)).clear_op_handles()
    analysis.set_op_handle(**{name: _counted(macs) for name, macs in MACS.items()})
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        modules = analysis.by_module_and_operator()
    return {name: Counts(int(found["macs"]), int(found["activations"])) for name, found in modules.items()}
