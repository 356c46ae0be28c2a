"""The depthwise convolution, with a backward pass that is fast on a CPU.

oneDNN has fast code for the gradient of a depthwise kernel of up to three columns, whatever its rows; for wider ones it
takes code for dense kernels in blocks of 16 channels, most of whose work is thrown away. So the gradient of a wider
kernel is taken three columns at a time. The input's gradient is itself a depthwise convolution, with the kernel turned
round, and oneDNN's forward pass is faster than its backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.nn import functional as F

COLUMNS = 3  # a kernel this wide has a fast gradient


class DepthwiseConv(nn.Conv2d):
    """A Conv2d with as many groups as channels and an odd kernel padded by half of it: N×C×H×W to N×C×H'×W'.

    Its values and gradients are Conv2d's, but for the order in which numbers are summed.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int = 1, bias: bool = True):
        super().__init__(channels, channels, kernel_size, stride, kernel_size // 2, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == (1, 1) and _is_slow(x, self.weight):
            return _Depthwise.apply(x, self.weight, self.bias)
        return super().forward(x)


def _is_slow(x: Tensor, weight: Tensor) -> bool:
    """Whether a backward pass will come for which oneDNN has no fast code."""
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
    """The gradient N×C×H×W of a depthwise convolution's input, from that of its output."""
    return F.conv2d(grad, weight.flip(2, 3), padding=weight.shape[-1] // 2, groups=len(weight))


def weight_gradient(x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    """The gradient C×1×K×K of a depthwise convolution's kernel, from its input and the gradient of its output."""
    middle = weight.shape[-1] // 2
    height, width = x.shape[-2:]
    # Rows and columns so far from the middle that they only ever meet padding have no gradient.
    rows, columns = min(middle, height - 1), min(middle, width - 1)
    found = torch.zeros_like(weight)
    above = 0 if 2 * rows + 1 <= height else rows  # oneDNN is slow to pad an image that is smaller than the kernel
    for first, last in runs(columns):
        beside = last if first == -last and not above else 0
        moved = x if beside else F.pad(x, (-first, last, above, above))
        kernel = weight.new_empty((len(weight), 1, 2 * rows + 1, last - first + 1))
        padding, none = [rows - above, beside], [0, 0]
        part = torch.ops.aten.convolution_backward(
            grad, moved, kernel, None, [1, 1], padding, [1, 1], False, none, len(weight), [False, True, False]
        )[1]
        found[:, :, middle - rows : middle + rows + 1, middle + first : middle + last + 1] = part
    return found


def runs(columns: int) -> list[tuple[int, int]]:
    """The columns from -columns to columns in runs of at most three, each as its first and last, one in the middle."""
    middle = min(columns, 1)
    right = [(first, min(first + COLUMNS - 1, columns)) for first in range(2, columns + 1, COLUMNS)]
    return [(-middle, middle), *right, *((-last, -first) for first, last in right)]
