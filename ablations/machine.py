"""Plan how a study uses this machine (processes, threads, devices), and set up each process's threads and memory."""

from __future__ import annotations

import ctypes
import gc
import os
from dataclasses import dataclass

from ablations.errors import RequestError

_LIBRARY = ctypes.CDLL(None)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of the GNU C library


def prepare_process(threads: int) -> None:
    """Set torch's thread count, and keep the GNU C library from returning freed memory to the system.

    By default glibc returns a large tensor's memory when the tensor is freed, and the kernel zeroes the pages of the
    next one: a fifth of a full-size network's training step. Other C libraries are left as they are.
    """
    import torch

    torch.set_num_threads(threads)
    if hasattr(_LIBRARY, "mallopt"):
        _LIBRARY.mallopt(M_MMAP_MAX, 0)
        _LIBRARY.mallopt(M_TRIM_THRESHOLD, -1)


def asked_threads() -> int | None:
    """Return the number of threads that OMP_NUM_THREADS asks for; None if it is unset or no number."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else None


def overridden_threads(threads: int) -> str | None:
    """Describe that a run on a GPU has another number of threads than OMP_NUM_THREADS asks for; None if it has not."""
    asked = asked_threads()
    if asked in (None, threads):
        return None
    return f"OMP_NUM_THREADS={asked} is overridden: {threads} threads per run, which read images; set --threads"


def give_back_memory() -> None:
    """Return memory that the process holds but does not use, to the system and to the GPU."""
    import torch

    gc.collect()
    if hasattr(_LIBRARY, "malloc_trim"):
        _LIBRARY.malloc_trim(0)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Machine:
    """How a study uses this machine: number of processes, threads per process, and devices to split among them."""

    jobs: int
    threads: int
    devices: tuple[str, ...]

    @classmethod
    def plan(
        cls, device: str, jobs: int | None = None, threads: int | None = None, per_gpu: int | None = None
    ) -> Machine:
        """Fill in what is None so that the whole machine is used.

        Args:
            device: `cpu`, `cuda` (all GPUs), `cuda:N`, or `auto` (all GPUs, or the CPU if there are none).
            jobs: Processes in parallel. Default: cores / threads on the CPU, `per_gpu` per GPU otherwise.
            threads: Threads per process. Default: OMP_NUM_THREADS on the CPU, or cores / jobs, at least 1.
            per_gpu: Processes per GPU. Default: 1.

        Raises:
            RequestError: If this machine lacks the device, or `per_gpu` is given for a CPU.
        """
        cores = len(os.sched_getaffinity(0))
        devices = _devices(device)
        if per_gpu and devices == ("cpu",):
            raise RequestError(f"--per-gpu {per_gpu}: the runs are on the CPU; set the number of processes with --jobs")
        if devices == ("cpu",):
            threads = threads or asked_threads()
        jobs = jobs or (max(cores // (threads or 1), 1) if devices == ("cpu",) else (per_gpu or 1) * len(devices))
        return cls(jobs, threads or max(cores // jobs, 1), devices)


def _devices(device: str) -> tuple[str, ...]:
    """Resolve a device name to this machine's devices; raise RequestError if it has none of that name."""
    if device == "cpu":
        return ("cpu",)
    import torch

    gpus = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    if device == "auto":
        return gpus or ("cpu",)
    if device == "cuda" and gpus:
        return gpus
    if device not in gpus:
        raise RequestError(f"device {device}: not available; this machine has {', '.join(('cpu', *gpus))}")
    return (device,)
