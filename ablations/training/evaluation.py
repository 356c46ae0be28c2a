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
EVALUATION_PIXELS = 2**23  # max pixels per batch: 167 images at a resolution of 224


class DivergedError(RuntimeError):
    """The loss or a weight is not finite."""


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation; N is the number of readable images.

    Attributes:
        top1: Top-1 accuracy (%).
        loss: Mean cross-entropy.
        predictions: Predicted classes (N), in the order of the split.
        labels: Labels (N).
    """

    top1: float
    loss: float
    predictions: Tensor
    labels: Tensor


@torch.inference_mode()
def count_classes(model: nn.Module, images: Tensor) -> int:
    """Return the number of classes that a model in training predicts for images (N, C, H, W)."""
    model.eval()
    logits = model.forward(images[:1])  # bypasses torch.compile, which would compile for a batch of one
    model.train()
    return logits.shape[1]


def evaluation_batch(image_size: int | None) -> int:
    """Return the number of images to evaluate at once, which memory must hold."""
    return max(min(EVALUATION_BATCH, EVALUATION_PIXELS // (image_size or 1) ** 2), 1)


Predictions = list[tuple[Tensor, Tensor, Tensor, Tensor]]  # per batch: indices, labels, predicted classes, losses


@torch.inference_mode()
def predict(
    model: nn.Module, feed: Feed, batch_size: int, placement: Placement, group: Group, note: Callable[[Batch], None]
) -> Predictions:
    """Predict this process's part of the images of `feed`; `note` is called with every batch."""
    if group.size > 1:  # each process has BatchNorm statistics of its own: use those of rank 0
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
    model.eval()
    predictions: Predictions = []
    for batch in feed.evaluation(torch.arange(len(feed))[group.rank :: group.size], batch_size):
        note(batch)
        if not len(batch.labels):
            continue
        images, labels = placement.inputs(batch)
        with placement.autocast():
            logits = model(images)
            check_classes(labels, batch.indices, logits.shape[1], TEST)
            losses = F.cross_entropy(logits, labels, reduction="none")
        predictions.append((batch.indices, labels.cpu(), logits.argmax(1).cpu(), losses.double().cpu()))
    return predictions


def summarize(predictions: Predictions, group: Group) -> Evaluation:
    """Merge the predictions of all processes into one evaluation; raise DivergedError if the loss is not finite."""
    merged = [batch for batches in group.gathered(predictions) for batch in batches]
    indices, labels, predicted, losses = (torch.cat(column) for column in zip(*merged, strict=True))
    order = indices.argsort()
    labels, predicted, losses = labels[order], predicted[order], losses[order]
    loss = losses.mean().item()
    if not math.isfinite(loss):
        raise DivergedError(f"the loss on the test split is {loss}")
    return Evaluation(100 * int((predicted == labels).sum()) / len(labels), loss, predicted, labels)
