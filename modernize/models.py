"""Networks from a design's name `BASE[@ROW][,flag=value]…`, and a function per named model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from modernize.arguments import read_choice, read_factor, read_layer_scale, read_rate, read_switch
from modernize.design import Design, DesignError, read_object
from modernize.named_designs import MODELS
from modernize.plan import compile_plan, trace
from modernize.roadmap import NAME_FORM, design
from modernize.zero_init import zero, zeroed_layers

if TYPE_CHECKING:
    from modernize.network import Network

__all__ = ["CONSTRUCTORS", "MODELS", "build", "design"]

INITS = ("trunc_normal", "kaiming", "lecun_normal")


def as_design(what: str | Design | Mapping[str, Any]) -> Design:
    """Return a design, the design of a name, or that of flags over ResNet-50's; raises DesignError."""
    if isinstance(what, Mapping):
        if not what:  # as a run of a reference model has
            raise DesignError("what: must have flags; without any, name a design, such as 'resnet50', or the network")
        return Design().with_flags(what)
    form = f"a Design, {NAME_FORM}, or a mapping of flags"
    return what if isinstance(what, Design) else design(read_object("what", what, str, form))


def build(
    what: str | Design | Mapping[str, Any],
    num_classes: int = 1000,
    in_channels: int = 3,
    drop_path_rate: float = 0.0,
    head_init_scale: float = 1.0,
    init: str = "trunc_normal",
    zero_init_residual: bool = False,
) -> Network:
    """Build a network with newly initialized weights (global torch RNG).

    Args:
        what: Design, design's name, such as "resnet50@depthwise,norm=ln", or mapping of flags to values, such as the
            `flags` of a run's config.yaml. Flags that it leaves out are ResNet-50's.
        num_classes: Number of classes; 0 leaves out the classifier.
        in_channels: Channels of the images.
        drop_path_rate: Stochastic depth rate of the last block, from 0 to below 1; rates rise linearly from 0 at the
            first block.
        head_init_scale: Factor on the classifier's initial weights and bias.
        init: `trunc_normal` (standard deviation 0.02; ConvNeXt), `kaiming` (torchvision's ResNet) or `lecun_normal`
            (variance 1 / fan-in).
        zero_init_residual: Whether the last norm or convolution of each residual branch starts at zero.

    Returns:
        Network mapping images (N, in_channels, H, W) to logits (N, num_classes); without a classifier, to the pooled
        features (N, C), after the head's norm if the design has one.

    Raises:
        DesignError: If the design or another argument is invalid.
    """
    plan = compile_plan(as_design(what), in_channels, num_classes)
    rate = read_rate("drop_path_rate", drop_path_rate)
    scheme, scale = read_choice("init", init, INITS), read_factor("head_init_scale", head_init_scale)
    zeroed = zeroed_layers(plan) if read_switch("zero_init_residual", zero_init_residual) else ()

    from modernize.network import Network, initialise

    network = Network(plan, rate)
    initialise(network, scheme, scale)
    zero(map(network.get_submodule, zeroed))
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
        scale = read_layer_scale("layer_scale_init_value", layer_scale_init_value)
        scaled = MODELS[name].with_flags({"layer_scale": scale})
        return build(scaled, num_classes, in_channels, drop_path_rate, head_init_scale)

    params = sum(step.params for step in trace(compile_plan(MODELS[name]), 224))
    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"""Build {name}: {params:,} parameters at 1000 classes.

    Args:
        in_channels: Channels of the images.
        num_classes: Number of classes; 0 leaves out the classifier.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        layer_scale_init_value: Initial value of layer scale; 0 or None turns it off.
        head_init_scale: Factor on the classifier's initial weights and bias.

    Returns:
        Network mapping images (N, in_channels, H, W) to logits (N, num_classes), or to pooled features without classes.

    Raises:
        DesignError: If an argument is invalid.
    """
    return make


CONSTRUCTORS = {name: _constructor(name) for name in MODELS}
globals().update(CONSTRUCTORS)  # pickle finds a function by its module and name
