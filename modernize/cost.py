"""What a design costs, counted as the paper does: parameters, and multiply-adds of convolutions and linear layers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import nn

from modernize.design import Design
from modernize.models import design as named
from modernize.network import Network
from modernize.plan import Plan, compile_plan, trace
from modernize.reference import count_reference, is_reference

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # fvcore rests on torch.jit
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import conv_flop_count, get_shape


def _convolution(inputs: list[Any], outputs: list[Any]) -> int:
    """fvcore's count of a convolution, for one image."""
    return int(conv_flop_count([1], get_shape(inputs[1]), get_shape(outputs[0])))


def _linear(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of a linear layer for one image: one product for each weight and position."""
    return prod(get_shape(outputs[0])[1:]) * get_shape(inputs[0])[-1]


def _addmm(inputs: list[Any], outputs: list[Any]) -> int:
    return _linear(inputs[1:], outputs)


COUNTED = {"aten::_convolution": _convolution, "aten::linear": _linear, "aten::addmm": _addmm}


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-adds for one image."""

    params: int
    macs: int

    @property
    def gflops(self) -> float:
        """Multiply-adds in G: what the paper prints as GFLOPs."""
        return self.macs / 1e9


def count(what: str | Design, image_size: int = 224, in_channels: int = 3, num_classes: int = 1000) -> Cost:
    """The cost of a design or of a design's name, by fvcore on the network without its weights allocated.

    That of `torchvision:NAME` is counted by torch's own counter, which sees attention too.
    Raises DesignError for what cannot be built, or images of `image_size` pixels a side too small for it.
    """
    if isinstance(what, str) and is_reference(what):
        return count_reference(what, image_size, in_channels, num_classes)
    plan = compile_plan(named(what) if isinstance(what, str) else what, in_channels, num_classes)
    trace(plan, image_size)  # an image too small for the strides is refused here, by name
    short, repeats = _without_repeats(plan)
    with torch.device("meta"):
        network = Network(short).eval()
    macs = count_macs(network, (in_channels, image_size, image_size))
    modules = {name: sum(weights.numel() for weights in network.get_submodule(name).parameters()) for name in repeats}
    return Cost(
        params=sum(weights.numel() for weights in network.parameters())
        + sum(modules[name] * times for name, times in repeats.items()),
        macs=macs[""] + sum(macs[name] * times for name, times in repeats.items()),
    )


def _without_repeats(plan: Plan) -> tuple[Plan, dict[str, int]]:
    """The plan with two blocks a stage at most, and how often each second one is there again.

    All blocks of a stage but the first are the same, and deep networks take long to trace.
    """
    stages = tuple(replace(stage, blocks=stage.blocks[:2]) for stage in plan.stages)
    repeats = {f"stages.{s}.blocks.1": len(stage.blocks) - 2 for s, stage in enumerate(plan.stages)}
    return replace(plan, stages=stages), {name: times for name, times in repeats.items() if times > 0}


def count_macs(network: nn.Module, image_shape: tuple[int, int, int]) -> Mapping[str, int]:
    """Multiply-adds of convolutions and linear layers that fvcore sees when a C×H×W image goes through, by module.

    The network may be on the meta device: the pass is of no images at all, so nothing is computed.
    """
    largest = max(weights.numel() for weights in network.parameters())
    blank = torch.empty(largest)  # all weights' place; it is never written to, so that the system gives no memory
    for module in network.modules():
        for name, weights in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(blank[: weights.numel()].view(weights.shape), requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.zeros((), dtype=buffer.dtype).expand(buffer.shape))
    analysis = FlopCountAnalysis(network, torch.empty(0, *image_shape)).clear_op_handles().set_op_handle(**COUNTED)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return {name: int(macs) for name, macs in analysis.by_module().items()}
