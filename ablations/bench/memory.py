"""The peak memory of a benchmarked model: of its worker process, or of that on a GPU. All sizes are in MB.

Only Linux can reset a process's peak. On macOS the peak is that since the process began, so building the network counts
too, and a network that needs less than the one that loads the libraries is given what that one needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import torch

RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # of Linux


def reset_peak_memory(device: str) -> float:
    """Reset the peak to the memory in use now, where the system can, and return that memory."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    with suppress(OSError):
        RESET.write_text("5", encoding="ascii")  # resets VmHWM to VmRSS
    try:
        return _of_status("VmRSS")
    except OSError:
        done = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
        return int(done.stdout) / 1024


def peak_memory(device: str) -> float:
    """Return the peak memory since the last reset."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        return _of_status("VmHWM")
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _of_status(name: str) -> float:
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024
