"""Read state dicts: from files of torch and safetensors, and from within checkpoints."""

from __future__ import annotations

import argparse
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from modernize.design import printable
from modernize.layouts import WeightsError

# Where checkpoints keep a state dict: those of official code, torchvision, timm, Lightning, and our own.
_WEIGHTS = ("model", "state_dict")
_AVERAGED = ("averaged", "model_ema", "state_dict_ema")


def read_source(source: Any, averaged: bool) -> tuple[str, dict[str, Tensor]]:
    """Return what to call a source of weights in errors, and its state dict; raises WeightsError."""
    if isinstance(source, Mapping):
        return "the state dict", _state_dict(source, "the state dict", averaged)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return printable(path), _state_dict(_from_file(path), printable(path), averaged)
    hint = "; pass its state_dict()" if isinstance(source, nn.Module) else ""
    raise WeightsError(f"source: must be a state dict or the path of a file, not a {type(source).__name__}{hint}")


def some(names: list[str]) -> str:
    """List the first three names and count the rest."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return printable(", ".join(names[:3]) + more)


def is_dense(tensor: Tensor) -> bool:
    """Return whether a tensor is an ordinary one; copying from or to any other could fail halfway."""
    kind = type(tensor) in (Tensor, nn.Parameter)
    return kind and tensor.layout is torch.strided and not tensor.is_quantized


def _from_file(path: Path) -> Any:
    """Read a file that torch or safetensors saved, without running code in it."""
    try:
        with path.open("rb") as file:
            safe = path.suffix == ".safetensors" or file.read(9)[8:] == b"{"
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"{printable(path)}: cannot be read ({reason})") from None
    if safe:
        try:
            return load_file(path)
        except (SafetensorError, ValueError, KeyError, OSError):
            raise WeightsError(f"{printable(path)}: not a file of safetensors, or cut off") from None
    if _is_corrupt(path):
        raise WeightsError(f"{printable(path)}: corrupt: its checksums do not match")
    try:
        # Namespace is what training scripts save their arguments in.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # torch warns about some files before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises any type for files that are not its own: KeyError, OSError…
        refused = re.search(r"GLOBAL (\S+)", str(error))
        why = (
            f"contains a pickled {refused[1]}; only tensors are read"
            if refused
            else "not a file of tensors saved by torch"
        )
        raise WeightsError(f"{printable(path)}: {why}") from None


def _is_corrupt(path: Path) -> bool:
    """Return whether a file of torch differs from its checksums, which torch does not check."""
    if not zipfile.is_zipfile(path):  # nor has the format before torch 1.6 any
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                if record.CRC:  # 0 if torch was set not to compute it
                    with archive.open(record) as content:
                        while content.read(2**20):
                            pass
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError):  # the last for encrypted archives
        return True
    return False


def _state_dict(content: Any, origin: str, averaged: bool) -> dict[str, Tensor]:
    """Find the state dict in a file's contents: at the top, or one level down as in checkpoints."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{origin}: contains a {type(content).__name__}, not a state dict")
    names = _AVERAGED if averaged else (*_WEIGHTS, *_AVERAGED)
    inner = (content.get(name) for name in names)
    weights = next((found for found in inner if isinstance(found, Mapping)), None)
    # The state dict of torch's AveragedModel, saved alone, counts its updates.
    if averaged and weights is None and not any(str(key).split(".")[-1] == "n_averaged" for key in content):
        raise WeightsError(f"{origin}: has no averaged (EMA) weights; load it without averaged=True")
    weights = content if weights is None else weights
    invalid = [
        str(key)
        for key, value in weights.items()
        if not (isinstance(key, str) and isinstance(value, Tensor) and is_dense(value) and not value.is_meta)
    ]
    if invalid:
        raise WeightsError(f"{origin}: not a state dict of dense tensors: {some(invalid)}")
    return dict(weights)
