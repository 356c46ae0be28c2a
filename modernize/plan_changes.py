"""How the flags of plugins change a plan: their functions are applied in turn, and the layers must fit after each."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from modernize.arguments import Size
from modernize.design import DesignError, Flag, setting
from modernize.layers import BlockPlan, Layer, Layers, Plan
from modernize.plugins import added_values, origin_of, running
from modernize.user_sources import UserCodeError


def changed_by_plugins(plan: Plan) -> Plan:
    """Return a plan as the flags of plugins change it.

    Raises:
        DesignError: If a flag's function fails, or returns something else than it was given, or layers that do not fit.
    """
    for flag, value in added_values(plan.design):
        changed = _changed(plan, flag, value)
        problem = next(_problems(changed), None)
        if problem is not None:
            raise DesignError(f"{_shown(flag.name, value)}: {problem}")
        plan = changed
    return plan


def added_flags(plan: Plan) -> str:
    """Write the flags of plugins that a plan's design sets, with the files that they come from."""
    return ", ".join(_shown(name, value) for name, value in plan.design.added)


def unequal_sizes(plan: Plan, path: str, size: Size, beside: Size) -> DesignError:
    """Return the error for a block whose two branches, because of a plugin's flag, end with different resolutions."""
    return DesignError(
        f"{added_flags(plan)}: {path}: the residual branch ends with {size} px and the shortcut with {beside} px"
    )


def _shown(name: str, value: Any) -> str:
    return f"{setting(name, value)} ({origin_of(name)})"


def _changed(plan: Plan, flag: Flag, value: Any) -> Plan:
    """Apply a flag's functions; blocks that are one object stay one."""
    if flag.stem is not None:
        plan = replace(plan, stem=_applied(flag, flag.stem, plan.stem, value))
    if flag.block is not None:
        blocks: dict[int, BlockPlan] = {}
        for stage in plan.stages:
            for block in stage.blocks:
                if id(block) not in blocks:
                    blocks[id(block)] = _applied(flag, flag.block, block, value)
        stages = (replace(one, blocks=tuple(blocks[id(block)] for block in one.blocks)) for one in plan.stages)
        plan = replace(plan, stages=tuple(stages))
    if flag.network is not None:
        plan = _applied(flag, flag.network, plan, value)
    return plan


def _applied(flag: Flag, function: Callable[[Any, Any], Any], part: Any, value: Any) -> Any:
    """Call one of a flag's functions; raises DesignError, with the file and line, if it fails."""
    try:
        with running(flag.name):
            changed = function(part, value)
    except UserCodeError as error:
        raise DesignError(f"{setting(flag.name, value)}: {error}") from error
    if type(changed) is not type(part):
        wanted, found = type(part).__name__, type(changed).__name__
        raise DesignError(f"{_shown(flag.name, value)}: {function.__name__} must return a {wanted}, not {found}")
    return changed


def _problems(plan: Plan) -> Iterator[str]:
    """Yield why the layers of a plan do not fit each other."""

    def run(path: str, layers: Layers, channels: int) -> Iterator[str]:
        names = [getattr(layer, "name", None) for layer in layers]
        for layer, name in zip(layers, names, strict=True):
            if not isinstance(layer, Layer):
                yield f"{path} holds a {type(layer).__name__}, which is no layer"
                return
            if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
                yield f"{path}: {name!r} is no name for a layer; write a Python identifier"
            elif names.count(name) > 1:
                yield f"{path} has two layers named {name!r}"
            elif not _hashable(layer):
                yield f"{path}.{name} ({layer}) has a list or another field that cannot be hashed; use a tuple"
            elif layer.in_and_out and layer.in_and_out[0] != channels:
                yield f"{path}.{name} ({layer}) takes {layer.in_and_out[0]} channels and is given {channels}"
            channels = layer.in_and_out[1] if layer.in_and_out else channels

    yield from run("stem", plan.stem, plan.in_channels)
    channels = _after(plan.stem, plan.in_channels)
    for s, stage in enumerate(plan.stages):
        yield from run(f"stages.{s}.downsampling", stage.downsampling, channels)
        channels = _after(stage.downsampling, channels)
        for b, block in enumerate(stage.blocks):
            path = f"stages.{s}.blocks.{b}"
            for section in ("residual", "shortcut"):
                yield from run(f"{path}.{section}", getattr(block, section), channels)
            ends = _after(block.residual, channels), _after(block.shortcut, channels)
            if ends[0] != ends[1]:
                yield f"{path}: the residual branch ends with {ends[0]} channels and the shortcut with {ends[1]}"
            channels = ends[0]
            yield from run(f"{path}.after", block.after, channels)
            channels = _after(block.after, channels)
    yield from run("head", plan.head, channels)


def _hashable(layer: Layer) -> bool:
    try:
        hash(layer)
    except TypeError:
        return False
    return True


def _after(layers: Layers, channels: int) -> int:
    """Return the channels after layers in sequence."""
    for layer in layers:
        channels = layer.in_and_out[1] if layer.in_and_out else channels
    return channels
