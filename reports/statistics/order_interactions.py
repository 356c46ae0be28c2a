"""Pairwise interactions of flags, estimated from the runs that sampled orders visit.

The index is the pairwise Faith-Shap index (Tsai, Yeh and Ravikumar, "Faith-Shap: The Faithful Shapley Interaction
Index", JMLR 24, 2023). With δ(T) = v(T+i+j) − v(T+i) − v(T+j) + v(T), the difference of differences of flags i and j on
top of a set T of t other flags, it is the mean of δ(T) over all T with weights proportional to (t+1)!(n−1−t)!. It is
also the coefficient of the two flags' product in the best fit that leaves out interactions of three or more flags. If
there are no such interactions, it equals the Shapley interaction index (Grabisch and Roubens, Int. J. Game Theory 28,
1999).

An order never visits all four sets of a δ(T). It visits T and T+i, or T+j and T+i+j: what flag i adds with j off, or
with j on. Each step is weighted by how much more often the index needs it than random orders visit it, so that the
weighted steps estimate the index without bias, whatever the objective. These weights stay below 6. For the Shapley
interaction index they reach n, and its estimates have more variance and heavier tails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from reports.statistics.multiple_testing import holm
from reports.statistics.order_walk import SetMean, Walk, is_complete
from reports.statistics.values import check_level

Floats = NDArray[np.float64]
Pair = tuple[int, int]

ALL_SETS = "all sets of flags"
SAMPLED_ORDERS = "sampled orders"
PRIOR_DF = 4  # of the variance over orders; by simulation, see tests/test_order_interactions.py
MIN_EACH_WAY = 2  # orders in which the one flag comes before the other, and as many in which it comes after


@dataclass(frozen=True)
class _Estimate:
    """A pair's estimate, its error variance and the degrees of freedom of that."""

    effect: float
    variance: float
    df: float


_NONE = _Estimate(math.nan, math.nan, math.nan)


def pairwise_interactions(
    flags: Sequence[str],
    orders: Sequence[Sequence[str]],
    value: Callable[[frozenset[str]], SetMean],
    noise_df: float,
    level: float = 0.95,
    not_random: Sequence[Sequence[str]] = (),
) -> pd.DataFrame:
    """Estimate the pairwise Faith-Shap index of each two flags with error, interval and p-value, in the means' unit.

    If every set of flags has a result, the index is computed from all of them and its error is that of the runs. Else
    it is estimated from the orders. Its error variance is then the noise of the runs, each counted once however many
    orders share it, plus the variance of sampling orders: the variance of the estimate's parts over orders, less the
    noise in it, moderated towards its mean over pairs with `PRIOR_DF` prior degrees of freedom.

    Args:
        flags: The flags.
        orders: Independent random orders of the flags. An order through a set without a result is left out.
        value: Mean and error variance of a set of flags.
        noise_df: Degrees of freedom of the error variances.
        level: Confidence level of each interval, which is not corrected for the number of pairs.
        not_random: Further orders, whose sets of flags count towards all sets.

    Returns:
        One line per pair, in the order of `flags`: flag, other, effect, se, df, low, high, p, p_adjusted (Holm over
        all pairs), method (`ALL_SETS` or `SAMPLED_ORDERS`) and orders, the number of orders used. se to p_adjusted are
        NaN if a variance is unknown, effect too if fewer than `MIN_EACH_WAY` orders have one of the flags first.
    """
    check_level(level)
    every = [frozenset(chosen) for size in range(len(flags) + 1) for chosen in combinations(flags, size)]
    visited = {frozenset(order[:end]) for order in (*orders, *not_random) for end in range(len(flags) + 1)}
    means = {chosen: value(chosen) for chosen in visited}
    kept = [order for order in orders if is_complete(order, means)]
    if len(visited) == len(every) and all(math.isfinite(known.mean) for known in means.values()):
        method, estimates = (
            ALL_SETS,
            [_from_all_sets(pair, flags, means, noise_df) for pair in combinations(range(len(flags)), 2)],
        )
    else:
        method, estimates = SAMPLED_ORDERS, _from_orders(flags, kept, means, noise_df)
    lines = []
    for (i, j), found in zip(combinations(range(len(flags)), 2), estimates, strict=True):
        se = math.sqrt(found.variance)
        half = float(stats.t.ppf((1 + level) / 2, found.df)) * se
        p = 2 * float(stats.t.sf(abs(found.effect) / se, found.df)) if se > 0 else math.nan
        line = {"flag": flags[i], "other": flags[j], "effect": found.effect, "se": se, "df": found.df}
        lines.append({**line, "low": found.effect - half, "high": found.effect + half, "p": p})
    columns = ["flag", "other", "effect", "se", "df", "low", "high", "p"]
    frame = pd.DataFrame(lines, columns=columns)
    return frame.assign(p_adjusted=holm(frame["p"].astype(float)), method=method, orders=len(kept))


def set_weights(n: int) -> Floats:
    """Return the index's weight of one set of t other flags, for t = 0 to n−2; over all sets they add up to 1."""
    sizes = range(n - 1)
    return np.array([6 * math.factorial(t + 1) * math.factorial(n - 1 - t) / math.factorial(n + 1) for t in sizes])


def _from_all_sets(
    pair: Pair, flags: Sequence[str], means: Mapping[frozenset[str], SetMean], noise_df: float
) -> _Estimate:
    """Compute the index itself; its variance is that of a sum of independent means."""
    i, j = flags[pair[0]], flags[pair[1]]
    others = [flag for flag in flags if flag not in (i, j)]
    effect = variance = 0.0
    for size, weight in enumerate(set_weights(len(flags))):
        for chosen in map(frozenset, combinations(others, size)):
            for members, sign in (((), 1), ((i,), -1), ((j,), -1), ((i, j), 1)):
                known = means[chosen.union(members)]
                effect += sign * weight * known.mean
                variance += weight**2 * known.variance
    return _Estimate(effect, variance, noise_df)


def step_weights(positions: NDArray[np.intp]) -> Floats:
    """Weigh the steps of orders: [order, i, j] is the weight of flag i's step for the index of flags i and j.

    `positions[order, flag]` counts the flags before a flag. With s flags before i, the weight is 6(n−s)/(n+1) if j is
    one of them and −6(s+1)/(n+1) if it is not. Over random orders its expectation is 0.
    """
    n = positions.shape[1]
    before = positions[:, :, None].astype(float)
    weights = np.where(positions[:, None, :] < positions[:, :, None], n - before, -(before + 1)) * 6 / (n + 1)
    weights[:, range(n), range(n)] = 0.0
    return weights


def _from_orders(
    flags: Sequence[str], orders: Sequence[Sequence[str]], means: Mapping[frozenset[str], SetMean], noise_df: float
) -> list[_Estimate]:
    """Estimate each pair's index from what its two flags add in each order.

    The estimate is half the covariance, over orders, of weight and step of the one flag, plus half that of the other.
    The weights have expectation 0, so the covariance has the expectation of their product, and less variance.
    """
    n, number = len(flags), len(orders)
    pairs = list(combinations(range(n), 2))
    if number < 2 * MIN_EACH_WAY:
        return [_NONE] * len(pairs)
    walk = Walk.of(flags, orders, means)
    weights = step_weights(walk.positions)
    weights -= weights.mean(axis=0)
    steps = walk.steps - walk.steps.mean(axis=0)
    scale = number / (number - 1)
    parts = {(i, j): scale / 2 * (weights[:, i, j] * steps[:, i] + weights[:, j, i] * steps[:, j]) for i, j in pairs}
    own = [walk.centered_noise(flag, flag) for flag in range(n)]
    noises = [_part_noise(pair, weights, own, walk.centered_noise(*pair)) for pair in pairs]
    over_orders = np.array([part.var(ddof=1) for part in parts.values()]) / number
    order_df = number - 1 + PRIOR_DF
    moderated = ((number - 1) * over_orders + PRIOR_DF * over_orders.mean()) / order_df
    estimates = []
    for (i, j), part, noise, order_variance in zip(pairs, parts.values(), noises, moderated, strict=True):
        first = int((walk.positions[:, i] < walk.positions[:, j]).sum())
        if min(first, number - first) < MIN_EACH_WAY:
            estimates.append(_NONE)
            continue
        noise_variance = noise.sum() / number**2
        shared = noise_variance - (np.trace(noise) - noise.sum() / number) / (number * (number - 1))
        variance, df = max(order_variance + shared, noise_variance), noise_df
        if variance > noise_variance:
            df = variance**2 / (order_variance**2 / order_df + shared**2 / noise_df)
        estimates.append(_Estimate(float(part.mean()), float(variance), float(df)))
    return estimates


def _part_noise(pair: Pair, weights: Floats, own: Sequence[Floats], between: Floats) -> Floats:
    """Return the noise covariance of a pair's parts, from that of each flag's steps and between the two flags'."""
    i, j = pair
    a, b, number = weights[:, i, j], weights[:, j, i], len(weights)
    mixed = np.outer(a, b) * between
    total = np.outer(a, a) * own[i] + np.outer(b, b) * own[j] + mixed + mixed.T
    return np.asarray(total * (number / (number - 1)) ** 2 / 4)
