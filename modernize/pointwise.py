"""A 1×1 convolution of small images whose gradient is fast on a CPU.

oneDNN's kernel gradient is slow from many channels to few, and its input gradient with a stride. Both are computed here
as the gradients of another convolution of equal products: with input and output gradient exchanged, and of the
subsampled images. On one thread of the CPU with AVX-512 where this was tested both are the same bits as torch's own.
Convolutions with a bias keep torch's gradients: to sum the bias' in the same order takes what the exchange saves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modernize.depthwise import is_channels_last, without_autocast

NARROW = 48  # most output channels for which the exchange pays
PIXELS = 16**2  # of the largest image
IMAGES = 16  # of the smallest batch: oneDNN sums fewer in another order


def is_slow_pointwise(channels: int, weight: Tensor, stride: int) -> bool:
    """Return whether the gradient of a 1×1 convolution of small images has a faster equal."""
    return stride == 2 or (stride == 1 and len(weight) < channels and len(weight) <= NARROW)


def is_small(x: Tensor, stride: int) -> bool:
    """Return whether `pointwise_conv2d` is exact for the memory format, number and size of images (N, C, H, W)."""
    height, width = x.shape[-2:]
    fits = height * width <= PIXELS and height % stride == width % stride == 0 and len(x) >= IMAGES
    return fits and is_channels_last(x)


def pointwise_conv2d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve (N, C, H, W) with (D, C, 1, 1) to (N, D, H / stride, W / stride)."""
    return _Pointwise.apply(x, weight, stride)


class _Pointwise(torch.autograd.Function):
    # No rules for vmap and forward mode: torch.compile refuses a function that has them.
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(_subsampled(x, stride), weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, _ = ctx.needs_input_grad
        grad = grad.contiguous(memory_format=torch.channels_last)
        with without_autocast():
            inputs = _subsampled(x, ctx.stride)
            return (
                _input_gradient(x, inputs, weight, grad, ctx.stride) if wants_x else None,
                _weight_gradient(inputs, weight, grad) if wants_weight else None,
                None,
            )


def _subsampled(x: Tensor, stride: int) -> Tensor:
    if stride == 1:
        return x
    return x[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last)


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]) -> tuple[Tensor, ...]:
    return torch.ops.aten.convolution_backward(grad, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, wanted)


def _input_gradient(x: Tensor, inputs: Tensor, weight: Tensor, grad: Tensor, stride: int) -> Tensor:
    gradient = _gradients(grad, inputs, weight, (True, False, False))[0]
    if stride == 1:
        return gradient
    spread = torch.zeros_like(x)
    spread[:, :, ::stride, ::stride] = gradient
    return spread


def _weight_gradient(inputs: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    outputs, channels = weight.shape[:2]
    if outputs < channels and outputs <= NARROW:
        exchanged = weight.new_empty((channels, outputs, 1, 1))
        return _gradients(inputs, grad, exchanged, (False, True, False))[1].transpose(0, 1)
    return _gradients(grad, inputs, weight, (False, True, False))[1]
