"""Sums of loss, correct predictions and images since the last line of the log."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ablations.training.distributed import Group


class RunningSums:
    """Sums over the images of one process; on the device, since reading them at every step would stall it."""

    def __init__(self, device: torch.device):
        self.loss = torch.zeros((), device=device, dtype=torch.float64)
        self.correct = torch.zeros((), device=device, dtype=torch.int64)
        self.images = 0

    @torch.no_grad()
    def add(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add the losses (N), logits (N, classes) and labels (N) of a micro-batch."""
        self.loss += losses.double().sum()
        self.correct += (logits.argmax(1) == labels).sum()
        self.images += len(labels)

    def total(self, group: Group) -> tuple[float, int, int]:
        """Return loss, correct predictions and images, summed over all processes."""
        images = torch.full_like(self.loss, self.images)
        loss, correct, count = group.total(torch.stack([self.loss, self.correct.double(), images])).tolist()
        return loss, int(correct), int(count)

    def set(self, loss: float, correct: int, images: int) -> None:
        """Replace the sums of this process."""
        self.loss.fill_(loss)
        self.correct.fill_(correct)
        self.images = images

    def state(self) -> dict[str, Any]:
        """Return the sums by their names in a checkpoint."""
        return {"loss_sum": self.loss, "correct": self.correct, "summed": self.images}
