"""The cost of a design: parameters, and MACs and activations of convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from modernize.arguments import Size, read_size
from modernize.count_operations import count_operations
from modernize.design import Design
from modernize.fresh_thread import in_fresh_thread
from modernize.layers import Plan
from modernize.models import as_design
from modernize.network import Network
from modernize.plan import Cost, compile_plan, trace
from modernize.reference import count_reference, is_reference


def count(
    what: str | Design | Mapping[str, Any],
    image_size: int | tuple[int, int] = 224,
    in_channels: int = 3,
    num_classes: int = 1000,
) -> Cost:
    """Count parameters, MACs and activations with fvcore, without allocating the weights.

    Default devices and types, and other modes of torch, do not change the result. Reference models are counted with
    torch's own counter, which includes attention.

    Args:
        what: Design, design's name or mapping of flags, as for `build`. Or a reference model: `torchvision:NAME`,
            `timm:NAME`, or `FILE.py:FUNCTION(setting=value)`, whose function returns a module.
        image_size: Resolution in pixels, or (height, width).
        in_channels: Channels of the images.
        num_classes: Number of classes; 0 leaves out the classifier.

    Returns:
        Parameters, and MACs and activations for one image.

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
    counts = count_operations(network, (plan.in_channels, *images), batch=1 if plan.design.added else 0)
    params = {name: sum(weights.numel() for weights in network.get_submodule(name).parameters()) for name in repeats}
    return Cost(
        params=sum(weights.numel() for weights in network.parameters())
        + sum(params[name] * times for name, times in repeats.items()),
        macs=counts[""].macs + sum(counts[name].macs * times for name, times in repeats.items()),
        activations=counts[""].activations + sum(counts[name].activations * times for name, times in repeats.items()),
    )


def _without_repeats(plan: Plan) -> tuple[Plan, dict[str, int]]:
    """Return the plan with at most two blocks per stage, and how many copies of each second block were dropped.

    All blocks of a stage but the first are equal, and tracing deep networks is slow. Flags of plugins may make others.
    """
    if plan.design.added:
        return plan, {}
    stages = tuple(replace(stage, blocks=stage.blocks[:2]) for stage in plan.stages)
    repeats = {f"stages.{s}.blocks.1": len(stage.blocks) - 2 for s, stage in enumerate(plan.stages)}
    return replace(plan, stages=stages), {name: times for name, times in repeats.items() if times > 0}
