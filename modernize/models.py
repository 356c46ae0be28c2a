"""Networks from a design's name `BASE[@ROW][,flag=value]…`, and a function per named model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from modernize.design import Design, DesignError, printable
from modernize.named_designs import MODELS
from modernize.plan import compile_plan, trace
from modernize.roadmap import design

if TYPE_CHECKING:
    from modernize.network import Network

__all__ = ["CONSTRUCTORS", "MODELS", "build", "design"]


def build(
    what: str | Design,
    num_classes: int = 1000,
    in_channels: int = 3,
    drop_path_rate: float = 0.0,
    head_init_scale: float = 1.0,
    init: str = "trunc_normal",
) -> Network:
    """Build a network with newly initialized weights (global torch RNG).

    Args:
        what: Design or design's name, such as "resnet50@depthwise,norm=ln".
        num_classes: Number of classes.
        in_channels: Channels of the images.
        drop_path_rate: Stochastic depth rate of the last block, from 0 to below 1; rates rise linearly from 0 at the
            first block.
        head_init_scale: Factor on the classifier's initial weights and bias.
        init: `trunc_normal` (standard deviation 0.02; ConvNeXt) or `kaiming` (torchvision's ResNet).

    Returns:
        Network mapping images (N, in_channels, H, W) to logits (N, num_classes).

    Raises:
        DesignError: If the design or another argument is invalid.
    """
    from modernize.network import Network, initialise

    if isinstance(drop_path_rate, bool) or not isinstance(drop_path_rate, (int, float)) or not 0 <= drop_path_rate < 1:
        raise DesignError(f"drop_path_rate={printable(drop_path_rate)}: must be at least 0 and below 1")
    if init not in ("trunc_normal", "kaiming"):
        raise DesignError(f"init={init!r}: must be one of trunc_normal, kaiming")
    plan = compile_plan(design(what) if isinstance(what, str) else what, in_channels, num_classes)
    network = Network(plan, drop_path_rate)
    initialise(network, init, head_init_scale)
    return network


def _constructor(name: str) -> Callable[..., Network]:
    """Make the function that builds a named model."""

    def make(
        in_channels: int = 3,
        num_classes: int = 1000,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = MODELS[name].layer_scale,
        head_init_scale: float = 1.0,
    ) -> Network:
        scaled = MODELS[name].with_flags({"layer_scale": layer_scale_init_value or None})
        return build(scaled, num_classes, in_channels, drop_path_rate, head_init_scale)

    params = sum(step.params for step in trace(compile_plan(MODELS[name]), 224))
    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"""Build {name}: {params:,} parameters at 1000 classes.

    Args:
        in_channels: Channels of the images.
        num_classes: Number of classes.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        layer_scale_init_value: Initial value of layer scale; 0 or None turns it off.
        head_init_scale: Factor on the classifier's initial weights and bias.

    Returns:
        Network mapping images (N, in_channels, H, W) to logits (N, num_classes).

    Raises:
        DesignError: If an argument is invalid.
    """
    return make


CONSTRUCTORS = {name: _constructor(name) for name in MODELS}
globals().update(CONSTRUCTORS)  # pickle finds a function by its module and name
