"""Designs that have names: the first rows of the roadmaps, and the published ConvNeXt sizes."""

from __future__ import annotations

from modernize.design import Design

_CONVNEXT_T = Design(
    depths=(3, 3, 9, 3),
    width=96,
    stem="patchify",
    depthwise=True,
    inverted_bottleneck=True,
    depthwise_first=True,
    kernel_size=7,
    activation="gelu",
    fewer_activations=True,
    norm="ln",
    fewer_norms=True,
    separate_downsampling=True,
    layer_scale=1e-6,
)


def _convnext(depths: tuple[int, ...], width: int) -> Design:
    return _CONVNEXT_T.with_flags({"depths": depths, "width": width})


def _isotropic(depth: int, width: int) -> Design:
    return _convnext((depth,), width).with_flags({"stem_stride": 16, "layer_scale": None})


def _convnext_v2(depths: tuple[int, ...], width: int) -> Design:
    return _convnext(depths, width).with_flags({"layer_scale": None, "grn": True})


MODELS = {
    "resnet50": Design(depths=(3, 4, 6, 3), width=64),
    "resnet200": Design(depths=(3, 24, 36, 3), width=64),
    "pocket": Design(depths=(1, 2, 2, 1), width=12, stem_stride=2),
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
