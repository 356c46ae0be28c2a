"""What was changed in a network after `build`: modules added, removed or replaced, and wrappers around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from modernize.layers import Plan
from modernize.layouts import CLASSIFIER, WeightsError
from modernize.network import Network, StochasticDepth

STEM = "stem.conv.weight"  # its second dimension is the number of input channels
# Names that torch puts before those of a wrapped module: torch.compile, activation checkpointing, FSDP.
_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
# Without tensors, and the identity at inference.
_HARMLESS = (nn.Identity, nn.Dropout, nn.Dropout2d, StochasticDepth)
# Settings that do not change what a network computes at inference.
_IGNORED = {"inplace", "momentum"}
# Sizes that a user's own stem or classifier may have; other tools build their networks for any.
_FREE_SETTINGS = {("stem.conv", "in_channels"), (CLASSIFIER, "out_features")}
_FREE_DIMS = {STEM: 1, f"{CLASSIFIER}.weight": 0, f"{CLASSIFIER}.bias": 0}


def unwrapped(network: nn.Module, error: type[ValueError] = WeightsError) -> Network:
    """Return the network inside torch.compile's, DDP's and EMA wrappers, in any order; raises `error` if none is."""
    inner: Any = network
    while not isinstance(inner, Network):
        if isinstance(inner, (nn.DataParallel, DistributedDataParallel, AveragedModel)):
            inner = inner.module
        elif isinstance(inner, nn.Module) and "_orig_mod" in dict(inner.named_children()):
            inner = inner._orig_mod
        else:
            there = f" in a {type(network).__name__}" if inner is not network else ""
            raise error(f"network: must be a network of modernize.build, not a {_kind(type(inner), Network)}{there}")
    return inner


def without_wrappers(name: str) -> str:
    """Return the name of a module or tensor without those of wrappers."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def as_built(plan: Plan) -> Network:
    """Return the network of a plan, without memory for its tensors."""
    with torch.device("meta"):
        return Network(plan)


def alterations(network: Network) -> list[str]:
    """Describe how a network differs from the one that `build` makes of its plan.

    Settings and modules that have no effect at inference, and the numbers of input channels and of classes, may differ.
    """
    built = as_built(network.plan)
    ours, needed = _modules(network), _modules(built)
    changed = dict(_changed_modules(ours, needed))
    kept = [name for name in needed if not _within(name, changed)]
    order = [name for name in ours if name in needed and not _within(name, changed)]
    moved = next((name for name, other in zip(order, kept, strict=True) if name != other), None)
    settings = [text for name in kept for text in _changed_settings(name, ours[name], needed[name])]
    return [
        *changed.values(),
        *([f"{moved} was moved"] if moved else []),
        *settings,
        *_changed_tensors(network, built, changed),
    ]


def size(shape: Iterable[int]) -> str:
    """Write a shape: 8×3×4×4."""
    return "×".join(map(str, shape)) or "a scalar"


def _modules(network: Network) -> dict[str, nn.Module]:
    """Return the modules by name, without wrappers and modules that do nothing at inference."""
    named = {without_wrappers(name): module for name, module in network.named_modules(remove_duplicate=False)}
    return {name: module for name, module in named.items() if not _is_identity(module)}


def _is_identity(module: nn.Module) -> bool:
    """Return whether a module does nothing at inference."""
    return isinstance(module, _HARMLESS) or (type(module) is nn.Sequential and not len(module))


def _changed_modules(ours: dict[str, nn.Module], needed: dict[str, nn.Module]) -> Iterator[tuple[str, str]]:
    """Yield the name and a description of each outermost module that was added, removed or replaced."""
    changed: list[str] = []
    for name in (*needed, *(name for name in ours if name not in needed)):
        if _within(name, changed):
            continue
        if name not in ours:
            description = f"{name} ({type(needed[name]).__name__}) is missing"
        elif name not in needed:
            description = f"{name} ({type(ours[name]).__name__}) was added"
        elif not _same_kind(type(ours[name]), type(needed[name])):
            wanted = type(needed[name])
            description = f"{name or 'the network'} is {_kind(type(ours[name]), wanted)} (needs {wanted.__name__})"
        else:
            continue
        changed.append(name)
        yield name, description


def _within(name: str, modules: Iterable[str]) -> bool:
    """Return whether a name is that of a module or of something in it."""
    return any(module in ("", name) or name.startswith(f"{module}.") for module in modules)


def _kind(found: type, wanted: type) -> str:
    """Name a class, with its module if its name alone is that of another one: torch.fx and quantization reuse names."""
    return f"{found.__module__}.{found.__name__}" if found.__name__ == wanted.__name__ else found.__name__


def _same_kind(ours: type, wanted: type) -> bool:
    """Return whether a module's class computes what the built one does: it may be accelerated, or synchronized."""
    if wanted is nn.BatchNorm2d and ours is nn.SyncBatchNorm:
        return True
    return ours is wanted or (issubclass(ours, wanted) and ours.__module__.split(".")[0] in ("modernize", "ablations"))


def _changed_settings(name: str, module: nn.Module, built: nn.Module) -> Iterator[str]:
    """Describe the settings of a module in which it differs from the built one."""
    for setting in getattr(built, "__constants__", ()):
        if setting in _IGNORED or (name, setting) in _FREE_SETTINGS or not hasattr(built, setting):
            continue
        value, needed = getattr(module, setting, None), getattr(built, setting)
        if _plain(value, needed) != needed:
            yield f"{name}: {setting}={value} (needs {needed})"


def _changed_tensors(network: Network, built: Network, changed: Iterable[str]) -> Iterator[str]:
    """Describe the tensors in which a network differs from the built one, but for those of changed modules."""
    # quantized modules have other values in their state dicts, too
    ours: dict[str, Any] = {
        without_wrappers(key): getattr(value, "shape", None) for key, value in network.state_dict().items()
    }
    needed = {key: tensor.shape for key, tensor in built.state_dict().items()}
    for key in (*needed, *(key for key in ours if key not in needed)):
        if _within(key, changed):
            continue
        if key not in ours:
            yield f"{key} is missing"
        elif key not in needed:
            yield f"{key} was added"
        elif _compared(key, ours[key]) != _compared(key, needed[key]):
            yield f"{key} is {size(ours[key])} (needs {size(needed[key])})"


def _plain(value: Any, like: Any) -> Any:
    """Return a setting in the form of another: 1 or [1, 1] as (1, 1)."""
    if not isinstance(like, tuple):
        return value
    return (value,) * len(like) if isinstance(value, int) else tuple(value) if isinstance(value, list) else value


def _compared(key: str, shape: torch.Size) -> list[int]:
    """Return a shape without the dimension that is free."""
    return [length for dim, length in enumerate(shape) if dim != _FREE_DIMS.get(key)]
