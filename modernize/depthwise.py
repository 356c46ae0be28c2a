"""A depthwise convolution whose gradient is fast on a CPU.

oneDNN's kernel gradient of a depthwise convolution is fast for kernels of up to three columns and any number of rows.
For wider kernels it falls back to code for dense kernels in blocks of 16 channels, and discards most of the result.
Here the gradient of a wider kernel is computed three columns at a time. The input gradient is a depthwise convolution
with the flipped kernel, because oneDNN's forward pass is faster than its backward pass.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

COLUMNS = 3  # the widest kernel with a fast gradient


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve (N, C, H, W) with one odd square kernel per channel, (C, 1, K, K); stride 1, padding K // 2.

    Output and gradients equal those of `torch.nn.functional.conv2d` up to the order of summation.
    """
    return _Depthwise.apply(x, weight, bias)


class _Depthwise(torch.autograd.Function):
    # No rules for vmap and forward mode: torch.compile refuses a function that has them.
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        with _without_autocast():
            return (
                input_gradient(weight, grad) if wants_x else None,
                weight_gradient(x, weight, grad) if wants_weight else None,
                grad.sum((0, 2, 3)) if wants_bias else None,
            )


def _without_autocast() -> AbstractContextManager:
    """Keep autocast, if a backward pass runs within it, from changing the dtype of the forward pass."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))


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
        kernel = weight.new_empty((len(weight), 1, 2 * rows + 1, last - first + 1))
        padding, none = [rows - above, beside], [0, 0]
        part = torch.ops.aten.convolution_backward(
            grad, shifted, kernel, None, [1, 1], padding, [1, 1], False, none, len(weight), [False, True, False]
        )[1]
        parts.append(part)
    unmet = (middle - columns, middle - columns, middle - rows, middle - rows)
    return F.pad(torch.cat(parts, -1), unmet)


def runs(columns: int) -> list[tuple[int, int]]:
    """Split the columns -columns..columns into runs of at most three, as (first, last); one run is centered at 0."""
    middle = min(columns, 1)
    right = [(first, min(first + COLUMNS - 1, columns)) for first in range(2, columns + 1, COLUMNS)]
    return [*((-last, -first) for first, last in reversed(right)), (-middle, middle), *right]
