"""How a process uses the machine: its threads, and its memory."""

from __future__ import annotations

import ctypes
import gc

import torch

_LIBRARY = ctypes.CDLL(None)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of the GNU C library


def prepare_process(threads: int) -> None:
    """Has torch take so many threads, and the process keep the memory it once had.

    The GNU C library returns each large tensor's memory to the system when the tensor goes, and the system clears it
    page by page when the next one comes: a fifth of a full-size network's step. Other C libraries are left alone.
    """
    torch.set_num_threads(threads)
    if hasattr(_LIBRARY, "mallopt"):
        _LIBRARY.mallopt(M_MMAP_MAX, 0)
        _LIBRARY.mallopt(M_TRIM_THRESHOLD, -1)


def give_back_memory() -> None:
    """Returns to the system, and to the GPU, what memory the process holds but does not use."""
    gc.collect()
    if hasattr(_LIBRARY, "malloc_trim"):
        _LIBRARY.malloc_trim(0)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
