"""From a name to a design, and from a design to a network: named models, `BASE[@ROW][,flag=value]…`, `build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modernize.design import Design, DesignError, nearest, printable, read_settings
from modernize.plan import compile_plan
from modernize.reference import is_reference
from modernize.roadmap import NAMES as ROADMAPS
from modernize.roadmap import roadmap

if TYPE_CHECKING:
    from modernize.network import Network


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
    """The design that `BASE[@ROW][,flag=value]…` names, BASE being a named model or a YAML file of flags.

    Raises DesignError, one line, for anything in it that is unknown or cannot be built.
    """
    if is_reference(name):
        raise DesignError(f"{printable(name)!r} has no flags: it can be counted, trained and put beside a study's rows")
    head, *settings = name.split(",")
    base, at, row = head.partition("@")
    found = _from_file(Path(base)) if base.endswith((".yaml", ".yml")) else MODELS.get(base)
    if found is None:
        raise DesignError(f"unknown design {base!r}: {nearest(base, MODELS)}")
    if at:
        if base not in ROADMAPS:
            raise DesignError(f"{head!r}: no roadmap starts at {base}; one starts at {', '.join(ROADMAPS)}")
        found = roadmap(base).row(row).design
    return found.with_flags(read_settings(settings, name))


def _from_file(path: Path) -> Design:
    """The design of a YAML file of flags over ResNet-50's."""
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
    """The network of a design or of a design's name, its weights drawn from torch's global generator.

    `drop_path_rate` is the last block's, the rates growing linearly from 0; `init` is `trunc_normal` (the paper's
    ConvNeXt) or `kaiming` (torchvision's ResNet). The network maps N×in_channels×H×W to N×num_classes.
    Raises DesignError for what cannot be built.
    """
    from modernize.network import Network, initialise

    if not 0 <= drop_path_rate < 1:
        raise DesignError(f"drop_path_rate={drop_path_rate}: must be 0 or more and below 1")
    if init not in ("trunc_normal", "kaiming"):
        raise DesignError(f"init={init!r}: must be one of trunc_normal, kaiming")
    plan = compile_plan(design(what) if isinstance(what, str) else what, in_channels, num_classes)
    network = Network(plan, drop_path_rate)
    initialise(network, init, head_init_scale)
    return network


def _named(name: str, params: str) -> Any:
    def make(
        in_channels: int = 3,
        num_classes: int = 1000,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = MODELS[name].layer_scale,
        head_init_scale: float = 1.0,
    ) -> Network:
        scaled = MODELS[name].with_flags({"layer_scale": layer_scale_init_value or None})
        return build(scaled, num_classes, in_channels, drop_path_rate, head_init_scale)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"{name}, {params} parameters at 1000 classes; `layer_scale_init_value` of 0 or None is off."
    return make


resnet50 = _named("resnet50", "25,557,032")
resnet200 = _named("resnet200", "64,673,832")
convnext_tiny = _named("convnext_tiny", "28,589,128")
convnext_small = _named("convnext_small", "50,223,688")
convnext_base = _named("convnext_base", "88,591,464")
convnext_large = _named("convnext_large", "197,767,336")
convnext_xlarge = _named("convnext_xlarge", "350,196,968")
convnext_isotropic_small = _named("convnext_isotropic_small", "22,308,712")
convnext_isotropic_base = _named("convnext_isotropic_base", "87,083,752")
convnext_isotropic_large = _named("convnext_isotropic_large", "305,905,640")
convnextv2_atto = _named("convnextv2_atto", "3,708,400")
convnextv2_femto = _named("convnextv2_femto", "5,233,240")
convnextv2_pico = _named("convnextv2_pico", "9,066,280")
convnextv2_nano = _named("convnextv2_nano", "15,623,800")
convnextv2_tiny = _named("convnextv2_tiny", "28,635,496")
convnextv2_base = _named("convnextv2_base", "88,717,800")
convnextv2_large = _named("convnextv2_large", "197,956,840")
convnextv2_huge = _named("convnextv2_huge", "660,289,640")
