"""External state dicts: load and export weights with the keys of torchvision, timm and the official ConvNeXt."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import ceil
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from modernize.alterations import STEM, alterations, as_built, size, unwrapped, without_wrappers
from modernize.design import nearest
from modernize.layouts import CLASSIFIER, LAYOUTS, NAMES, Layout, WeightsError
from modernize.weight_files import is_plain, read_source, some

__all__ = ["NAMES", "WeightsError", "export_weights", "load_weights"]

_COUNTER = ".num_batches_tracked"
_HINT = "; classifier=False keeps the network's classifier"


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
    otherwise repeated and rescaled. A UserWarning says so. Settings of modules that you have changed, such as dilation,
    are kept.

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
    own_names = {without_wrappers(name): name for name in target.state_dict()}
    own = {key: target.state_dict()[name] for key, name in own_names.items()}
    found = _recognised(*read_source(source, averaged))
    if obstacles := found.layout.obstacles(target.plan.design):
        raise WeightsError(
            f"{found.origin} is of {found.layout.title}, which this network is not: {', '.join(obstacles)}"
        )
    keys = found.layout.keys(as_built(target.plan).state_dict(), target.plan)
    if not classifier:
        own = {key: tensor for key, tensor in own.items() if not _is_classifier(key)}
        keys = {key: ours for key, ours in keys.items() if not _is_classifier(ours)}
    _check_network(own, keys)
    loaded, notes = _fitted(found, keys, own, classifier)
    _check_shared(own, loaded)
    target.load_state_dict(target.state_dict() | {own_names[ours]: tensor for ours, tensor in loaded.items()})
    for note in notes:
        warnings.warn(f"{found.origin}: {note}", UserWarning, stacklevel=2)
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
    return {
        key: tensors[ours].reshape(chosen.shape(ours, tensors[ours].shape)).clone(memory_format=torch.contiguous_format)
        for key, ours in chosen.keys(tensors, network.plan).items()
    }


def _is_classifier(ours: str) -> bool:
    return ours.startswith(f"{CLASSIFIER}.")


def _recognised(origin: str, weights: dict[str, Tensor]) -> _Source:
    """Find the layout and the prefix with the most of the keys; raises WeightsError if they have at most half."""
    cleaned = {without_wrappers(key): tensor for key, tensor in weights.items() if key.split(".")[-1] != "n_averaged"}
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
            keys = [key.removeprefix(prefix) for key in cleaned if key.startswith(prefix)]
            choices += [(layout.known(keys), layout, prefix) for layout in LAYOUTS]
    known, layout, prefix = max(choices, key=lambda choice: choice[0], default=(0, LAYOUTS[0], ""))
    if 2 * known <= len(cleaned):
        raise WeightsError(f"{origin}: unknown layout, with {_described(list(cleaned))}")
    inside = {key.removeprefix(prefix): tensor for key, tensor in cleaned.items() if key.startswith(prefix)}
    return _Source(origin, layout, prefix, inside, [key for key in cleaned if not key.startswith(prefix)])


def _described(keys: list[str]) -> str:
    """Describe keys of no layout, and what is known of them."""
    if "mask_token" in keys and any(key.endswith(".kernel") for key in keys):
        return (
            f"sparse kernels of FCMAE pretraining such as {next(key for key in keys if key.endswith('.kernel'))}; "
            "convert it with remap_checkpoint_keys of the official code"
        )
    return f"{f'keys such as {some(keys)}' if keys else 'no keys'}; known: {', '.join(NAMES)}"


def _check_network(own: dict[str, Tensor], keys: dict[str, str]) -> None:
    """Raise WeightsError if the network does not have the tensors of its design, or copying to one would fail."""
    needed = set(keys.values())
    lacks, adds = [ours for ours in keys.values() if ours not in own], [ours for ours in own if ours not in needed]
    changes = {"missing": lacks, "added": adds}
    if lacks or adds:
        described = "; ".join(f"{what} {some(names)}" for what, names in changes.items() if names)
        hint = _HINT if all(map(_is_classifier, (*lacks, *adds))) else ""
        raise WeightsError(f"this network was changed after it was built: {described}{hint}")
    if unfit := [key for key, tensor in own.items() if not is_plain(tensor)]:
        raise WeightsError(f"this network has no memory, or another kind of tensor, for {some(unfit)}")
    if not torch.is_inference_mode_enabled() and (fixed := [key for key, one in own.items() if one.is_inference()]):
        raise WeightsError(f"this network was made in inference mode, so it cannot be changed: {some(fixed)}")


def _check_shared(own: dict[str, Tensor], loaded: dict[str, Tensor]) -> None:
    """Raise WeightsError if the network has one tensor where the weights have different ones."""
    places = defaultdict(list)
    for ours in loaded:
        if own[ours].numel():
            places[own[ours].data_ptr(), own[ours].shape].append(ours)
    for first, *rest in places.values():
        for other in rest:
            if not torch.equal(loaded[first], loaded[other]):
                raise WeightsError(f"{first} and {other} are one tensor in this network, but different weights")


def _fitted(
    found: _Source, keys: dict[str, str], own: dict[str, Tensor], classifier: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights by our keys in our shapes, and what was done to them; raises WeightsError."""
    weights, notes = dict(found.weights), []
    if not classifier:
        weights = {key: tensor for key, tensor in weights.items() if not found.layout.of_classifier(key)}
        headless = len(weights) == len(found.weights) and not any(
            "head.norm." in keys[key] for key in weights if key in keys
        )
        norm = [key for key, ours in keys.items() if ours.startswith("head.norm.")]
        if headless and norm:
            keys = {key: ours for key, ours in keys.items() if key not in norm}
            notes.append("has no norm before the classifier; the network's stays as it is")
    for key, ours in keys.items():
        if ours == STEM and key in weights and weights[key].ndim == 4 and weights[key].shape[1] == 3:
            channels = own[ours].shape[1]
            if channels != 3:
                weights[key] = _for_channels(weights[key], channels)
                notes.append(f"{found.prefix}{key} has 3 input channels, " + _how(channels))
    misfits = _misfits(found, keys, own, weights)
    if misfits:
        names = [name for listed in misfits.values() for name, _ in listed]
        listed = "; ".join(f"{what} {some([text for _, text in texts])}" for what, texts in misfits.items())
        hint = _HINT if all(map(found.layout.of_classifier, names)) else ""
        raise WeightsError(f"{found.origin} is of {found.layout.title} but does not fit this network: {listed}{hint}")
    return {ours: weights[key].reshape(own[ours].shape) for key, ours in keys.items() if key in weights}, notes


def _for_channels(weight: Tensor, channels: int) -> Tensor:
    """Fit a kernel for 3 channels to another number of channels, as timm's `adapt_input_conv` does."""
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if channels == 1:
        wide = wide.sum(1, keepdim=True)
    else:
        wide = wide.repeat(1, ceil(channels / 3), 1, 1)[:, :channels] * (3 / channels)
    return wide.to(weight.dtype)


def _how(channels: int) -> str:
    return "summed for 1" if channels == 1 else f"repeated for {channels} and multiplied by 3/{channels}"


def _misfits(
    found: _Source, keys: dict[str, str], own: dict[str, Tensor], weights: dict[str, Tensor]
) -> dict[str, list[tuple[str, str]]]:
    """List missing and unexpected keys, wrong shapes and types: each with the layout's key, and as text."""
    # Files older than torch 0.4.1 lack this counter. Nothing here uses it, and torch also allows it to be missing.
    missing = [key for key in keys if key not in weights and not key.endswith(_COUNTER)]
    unexpected = [key for key in weights if key not in keys]
    shapes, types = [], []
    for key, ours in keys.items():
        if key not in weights:
            continue
        needed = found.layout.shape(ours, own[ours].shape)
        # timm's smallest ConvNeXts keep 1×1 convolutions, and version 0.1 saved layer scale and GRN as (C, 1, 1).
        if _without_ones(weights[key].shape) != _without_ones(needed):
            shapes.append((key, f"{found.prefix}{key} is {size(weights[key].shape)}, needs {size(needed)}"))
        if own[ours].is_floating_point() and not weights[key].is_floating_point():
            types.append((key, f"{found.prefix}{key} is {str(weights[key].dtype).removeprefix('torch.')}"))
    misfits = {
        "missing": [(key, found.prefix + key) for key in missing],
        "unexpected": [(key, found.prefix + key) for key in unexpected] + [(key, key) for key in found.others],
        "shapes": shapes,
        "not floating-point": types,
    }
    return {what: listed for what, listed in misfits.items() if listed}


def _without_ones(shape: torch.Size) -> list[int]:
    """Drop the dimensions of size 1."""
    return [length for length in shape if length != 1]
