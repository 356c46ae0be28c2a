"""Recompute BatchNorm's mean and variance before evaluation, as pycls does.

The running averages of training still contain those of earlier weights and, in a short run, their initial 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ablations.data.batches import Batch
from ablations.data.loader import Feed
from ablations.training.corrupt_images import DamagedDataError
from ablations.training.precision import Placement


def recompute_statistics(
    model: nn.Module,
    feed: Feed,
    images: int,
    batch_size: int,
    placement: Placement,
    random: torch.Generator,
    note: Callable[[Batch], None],
) -> None:
    """Set BatchNorm's statistics to those of a network's present weights on unaugmented training images.

    Only the statistics change, and only of layers that training updates and evaluation uses: frozen ones keep theirs.
    A layer used several times has the statistics of all its inputs. All processes of a run compute the same.

    Args:
        model: The trained network.
        feed: The training images, without augmentation.
        images: Number of images to compute the statistics on; at most all.
        batch_size: Max. images per forward pass; the passes have equally many, up to one.
        placement: Device and precision of the forward pass.
        random: Selects the images.
        note: Called with every batch.

    Raises:
        DamagedDataError: If too few images are readable.

    Source: Wu and Johnson, "Rethinking 'Batch' in BatchNorm" (2021), section 3 and appendix (population statistics).
    """
    model.train()  # a network may keep some of its layers frozen
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    model.eval()
    sums = {norm: _Statistics() for norm in norms if norm.track_running_stats and norm.running_mean is not None}
    if not sums:
        return
    chosen = torch.randperm(len(feed), generator=random)[:images]
    passes = math.ceil(len(chosen) / batch_size)
    readable = 0
    # torch.compile ignores hooks that are registered after it
    with torch.no_grad(), _normalizing_batches(sums), torch.compiler.set_stance("force_eager"):
        for batch in feed.evaluation(chosen, math.ceil(len(chosen) / passes)):
            note(batch)
            if len(batch.labels) < 2:  # it has no variance
                continue
            readable += len(batch.labels)
            inputs, _ = placement.inputs(batch)
            with placement.autocast():
                model(inputs)
        if not readable:
            raise DamagedDataError("too few training images are readable to recompute BatchNorm's statistics")
        for norm, found in sums.items():
            assert norm.running_mean is not None and norm.running_var is not None
            if found.values:
                norm.running_mean.copy_(found.mean)
                norm.running_var.copy_(found.squares / found.values)


class _Statistics:
    """Count, mean and sum of squared deviations of a layer's inputs per channel (C), in float64, merged over batches.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
    Mean squares minus squared means would cancel if the mean is large.
    """

    values = 0
    mean: Any = 0.0
    squares: Any = 0.0

    def add(self, inputs: Tensor) -> None:
        """Add the inputs of a forward pass (N, C, ...)."""
        others = [dimension for dimension in range(inputs.dim()) if dimension != 1]
        wide = inputs.to(torch.promote_types(inputs.dtype, torch.float32))  # under autocast they have 16 bits
        on_cpu = wide.device.type == "cpu"
        found = _var_mean(wide) if on_cpu else torch.var_mean(wide, others, correction=0)
        variance, mean = (statistic.double() for statistic in found)
        count = inputs.numel() // inputs.shape[1]
        total = self.values + count
        difference = mean - self.mean
        self.squares = self.squares + variance * count + difference.square() * (self.values * count / total)
        self.mean = self.mean + difference * (count / total)
        self.values = total


CHUNK = 2**16  # values that are computed on at once in float64, in the cache of a core


def _var_mean(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Compute variance and mean per channel (C) of (N, C, ...), as `torch.var_mean` does on a CPU, but faster.

    Both sum in float64 and round at the end, so float32 results are the same bits, except at a tie. torch divides for
    every value.
    """
    channels = inputs.shape[1]
    rows = inputs.movedim(1, -1).reshape(-1, channels)  # a view, if the memory format is channels-last
    parts = rows.split(max(CHUNK // channels, 1))
    ones = rows.new_ones(len(parts[0]), dtype=torch.float64)
    mean = sum(ones[: len(part)] @ part.double() for part in parts) / len(rows)
    squares = sum(ones[: len(part)] @ part.double().sub_(mean).square_() for part in parts)
    return (squares / len(rows)).to(inputs.dtype), mean.to(inputs.dtype)


@contextmanager
def _normalizing_batches(sums: dict[_BatchNorm, _Statistics]) -> Iterator[None]:
    """Let layers normalize each batch with its own statistics, without a change of state, and add up their inputs."""

    def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, _BatchNorm)
        sums[module].add(inputs[0])

    hooks = [norm.register_forward_pre_hook(add) for norm in sums]
    for norm in sums:
        norm.train()
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in sums:
            norm.eval()
            norm.track_running_stats = True
        for hook in hooks:
            hook.remove()
