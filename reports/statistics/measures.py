"""What a study compares, top-1 or test loss: its names, unit, digits, and which direction is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Measure = Literal["top1", "loss"]


@dataclass(frozen=True)
class MeasureWords:
    """How a measure is named and printed.

    name      in a sentence: top-1
    value     as the heading of values, with their unit: top-1 (%)
    change    as the heading of differences, with their unit: top-1 (pp)
    unit      behind a difference in a sentence: pp
    digits    decimals of values and differences
    sign      1 if more is better, else -1
    largest   the largest possible difference
    """

    name: str
    value: str
    change: str
    unit: str
    digits: int
    sign: int
    largest: float


MEASURES: dict[Measure, MeasureWords] = {
    "top1": MeasureWords("top-1", "top-1 (%)", "top-1 (pp)", "pp", 2, 1, 100.0),
    "loss": MeasureWords("test loss", "test loss", "test loss", "in loss", 3, -1, math.inf),
}
OTHER: dict[Measure, Measure] = {"top1": "loss", "loss": "top1"}
