"""Recompute BatchNorm's mean and variance before evaluation, as pycls does.

The running averages of training still contain those of earlier weights and, in a short run, their initial 0 and 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ablations.data.batches import Batch
from ablations.data.loader import Feed
from ablations.training.corrupt_images import DamagedDataError
from ablations.training.precision import Placement

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # fvcore uses torch.jit, which is deprecated
    from fvcore.nn.precise_bn import update_bn_stats


class _Forward(nn.Module):
    """A network's forward pass on a batch of images as they come from memory or disk."""

    def __init__(self, model: nn.Module, placement: Placement):
        super().__init__()
        self.model, self.placement = model, placement

    def forward(self, batch: Batch) -> Tensor:
        images, _ = self.placement.inputs(batch)
        with self.placement.autocast():
            return self.model.forward(images)  # bypasses torch.compile, which ignores the hooks of update_bn_stats


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

    Only the statistics change. All processes of a run compute the same.

    Args:
        model: The trained network.
        feed: The training images, without augmentation.
        images: Number of images to compute the statistics on; at most all.
        batch_size: Max. images per forward pass.
        placement: Device and precision of the forward pass.
        random: Selects the images.
        note: Called with every batch.

    Raises:
        DamagedDataError: If too few images are readable.

    Source: Wu and Johnson, "Rethinking 'Batch' in BatchNorm" (2021), section 3.
    """
    forward = _Forward(model, placement).eval()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    if not norms:
        return
    for norm in norms:
        norm.train()
    count = max(min(images, len(feed)) // batch_size, 1)
    order = torch.randperm(len(feed), generator=random)
    update_bn_stats(forward, _readable(feed.evaluation(order, batch_size), note), num_iters=count)
    forward.eval()


def _readable(batches: Iterator[Batch], note: Callable[[Batch], None]) -> Iterator[Batch]:
    """Yield the batches that have a variance: those with at least two readable images."""
    for batch in batches:
        note(batch)
        if len(batch.labels) > 1:
            yield batch
    raise DamagedDataError("too few training images are readable to recompute BatchNorm's statistics")
