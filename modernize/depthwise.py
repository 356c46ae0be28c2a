"""A depthwise convolution whose backward pass is fast on a CPU.

oneDNN's kernel gradient of a depthwise convolution is fast for kernels of up to three columns and any number of rows.
For wider kernels it falls back to code for dense kernels in blocks of 16 channels, and discards most of the result.
Here the gradient of a wider kernel is computed three columns at a time. The input gradient is a depthwise convolution
with the flipped kernel, because oneDNN's forward pass is faster than its backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.nn import functional as F

COLUMNS = 3  # the widest kernel with a fast gradient


class DepthwiseConv(nn.Conv2d):
    """Depthwise Conv2d with an odd kernel and `kernel_size // 2` padding: (N, C, H, W) to (N, C, H', W').

    Outputs and gradients equal those of Conv2d up to the order of summation.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int = 1, bias: bool = True):
        super().__init__(channels, channels, kernel_size, stride, kernel_size // 2, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == (1, 1) and _is_slow(x, self.weight):
            return _Depthwise.apply(x, self.weight, self.bias)
        return super().forward(x)


def _is_slow(x: Tensor, weight: Tensor) -> bool:
    """Return whether a backward pass will follow for which oneDNN has no fast code."""
    return (
        torch.is_grad_enabled()
        and (x.requires_grad or weight.requires_grad)
        and x.device.type == "cpu"
        and x.ndim == 4
        and x.dtype is weight.dtype is torch.float32
        and weight.shape[-1] > COLUMNS
        and not torch.is_autocast_enabled("cpu")
    )


class _Depthwise(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cpu")
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    @custom_bwd(device_type="cpu")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            input_gradient(weight, grad) if wants_x else None,
            weight_gradient(x, weight, grad) if wants_weight else None,
            grad.sum((0, 2, 3)) if wants_bias else None,
        )


def input_gradient(weight: Tensor, grad: Tensor) -> Tensor:
    """Compute the depthwise convolution's input gradient, (N, C, H, W), from its output gradient."""
    return F.conv2d(grad, weight.flip(2, 3), padding=weight.shape[-1] // 2, groups=len(weight))


def weight_gradient(x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    """Compute the depthwise convolution's kernel gradient, (C, 1, K, K), from its input and output gradient."""
    middle = weight.shape[-1] // 2
    height, width = x.shape[-2:]
    # Rows and columns so far from the middle that they only meet padding have zero gradient.
    rows, columns = min(middle, height - 1), min(middle, width - 1)
    gradient = torch.zeros_like(weight)
    above = 0 if 2 * rows + 1 <= height else rows  # oneDNN pads slowly if the image is smaller than the kernel
    for first, last in runs(columns):
        beside = last if first == -last and not above else 0
        shifted = x if beside else F.pad(x, (-first, last, above, above))
        kernel = weight.new_empty((len(weight), 1, 2 * rows + 1, last - first + 1))
        padding, none = [rows - above, beside], [0, 0]
        part = torch.ops.aten.convolution_backward(
            grad, shifted, kernel, None, [1, 1], padding, [1, 1], False, none, len(weight), [False, True, False]
        )[1]
        gradient[:, :, middle - rows : middle + rows + 1, middle + first : middle + last + 1] = part
    return gradient


def runs(columns: int) -> list[tuple[int, int]]:
    """Split the columns -columns..columns into runs of at most three, as (first, last); one run is centered at 0."""
    middle = min(columns, 1)
    right = [(first, min(first + COLUMNS - 1, columns)) for first in range(2, columns + 1, COLUMNS)]
    return [(-middle, middle), *right, *((-last, -first) for first, last in right)]
