"""What every method needs: known values, their mean and standard deviation, and the form of a result."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

NO_METHOD = "none"


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (n − 1) over seeds; NaN where there are too few."""

    mean: float
    sd: float
    seeds: int


@dataclass(frozen=True)
class Difference:
    """Ours minus base with its interval and the p-value of "no difference"; all NaN without a test image.

    `covers` names the randomness that the interval is about; `note` what a reader should know of this one.
    """

    mean: float
    low: float
    high: float
    p: float
    method: str = NO_METHOD
    covers: str = ""
    note: str = ""
    level: float = 0.95


def summarise(values: Iterable[float]) -> Summary:
    """Mean, standard deviation and number of the values that are there (NaN and None are not)."""
    there = np.array([value for value in values if known(value)], dtype=float)
    mean = float(there.mean()) if len(there) else math.nan
    return Summary(mean, float(there.std(ddof=1)) if len(there) > 1 else math.nan, len(there))


def root_mean_square(values: NDArray[np.float64]) -> float:
    return float(np.sqrt((values**2).mean())) if len(values) else math.nan


def known(value: Any) -> bool:
    return value is not None and not pd.isna(value) and math.isfinite(value)


def check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, as 0.95 does; not {level}")
