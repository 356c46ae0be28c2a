"""External state dicts: load and export weights with the keys of torchvision, timm and the official ConvNeXt.

A layout maps our modules to those of a reference implementation. Flags that only change shapes (depths, width, a
patchify stem's stride, ConvNeXt's kernel size) are free, even if the implementation's own constructor fixes them.
Every other flag must have the implementation's value.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modernize.design import Design, nearest, text
from modernize.models import MODELS
from modernize.network import Network
from modernize.plan import Plan


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
        dims: Number of dimensions of their tensor, by our `module.parameter`, if it is not ours; all further
            dimensions have size 1.
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
    dims: Mapping[str, int] = field(default_factory=dict)
    first: str = ""
    like: Design | None = None
    free: tuple[str, ...] = ()

    def obstacles(self, design: Design) -> list[str]:
        """Return the flags whose values the layout cannot express, each with the value that it needs."""
        if self.like is None:
            return []
        ours, needed = _structure(design), _structure(self.like)
        shown = design.flags()
        return [
            f"{flag}={text(shown[flag])} (needs {needed[flag]})"
            for flag in shown
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
        return sorted(pairs, key=lambda pair: not pair[1].startswith(self.first))

    def keys(self, network: Network) -> dict[str, str]:
        """Map their key of every tensor of the network to ours, in their order."""
        under = defaultdict(list)  # the keys at or under each path
        for key in network.state_dict():
            for path in accumulate(key.split("."), "{}.{}".format):
                under[path].append(key)
        return {
            theirs + key.removeprefix(ours): key for ours, theirs in self.modules(network.plan) for key in under[ours]
        }

    def shape(self, ours: str, tensor: Tensor) -> torch.Size:
        """Return their shape of the tensor that has our key `ours` and our shape."""
        dims = self.dims.get(".".join(ours.split(".")[-2:]), tensor.ndim)
        return torch.Size((*tensor.shape, 1, 1)[:dims])

    def known(self, keys: Mapping[str, Tensor]) -> int:
        """Return how many of the keys the layout has, for any depths."""
        templates = (*self.stem.values(), *self.downsampling.values(), *self.block.values(), *self.head.values())
        numbered = (re.sub(r"\\{\w+\\}", r"\\d+", re.escape(template)) for template in templates)
        pattern = re.compile(rf"(?:{'|'.join(numbered)})(?:\.\w+)*")
        return sum(pattern.fullmatch(key) is not None for key in keys)


def _structure(design: Design) -> dict[str, str]:
    """Return what state dicts reveal of the flags: layer scale on or off, one stage or more."""
    flags = {flag: text(value) for flag, value in design.flags().items()}
    stages = "one stage" if len(design.depths) == 1 else "two stages or more"
    return flags | {"depths": stages, "layer_scale": text(design.layer_scale is not None)}


def _filled(table: Mapping[str, str], at: dict[str, int]) -> Iterator[tuple[str, str]]:
    return ((ours.format(**at), theirs.format(**at)) for ours, theirs in table.items())


def _within(ours: str, theirs: str, table: Mapping[str, str]) -> dict[str, str]:
    return {ours + name: theirs + other for name, other in table.items()}


_DOWNSAMPLING = "stages.{s}.downsampling"
_BLOCK = "stages.{s}.blocks.{b}"
_LINEAR = {"pointwise1.weight": 2, "pointwise2.weight": 2}
_CONVNEXT, _ISOTROPIC = MODELS["convnext_tiny"], MODELS["convnext_isotropic_small"]
_FREE = ("width", "stem_stride", "kernel_size")
_OFFICIAL_BLOCK = {
    "layer_scale.weight": "gamma",
    "spatial": "dwconv",
    "spatial_norm": "norm",
    "pointwise1": "pwconv1",
    "pointwise2": "pwconv2",
}
_OFFICIAL_HEAD = {"head.norm": "norm", "head.linear": "head"}

LAYOUTS = (
    Layout(
        name="native",
        title="our own layout",
        stem={"stem": "stem"},
        downsampling={_DOWNSAMPLING: _DOWNSAMPLING},
        block={f"{_BLOCK}.{part}": f"{_BLOCK}.{part}" for part in ("residual", "shortcut")},
        head={"head": "head"},
    ),
    Layout(
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
        head={"head.linear": "fc"},
    ),
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
        head={"head.norm": "classifier.0", "head.linear": "classifier.2"},
        dims=_LINEAR | {"layer_scale.weight": 3},
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
        head={"head.norm": "head.norm", "head.linear": "head.fc"},
        dims=_LINEAR,
    ),
    Layout(
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


def load_weights(network: Network, source: Mapping[str, Any] | str | Path) -> str:
    """Copy a state dict into a network; its layout is recognized by the keys.

    Args:
        network: The network to change.
        source: A state dict, or the path of a file that torch saved of one; the file is read without running its code.

    Returns:
        The name of the layout: native, torchvision, timm or official.

    Raises:
        WeightsError: If the weights do not fit; the network is then unchanged.
    """
    origin = "the state dict" if isinstance(source, Mapping) else str(source)
    weights = _state_dict(source if isinstance(source, Mapping) else _from_file(Path(source)), origin)
    layout = _recognised(weights, origin)
    if obstacles := layout.obstacles(network.plan.design):
        raise WeightsError(f"{origin} is of {layout.title}, which this network is not: {', '.join(obstacles)}")
    current = network.state_dict()
    keys = layout.keys(network)
    if misfits := _misfits(layout, keys, current, weights):
        raise WeightsError(f"{origin} is of {layout.title} but does not fit this network: {'; '.join(misfits)}")
    loaded = {ours: weights[key].reshape(current[ours].shape) for key, ours in keys.items() if key in weights}
    network.load_state_dict(current | loaded)
    return layout.name


def export_weights(network: Network, layout: str) -> dict[str, Tensor]:
    """Copy a network's weights into a state dict of another layout.

    Args:
        network: The network.
        layout: native, torchvision, timm or official.

    Returns:
        Tensors with the keys, order and shapes of the layout.

    Raises:
        WeightsError: If the layout is unknown, or cannot express a flag of the design.
    """
    if layout not in NAMES:
        raise WeightsError(f"unknown layout {layout!r}: {nearest(layout, NAMES)}")
    design = network.plan.design
    candidates = [candidate for candidate in LAYOUTS if candidate.name == layout]
    chosen = min(candidates, key=lambda candidate: len(candidate.obstacles(design)))
    if obstacles := chosen.obstacles(design):
        raise WeightsError(f"{chosen.title} cannot express this network: {', '.join(obstacles)}")
    tensors = network.state_dict()
    return {
        key: tensors[ours].reshape(chosen.shape(ours, tensors[ours])).clone(memory_format=torch.contiguous_format)
        for key, ours in chosen.keys(network).items()
    }


def _from_file(path: Path) -> Any:
    """Read a file that torch saved, without running code in it."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        with file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about some files before it refuses them
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises any type for files that are not its own: KeyError, OSError…
        refused = re.search(r"GLOBAL (\S+)", str(error))
        why = (
            f"contains a pickled {refused[1]}; only tensors are read"
            if refused
            else "not a file of tensors saved by torch"
        )
        raise WeightsError(f"{path}: {why}") from None


def _state_dict(content: Any, origin: str) -> dict[str, Tensor]:
    """Find the state dict in a file's contents: at the top, or one level down as in official and timm files."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{origin}: contains a {type(content).__name__}, not a state dict")
    inner = (content.get(name) for name in ("model", "state_dict", "model_ema"))
    weights = next((found for found in inner if isinstance(found, Mapping)), content)
    invalid = [str(key) for key, value in weights.items() if not (isinstance(key, str) and _is_dense(value))]
    if invalid:
        raise WeightsError(f"{origin}: not a state dict of dense tensors: {_some(invalid)}")
    return dict(weights)


def _is_dense(value: Any) -> bool:
    """Return whether a value is a dense tensor with data; copying any other would fail halfway."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta


def _recognised(weights: dict[str, Tensor], origin: str) -> Layout:
    """Return the layout with the most of the keys; raises WeightsError if it has at most half of them."""
    best = max(LAYOUTS, key=lambda layout: layout.known(weights))
    if 2 * best.known(weights) <= len(weights):
        keys = f"keys such as {_some(list(weights))}" if weights else "no keys"
        raise WeightsError(f"{origin}: unknown layout, with {keys}; known: {', '.join(NAMES)}")
    return best


def _misfits(layout: Layout, keys: dict[str, str], ours: dict[str, Tensor], weights: dict[str, Tensor]) -> list[str]:
    """List missing and unexpected keys and wrong shapes, with the layout's keys."""
    # Files older than torch 0.4.1 lack this counter. Nothing here uses it, and torch also allows it to be missing.
    missing = [key for key in keys if key not in weights and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in weights if key not in keys]
    shapes = []
    for key, own in keys.items():
        needed = layout.shape(own, ours[own])
        # timm's smallest ConvNeXts keep 1×1 convolutions, and version 0.1 saved layer scale and GRN as (C, 1, 1).
        if key in weights and _without_ones(weights[key].shape) != _without_ones(needed):
            shapes.append(f"{key} is {_size(weights[key].shape)}, needs {_size(needed)}")
    misfits = {"missing": missing, "unexpected": unexpected, "shapes": shapes}
    return [f"{what} {_some(names)}" for what, names in misfits.items() if names]


def _without_ones(shape: torch.Size) -> list[int]:
    """Drop the dimensions of size 1 at the end of a shape."""
    dims = list(shape)
    while dims and dims[-1] == 1:
        dims.pop()
    return dims


def _some(names: list[str]) -> str:
    """List the first three names and count the rest."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _size(shape: torch.Size) -> str:
    return "×".join(map(str, shape)) or "a scalar"
