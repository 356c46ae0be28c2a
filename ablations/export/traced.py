"""Export a network as a graph that runs without its code: ONNX and torch.export."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ablations.errors import RequestError, RunError
from ablations.export.description import KEY
from ablations.studies.trained import TrainedRun

OPSET = 18
MAX_ONNX = 2**31  # bytes of a file, a limit of its encoding
TOLERANCE = 1e-3  # relative to the largest logit
INPUT, OUTPUT = "images", "logits"


def as_onnx(run: TrainedRun, description: str) -> bytes:
    """Return an ONNX file: `images` (N, C, H, W) to `logits` (N, classes), for any N and the run's resolution."""
    size = sum(weights.nbytes for weights in run.network.state_dict().values())
    if size >= MAX_ONNX:
        raise RequestError(
            f"run {run.folder}: its network has {size / 2**30:.1f} GiB of weights, and an ONNX file holds less than "
            f"{MAX_ONNX / 2**30:.0f}; choose --format torch-export"
        )
    with _quiet():
        program = torch.onnx.export(
            run.network,
            (_images(run, 2),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props[KEY] = description
    content = program.model_proto.SerializeToString()

    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    _check(run, lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0]), "ONNX")
    return content


def as_torch_export(run: TrainedRun, description: str) -> bytes:
    """Return a file for `torch.export.load`: images (N, C, H, W) to logits (N, classes), for any N."""
    with _quiet(), torch.no_grad():
        program = torch.export.export(run.network, (_images(run, 2),), dynamic_shapes=({0: torch.export.Dim("batch")},))
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={f"{KEY}.json": description})
        buffer.seek(0)
        loaded = torch.export.load(buffer).module()
    _check(run, loaded, "torch.export")
    return buffer.getvalue()


def _images(run: TrainedRun, count: int) -> Tensor:
    """Return noise in the shape of `count` of the run's images; raises RequestError if their size is unknown."""
    if run.image_size is None:
        raise RequestError(f"run {run.folder}: the resolution of its images is unknown; choose --format safetensors")
    random = torch.Generator().manual_seed(0)
    return torch.randn(count, run.channels, run.image_size, run.image_size, generator=random)


@torch.no_grad()
def _check(run: TrainedRun, exported: Callable[[Tensor], Tensor], what: str) -> None:
    """Raise RunError if the exported network computes other logits than the run's network, for 1 or 3 images."""
    for count in (1, 3):
        images = _images(run, count)
        expected, actual = run.network(images), exported(images)
        error = float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
        if not error < TOLERANCE:
            raise RunError(f"run {run.folder}: the {what} network's logits differ from the run's by {error:.1g}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporters' warnings about their own internals."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
