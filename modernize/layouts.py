"""Layouts of state dicts: the keys and shapes of torchvision, timm and the official ConvNeXt.

A layout maps our modules to those of a reference implementation. Flags that only change shapes (depths, width, a
patchify stem's stride, ConvNeXt's kernel size) are free, even if the implementation's own constructor fixes them.
Every other flag must have the implementation's value.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

import torch

from modernize.design import FLAGS, Design, text
from modernize.layers import Plan
from modernize.models import MODELS

CLASSIFIER = "head.linear"  # our module


class WeightsError(ValueError):
    """Weights that do not fit, in one line: the file, and the keys, shapes or flags that differ."""


@dataclass(frozen=True)
class Layout:
    """The module names and tensor shapes of a reference implementation.

    In names `{s}` is the stage and `{b}` the block, both from 0; `{n}` is the stage from 1; `{even}` and `{odd}` are
    2s and 2s + 1. Every table maps our module to theirs, in the order of their state dict.

    Attributes:
        name: Name of the layout, in `NAMES`; two layouts of one implementation share it.
        title: The implementation, for errors.
        stem: Modules of the stem.
        downsampling: Modules between stages.
        block: Modules of a block.
        head: Modules of the head.
        dims: Dimensions of their tensor by our `module.parameter`, if they are not ours: `1` for a dimension of size 1,
            another letter for our next dimension; ours that are left out have size 1.
        convolutional: Depths and width of the networks whose linear layers within blocks are 1×1 convolutions instead.
        hidden: Prefix of their classifier's hidden layers, which none of our networks has.
        first: Prefix of the modules that come first in their state dict.
        like: A design that the layout can express; None for a layout of all designs.
        free: The flags in which a design may differ from `like`.
    """

    name: str
    title: str
    stem: Mapping[str, str]
    downsampling: Mapping[str, str]
    block: Mapping[str, str]
    head: Mapping[str, str]
    dims: Mapping[str, str] = field(default_factory=dict)
    convolutional: tuple[tuple[tuple[int, ...], int], ...] = ()
    hidden: str = ""
    first: str = ""
    like: Design | None = None
    free: tuple[str, ...] = ()

    def obstacles(self, design: Design) -> list[str]:
        """Return the flags whose values the layout cannot express, each with the value that it needs."""
        if self.like is None:
            return []
        ours, needed = _structure(design), _structure(self.like)
        return [
            f"{flag}={text(getattr(design, flag))} (needs {needed[flag]})"
            for flag in ours
            if flag not in self.free and ours[flag] != needed[flag]
        ]

    def modules(self, plan: Plan) -> list[tuple[str, str]]:
        """Return the paths of our modules and theirs for a plan, in their order."""
        pairs = list(self.stem.items())
        for s, stage in enumerate(plan.stages):
            at = {"s": s, "n": s + 1, "even": 2 * s, "odd": 2 * s + 1}
            pairs += _filled(self.downsampling, at)
            for b in range(len(stage.blocks)):
                pairs += _filled(self.block, at | {"b": b})
        pairs += self.head.items()
        if self.like is None:  # plugins may add layers
            pairs += [(name, name) for name in (f"head.{layer.name}" for layer in plan.head) if name not in self.head]
        return sorted(pairs, key=lambda pair: not pair[1].startswith(self.first))

    def keys(self, ours: Iterable[str], plan: Plan) -> dict[str, str]:
        """Map their key of every tensor of a plan's network to ours, in their order, given our keys."""
        under = defaultdict(list)  # the keys at or under each path
        for key in ours:
            for path in accumulate(key.split("."), "{}.{}".format):
                under[path].append(key)
        return {theirs + key.removeprefix(path): key for path, theirs in self.modules(plan) for key in under[path]}

    def shape(self, ours: str, shape: torch.Size, design: Design) -> torch.Size:
        """Return their shape of the tensor that has our key `ours` and our shape in a network of a design."""
        dims = self.dims.get(".".join(ours.split(".")[-2:]))
        if dims is None or (dims == "OI" and (design.depths, design.width) in self.convolutional):
            return shape
        sizes = iter(shape)
        return torch.Size(1 if dim == "1" else next(sizes) for dim in dims)

    def of_classifier(self, key: str) -> bool:
        """Return whether their key belongs to the classifier."""
        return key.startswith(f"{self.head[CLASSIFIER]}.") or bool(self.hidden and key.startswith(self.hidden))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """All keys of the layout, for any depths."""
        templates = (*self.stem.values(), *self.downsampling.values(), *self.block.values(), *self.head.values())
        numbered = (re.sub(r"\\{\w+\\}", r"\\d+", re.escape(template)) for template in templates)
        return re.compile(rf"(?:{'|'.join(numbered)})(?:\.\w+)*")

    def known(self, keys: Iterable[str]) -> int:
        """Return how many of the keys the layout has, for any depths."""
        return sum(self._pattern.fullmatch(key) is not None for key in keys)


def _structure(design: Design) -> dict[str, str]:
    """Return what state dicts reveal of the flags: layer scale on or off, one stage or more."""
    flags = {flag.name: text(getattr(design, flag.name)) for flag in FLAGS}
    stages = "one stage" if len(design.depths) == 1 else "two stages or more"
    return flags | {"depths": stages, "layer_scale": text(design.layer_scale is not None)}


def _filled(table: Mapping[str, str], at: dict[str, int]) -> Iterator[tuple[str, str]]:
    return ((ours.format(**at), theirs.format(**at)) for ours, theirs in table.items())


def _within(ours: str, theirs: str, table: Mapping[str, str]) -> dict[str, str]:
    return {ours + name: theirs + other for name, other in table.items()}


_DOWNSAMPLING = "stages.{s}.downsampling"
_BLOCK = "stages.{s}.blocks.{b}"
_LINEAR = {"pointwise1.weight": "OI", "pointwise2.weight": "OI"}
_CONVNEXT, _ISOTROPIC = MODELS["convnext_tiny"], MODELS["convnext_isotropic_small"]
_FREE = ("width", "stem_stride", "kernel_size")
_OFFICIAL_BLOCK = {
    "layer_scale.weight": "gamma",
    "spatial": "dwconv",
    "spatial_norm": "norm",
    "pointwise1": "pwconv1",
    "pointwise2": "pwconv2",
}
_OFFICIAL_V2_BLOCK = {
    "spatial": "dwconv",
    "spatial_norm": "norm",
    "pointwise1": "pwconv1",
    "grn.weight": "grn.gamma",
    "grn.bias": "grn.beta",
    "pointwise2": "pwconv2",
}
_OFFICIAL_HEAD = {"head.norm": "norm", CLASSIFIER: "head"}

_RESNET = Layout(
    name="torchvision",
    title="torchvision's ResNet",
    like=MODELS["resnet50"],
    free=("depths", "width"),
    stem={"stem.conv": "conv1", "stem.norm": "bn1"},
    downsampling={},
    block=_within(
        f"{_BLOCK}.",
        "layer{n}.{b}.",
        {
            "residual.pointwise1": "conv1",
            "residual.pointwise1_norm": "bn1",
            "residual.spatial": "conv2",
            "residual.spatial_norm": "bn2",
            "residual.pointwise2": "conv3",
            "residual.pointwise2_norm": "bn3",
            "shortcut.conv": "downsample.0",
            "shortcut.norm": "downsample.1",
        },
    ),
    head={CLASSIFIER: "fc"},
)
_OFFICIAL = Layout(
    name="official",
    title="the official ConvNeXt",
    like=_CONVNEXT,
    free=(*_FREE, "layer_scale"),
    stem={"stem.conv": "downsample_layers.0.0", "stem.norm": "downsample_layers.0.1"},
    downsampling=_within(f"{_DOWNSAMPLING}.", "downsample_layers.{s}.", {"norm": "0", "conv": "1"}),
    block=_within(f"{_BLOCK}.residual.", "stages.{s}.{b}.", _OFFICIAL_BLOCK),
    head=_OFFICIAL_HEAD,
    dims=_LINEAR,
    first="downsample_layers.",
)

LAYOUTS = (
    Layout(
        name="native",
        title="our own layout",
        stem={"stem": "stem"},
        downsampling={_DOWNSAMPLING: _DOWNSAMPLING},
        block={f"{_BLOCK}.{part}": f"{_BLOCK}.{part}" for part in ("residual", "shortcut", "after")},
        head={part: part for part in ("head.norm", CLASSIFIER)},
    ),
    _RESNET,
    Layout(
        name="torchvision",
        title="torchvision's ConvNeXt",
        like=_CONVNEXT,
        free=_FREE,
        stem={"stem.conv": "features.0.0", "stem.norm": "features.0.1"},
        downsampling=_within(f"{_DOWNSAMPLING}.", "features.{even}.", {"norm": "0", "conv": "1"}),
        block=_within(
            f"{_BLOCK}.residual.",
            "features.{odd}.{b}.",
            {
                "layer_scale.weight": "layer_scale",
                "spatial": "block.0",
                "spatial_norm": "block.2",
                "pointwise1": "block.3",
                "pointwise2": "block.5",
            },
        ),
        head={"head.norm": "classifier.0", CLASSIFIER: "classifier.2"},
        dims=_LINEAR | {"layer_scale.weight": "C11"},
    ),
    Layout(
        name="timm",
        title="timm's ConvNeXt",
        like=_CONVNEXT,
        free=(*_FREE, "layer_scale", "grn"),
        stem={"stem.conv": "stem.0", "stem.norm": "stem.1"},
        downsampling=_within(f"{_DOWNSAMPLING}.", "stages.{s}.downsample.", {"norm": "0", "conv": "1"}),
        block=_within(
            f"{_BLOCK}.residual.",
            "stages.{s}.blocks.{b}.",
            {
                "layer_scale.weight": "gamma",
                "spatial": "conv_dw",
                "spatial_norm": "norm",
                "pointwise1": "mlp.fc1",
                "grn": "mlp.grn",
                "pointwise2": "mlp.fc2",
            },
        ),
        head={"head.norm": "head.norm", CLASSIFIER: "head.fc"},
        dims=_LINEAR,
        convolutional=(((2, 2, 6, 2), 40), ((2, 2, 6, 2), 48), ((2, 2, 6, 2), 64), ((2, 2, 8, 2), 80)),  # atto to nano
        hidden="head.pre_logits.",
    ),
    replace(_RESNET, name="timm", title="timm's ResNet"),
    _OFFICIAL,
    replace(
        _OFFICIAL,
        title="the official ConvNeXt V2",
        like=MODELS["convnextv2_tiny"],
        free=_FREE,
        block=_within(f"{_BLOCK}.residual.", "stages.{s}.{b}.", _OFFICIAL_V2_BLOCK),
        dims=_LINEAR | {"grn.weight": "111C", "grn.bias": "111C"},
    ),
    Layout(
        name="official",
        title="the official isotropic ConvNeXt",
        like=_ISOTROPIC,
        free=(*_FREE, "layer_scale"),
        stem={"stem.conv": "stem"},
        downsampling={},
        block=_within(f"{_BLOCK}.residual.", "blocks.{b}.", _OFFICIAL_BLOCK),
        head=_OFFICIAL_HEAD,
        dims=_LINEAR,
    ),
)
NAMES = tuple(dict.fromkeys(layout.name for layout in LAYOUTS))
