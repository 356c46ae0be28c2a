"""Write a run's network in a format."""

from __future__ import annotations

import io
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.errors import RequestError, RunError, one_line, writing
from ablations.export import FORMATS
from ablations.export.description import KEY, describe, unknown
from ablations.store import write_bytes
from ablations.studies.trained import TrainedRun, read_trained

if TYPE_CHECKING:
    from torch import Tensor


ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def check_target(form: str, to: Path) -> None:
    """Raise RequestError if a file of this format cannot be written to this path."""
    if to.is_dir():
        raise RequestError(f"--to {to} is a folder; name a file")
    extensions = FORMATS[form]
    if to.suffix not in extensions:
        name = to.with_suffix(extensions[0]).name
        raise RequestError(f"--to {to}: a file of format {form} ends in {' or '.join(extensions)}; write {name}")
    if not to.parent.is_dir():
        raise RequestError(f"--to {to}: there is no folder {to.parent}; make it first")
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None] if form == "onnx" else []
    if missing:
        raise RequestError(f"--format onnx: {missing[0]} is not installed; run pip install 'modernize-convnets[onnx]'")


def export_run(folder: Path, form: str, to: Path, averaged: bool = False) -> tuple[list[Path], str | None]:
    """Write a run's network to a file.

    Args:
        folder: The run's folder.
        form: A key of `FORMATS`.
        to: The file; an existing one is replaced.
        averaged: Export the EMA weights.

    Returns:
        The files, and what their description lacks, if anything.

    Raises:
        RequestError: If the folder holds no finished run, the path is unsuitable, or the format cannot express the
            network.
        RunError: If a file cannot be written, or a traced network does not compute what the run's network computes.
    """
    check_target(form, to)
    run = read_trained(folder, averaged)
    description = describe(run, averaged)
    contents = _contents(run, form, to, json.dumps(description))
    with writing(f"--to {to}"):
        for path, content in contents.items():
            write_bytes(path, content)
    return list(contents), unknown(description)


def _contents(run: TrainedRun, form: str, to: Path, description: str) -> dict[Path, bytes]:
    """Return the files to write, with their contents.

    A file of torch's is a bare state dict, as torchvision and timm load it; its description is stored beside it.
    """
    if form in ("onnx", "torch-export"):
        from ablations.export.traced import as_onnx, as_torch_export

        try:
            return {to: (as_onnx if form == "onnx" else as_torch_export)(run, description)}
        except (RequestError, RunError):
            raise
        except Exception as error:  # the exporters raise many types for networks that they cannot trace
            raise RequestError(
                f"run {run.folder}: {form} cannot express its network ({one_line(error)[:200]}); "
                "choose --format safetensors"
            ) from error
    import torch
    from safetensors.torch import save

    tensors = _state_dict(run, "native" if form == "safetensors" else form)
    if to.suffix == ".safetensors":
        return {to: save(tensors, {"format": "pt", KEY: description})}
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return {to.with_name(f"{to.name}.json"): f"{description}\n".encode(), to: buffer.getvalue()}


def _state_dict(run: TrainedRun, layout: str) -> dict[str, Tensor]:
    """Return the weights in a layout; raises RequestError if it cannot express the network."""
    import torch

    from modernize.network import Network
    from modernize.reference import origin, shown_reference
    from modernize.weights import WeightsError, export_weights

    if not isinstance(run.network, Network):
        name = str(run.config.reference)
        own = [layout for layout in ("torchvision", "timm") if layout == origin(name)]  # the layout of its own keys
        if layout not in ("native", *own):
            known = ", ".join([*own, "safetensors", "onnx or torch-export"])
            raise RequestError(
                f"run {run.folder}: {shown_reference(name)} has no {layout} layout; choose --format {known}"
            )
        state = run.network.state_dict()
        # copies, since a file of safetensors holds no tensor twice
        return {key: value.clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    try:
        return export_weights(run.network, layout)
    except WeightsError as error:
        raise RequestError(f"run {run.folder}: {error}") from None
