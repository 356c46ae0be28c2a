"""Named models, and how a design's name `BASE[@ROW][,flag=value]…` becomes a design and a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from modernize.arguments import read_choice, read_factor, read_layer_scale, read_rate
from modernize.design import Design, DesignError, nearest, printable, read_object, read_settings, split_name
from modernize.plan import compile_plan, trace
from modernize.reference import is_reference
from modernize.roadmap import NAMES as ROADMAPS
from modernize.roadmap import roadmap

if TYPE_CHECKING:
    from modernize.network import Network

_NAME = "a design's name, such as 'convnext_tiny' or 'mine.yaml'"
INITS = ("trunc_normal", "kaiming")


def _convnext(depths: tuple[int, ...], width: int) -> Design:
    return roadmap("resnet50").row("separate-downsampling").design.with_flags({"depths": depths, "width": width})


def _isotropic(depth: int, width: int) -> Design:
    return _convnext((depth,), width).with_flags({"stem_stride": 16, "layer_scale": None})


def _convnext_v2(depths: tuple[int, ...], width: int) -> Design:
    return _convnext(depths, width).with_flags({"layer_scale": None, "grn": True})


MODELS = {
    **{name: roadmap(name).rows[0].design for name in ROADMAPS},
    "convnext_tiny": _convnext((3, 3, 9, 3), 96),
    "convnext_small": _convnext((3, 3, 27, 3), 96),
    "convnext_base": _convnext((3, 3, 27, 3), 128),
    "convnext_large": _convnext((3, 3, 27, 3), 192),
    "convnext_xlarge": _convnext((3, 3, 27, 3), 256),
    "convnextv2_atto": _convnext_v2((2, 2, 6, 2), 40),
    "convnextv2_femto": _convnext_v2((2, 2, 6, 2), 48),
    "convnextv2_pico": _convnext_v2((2, 2, 6, 2), 64),
    "convnextv2_nano": _convnext_v2((2, 2, 8, 2), 80),
    "convnextv2_tiny": _convnext_v2((3, 3, 9, 3), 96),
    "convnextv2_base": _convnext_v2((3, 3, 27, 3), 128),
    "convnextv2_large": _convnext_v2((3, 3, 27, 3), 192),
    "convnextv2_huge": _convnext_v2((3, 3, 27, 3), 352),
    "convnext_isotropic_small": _isotropic(18, 384),
    "convnext_isotropic_base": _isotropic(18, 768),
    "convnext_isotropic_large": _isotropic(36, 1024),
}


def design(name: str) -> Design:
    """Parse a design's name.

    Args:
        name: `BASE[@ROW][,flag=value]…`. BASE is a name in `MODELS` or the path of a YAML file of flags over
            ResNet-50's; ROW is a row of the roadmap that starts at BASE.

    Returns:
        The design.

    Raises:
        DesignError: If any part of the name is unknown or the design is invalid.
    """
    read_object("name", name, str, _NAME)
    if is_reference(name):
        raise DesignError(f"{printable(name)!r} has no design flags: it can only be counted, trained or benchmarked")
    base, row, settings = split_name(name)
    start = _from_file(Path(base)) if base.endswith((".yaml", ".yml")) else MODELS.get(base)
    if start is None:
        raise DesignError(f"unknown design {base!r}: {nearest(base, MODELS)}")
    if row is not None:
        if base not in ROADMAPS:
            raise DesignError(f"{f'{base}@{row}'!r}: no roadmap starts at {base}; roadmaps: {', '.join(ROADMAPS)}")
        start = roadmap(base).row(row).design
    return start.with_flags(read_settings(settings, name))


def as_design(what: str | Design) -> Design:
    """Return a design, or the design of a name; raises DesignError."""
    return what if isinstance(what, Design) else design(read_object("what", what, str, f"a Design or {_NAME}"))


def _from_file(path: Path) -> Design:
    """Read a design from a YAML file of flags over ResNet-50's."""
    from modernize.yaml_file import YamlFileError, read_mapping

    try:
        return Design().with_flags(read_mapping(path))
    except YamlFileError as error:
        raise DesignError(str(error)) from None
    except DesignError as error:
        raise DesignError(f"{printable(path)}: {error}") from None


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
        num_classes: Number of classes; 0 leaves out the classifier.
        in_channels: Channels of the images.
        drop_path_rate: Stochastic depth rate of the last block, from 0 to below 1; rates rise linearly from 0 at the
            first block.
        head_init_scale: Factor on the classifier's initial weights and bias.
        init: `trunc_normal` (standard deviation 0.02; ConvNeXt) or `kaiming` (torchvision's ResNet).

    Returns:
        Network mapping images (N, in_channels, H, W) to logits (N, num_classes); without a classifier, to the pooled
        features (N, C), after the head's norm if the design has one.

    Raises:
        DesignError: If the design or another argument is invalid.
    """
    plan = compile_plan(as_design(what), in_channels, num_classes)
    rate = read_rate("drop_path_rate", drop_path_rate)
    scheme, scale = read_choice("init", init, INITS), read_factor("head_init_scale", head_init_scale)

    from modernize.network import Network, initialise

    network = Network(plan, rate)
    initialise(network, scheme, scale)
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
