"""ConvNets from ResNet to ConvNeXt: every design step of Liu et al. (CVPR 2022) as a flag.

import modernize
network = modernize.build("resnet50@depthwise,kernel_size=7", num_classes=10)
modernize.count("convnext_tiny").macs
modernize.roadmap("resnet50").rows
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modernize.design import FLAGS, Design, DesignError
from modernize.models import (
    MODELS,
    build,
    convnext_base,
    convnext_isotropic_base,
    convnext_isotropic_large,
    convnext_isotropic_small,
    convnext_large,
    convnext_small,
    convnext_tiny,
    convnext_xlarge,
    convnextv2_atto,
    convnextv2_base,
    convnextv2_femto,
    convnextv2_huge,
    convnextv2_large,
    convnextv2_nano,
    convnextv2_pico,
    convnextv2_tiny,
    design,
    resnet50,
    resnet200,
)
from modernize.plan import compile_plan, trace
from modernize.roadmap import roadmap

if TYPE_CHECKING:
    from modernize.cost import Cost, count
    from modernize.weights import WeightsError, export_weights, load_weights

__all__ = [
    "FLAGS",
    "MODELS",
    "Cost",
    "Design",
    "DesignError",
    "WeightsError",
    "build",
    "compile_plan",
    "convnext_base",
    "convnext_isotropic_base",
    "convnext_isotropic_large",
    "convnext_isotropic_small",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "convnext_xlarge",
    "convnextv2_atto",
    "convnextv2_base",
    "convnextv2_femto",
    "convnextv2_huge",
    "convnextv2_large",
    "convnextv2_nano",
    "convnextv2_pico",
    "convnextv2_tiny",
    "count",
    "design",
    "export_weights",
    "load_weights",
    "resnet50",
    "resnet200",
    "roadmap",
    "trace",
]

_NEED_TORCH = {"Cost": "cost", "count": "cost"} | dict.fromkeys(
    ("WeightsError", "export_weights", "load_weights"), "weights"
)


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module 'modernize' has no attribute {name!r}")
    return getattr(import_module(f"modernize.{_NEED_TORCH[name]}"), name)
