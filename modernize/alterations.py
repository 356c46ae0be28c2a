"""What was changed in a network after `build`: modules added, removed or replaced, and wrappers around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from modernize.layouts import CLASSIFIER, WeightsError
from modernize.network import Network
from modernize.plan import Plan

STEM = "stem.conv.weight"  # its second dimension is the number of input channels
# Names that torch puts before those of a wrapped module: torch.compile, activation checkpointing, FSDP.
_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
# Without tensors, and the identity at inference.
_HARMLESS = (nn.Identity, nn.Dropout, nn.Dropout2d)
# Settings that do not change what a network computes at inference.
_IGNORED = {"inplace", "momentum"}
# Sizes that a user's own stem or classifier may have; other tools build their networks for any.
_FREE_SETTINGS = {("stem.conv", "in_channels"), (CLASSIFIER, "out_features")}
_FREE_DIMS = {STEM: 1, f"{CLASSIFIER}.weight": 0, f"{CLASSIFIER}.bias": 0}


def unwrapped(network: nn.Module) -> Network:
    """Return the network inside torch.compile's, DDP's and EMA wrappers, in any order; raises WeightsError."""
    inner = inside_wrappers(network)
    if not isinstance(inner, Network):
        raise WeightsError(f"network: must be a network of modernize.build, not a {type(network).__name__}")
    return inner


def inside_wrappers(network: Any) -> Any:
    """Return the network inside wrappers, and what is not a wrapped network unchanged."""
    inner = network
    while isinstance(inner, nn.Module) and not isinstance(inner, Network):
        children = dict(inner.named_children())
        inner = children.get("_orig_mod", children.get("module"))
    return network if inner is None else inner


def without_wrappers(name: str) -> str:
    """Return the name of a module or tensor without those of wrappers."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def as_built(plan: Plan) -> Network:
    """Return the network of a plan, without memory for its tensors."""
    with torch.device("meta"):
        return Network(plan)


def alterations(network: Network) -> list[str]:
    """Describe how a network differs from the one that `build` makes, if a state dict does not tell it.

    Settings that have no effect at inference, and the numbers of input channels and of classes, may differ.
    """
    built = as_built(network.plan)
    replaced = dict(_replaced_modules(network, built))
    within = tuple(f"{name}." for name in replaced)
    ours = {without_wrappers(key): value.shape for key, value in network.state_dict().items()}
    wanted = {key: value.shape for key, value in built.state_dict().items()}
    keys = [key for key in (*wanted, *(key for key in ours if key not in wanted)) if not key.startswith(within)]
    settings = _changed_settings(network, built, replaced)
    return [
        *replaced.values(),
        *settings,
        *(f"{key} is missing" for key in keys if key not in ours),
        *(f"{key} was added" for key in keys if key not in wanted),
        *(
            f"{key} is {size(ours[key])} (needs {size(wanted[key])})"
            for key in keys
            if key in ours and key in wanted and _compared(key, ours[key]) != _compared(key, wanted[key])
        ),
    ]


def size(shape: Iterable[int]) -> str:
    """Write a shape: 8×3×4×4."""
    return "×".join(map(str, shape)) or "a scalar"


def _modules(network: Network) -> dict[str, nn.Module]:
    """Return the modules by name, without wrappers and modules that do nothing at inference."""
    named = {without_wrappers(name): module for name, module in network.named_modules(remove_duplicate=False)}
    return {name: module for name, module in named.items() if not isinstance(module, _HARMLESS)}


def _replaced_modules(network: Network, built: Network) -> Iterator[tuple[str, str]]:
    """Yield the name and a description of each outermost module that was added, removed, replaced or moved."""
    ours, wanted = _modules(network), _modules(built)
    every = dict(network.named_modules(remove_duplicate=False))
    changed: list[str] = []
    for name in (*wanted, *(name for name in ours if name not in wanted)):
        if name.startswith(tuple(f"{outer}." for outer in changed)):
            continue
        if name not in ours:
            there = every.get(name)
            found = f"is {type(there).__name__}" if there else "is missing"
            description = f"{name} {found} (needs {type(wanted[name]).__name__})"
        elif name not in wanted:
            description = f"{name} ({type(ours[name]).__name__}) was added"
        elif not _same_kind(type(ours[name]), type(wanted[name])):
            description = f"{name} is {type(ours[name]).__name__} (needs {type(wanted[name]).__name__})"
        else:
            continue
        changed.append(name)
        yield name, description
    order = [name for name in ours if name in wanted and not _changed(name, changed)]
    needed = [name for name in wanted if name in ours and not _changed(name, changed)]
    moved = next((name for name, other in zip(order, needed, strict=True) if name != other), None)
    if moved:
        yield moved, f"{moved} was moved"


def _changed(name: str, changed: list[str]) -> bool:
    return any(name == outer or name.startswith(f"{outer}.") for outer in changed)


def _same_kind(ours: type, wanted: type) -> bool:
    """Return whether a module's class computes what the built one does: it may be accelerated, or synchronized."""
    if wanted is nn.BatchNorm2d and ours is nn.SyncBatchNorm:
        return True
    return ours is wanted or (issubclass(ours, wanted) and ours.__module__.split(".")[0] in ("modernize", "ablations"))


def _changed_settings(network: Network, built: Network, replaced: Iterable[str]) -> Iterator[str]:
    ours, wanted = _modules(network), _modules(built)
    for name, module in wanted.items():
        if _changed(name, list(replaced)):
            continue
        for setting in getattr(module, "__constants__", ()):
            if setting in _IGNORED or (name, setting) in _FREE_SETTINGS or not hasattr(module, setting):
                continue
            value, needed = getattr(ours[name], setting, None), getattr(module, setting)
            if _plain(value, needed) != needed:
                yield f"{name}: {setting}={value} (needs {needed})"


def _plain(value: Any, like: Any) -> Any:
    """Return a setting in the form of another: 1 or [1, 1] as (1, 1)."""
    if not isinstance(like, tuple):
        return value
    return (value,) * len(like) if isinstance(value, int) else tuple(value) if isinstance(value, list) else value


def _compared(key: str, shape: torch.Size) -> list[int]:
    """Return a shape without the dimension that is free."""
    return [length for dim, length in enumerate(shape) if dim != _FREE_DIMS.get(key)]
