"""BatchNorm over the images of all processes at a run."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _Total(torch.autograd.Function):
    """The sum of all processes' values; what follows from it in any of them is in each one's gradient."""

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
    """BatchNorm whose statistics are those of all processes' images, on any device.

    torch.nn.SyncBatchNorm, faster, needs a GPU.
    """

    group: Any = None

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        wide = input.to(torch.promote_types(input.dtype, torch.float32))  # under autocast it is half as wide
        count = wide.new_tensor([input.numel() // input.shape[1]], dtype=torch.float64)
        sums = _Total.apply(torch.cat([wide.sum((0, 2, 3), dtype=torch.float64), count]), self.group)
        whole = sums[-1].detach()
        mean = sums[:-1] / whole
        centred = wide - _by_channel(mean, wide)
        # not the mean of squares less the mean's square: where the mean is large nothing would be left of it
        variance = _Total.apply(centred.square().sum((0, 2, 3), dtype=torch.float64), self.group) / whole
        if self.track_running_stats:
            self._follow(mean.detach(), (variance * whole / (whole - 1)).detach())
        out = centred * _by_channel((variance + self.eps).rsqrt(), wide)
        if self.affine:
            out = out * _by_channel(self.weight, wide) + _by_channel(self.bias, wide)
        return out.to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics towards a batch's; its variance is the unbiased one."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
            self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def _by_channel(values: Tensor, images: Tensor) -> Tensor:
    """A value for each channel, as it meets images of that type."""
    return values.to(images.dtype)[:, None, None]


def synchronise_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with its BatchNorms over all processes; parameters and their names stay."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    others = [module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm3d))]
    if others:
        raise ValueError(f"sync_batchnorm: on the CPU only nn.BatchNorm2d can be, not {type(others[0]).__name__}")
    group = dist.new_group()  # its own: its sums must not be mistaken for those of gradients
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm
            assert isinstance(module, SyncBatchNorm)
            module.group = group
    return model
