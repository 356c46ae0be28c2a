"""The result of a finished run: evaluations, times, and images that could not be read."""

from __future__ import annotations

from dataclasses import dataclass

from ablations.training.evaluation import Evaluation


@dataclass(frozen=True)
class Result:
    """The results of a finished run.

    Attributes:
        evaluation: Evaluation of the trained weights on the test split.
        averaged: Evaluation of the EMA weights, if the recipe sets `ema_decay`.
        images_seen: Training images, counted once per epoch.
        seconds: Training time, without evaluation (s).
        processor_seconds: Processor time of that, over all processes (s); None if an earlier version trained a part.
        images_per_second: Training throughput (images/s).
        evaluation_seconds: Time of the evaluation of the trained weights (s).
        weights_sha256: Checksum of the trained weights.
        damaged: Names of the skipped corrupt images, and why each cannot be read.
        unread: Those of the test split, by index.
    """

    evaluation: Evaluation
    averaged: Evaluation | None
    images_seen: int
    seconds: float
    processor_seconds: float | None
    images_per_second: float
    evaluation_seconds: float
    weights_sha256: str
    damaged: tuple[str, ...]
    unread: dict[int, str]
