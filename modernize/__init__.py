"""ConvNets from ResNet to ConvNeXt: each design step of Liu et al. (CVPR 2022) is a flag.

import modernize
network = modernize.build("resnet50@depthwise,kernel_size=7", num_classes=10)
network = modernize.convnext_tiny(num_classes=10)  # so for every name in modernize.MODELS
modernize.count("convnext_tiny").macs
modernize.roadmap("resnet50").rows
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modernize.design import FLAGS, Design, DesignError, Flag
from modernize.models import CONSTRUCTORS, MODELS, build, design
from modernize.plan import Cost, compile_plan, trace
from modernize.plugins import load_installed_plugins, load_plugin
from modernize.roadmap import roadmap

if TYPE_CHECKING:
    from modernize.acceleration import accelerate, decelerate
    from modernize.backbone import features
    from modernize.cost import count
    from modernize.weights import WeightsError, export_weights, load_weights

globals().update(CONSTRUCTORS)

__all__ = [
    "FLAGS",
    "MODELS",
    "Cost",
    "Design",
    "DesignError",
    "Flag",
    "WeightsError",
    "accelerate",
    "build",
    "compile_plan",
    "count",
    "decelerate",
    "design",
    "export_weights",
    "features",
    "load_installed_plugins",
    "load_plugin",
    "load_weights",
    "roadmap",
    "trace",
    *CONSTRUCTORS,
]

_NEED_TORCH = {
    "count": "cost",
    "features": "backbone",
    **dict.fromkeys(("accelerate", "decelerate"), "acceleration"),
    **dict.fromkeys(("WeightsError", "export_weights", "load_weights"), "weights"),
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name not in _NEED_TORCH:
        raise AttributeError(f"module 'modernize' has no attribute {name!r}")
    return getattr(import_module(f"modernize.{_NEED_TORCH[name]}"), name)
