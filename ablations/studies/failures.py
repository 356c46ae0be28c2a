"""Why a run failed: the reason in its result, one line, and the traceback in its folder."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ablations.errors import one_line
from ablations.store import write_bytes
from ablations.training.corrupt_images import DamagedDataError
from ablations.training.distributed import Group
from ablations.training.evaluation import DivergedError
from ablations.training.gpu import describe_out_of_memory, is_out_of_memory
from ablations.training_config import TrainingConfig

LONGEST = 500  # characters of a reason


def record_failure(error: BaseException, folder: Path, config: TrainingConfig, device: str, group: Group) -> str:
    """Return the reason of a failure; write the traceback of an unexpected one, which has happened on one rank."""
    if isinstance(error, (DivergedError, DamagedDataError)):
        return str(error)
    where = f" (rank {group.rank})" if group.size > 1 else ""
    write_bytes(folder / "traceback.txt", "".join(traceback.format_exception(error)).encode())
    if is_out_of_memory(error):
        return describe_out_of_memory(error, config, device, group.size) + where
    if isinstance(error, torch.AcceleratorError):  # its other lines are advice, the same for each error
        return f"AcceleratorError: {str(error).splitlines()[0]} (CUDA_LAUNCH_BLOCKING=1 shows where){where}"
    # An error in a worker that loads images ends with its own message.
    words = str(error).strip().splitlines()[-1] if "Original Traceback" in str(error) else str(error)
    return one_line(f"{type(error).__name__}: {words}")[:LONGEST] + where


@contextmanager
def exits_as_errors(run: str) -> Iterator[None]:
    """Have a network that calls sys.exit on one of several ranks end its process with an error, not with status 0."""
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"run {run}: SystemExit: {error.code}") from error
