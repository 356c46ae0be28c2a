"""Where and in which precision a network computes: device, memory format and autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

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

    @contextmanager
    def right_gradients(self, model: nn.Module) -> Iterator[None]:
        """Within the block, raise ValueError where a CPU may compute wrong gradients of a convolution in bf16.

        oneDNN then reads memory that it has not written (torch 2.15): in convolutions with padding, of feature maps
        smaller than the stride.
        """
        handles = []
        if self.device.type == "cpu" and self.precision == "bf16":
            for name, module in model.named_modules():
                if isinstance(module, nn.Conv2d) and any(module.padding) and max(module.stride) > 1:
                    handles.append(module.register_forward_pre_hook(partial(_refuse_small, name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _refuse_small(name: str, module: nn.Conv2d, inputs: tuple[Any, ...]) -> None:
    """Raise ValueError if an input of the convolution is smaller than its stride."""
    size, stride = tuple(inputs[0].shape[2:]), module.stride
    if torch.is_grad_enabled() and any(side < step for side, step in zip(size, stride, strict=True)):
        raise ValueError(
            f"precision=bf16: a CPU may compute wrong gradients of {name}, a convolution of stride {max(stride)} on "
            f"feature maps of {size[0]}×{size[1]}; set precision to float32, or take larger images"
        )
