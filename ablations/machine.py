"""How a process uses the machine: its threads, and its memory."""

from __future__ import annotations

import ctypes
import gc
import os
from dataclasses import dataclass

from ablations.errors import RequestError

_LIBRARY = ctypes.CDLL(None)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of the GNU C library


def prepare_process(threads: int) -> None:
    """Has torch take so many threads, and the process keep the memory it once had.

    The GNU C library returns each large tensor's memory to the system when the tensor goes, and the system clears it
    page by page when the next one comes: a fifth of a full-size network's step. Other C libraries are left alone.
    """
    import torch

    torch.set_num_threads(threads)
    if hasattr(_LIBRARY, "mallopt"):
        _LIBRARY.mallopt(M_MMAP_MAX, 0)
        _LIBRARY.mallopt(M_TRIM_THRESHOLD, -1)


def give_back_memory() -> None:
    """Returns to the system, and to the GPU, what memory the process holds but does not use."""
    import torch

    gc.collect()
    if hasattr(_LIBRARY, "malloc_trim"):
        _LIBRARY.malloc_trim(0)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Machine:
    """What a study runs on: processes side by side, threads of each, and the devices they share out."""

    jobs: int
    threads: int
    devices: tuple[str, ...]

    @classmethod
    def plan(
        cls, device: str, jobs: int | None = None, threads: int | None = None, per_gpu: int | None = None
    ) -> Machine:
        """The whole machine: unless told otherwise a job for each core, of one thread, or `per_gpu` for each GPU."""
        cores = len(os.sched_getaffinity(0))
        devices = _devices(device)
        if per_gpu and devices == ("cpu",):
            raise RequestError(f"--per-gpu {per_gpu}: the runs are on the CPU; --jobs says how many side by side")
        jobs = jobs or (cores if devices == ("cpu",) else (per_gpu or 1) * len(devices))
        return cls(jobs, threads or max(cores // jobs, 1), devices)


def _devices(device: str) -> tuple[str, ...]:
    """The devices a name stands for: `cuda` is all GPUs, `auto` those or the CPU."""
    if device == "cpu":
        return ("cpu",)
    import torch

    gpus = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    if device == "auto":
        return gpus or ("cpu",)
    if device == "cuda" and gpus:
        return gpus
    if device not in gpus:
        raise RequestError(f"device {device}: this machine has {', '.join(('cpu', *gpus))}")
    return (device,)
