"""Evaluate a network on the test split, each image once, whatever the number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablations.data.batches import Batch
from ablations.data.labels import check_classes
from ablations.data.loader import TEST, Feed
from ablations.training.distributed import Group
from ablations.training.precision import Placement

EVALUATION_BATCH = 512  # max images per batch
EVALUATION_BATCH_CPU = 128  # where larger batches take more memory and are no faster
STATISTICS_BATCH = 128  # of recomputed BatchNorm statistics, which depend on it: the same on every device
EVALUATION_PIXELS = 2**23  # max pixels per batch: 167 images at a resolution of 224


class DivergedError(RuntimeError):
    """The loss or a weight is not finite."""


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation; N is the number of readable images.

    Attributes:
        top1: Top-1 accuracy (%) over the readable images.
        loss: Mean cross-entropy over the readable images.
        predictions: Predicted classes (N), in the order of the split.
        labels: Labels (N).
        indices: Which images of the split these are (N), ascending.
        losses: Cross-entropy of each image (N).
        images: Images of the split, readable or not.
    """

    top1: float
    loss: float
    predictions: Tensor
    labels: Tensor
    indices: Tensor
    losses: Tensor
    images: int

    @property
    def missing(self) -> list[int]:
        """Return the indices of the images that could not be read."""
        return sorted(set(range(self.images)).difference(self.indices.tolist()))

    def on(self, indices: Tensor) -> Evaluation:
        """Return the evaluation on those of its images that are among `indices`."""
        kept = torch.isin(self.indices, indices)
        return evaluation(self.indices[kept], self.labels[kept], self.predictions[kept], self.losses[kept], self.images)


def evaluation(indices: Tensor, labels: Tensor, predictions: Tensor, losses: Tensor, images: int) -> Evaluation:
    """Compute top-1 and loss of these images, given in the order of the split."""
    top1 = 100 * int((predictions == labels).sum()) / len(labels)
    return Evaluation(top1, losses.mean().item(), predictions, labels, indices, losses, images)


@torch.inference_mode()
def count_classes(model: nn.Module, images: Tensor) -> int:
    """Return the number of classes that a model in training predicts for images (N, C, H, W)."""
    model.eval()
    with torch.compiler.set_stance("force_eager"):  # torch.compile would compile for a batch of one
        logits = model(images[:1])
    model.train()
    return logits.shape[1]


def evaluation_batch(device: torch.device, image_size: int | None) -> int:
    """Return the number of images to evaluate at once on a device."""
    return fitting_batch(EVALUATION_BATCH_CPU if device.type == "cpu" else EVALUATION_BATCH, image_size)


def fitting_batch(images: int, image_size: int | None) -> int:
    """Return the number of images for one forward pass: `images`, or fewer if their resolution (pixels) is high."""
    return max(min(images, EVALUATION_PIXELS // (image_size or 1) ** 2), 1)


Predictions = list[tuple[Tensor, Tensor, Tensor, Tensor]]  # per batch: indices, labels, predicted classes, losses


@torch.inference_mode()
def predict(
    model: nn.Module, feed: Feed, batch_size: int, placement: Placement, group: Group, note: Callable[[Batch], None]
) -> Predictions:
    """Predict this process's part of the images of `feed`; `note` is called with every batch.

    The results are read at the end, so that a GPU need not wait for the CPU between batches.
    """
    if group.size > 1:  # each process has BatchNorm statistics of its own: use those of rank 0
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
    model.eval()
    predictions: Predictions = []
    checked = False
    for batch in feed.evaluation(torch.arange(len(feed))[group.rank :: group.size], batch_size):
        note(batch)
        if not len(batch.labels):
            continue
        images, labels = placement.inputs(batch)
        with placement.autocast():
            logits = model(images)
            if feed.labels is None:
                check_classes(batch.labels, batch.indices, logits.shape[1], TEST)
            elif not checked:
                check_classes(feed.labels, torch.arange(len(feed)), logits.shape[1], TEST)
                checked = True
            losses = F.cross_entropy(logits, labels, reduction="none")
        # copied: a batch from another process is a file that is open as long as the batch lives
        predictions.append((batch.indices.clone(), labels.clone(), logits.argmax(1), losses.double()))
    if not predictions:
        return []
    indices, labels, predicted, losses = (torch.cat(column).cpu() for column in zip(*predictions, strict=True))
    return [(indices, labels, predicted, losses)]


def summarize(predictions: Predictions, group: Group, images: int) -> Evaluation:
    """Merge all processes' predictions on a split of so many images; raise DivergedError if the loss is not finite."""
    merged = [batch for batches in group.gathered(predictions) for batch in batches]
    indices, labels, predicted, losses = (torch.cat(column) for column in zip(*merged, strict=True))
    order = indices.argsort()
    merged_evaluation = evaluation(indices[order], labels[order], predicted[order], losses[order], images)
    if not math.isfinite(merged_evaluation.loss):
        raise DivergedError(f"the loss on the test split is {merged_evaluation.loss}")
    return merged_evaluation
