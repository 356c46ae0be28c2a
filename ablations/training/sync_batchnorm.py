"""BatchNorm with statistics over all processes of a run (SyncBatchNorm), also on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _Total(torch.autograd.Function):
    """Sum values over all processes; the backward pass sums the gradients of all processes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _total(values, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _total(gradients[0], ctx.group), None


def _total(values: Tensor, group: Any) -> Tensor:
    values = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(values, group=group)
    return values


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm with statistics over the images of all processes, on any device.

    torch.nn.SyncBatchNorm is faster but needs a GPU.
    """

    group: Any = None

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        wide = input.to(torch.promote_types(input.dtype, torch.float32))  # under autocast the input has 16 bits
        count = wide.new_tensor([input.numel() // input.shape[1]], dtype=torch.float64)
        sums = _Total.apply(torch.cat([wide.sum((0, 2, 3), dtype=torch.float64), count]), self.group)
        total = sums[-1].detach().clamp(min=1)  # no process has an image if all are corrupt
        mean = sums[:-1] / total
        centered = wide - _by_channel(mean, wide)
        # not the mean of squares minus the squared mean, which cancels if the mean is large
        variance = _Total.apply(centered.square().sum((0, 2, 3), dtype=torch.float64), self.group) / total
        if self.track_running_stats and sums[-1] > 0:
            self._update_running_statistics(mean.detach(), (variance * total / (total - 1)).detach())
        out = centered * _by_channel((variance + self.eps).rsqrt(), wide)
        if self.affine:
            out = out * _by_channel(self.weight, wide) + _by_channel(self.bias, wide)
        return out.to(input.dtype)

    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics with a batch's mean and unbiased variance, (C) each."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def _by_channel(values: Tensor, images: Tensor) -> Tensor:
    """Reshape per-channel values (C) to broadcast over images (N, C, H, W), in their dtype."""
    return values.to(images.dtype)[:, None, None]


def synchronize_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace BatchNorm by SyncBatchNorm, keeping parameters and their names; raise ValueError if it cannot be done."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    unsupported = [module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm3d))]
    if unsupported:
        raise ValueError(
            f"sync_batchnorm: on the CPU it supports nn.BatchNorm2d only, not {type(unsupported[0]).__name__}"
        )
    group = dist.new_group()  # its own, so that its sums are not mistaken for those of gradients
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm
            assert isinstance(module, SyncBatchNorm)
            module.group = group
    return model


@contextmanager
def without_statistics(model: nn.Module) -> Iterator[None]:
    """Keep the running statistics of BatchNorm within the block, for a process that has no images.

    SyncBatchNorm takes the statistics of the other processes' images, to which this process adds none.
    """
    own = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not isinstance(module, (SyncBatchNorm, nn.SyncBatchNorm))
        and module.training
    ]
    for module in own:
        module.eval()
    try:
        yield
    finally:
        for module in own:
            module.train()
