"""The peak memory of a benchmarked model, in its worker process or on its GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # of Linux


def reset_peak_memory(device: str) -> float:
    """Reset the peak to the memory in use now, if that is possible, and return that in MB."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    try:
        RESET.write_text("5", encoding="ascii")  # resets VmHWM to VmRSS
    except OSError:  # no Linux: the peak of the process so far
        return _peak_of_process()
    return _status_mb("VmRSS")


def peak_memory(device: str) -> float:
    """Return the peak memory since the last reset, in MB; without Linux's /proc, that since the process began."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        return _status_mb("VmHWM")
    except OSError:
        return _peak_of_process()


def _status_mb(name: str) -> float:
    """Read a size from /proc/self/status, in MB."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def _peak_of_process() -> float:
    """Return the largest memory that this process has had, in MB."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
