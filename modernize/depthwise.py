"""A depthwise convolution whose gradient is fast on a CPU.

oneDNN's kernel gradient of a depthwise convolution is fast for kernels of up to three columns and any number of rows.
For wider kernels it falls back to code for dense kernels in blocks of 16 channels, and discards most of the result.
Here the gradient of a wider kernel is computed three columns at a time. The input gradient is a depthwise convolution
with the flipped kernel, because oneDNN's forward pass is faster than its backward pass, unless there is a stride.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

COLUMNS = 3  # the widest kernel with a fast gradient
LARGEST_STRIDED = 13  # oneDNN sums the gradient of larger strided kernels in another order


def is_channels_last(x: Tensor) -> bool:
    """Return whether oneDNN reads images (N, C, H, W) as channels-last; one channel or pixel is contiguous, too."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1) -> Tensor:
    """Convolve (N, C, H, W) with one odd square kernel per channel, (C, 1, K, K); padding K // 2, no bias if strided.

    Output and gradients equal those of `torch.nn.functional.conv2d` up to the order of summation.
    """
    return _Depthwise.apply(x, weight, bias, stride)


class _Depthwise(torch.autograd.Function):
    # No rules for vmap and forward mode: torch.compile refuses a function that has them.
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return _convolve(x, weight, bias, stride)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        with without_autocast():
            if ctx.stride > 1:
                return (
                    strided_input_gradient(x, weight, grad, ctx.stride) if wants_x else None,
                    strided_weight_gradient(x, weight, grad, ctx.stride) if wants_weight else None,
                    None,
                    None,
                )
            return (
                input_gradient(weight, grad) if wants_x else None,
                weight_gradient(x, weight, grad) if wants_weight else None,
                grad.sum((0, 2, 3)) if wants_bias else None,
                None,
            )


def without_autocast() -> AbstractContextManager:
    """Keep autocast, if a backward pass runs within it, from changing the dtype of the forward pass."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, groups=len(weight))


def input_gradient(weight: Tensor, grad: Tensor) -> Tensor:
    """Compute the depthwise convolution's input gradient, (N, C, H, W), from its output gradient."""
    return _convolve(grad, weight.flip(2, 3))


def weight_gradient(x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    """Compute the depthwise convolution's kernel gradient, (C, 1, K, K), from its input and output gradient."""
    middle = weight.shape[-1] // 2
    height, width = x.shape[-2:]
    # Rows and columns so far from the middle that they only meet padding have zero gradient.
    rows, columns = min(middle, height - 1), min(middle, width - 1)
    above = 0 if 2 * rows + 1 <= height else rows  # oneDNN pads slowly if the image is smaller than the kernel
    parts = []
    for first, last in runs(columns):
        beside = last if first == -last and not above else 0
        shifted = x if beside else F.pad(x, (-first, last, above, above))
        shape = (len(weight), 1, 2 * rows + 1, last - first + 1)
        parts.append(_kernel_gradient(shifted, grad, shape, [1, 1], [rows - above, beside]))
    unmet = (middle - columns, middle - columns, middle - rows, middle - rows)
    return F.pad(torch.cat(parts, -1), unmet)


def strided_input_gradient(x: Tensor, weight: Tensor, grad: Tensor, stride: int) -> Tensor:
    """Compute a strided depthwise convolution's input gradient, (N, C, H, W); oneDNN's is the fastest."""
    steps, padding, groups = [stride] * 2, [weight.shape[-1] // 2] * 2, len(weight)
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, steps, padding, [1, 1], False, [0, 0], groups, [True, False, False]
    )[0]


def strided_weight_gradient(x: Tensor, weight: Tensor, grad: Tensor, stride: int) -> Tensor:
    """Compute a strided depthwise convolution's kernel gradient, (C, 1, K, K), from its input and output gradient."""
    kernel = weight.shape[-1]
    middle, (height, width) = kernel // 2, x.shape[-2:]
    rows, columns = (stride * (side - 1) for side in grad.shape[-2:])  # from the first window to the last
    below, parts = rows + kernel - middle - height, []
    for first in range(0, kernel, COLUMNS):
        count = min(COLUMNS, kernel - first)
        start, length = first - middle, columns + count  # what these columns meet; all may be padding
        met = x[..., min(max(start, 0), width) : max(start + length, 0)]
        left = min(max(-start, 0), length)
        shifted = F.pad(met, (left, length - left - met.shape[-1], middle, below))
        parts.append(_kernel_gradient(shifted, grad, (len(weight), 1, kernel, count), [stride] * 2, [0, 0]))
    return torch.cat(parts, -1)


def _kernel_gradient(x: Tensor, grad: Tensor, shape: tuple[int, ...], stride: list[int], padding: list[int]) -> Tensor:
    """Return oneDNN's gradient of a depthwise kernel of this shape, (C, 1, rows, columns)."""
    kernel, none = grad.new_empty(shape), [0, 0]
    return torch.ops.aten.convolution_backward(
        grad, x, kernel, None, stride, padding, [1, 1], False, none, shape[0], [False, True, False]
    )[1]


def runs(columns: int) -> list[tuple[int, int]]:
    """Split the columns -columns..columns into runs of at most three, as (first, last); one run is centered at 0."""
    middle = min(columns, 1)
    right = [(first, min(first + COLUMNS - 1, columns)) for first in range(2, columns + 1, COLUMNS)]
    return [*((-last, -first) for first, last in reversed(right)), (-middle, middle), *right]
