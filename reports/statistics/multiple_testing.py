"""Corrections of p-values for the number of comparisons."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def holm(p_values: Iterable[float]) -> NDArray[np.float64]:
    """Holm's step-down adjustment: adjusted p ≤ α keeps the chance of any false "different" at α, however they depend.

    NaN stays NaN and is not counted. Raises ValueError on what is no probability. (Holm, Scand. J. Statist. 6, 1979.)
    """
    p = np.array(list(p_values), dtype=float)
    there = np.flatnonzero(~np.isnan(p))
    if ((p[there] < 0) | (p[there] > 1)).any():
        raise ValueError(f"p-values lie between 0 and 1, not {p[there].tolist()}")
    ascending = there[np.argsort(p[there], kind="stable")]
    weights = np.arange(len(ascending), 0, -1)
    p[ascending] = np.minimum(np.maximum.accumulate(weights * p[ascending]), 1.0)
    return p
