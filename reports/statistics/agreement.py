"""Agreement between two studies of the same rows: rank correlation and pairwise decision accuracy.

The intervals of `agreement` carry the noise of both studies: each mean is sampled from a normal distribution with its
standard error, and the agreement of the sampled means is taken. Sampled means have noise twice, so their agreement is
biased downwards: the interval spans their quantiles and the quantiles reflected about the observed agreement
(percentile and basic bootstrap, Davison and Hinkley 1997, section 5). Over simulated studies it covered the agreement
of the true means 93 to 99% of the time. The rows are taken as given: the interval is about these rows measured again,
not about other design changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reports.statistics.values import check_level, root_mean_square


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


DRAWS = 4000
_DIGITS = 9  # decimals of differences: printed values that differ by the same amount are ties


@dataclass(frozen=True)
class Means:
    """Means of rows and their standard errors, in the same order."""

    means: Sequence[float]
    errors: Sequence[float]


@dataclass(frozen=True)
class Agreement:
    """How far two studies agree, with an interval that carries the noise of both."""

    value: float
    low: float
    high: float
    rows: int


def pairwise_accuracy(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of row pairs that two studies order alike; a pair that either has as equal counts half.

    Args:
        ours: Means of rows, (..., rows).
        theirs: Means of the same rows, (..., rows).
    """
    first, second = np.triu_indices(np.shape(ours)[-1], 1)
    differences = [np.round(means[..., first] - means[..., second], _DIGITS) for means in (ours, theirs)]
    signs = np.sign(differences[0]) * np.sign(differences[1])
    return np.asarray((signs + 1).mean(axis=-1) / 2)


def change_correlation(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's correlation of the changes from each row to the next, (..., rows)."""
    changes = [np.round(np.diff(means, axis=-1), _DIGITS) for means in np.broadcast_arrays(ours, theirs)]
    ranks = [stats.rankdata(change, axis=-1) for change in changes]
    centered = [rank - rank.mean(axis=-1, keepdims=True) for rank in ranks]
    scale = np.sqrt((centered[0] ** 2).sum(axis=-1) * (centered[1] ** 2).sum(axis=-1))
    with np.errstate(invalid="ignore"):  # NaN if all changes of a study are equal
        return np.asarray((centered[0] * centered[1]).sum(axis=-1) / scale)


def agreement(ours: Means, theirs: Means, of: Literal["pairs", "changes"] = "pairs", level: float = 0.95) -> Agreement:
    """Pairwise decision accuracy ("pairs") or Spearman's correlation of changes ("changes") of two studies.

    Rows without a mean in both studies are left out. A missing standard error counts as the root mean square of those
    that the study has. If ours has none, there is no interval; if theirs has none, the interval carries our noise
    alone.
    """
    check_level(level)
    means = np.array([ours.means, theirs.means], dtype=float)
    there = np.isfinite(means).all(axis=0)
    own, printed = (_filled(np.array(study.errors, dtype=float)) for study in (ours, theirs))
    errors = np.stack([own, np.nan_to_num(printed)])[:, there]
    means = means[:, there]
    rows = means.shape[1]
    if rows < 3:
        return Agreement(math.nan, math.nan, math.nan, rows)
    measure = pairwise_accuracy if of == "pairs" else change_correlation
    value = float(measure(means[0], means[1]))
    if np.isnan(errors).any():
        return Agreement(value, math.nan, math.nan, rows)
    noise = np.random.default_rng(0).standard_normal((2, DRAWS, rows)) * errors[:, None]
    drawn = measure(means[0] + noise[0], means[1] + noise[1])
    below, above = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    lowest = 0.0 if of == "pairs" else -1.0
    low, high = min(below, 2 * value - above), max(above, 2 * value - below)
    return Agreement(value, max(float(low), lowest), min(float(high), 1.0), rows)


def rerun_agreement(study: Means, of: Literal["pairs", "changes"] = "pairs") -> float:
    """The mean agreement of a study with a re-run of itself: its means with their noise drawn anew.

    Both the study and its re-run have noise; the re-run differs from the printed means by the noise of one of them.
    """
    means, errors = np.array(study.means, dtype=float), _filled(np.array(study.errors, dtype=float))
    again = means + np.random.default_rng(0).standard_normal((DRAWS, len(means))) * errors
    return float((pairwise_accuracy if of == "pairs" else change_correlation)(means, again).mean())


def _filled(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard errors, with the root mean square of the known ones for the missing ones; NaN if none is known."""
    known = np.isfinite(errors)
    return np.where(known, errors, root_mean_square(errors[known]))
