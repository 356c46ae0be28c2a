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


ENOUGH_POINTS = 5  # of the joint distribution, below a comparison's own p-value


def step_down(p_values: NDArray[np.float64], null_p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjust p-values by their joint distribution: free step-down, smallest p first (Westfall and Young 1993).

    The adjusted p-value of a comparison is the probability that, if it and the comparisons with larger p-values have no
    true difference, any of them has a p-value as small; and never less than that of a smaller p-value.
    Bonferroni's inequality bounds it from above by Holm's. (Romano and Wolf, Econometrica 73, 2005.)

    Args:
        p_values: One p-value per comparison, none of them NaN.
        null_p_values: Points of the joint distribution if nothing differs, (points, comparisons).

    Returns:
        Adjusted p-values, never above Holm's.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    smallest = np.minimum.accumulate(null_p_values[:, order[::-1]], axis=1)[:, ::-1]
    by_holm, adjusted = holm(p), np.empty(len(p))
    few = p[order] * len(null_p_values) < ENOUGH_POINTS  # too few for a proportion; Holm's is close where p is small
    adjusted[order] = np.maximum.accumulate(np.where(few, by_holm[order], (smallest <= p[order]).mean(axis=0)))
    return np.minimum(np.maximum(adjusted, p), by_holm)
