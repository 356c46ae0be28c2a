"""The layers of plugins: what a description says of its parameters, MACs and output, compared with its module."""

from __future__ import annotations

import functools
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modernize.arguments import Size
from modernize.count_operations import Counts, count_operations
from modernize.design import DesignError
from modernize.fresh_thread import in_fresh_thread
from modernize.layers import CustomLayer
from modernize.user_code import failures_of, neighbors
from modernize.user_sources import UserCodeError


def make_module(layer: CustomLayer) -> nn.Module:
    """Return a layer's module; raises DesignError, with the file and line, if that fails."""
    found = _called(layer, layer.module)
    if not isinstance(found, nn.Module):
        raise DesignError(f"{_name(layer)}: module() must return a torch.nn.Module, not {type(found).__name__}")
    return found


@functools.lru_cache(maxsize=4096)
def checked_cost(layer: CustomLayer, size: Size) -> tuple[Size, int, int, int]:
    """Return a layer's output size, parameters and MACs for an input of a size, and its module's activations.

    Raises:
        DesignError: If the layer or its module fails, or they disagree.
    """
    said = Size(*_called(layer, layer.out_size, size)), layer.params, _called(layer, layer.macs, size)
    if min(said[0]) < 1:  # too small an image, as the caller says
        return *said, 0
    found = in_fresh_thread(_measured, layer, size)
    for what, one, other in zip(("output", "parameters", "MACs"), said, found[:3], strict=True):
        if one != other:
            raise DesignError(
                f"{_name(layer)}: the layer says {_text(one)} {what} for {layer.in_channels}×{size} px, and its module "
                f"has {_text(other)}"
            )
    return found


def _measured(layer: CustomLayer, size: Size) -> tuple[Size, int, int, int]:
    """Return output size, parameters, MACs and activations of a layer's module."""
    with torch.device("meta"):
        module = make_module(layer).eval()
        images = torch.empty(1, layer.in_channels, *size)
        output = _called(layer, module, images)
    if not isinstance(output, torch.Tensor) or output.ndim != 4 or output.shape[:2] != (1, layer.out_channels):
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise DesignError(
            f"{_name(layer)}: its module must return (N, {layer.out_channels}, H, W) for {tuple(images.shape)}, "
            f"not {shape}"
        )
    params = sum(weights.numel() for weights in module.parameters())
    counts: Counts = _called(layer, count_operations, module, (layer.in_channels, *size), 1)[""]
    return Size(*output.shape[2:]), params, *counts


def _called(layer: CustomLayer, function: Any, *arguments: Any) -> Any:
    """Call a plugin's function; raises DesignError, with the file and line, if it fails."""
    module = sys.modules.get(type(layer).__module__)
    file = Path(getattr(module, "__file__", None) or type(layer).__module__)
    own = getattr(module, "__spec__", None) is None and file.is_file()  # a file of the user's rather than a package's
    try:
        with failures_of(file), neighbors(file) if own else nullcontext():
            return function(*arguments)
    except UserCodeError as error:
        raise DesignError(f"{_name(layer)}: {error}") from error


def _name(layer: CustomLayer) -> str:
    """Name a layer and its class."""
    return f"layer {layer.name} ({type(layer).__name__})"


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
