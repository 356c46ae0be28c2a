"""What a run leaves behind on a GPU: memory that other runs need, and errors after which a process has lost its GPU."""

from __future__ import annotations

import gc
import re
from contextlib import suppress

import torch

from ablations.errors import RunError
from ablations.training_config import TrainingConfig

_WORDS = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")  # of the GPU, the CPU and NVIDIA's libraries
_WANTED = re.compile(r"tried to allocate ([\d.]+) (bytes|[KMGT]iB)", re.IGNORECASE)


class LostDeviceError(RunError):
    """This process can no longer use its GPU; another process may."""


def give_back(device: str, compiled: bool) -> None:
    """Free what ended runs hold on a GPU, and give the memory back to it, since other processes may share the GPU.

    torch.compile keeps the code of each network, and refuses to compile more than a few in one process.
    """
    if compiled:
        torch.compiler.reset()
    if device != "cpu":
        gc.collect()
        with suppress(torch.AcceleratorError):  # of the run that has just failed; `check_device` reports it
            torch.get_device_module(torch.device(device)).empty_cache()


def check_device(device: str, after: str = "") -> None:
    """Raise LostDeviceError if this process cannot compute on its device, `after` some run.

    After an illegal memory access, a failed assertion or another error of a kernel, all calls of the process fail.
    """
    if device == "cpu":
        return
    try:
        torch.ones(1, device=device).add(1).item()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise LostDeviceError(f"{device}: this process can no longer use it{after} ({_first(error)})") from error


def _first(error: RuntimeError) -> str:
    """Return the first line of an error: CUDA's go on with advice."""
    return str(error).splitlines()[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the GPU or the CPU; an illegal memory access is another error."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def describe_out_of_memory(error: BaseException, config: TrainingConfig, device: str, processes: int) -> str:
    """Describe in one line where memory ran out, for how many images, and what to change."""
    per_process = config.batch_size // processes
    images = per_process // config.accumulation
    at_once = f", {images} images at once" if images < config.batch_size else ""
    more = next((parts for parts in range(config.accumulation + 1, per_process + 1) if per_process % parts == 0), None)
    remedies = [f"accumulation={more}"] if more else []
    remedies += [] if config.activation_checkpointing else ["activation_checkpointing=true"]
    remedies += ["a smaller batch_size", "fewer runs in parallel"]
    text = f"out of memory on {device} with batch_size={config.batch_size}{at_once}{_wanted(error)}; try "
    return f"{text}{', '.join(remedies[:-1])} or {remedies[-1]}"


def _wanted(error: BaseException) -> str:
    """Return how much memory was asked for, if the error says so."""
    found = _WANTED.search(str(error))
    if found is None:
        return ""
    size, unit = found.groups()
    return f": {int(size) / 2**30:.2f} GiB more needed" if unit == "bytes" else f": {size} {unit} more needed"
