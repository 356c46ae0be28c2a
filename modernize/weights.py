"""External state dicts: load and export weights with the keys of torchvision, timm and the official ConvNeXt."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from modernize.alterations import STEM, alterations, as_built, size, unwrapped, without_wrappers
from modernize.layouts import CLASSIFIER, LAYOUTS, NAMES, Layout, WeightsError
from modernize.names import nearest
from modernize.weight_files import is_dense, read_source, some

__all__ = ["NAMES", "WeightsError", "export_weights", "load_weights"]

_HEAD_NORM = "head.norm."
_HINT = "; classifier=False leaves the classifier out"


@dataclass(frozen=True)
class _Source:
    """A state dict whose layout is known.

    Attributes:
        origin: What errors call it: its file, or "the state dict".
        layout: The layout.
        prefix: What precedes all keys of the layout.
        weights: Tensors by their keys without the prefix.
        others: Keys that do not begin with the prefix.
    """

    origin: str
    layout: Layout
    prefix: str
    weights: dict[str, Tensor]
    others: list[str]


def load_weights(
    network: nn.Module,
    source: Mapping[str, Any] | str | PathLike[str],
    *,
    classifier: bool = True,
    averaged: bool = False,
) -> str:
    """Copy a state dict into a network; its layout is recognized by the keys.

    A prefix of all keys, such as `module.` or `model.`, is removed. Tensors are converted to the network's data types.
    The stem's weights for 3 channels are fitted to other numbers of channels as timm does: summed for 1 channel, and
    otherwise repeated and rescaled; a UserWarning reports it. Settings that you changed, such as dilation, are kept.

    Args:
        network: The network of `build` to change. Wrappers are looked through: torch.compile's,
            DistributedDataParallel, AveragedModel.
        source: A state dict, a checkpoint that contains one, or the path of a file that torch or safetensors saved. A
            file is read without running its code.
        classifier: Whether to load the classifier. Without it, `source` may have any number of classes or no
            classifier, and the network's classifier stays as it is.
        averaged: Whether to take a checkpoint's averaged (EMA) weights: `averaged` of our checkpoints, `model_ema` of
            official ones, or `state_dict_ema` of timm's.

    Returns:
        The name of the layout: native, torchvision, timm or official.

    Raises:
        WeightsError: If the weights do not fit; the network is then unchanged.
    """
    target = unwrapped(network)
    found = _recognised(*read_source(source, averaged))
    title, design = found.layout.title, target.plan.design
    if obstacles := found.layout.obstacles(design):
        raise WeightsError(f"{found.origin} is of {title}, which this network is not: {', '.join(obstacles)}")
    state = target.state_dict()
    names = {without_wrappers(name): name for name in state}
    keys = found.layout.keys(as_built(target.plan).state_dict(), target.plan)
    notes: list[str] = []
    if not classifier:
        names = {ours: name for ours, name in names.items() if not _is_classifier(ours)}
        found, keys, notes = _without_classifier(found, keys)
    own = {ours: state[name] for ours, name in names.items()}
    _check_network(own, keys, headless=bool(notes))
    found, notes = _with_channels(found, keys, own, notes)
    needed = {key: found.layout.shape(ours, own[ours].shape, design) for key, ours in keys.items()}
    if misfits := _misfits(found, keys, needed, own):
        raise WeightsError(f"{found.origin} is of {title} but does not fit this network: {misfits}")
    loaded = {ours: found.weights[key].reshape(own[ours].shape) for key, ours in keys.items() if key in found.weights}
    _check_shared(own, loaded)
    for note in notes:  # before the network is changed: a warning may be an exception
        warnings.warn(f"{found.origin}: {note}", UserWarning, stacklevel=2)
    target.load_state_dict(state | {names[ours]: tensor for ours, tensor in loaded.items()})
    return found.layout.name


def export_weights(network: nn.Module, layout: str) -> dict[str, Tensor]:
    """Copy a network's weights into a state dict of another layout.

    The state dict has the network's numbers of input channels and of classes, also if you replaced its stem's
    convolution or its classifier by a layer of another size. Any other change to a network of `build` is refused,
    because a state dict does not contain it.

    Args:
        network: The network, of `build`. Wrappers are looked through: torch.compile's, DistributedDataParallel,
            AveragedModel.
        layout: native, torchvision, timm or official.

    Returns:
        Tensors with the keys, order and shapes of the layout.

    Raises:
        WeightsError: If the layout is unknown, or cannot express a flag of the design, or if the network's modules are
            not those of its design.
    """
    if layout not in NAMES:
        raise WeightsError(f"unknown layout {layout!r}: {nearest(str(layout), NAMES)}")
    network = unwrapped(network)
    design = network.plan.design
    candidates = [candidate for candidate in LAYOUTS if candidate.name == layout]
    chosen = min(candidates, key=lambda candidate: len(candidate.obstacles(design)))
    if obstacles := chosen.obstacles(design):
        raise WeightsError(f"{chosen.title} cannot express this network: {', '.join(obstacles)}")
    if changes := alterations(network):
        raise WeightsError(f"{chosen.title} cannot express this network, which was changed: {some(changes)}")
    tensors = {without_wrappers(name): tensor for name, tensor in network.state_dict().items()}
    _check_dense(tensors)
    exported = {}
    for key, ours in chosen.keys(tensors, network.plan).items():
        shape = chosen.shape(ours, tensors[ours].shape, design)
        exported[key] = tensors[ours].reshape(shape).clone(memory_format=torch.contiguous_format)
    return exported


def _is_classifier(ours: str) -> bool:
    return ours.startswith(f"{CLASSIFIER}.")


def _recognised(origin: str, weights: dict[str, Tensor]) -> _Source:
    """Find the layout and the prefix with the most of the keys; raises WeightsError if they have at most half."""
    cleaned = {without_wrappers(key): tensor for key, tensor in weights.items() if key.split(".")[-1] != "n_averaged"}
    if kernels := [key for key in cleaned if key.endswith(".kernel")]:
        raise WeightsError(
            f"{origin}: has sparse kernels of FCMAE pretraining such as {kernels[0]}; convert the file with "
            "remap_checkpoint_keys of the official code"
        )
    if doubled := len(weights) - len(cleaned) - sum(key.split(".")[-1] == "n_averaged" for key in weights):
        raise WeightsError(f"{origin}: {doubled} keys are there twice, with and without the prefix of a wrapper")
    prefixes = Counter(
        path
        for key in cleaned
        for path in ("", *(f"{outer}." for outer in accumulate(key.split(".")[:-1], "{}.{}".format)))
    )
    choices = []
    for prefix, count in prefixes.items():
        if 2 * count > len(cleaned):
            names = [key.removeprefix(prefix) for key in cleaned if key.startswith(prefix)]
            choices += [(layout.known(names), layout, prefix) for layout in LAYOUTS]
    known, layout, prefix = max(choices, key=lambda choice: choice[0], default=(0, LAYOUTS[0], ""))
    if 2 * known <= len(cleaned):
        keys = f"keys such as {some(list(cleaned))}" if cleaned else "no keys"
        raise WeightsError(f"{origin}: unknown layout, with {keys}; known: {', '.join(NAMES)}")
    inside = {key.removeprefix(prefix): tensor for key, tensor in cleaned.items() if key.startswith(prefix)}
    return _Source(origin, layout, prefix, inside, [key for key in cleaned if not key.startswith(prefix)])


def _check_network(own: dict[str, Tensor], keys: dict[str, str], headless: bool) -> None:
    """Raise WeightsError if the network does not have the tensors of its design, or copying to one would fail."""
    needed = set(keys.values())
    lacks = [ours for ours in keys.values() if ours not in own]
    adds = [ours for ours in own if ours not in needed and not (headless and ours.startswith(_HEAD_NORM))]
    if lacks or adds:
        changes = {"missing": lacks, "added": adds}
        described = "; ".join(f"{what} {some(names)}" for what, names in changes.items() if names)
        hint = _HINT if all(map(_is_classifier, (*lacks, *adds))) else ""
        raise WeightsError(f"this network was changed after it was built: {described}{hint}")
    _check_dense(own)
    if absent := [key for key, tensor in own.items() if tensor.is_meta]:
        raise WeightsError(f"this network is on the meta device, so nothing can be copied to {some(absent)}")
    if not torch.is_inference_mode_enabled() and (fixed := [key for key, one in own.items() if one.is_inference()]):
        raise WeightsError(f"this network was made in inference mode, so it cannot be changed: {some(fixed)}")


def _check_dense(own: dict[str, Tensor]) -> None:
    """Raise WeightsError unless all tensors of a network are ordinary ones."""
    if unfit := [key for key, tensor in own.items() if not is_dense(tensor)]:
        raise WeightsError(f"this network has tensors that are not dense: {some(unfit)}")


def _check_shared(own: dict[str, Tensor], loaded: dict[str, Tensor]) -> None:
    """Raise WeightsError if the network has one tensor where the weights have different ones."""
    places = defaultdict(list)
    for ours in loaded:
        if own[ours].numel():
            places[own[ours].data_ptr(), own[ours].shape].append(ours)
    for first, *rest in places.values():
        for other in rest:
            if not torch.equal(*(loaded[ours].to(own[ours].dtype) for ours in (first, other))):
                raise WeightsError(f"{first} and {other} are one tensor in this network, but different weights")


def _without_classifier(found: _Source, keys: dict[str, str]) -> tuple[_Source, dict[str, str], list[str]]:
    """Leave the classifier out of weights and keys, and the norm before it if the weights end before it."""
    weights = {key: tensor for key, tensor in found.weights.items() if not found.layout.of_classifier(key)}
    keys = {key: ours for key, ours in keys.items() if not _is_classifier(ours)}
    norm = [key for key, ours in keys.items() if ours.startswith(_HEAD_NORM)]
    notes = []
    if norm and len(weights) == len(found.weights) and not any(key in weights for key in norm):
        keys = {key: ours for key, ours in keys.items() if key not in norm}
        notes.append("has no norm before the classifier; the network's stays as it is")
    return replace(found, weights=weights), keys, notes


def _with_channels(
    found: _Source, keys: dict[str, str], own: dict[str, Tensor], notes: list[str]
) -> tuple[_Source, list[str]]:
    """Fit a stem for 3 channels to the network's number of channels, as timm's `adapt_input_conv` does."""
    key = next(key for key, ours in keys.items() if ours == STEM)
    weight, channels = found.weights.get(key), own[STEM].shape[1]
    if weight is None or weight.ndim != 4 or weight.shape[1] != 3 or channels == 3 or not weight.is_floating_point():
        return found, notes
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if channels == 1:
        wide, how = wide.sum(1, keepdim=True), "summed for 1"
    else:
        wide = wide.repeat(1, ceil(channels / 3), 1, 1)[:, :channels] * (3 / channels)
        how = f"repeated for {channels} and multiplied by 3/{channels}"
    note = f"{found.prefix}{key} has 3 input channels, {how}"
    return replace(found, weights=found.weights | {key: wide.to(weight.dtype)}), [*notes, note]


def _misfits(found: _Source, keys: dict[str, str], needed: dict[str, torch.Size], own: dict[str, Tensor]) -> str:
    """Describe missing and unexpected keys, wrong shapes and types, with the layout's keys."""
    weights, prefix, of_classifier = found.weights, found.prefix, found.layout.of_classifier
    # Files older than torch 0.4.1 lack this counter. Nothing here uses it, and torch also allows it to be missing.
    missing = [key for key in keys if key not in weights and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in weights if key not in keys]
    present = [key for key in keys if key in weights]
    # timm's smallest ConvNeXts keep 1×1 convolutions, and version 0.1 saved layer scale and GRN as (C, 1, 1).
    shapes = [key for key in present if _without_ones(weights[key].shape) != _without_ones(needed[key])]
    types = [key for key in present if own[keys[key]].is_floating_point() and not weights[key].is_floating_point()]
    described = {
        "missing": [prefix + key for key in missing],
        "unexpected": [prefix + key for key in unexpected] + found.others,
        "shapes": [f"{prefix}{key} is {size(weights[key].shape)}, needs {size(needed[key])}" for key in shapes],
        "not floating-point": [f"{prefix}{key} ({str(weights[key].dtype).removeprefix('torch.')})" for key in types],
    }
    text = "; ".join(f"{what} {some(listed)}" for what, listed in described.items() if listed)
    wrong = [*missing, *unexpected, *shapes, *types]
    in_head = all(of_classifier(key) or keys.get(key, "").startswith(_HEAD_NORM) for key in wrong)
    return text + _HINT if in_head and not found.others and any(map(of_classifier, wrong)) else text


def _without_ones(shape: torch.Size) -> list[int]:
    """Drop the dimensions of size 1."""
    return [length for length in shape if length != 1]
