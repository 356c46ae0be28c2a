"""The cost of a design, counted as the paper does: parameters, and MACs of convolutions and linear layers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import nn

from modernize.arguments import Size, read_size
from modernize.design import Design
from modernize.fresh_thread import in_fresh_thread
from modernize.models import as_design
from modernize.network import Network
from modernize.plan import Cost, Plan, compile_plan, trace
from modernize.reference import count_reference, is_reference

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # fvcore uses torch.jit, which is deprecated
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import conv_flop_count, get_shape


def _convolution(inputs: list[Any], outputs: list[Any]) -> int:
    """Return the MACs of a convolution for one image, by fvcore."""
    return int(conv_flop_count([1], get_shape(inputs[1]), get_shape(outputs[0])))


def _linear(inputs: list[Any], outputs: list[Any]) -> int:
    """Return the MACs of a linear layer for one image: one per weight and position."""
    return prod(get_shape(outputs[0])[1:]) * get_shape(inputs[0])[-1]


def _addmm(inputs: list[Any], outputs: list[Any]) -> int:
    return _linear(inputs[1:], outputs)


COUNTED = {"aten::_convolution": _convolution, "aten::linear": _linear, "aten::addmm": _addmm}


def count(
    what: str | Design, image_size: int | tuple[int, int] = 224, in_channels: int = 3, num_classes: int = 1000
) -> Cost:
    """Count parameters and MACs with fvcore, without allocating the weights.

    Default devices and types, and other modes of torch, do not change the result. Reference models are counted with
    torch's own counter, which includes attention.

    Args:
        what: Design or design's name, or a reference model: `torchvision:NAME`, `timm:NAME`, or
            `FILE.py:FUNCTION(setting=value)`, whose function returns a module.
        image_size: Resolution in pixels, or (height, width).
        in_channels: Channels of the images.
        num_classes: Number of classes; 0 leaves out the classifier.

    Returns:
        Parameters, and MACs for one image.

    Raises:
        DesignError: If the design or another argument is invalid, or the images are too small for the design.
    """
    if isinstance(what, str) and is_reference(what):
        return count_reference(what, image_size, in_channels, num_classes)
    plan = compile_plan(as_design(what), in_channels, num_classes)
    trace(plan, image_size)  # raises DesignError for images that are too small
    return in_fresh_thread(_count, plan, read_size(image_size))


def _count(plan: Plan, images: Size) -> Cost:
    """Count a plan for images of a size."""
    short, repeats = _without_repeats(plan)
    with torch.device("meta"):
        network = Network(short).eval()
    macs = count_macs(network, (plan.in_channels, *images))
    params = {name: sum(weights.numel() for weights in network.get_submodule(name).parameters()) for name in repeats}
    return Cost(
        params=sum(weights.numel() for weights in network.parameters())
        + sum(params[name] * times for name, times in repeats.items()),
        macs=macs[""] + sum(macs[name] * times for name, times in repeats.items()),
    )


def _without_repeats(plan: Plan) -> tuple[Plan, dict[str, int]]:
    """Return the plan with at most two blocks per stage, and how many copies of each second block were dropped.

    All blocks of a stage but the first are equal, and tracing deep networks is slow.
    """
    stages = tuple(replace(stage, blocks=stage.blocks[:2]) for stage in plan.stages)
    repeats = {f"stages.{s}.blocks.1": len(stage.blocks) - 2 for s, stage in enumerate(plan.stages)}
    return replace(plan, stages=stages), {name: times for name, times in repeats.items() if times > 0}


def count_macs(network: nn.Module, image_shape: tuple[int, int, int]) -> Mapping[str, int]:
    """Return the MACs of convolutions and linear layers for one image (C, H, W), per module.

    The network may be on the meta device: the batch is empty, so that nothing is computed.
    """
    # All kernels share this storage. It is never written, so it takes no memory; other weights repeat its first number.
    blank = torch.empty(max(weights.numel() for weights in network.parameters() if weights.ndim == 4))
    for module in network.modules():
        for name, weights in module.named_parameters(recurse=False):
            kernel = weights.ndim == 4
            shared = blank[: weights.numel()].view(weights.shape) if kernel else blank[0].expand(weights.shape)
            setattr(module, name, nn.Parameter(shared, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.zeros((), dtype=buffer.dtype).expand(buffer.shape))
    analysis = FlopCountAnalysis(network, torch.empty(0, *image_shape)).clear_op_handles().set_op_handle(**COUNTED)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return {name: int(macs) for name, macs in analysis.by_module().items()}
