"""Residual branches that start at zero, so that each block begins as its shortcut (Goyal et al., 2017, section 5.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from modernize.design import DesignError
from modernize.layers import BlockPlan, Conv, Layer, LayerScale, Norm, Plan

if TYPE_CHECKING:
    from torch import nn


def zeroed_layers(plan: Plan) -> tuple[str, ...]:
    """Return the paths of the layers of a plan that start at zero: the last with weights of each residual branch.

    Raises:
        DesignError: If it is neither a norm nor a convolution.
    """
    return tuple(
        f"stages.{s}.blocks.{b}.residual.{_last(block).name}"
        for s, stage in enumerate(plan.stages)
        for b, block in enumerate(stage.blocks)
    )


def _last(block: BlockPlan) -> Layer:
    """Return the last layer with weights of a residual branch."""
    last = next((layer for layer in reversed(block.residual) if layer.params), None)
    if isinstance(last, (Norm, Conv)):
        return last
    if isinstance(last, LayerScale):
        raise DesignError(
            f"zero_init_residual: residual branches end in layer scale, which starts at {last.init:g}; set "
            "zero_init_residual to false or layer_scale to off"
        )
    raise DesignError(
        f"zero_init_residual: a residual branch ends in {last or 'no layer with weights'}, and must end in a norm or a "
        "convolution; set zero_init_residual to false"
    )


def zero(layers: Iterable[nn.Module]) -> None:
    """Zero the weights and biases of layers in place."""
    from torch import nn

    for layer in layers:
        for weights in layer.parameters():
            nn.init.zeros_(weights)


def zero_reference(name: str, network: nn.Module) -> None:
    """Zero the last layer of each residual branch of a reference model in place.

    These are the last norms of torchvision's ResNets, and what timm's `zero_init_last` of a block zeroes. Raises
    DesignError for other networks.
    """
    from torchvision.models.resnet import BasicBlock, Bottleneck

    known = False
    for block in network.modules():
        own: Any = getattr(block, "zero_init_last", None)
        if isinstance(block, (BasicBlock, Bottleneck)):
            zero([block.bn3 if isinstance(block, Bottleneck) else block.bn2])
        elif callable(own):
            own()
        known |= callable(own) or isinstance(block, (BasicBlock, Bottleneck))
    if not known:
        raise DesignError(
            f"{name}: zero_init_residual: the residual branches of {type(network).__name__} are not known; it supports "
            "designs, torchvision's ResNet, and networks whose blocks have timm's zero_init_last"
        )
