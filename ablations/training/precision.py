"""Where and in which precision a network computes: device, memory format and autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ablations.data.batches import Batch

PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: str, precision: str) -> AbstractContextManager:
    """Return the context of a forward pass in `precision`, on a device such as `cpu` or `cuda:0`."""
    if PRECISIONS[precision] is torch.float32:
        return nullcontext()
    return torch.autocast(torch.device(device).type, PRECISIONS[precision])


@dataclass(frozen=True)
class Placement:
    """A network's device, the dtype of its weights, its memory format and the precision of its forward pass."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    precision: str

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Move a batch's images and labels to the device, the images in the weights' dtype and memory format."""
        images = batch.images.to(self.device, non_blocking=True).to(self.dtype)
        if self.channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, batch.labels.to(self.device, non_blocking=True)

    def autocast(self) -> AbstractContextManager:
        """Return the context of a forward pass."""
        return autocast(self.device.type, self.precision)
