"""Mixed precision: the data types of a recipe's `precision`, and the context of the forward pass."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: str, precision: str) -> AbstractContextManager:
    """Return the context of a forward pass in `precision`, on a device such as `cpu` or `cuda:0`."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, PRECISIONS[precision])
