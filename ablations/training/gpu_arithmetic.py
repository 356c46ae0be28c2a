"""How a GPU computes: float32 products in TF32 or not, and whether its results repeat. A CPU has neither choice.

By default torch computes float32 convolutions in TF32, which reads 10 of the 23 bits of each factor, but not matrix
products. A 1×1 convolution would then be faster, and less exact, than the linear layer that computes the same.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ablations.errors import RequestError

WORKSPACE, REPEATING = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")  # cuBLAS's settings whose results repeat


def check_arithmetic(device: torch.device | str, precision: str, deterministic: bool = False) -> None:
    """Raise RequestError if the device cannot compute so; prepare cuBLAS if results must repeat."""
    prepare_arithmetic(device, deterministic)
    kind = torch.device(device).type
    if precision == "tf32" and (kind == "cpu" or (kind == "cuda" and not torch.cuda.is_tf32_supported())):
        name = "a CPU" if kind == "cpu" else torch.cuda.get_device_name(device)
        raise RequestError(f"precision=tf32: {name} has no TF32; set precision to float32")


def prepare_arithmetic(device: torch.device | str, *deterministic: bool) -> None:
    """If results of any run in this process must repeat, have cuBLAS repeat its own, which it decides when it starts.

    Raise RequestError if CUDA has started already.
    """
    if torch.device(device).type == "cpu" or not any(deterministic) or os.environ.get(WORKSPACE) in REPEATING:
        return
    if WORKSPACE in os.environ or torch.cuda.is_initialized():
        state = f"is {os.environ[WORKSPACE]}" if WORKSPACE in os.environ else "is not set, and CUDA has started"
        raise RequestError(f"deterministic: {WORKSPACE} {state}; set it to {REPEATING[0]} before Python starts")
    os.environ[WORKSPACE] = REPEATING[0]


@contextmanager
def gpu_arithmetic(device: torch.device | str, precision: str, deterministic: bool = False) -> Iterator[None]:
    """Compute float32 convolutions and matrix products alike within the block, and results that repeat if asked to.

    The settings are the process's own; those of before are restored. On the CPU nothing changes.
    """
    if torch.device(device).type == "cpu":
        yield
        return
    with _float32_products("tf32" if precision == "tf32" else "ieee"), _repeating(deterministic):
        yield


@contextmanager
def _float32_products(kind: str) -> Iterator[None]:
    """Compute float32 products as `tf32` or `ieee`.

    The older settings must agree with the newer, since torch.compile reads the older ones. One of them is shared with
    the CPU, so the CPU's own has to agree with it, too.
    """
    cuda: Any = torch.backends.cuda
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    newer = (cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul)
    before = [one.fp32_precision for one in newer]
    with _without_advice():
        shared = _shared_setting()
        cuda.matmul.allow_tf32 = cudnn.allow_tf32 = kind == "tf32"
    for one, value in zip(newer, (kind, kind, kind, "ieee"), strict=True):
        one.fp32_precision = value
    try:
        yield
    finally:
        with _without_advice():
            torch.set_float32_matmul_precision(shared or ("high" if before[0] == "tf32" else "highest"))
            cudnn.allow_tf32 = before[1] == "tf32"
        for one, value in zip(newer, before, strict=True):
            one.fp32_precision = value


@contextmanager
def _without_advice() -> Iterator[None]:
    """Hide the advice to use the newer settings instead, which some versions of torch print in several lines."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please use the new API settings")
        yield


def _shared_setting() -> str | None:
    """Return torch's older setting of matrix products, of the CPU and GPUs; None if the newer ones contradict it."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


@contextmanager
def _repeating(deterministic: bool) -> Iterator[None]:
    """Choose algorithms whose results repeat; torch raises RuntimeError for an operation that has none."""
    if not deterministic:
        yield
        return
    cudnn: Any = torch.backends.cudnn
    filled: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    others = cudnn.deterministic, cudnn.benchmark, filled.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    filled.fill_uninitialized_memory = False  # an aid to debugging that costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark, filled.fill_uninitialized_memory = others
