"""The Trainer's arguments, checked before anything is computed: each fault is a ValueError of one line."""

from __future__ import annotations

from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ablations.errors import RequestError
from ablations.machine import NO_MPS
from ablations.training.callbacks import Callbacks
from ablations.training.distributed import Group, device_of_rank, processes
from ablations.training_config import TrainingConfig
from modernize.design import printable, shortened


def check_types(model: Any, datasets: dict[str, Any], configs: Any, callbacks: Any, group: Any) -> None:
    """Raise ValueError unless each argument has its type."""
    for name, value, kind, wanted in (
        ("model", model, nn.Module, "a torch.nn.Module"),
        ("configs", configs, TrainingConfig, "a TrainingConfig, such as TrainingConfig(max_epochs=1, …)"),
        ("callbacks", callbacks, (Callbacks, type(None)), "an object of a class derived from Callbacks"),
        ("group", group, Group, "the group that `with joined(device) as group` gives"),
    ):
        if not isinstance(value, kind):
            raise ValueError(f"{name}: must be {wanted}, not {_kind(value)}")
    if next(model.parameters(), None) is None:
        raise ValueError(f"model: {type(model).__name__} has no parameters to train")
    for name, dataset in datasets.items():
        if isinstance(dataset, (str, type)) or not all(hasattr(dataset, has) for has in ("__len__", "__getitem__")):
            wanted = "a map-style dataset, with len() and items (image, label) by index"
            raise ValueError(f"{name}: must be {wanted}, not {_kind(dataset)}")


def read_seed(seed: Any) -> int:
    """Return the seed as Python's integer: others are hashed to other random numbers."""
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise ValueError(f"seed={_shown(seed)}: must be an integer")
    return int(seed)


def read_path(folder: Any) -> Path:
    """Return a folder's path; an empty text, which would be the current folder, is refused."""
    if not isinstance(folder, (str, Path)) or not str(folder):
        raise RequestError(f"folder={_shown(folder)}: must be the path of a folder")
    return Path(folder)


def read_folder(folder: Any, group: Group) -> Path | None:
    """Return the folder of a run, which must exist."""
    if folder is None:
        return None
    path = read_path(folder)
    if group.main and not path.is_dir():
        raise ValueError(f"folder={str(path)!r}: no such folder; create it first")
    return path


def read_device(device: Any) -> torch.device:
    """Return a device that this machine has; `auto` is a GPU if there is one, in a group that of the rank."""
    if isinstance(device, str) and device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if isinstance(device, (str, torch.device)) and str(device) == "cuda" and processes() > 1:
        device = device_of_rank("cuda")
    if not isinstance(device, (str, torch.device)):
        raise ValueError(f"device={_shown(device)}: must be a device's name, such as cpu, cuda or cuda:0")
    if str(device).partition(":")[0] == "mps":
        raise ValueError(f"device={_shown(str(device))}: {NO_MPS}")
    try:
        found = torch.device(device)
        if found.type != "cuda":
            torch.empty(0, device=found)
        available = found.type != "cuda" or (found.index or 0) < torch.cuda.device_count()
    except (RuntimeError, NotImplementedError):  # no such device, or torch was built without it
        available = False
    if not available:
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise ValueError(f"device={_shown(str(device))}: not available; this machine has {', '.join(('cpu', *gpus))}")
    if found.type == "meta":
        raise ValueError("device='meta': its tensors have no values; choose cpu or cuda")
    return found


def check_processes(group: Group) -> None:
    """Raise ValueError if torchrun started several processes and the trainer was not given their group."""
    if group.size == 1 and processes() > 1:
        raise ValueError(
            f"group: torchrun started {processes()} processes; make the Trainer within `with joined(device) as group` "
            "(ablations.training.distributed) and pass group=group"
        )


def check_batch(config: TrainingConfig, images: int, processes: int) -> None:
    """Raise ValueError if the batch is larger than the training set, or cannot be split into micro-batches."""
    if config.batch_size > images:
        raise ValueError(
            f"batch_size={config.batch_size}: the training set has {images} images; nearest valid value: {images}"
        )
    divisor = processes * config.accumulation
    if config.batch_size % divisor:
        raise ValueError(
            f"batch_size={config.batch_size} is not divisible by {processes} processes x "
            f"accumulation={config.accumulation}; nearest valid value: "
            f"{max(round(config.batch_size / divisor), 1) * divisor}"
        )


def _shown(value: Any) -> str:
    return shortened(printable(repr(value)))


def _kind(value: Any) -> str:
    """Return what an argument is: the name of its type, or of a class itself."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
