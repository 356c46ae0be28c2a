"""Agreement between two lists of results: rank correlation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reports.statistics.values import check_level


@dataclass(frozen=True)
class Correlation:
    """A rank correlation with its interval, the p-value of "none", and how many pairs it is over."""

    rho: float
    low: float
    high: float
    p: float
    n: int
    method: str


def rank_correlation(
    a: Iterable[float], b: Iterable[float], level: float = 0.95, method: Literal["Spearman", "Kendall"] = "Spearman"
) -> Correlation:
    """The rank correlation of two vectors, over the places where both have a value, with its interval.

    Interval: Fisher's z, with the variance of Bonett and Wright (Psychometrika 65, 2000) for Spearman's, of Fieller,
    Hartley and Pearson (Biometrika 44, 1957) for Kendall's; none below 4 pairs (5 for Kendall's). Perfect agreement,
    where z is infinite, counts as half a step short of it: ranks cannot tell the two. p-value: over all permutations up
    to 8 pairs, then scipy's. All NaN for a vector without variety. Raises ValueError on vectors of different length.
    """
    check_level(level)
    left, right = np.array(list(a), dtype=float), np.array(list(b), dtype=float)
    if left.shape != right.shape:
        raise ValueError(f"vectors of one length are needed, not {len(left)} and {len(right)}")
    there = np.isfinite(left) & np.isfinite(right)
    left, right = stats.rankdata(left[there]), stats.rankdata(right[there])
    n = len(left)
    if n < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return Correlation(math.nan, math.nan, math.nan, math.nan, n, method)
    if method == "Spearman":
        found, least, step = stats.spearmanr(left, right), 4, 12 / (n**3 - n)
    else:
        found, least, step = stats.kendalltau(left, right), 5, 4 / (n**2 - n)
    rho = float(found.statistic)
    if abs(rho) > 1 - step / 2:  # perfect but for rounding
        rho = math.copysign(1.0, rho)
    p = _permutation_p(left, right) if method == "Spearman" and n <= 8 else float(found.pvalue)
    if n < least:
        return Correlation(rho, math.nan, math.nan, p, n, method)
    inner = math.copysign(min(abs(rho), 1 - step / 2), rho)
    variance = (1 + inner**2 / 2) / (n - 3) if method == "Spearman" else 0.437 / (n - 4)
    half = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt(variance)
    low, high = math.tanh(math.atanh(inner) - half), math.tanh(math.atanh(inner) + half)
    return Correlation(rho, -1.0 if rho == -1 else low, 1.0 if rho == 1 else high, p, n, method)


def _permutation_p(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """The share of all pairings of ranks that agree, or disagree, as much as this one."""

    def agreement(ranks: NDArray[np.float64], axis: int = -1) -> Any:
        return ((ranks - left.mean()) * (right - right.mean())).sum(axis=axis)

    test = stats.permutation_test((left,), agreement, permutation_type="pairings", n_resamples=np.inf, vectorized=True)
    return float(test.pvalue)
