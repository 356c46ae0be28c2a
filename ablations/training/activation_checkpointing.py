"""Activation checkpointing: recompute a block's activations in the backward pass instead of storing them."""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_blocks(model: nn.Module) -> list[nn.Module]:
    """Enable activation checkpointing of a network's blocks, and return these blocks.

    Blocks are the outermost modules whose class is not torch's own and occurs more than once. Raise ValueError if
    there are none.
    """
    kinds = Counter(type(module) for module in model.modules())
    blocks = list(_outermost(model, kinds))
    if not blocks:
        raise ValueError("activation_checkpointing: the network has no repeated blocks; leave it off")
    for block in blocks:
        kind: Any = type(block)
        if not hasattr(kind, "recomputes"):  # a network that is trained once more
            block.__class__ = _recomputing(kind)
    return blocks


@cache
def _recomputing(kind: Any) -> type[nn.Module]:
    """Return the subclass of a block's class that recomputes its activations.

    A block that held its own forward method would be a reference cycle: its weights would outlive the run.
    """

    def forward(block: nn.Module, *inputs: Any, **named: Any) -> Any:
        return _recomputed(block, partial(kind.forward, block, **named), *inputs)

    def reduce(block: Any) -> tuple[Any, ...]:
        return _unpickled, (kind,), block.__getstate__()

    names = {"forward": forward, "__reduce__": reduce, "__module__": kind.__module__, "recomputes": True}
    return types.new_class(kind.__name__, (kind,), {}, lambda body: body.update(names))


def _unpickled(kind: Any) -> nn.Module:
    """Return a block without its contents, which pickle adds."""
    made = _recomputing(kind)
    return made.__new__(made)


def _outermost(module: nn.Module, kinds: Counter[type]) -> Iterator[nn.Module]:
    for child in module.children():
        kind = type(child)
        if kinds[kind] > 1 and not kind.__module__.startswith("torch."):
            yield child
        else:
            yield from _outermost(child, kinds)


def _recomputed(block: nn.Module, forward: Any, *inputs: Any) -> Any:
    if not block.training:
        return forward(*inputs)
    if torch.compiler.is_compiling():  # torch.compile keeps the block's side effects out of the recomputation
        return checkpoint(forward, *inputs, use_reentrant=False)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_forward_and_recompute_contexts, block))


def _forward_and_recompute_contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), _frozen_running_statistics(block)


@contextmanager
def _frozen_running_statistics(block: nn.Module) -> Iterator[None]:
    """Keep BatchNorm's running statistics, which the forward pass has updated already, during recomputation."""
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
