"""Unreadable images of a run: skip them, report each once, and fail if there are too many."""

from __future__ import annotations

from ablations.data.batches import Batch
from ablations.training.callbacks import Callbacks
from ablations.training.distributed import Group


class DamagedDataError(RuntimeError):
    """More images are corrupt than the recipe allows."""


class CorruptImages:
    """The corrupt images that a run has met: why each cannot be read, by split and index ("training 17")."""

    def __init__(self, reasons: dict[str, str] | None = None):
        self.reasons = reasons or {}
        self.reported: set[str] = set()

    def add(self, batch: Batch, split: str) -> None:
        """Record a batch's corrupt images."""
        for image in batch.damaged:
            self.reasons.setdefault(f"{split} {image.index}", image.reason)

    def gather(self, group: Group) -> None:
        """Merge the records of all processes."""
        for reasons in group.gathered(dict(self.reasons)):
            self.reasons |= reasons

    def check(self, split: str, images: int, max_fraction: float, group: Group, callbacks: Callbacks) -> None:
        """Report new corrupt images; raise DamagedDataError if they exceed `max_fraction` of the split's images."""
        self.gather(group)
        for key in sorted(self.reasons.keys() - self.reported):
            callbacks.warn(f"skipped an unreadable image: {self.reasons[key]}")
        self.reported |= self.reasons.keys()
        reasons = [reason for key, reason in sorted(self.reasons.items()) if key.startswith(split)]
        if len(reasons) > max_fraction * images:
            raise DamagedDataError(
                f"{len(reasons)} of {images} {split} images are unreadable, more than max_damaged={max_fraction:g}, "
                f"such as {reasons[0]}"
            )
