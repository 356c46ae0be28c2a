"""Other people's weights: loading and exporting under the names of torchvision, timm and the official ConvNeXt.

A layout is a table from our modules to a peer's. What shapes alone tell (depths, width, a patchify stem's stride, a
ConvNeXt's kernel) is free, also where the peer's own constructor fixes it; every other flag must be the peer's.
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
    """Weights that do not fit: one line naming the file, and the keys, shapes or flags in the way."""


@dataclass(frozen=True)
class Layout:
    """What a peer calls our modules. In the names `{s}` is the stage, `{b}` the block, both counted from 0.

    `{n}` counts stages from 1; `{even}` and `{odd}` are 2s and 2s + 1. Each table is in the order of the peer's state
    dict, where modules whose names begin with `first` come before all others. `dims` has, by our modules' names,
    how many dimensions the peer's tensors keep of ours, whose further ones are 1. The layout can express the design
    `like` and those that differ from it in the flags of `free` alone; it takes any if there is no `like`.
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
        """The flags that keep the layout from expressing the design, each with the value it needs."""
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
        """Our module's path and the peer's, over the plan's stages and blocks, in the peer's order."""
        pairs = list(self.stem.items())
        for s, stage in enumerate(plan.stages):
            at = {"s": s, "n": s + 1, "even": 2 * s, "odd": 2 * s + 1}
            pairs += _filled(self.downsampling, at)
            for b in range(len(stage.blocks)):
                pairs += _filled(self.block, at | {"b": b})
        pairs += self.head.items()
        return sorted(pairs, key=lambda pair: not pair[1].startswith(self.first))

    def keys(self, network: Network) -> dict[str, str]:
        """The peer's key of every tensor of the network, in the peer's order, and ours for it."""
        under = defaultdict(list)  # the keys at or under each path
        for key in network.state_dict():
            for path in accumulate(key.split("."), "{}.{}".format):
                under[path].append(key)
        return {
            theirs + key.removeprefix(ours): key for ours, theirs in self.modules(network.plan) for key in under[ours]
        }

    def shape(self, ours: str, tensor: Tensor) -> torch.Size:
        """The peer's shape of the tensor that has the key `ours` and our shape."""
        return tensor.shape[: self.dims.get(ours.split(".")[-2])]

    def known(self, keys: Mapping[str, Tensor]) -> int:
        """How many of the keys could be the layout's, in a network of any depths."""
        templates = (*self.stem.values(), *self.downsampling.values(), *self.block.values(), *self.head.values())
        numbered = (re.sub(r"\\{\w+\\}", r"\\d+", re.escape(template)) for template in templates)
        pattern = re.compile(rf"(?:{'|'.join(numbered)})(?:\.\w+)*")
        return sum(pattern.fullmatch(key) is not None for key in keys)


def _structure(design: Design) -> dict[str, str]:
    """The flags as far as names and shapes tell: layer scale on or off, depths of one stage or more."""
    flags = {flag: text(value) for flag, value in design.flags().items()}
    stages = "one stage" if len(design.depths) == 1 else "two stages or more"
    return flags | {"depths": stages, "layer_scale": text(design.layer_scale is not None)}


def _filled(table: Mapping[str, str], at: dict[str, int]) -> Iterator[tuple[str, str]]:
    return ((ours.format(**at), theirs.format(**at)) for ours, theirs in table.items())


def _within(ours: str, theirs: str, table: Mapping[str, str]) -> dict[str, str]:
    return {ours + name: theirs + other for name, other in table.items()}


_DOWNSAMPLING = "stages.{s}.downsampling"
_BLOCK = "stages.{s}.blocks.{b}"
_LINEAR = {"pointwise1": 2, "pointwise2": 2}
_FLAT = _LINEAR | {"layer_scale": 1, "grn": 1}
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
        dims=_LINEAR,
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
        dims=_FLAT,
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
        dims=_FLAT,
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
        dims=_FLAT,
    ),
)
NAMES = tuple(dict.fromkeys(layout.name for layout in LAYOUTS))


def load_weights(network: Network, source: Mapping[str, Any] | str | Path) -> str:
    """Copies a state dict, or a file of one, into the network and returns the name of its layout, one of NAMES.

    Raises WeightsError, one line, for what does not fit; the network is then as it was.
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
    """A copy of the network's weights under a layout's keys, in its order and shapes.

    Raises WeightsError, one line, for an unknown layout or a flag of the design that it cannot express.
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
    """What the file holds, read without running any code in it."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        with file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of some files that it then refuses
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # on a file that is not torch's its reader fails in any way: KeyError, OSError…
        refused = re.search(r"GLOBAL (\S+)", str(error))
        why = f"holds a pickled {refused[1]}, not tensors alone" if refused else "not a file of tensors saved by torch"
        raise WeightsError(f"{path}: {why}") from None


def _state_dict(content: Any, origin: str) -> dict[str, Tensor]:
    """The state dict in what a file holds, also one level down where official and timm files have it."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{origin}: holds a {type(content).__name__}, not a state dict")
    inner = (content.get(name) for name in ("model", "state_dict", "model_ema"))
    weights = next((found for found in inner if isinstance(found, Mapping)), content)
    strange = [str(key) for key, value in weights.items() if not (isinstance(key, str) and _is_dense(value))]
    if strange:
        raise WeightsError(f"{origin}: not a state dict of dense tensors: {_some(strange)}")
    return dict(weights)


def _is_dense(value: Any) -> bool:
    """Whether it is a tensor that can be copied; one that is sparse or has no data would fail halfway."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta


def _recognised(weights: dict[str, Tensor], origin: str) -> Layout:
    """The layout that knows the most of the keys; raises WeightsError where that is not even half of them."""
    best = max(LAYOUTS, key=lambda layout: layout.known(weights))
    if 2 * best.known(weights) <= len(weights):
        found = f"keys such as {_some(list(weights))}" if weights else "no keys"
        raise WeightsError(f"{origin}: of no known layout ({', '.join(NAMES)}): {found}")
    return best


def _misfits(layout: Layout, keys: dict[str, str], ours: dict[str, Tensor], weights: dict[str, Tensor]) -> list[str]:
    """What of the weights does not fit the network's tensors, in words, by the layout's keys."""
    # Files older than torch 0.4.1 lack this counter, which nothing here computes with; torch lets it be missing too.
    missing = [key for key in keys if key not in weights and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in weights if key not in keys]
    shapes = []
    for key, own in keys.items():
        needed = layout.shape(own, ours[own])
        # timm's smallest ConvNeXts keep the 1×1 convolutions as such, in our shape.
        if key in weights and weights[key].shape not in (needed, ours[own].shape):
            shapes.append(f"{key} is {_size(weights[key].shape)}, needs {_size(needed)}")
    found = {"missing": missing, "unexpected": unexpected, "shapes": shapes}
    return [f"{what} {_some(names)}" for what, names in found.items() if names]


def _some(names: list[str]) -> str:
    """The first three, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _size(shape: torch.Size) -> str:
    return "×".join(map(str, shape)) or "a scalar"
