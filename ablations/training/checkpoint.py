"""Checkpoints: atomically written files whose names contain their step and checksum."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.store import DamagedError, write_bytes

if TYPE_CHECKING:
    import torch

_CHECKPOINT = re.compile(r"step-(\d+)-([0-9a-f]{16})\.pt")


def write_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int = 2, kept_as: str | None = None) -> Path:
    """Write a checkpoint, then delete all but the newest `keep`.

    With `kept_as`, also write it under that name; that copy is never deleted.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path = folder / f"step-{step:09d}-{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}.pt"
    write_bytes(path, buffer.getvalue())
    if kept_as is not None:
        write_bytes(folder / f"{kept_as}.pt", buffer.getvalue())
    for old in checkpoints(folder)[keep:]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints in a folder, newest first."""
    return sorted((path for path in folder.glob("step-*.pt") if _CHECKPOINT.fullmatch(path.name)), reverse=True)


def step_of(path: Path) -> int:
    """Return the training step of a checkpoint."""
    return int(path.name.split("-")[1])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; raise DamagedError if its contents do not match the checksum in its name."""
    import torch

    match = _CHECKPOINT.fullmatch(path.name)
    data = path.read_bytes()
    if match is None or hashlib.sha256(data).hexdigest()[:16] != match[2]:
        raise DamagedError(f"{path} is corrupt: its checksum does not match")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """Read the newest intact checkpoint in a folder; report and delete corrupt ones."""
    paths = checkpoints(folder)
    for path in paths:
        try:
            return path, read_checkpoint(path)
        except DamagedError as error:
            consequence = "the run restarts" if path == paths[-1] else "the previous checkpoint is used"
            warn(f"{error}; {consequence}")
            path.unlink(missing_ok=True)
    return None


def weights_sha256(state: dict[str, torch.Tensor]) -> str:
    """Return a checksum of a state dict's names, dtypes, shapes and values, bit by bit."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
