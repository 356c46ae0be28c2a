"""Plan how a study uses this machine (processes, threads, devices); set up a process (threads, memory, signals)."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ablations.errors import RequestError

STOP = (signal.SIGINT, signal.SIGTERM)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of the GNU C library
NO_MPS = "not supported: it has no float64, in which losses are summed; choose cpu"


def refuse_windows() -> None:
    """Raise RequestError on Windows, which lacks the signals that stop training and the folders that can be synced."""
    if sys.platform == "win32":
        raise RequestError("training needs Linux or macOS; on Windows use WSL2")


def _c_library() -> Any:
    return None if sys.platform == "win32" else ctypes.CDLL(None)


@contextmanager
def blocked(*numbers: int) -> Iterator[None]:
    """Keep signals waiting within the block; processes that are started in it inherit this."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def usable_cores() -> int:
    """Return the number of cores that this process may use: its CPU affinity, and its container's quota rounded up."""
    import joblib

    return joblib.cpu_count()


def cores_in_words() -> str:
    """Describe how many of the machine's cores this process may use."""
    usable, all_of_them = usable_cores(), os.cpu_count()
    return f"{usable} cores" if usable == all_of_them else f"{usable} of {all_of_them} cores"


def prepare_process(threads: int) -> None:
    """Set torch's thread count, and keep the GNU C library from returning freed memory to the system.

    By default glibc returns a large tensor's memory when the tensor is freed, and the kernel zeroes the pages of the
    next one: a fifth of a full-size network's training step. Other C libraries are left as they are.
    """
    import torch

    torch.set_num_threads(threads)
    library = _c_library()
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


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
    library = _c_library()
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
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
        cores = usable_cores()
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
    if device.partition(":")[0] == "mps":
        raise RequestError(f"device {device}: {NO_MPS}")
    import torch

    gpus = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    if device == "auto":
        return gpus or ("cpu",)
    if device == "cuda" and gpus:
        return gpus
    if device not in gpus:
        raise RequestError(f"device {device}: not available; this machine has {', '.join(('cpu', *gpus))}")
    return (device,)
