"""Shapley values: what a flag is worth, averaged over sampled orders and seeds, with its error."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from reports.statistics.agreement import Correlation, rank_correlation
from reports.statistics.values import check_level, root_mean_square

Value = Callable[[frozenset[str]], float]  # what a set of flags reaches

SeededValue = Callable[[frozenset[str], int], float]  # what a set of flags reaches with a seed


@dataclass(frozen=True)
class OrderDistance:
    """How far one order's worths are from the average over orders: `distance`, where a random order is at `typical`.

    Both are root mean squares over flags, in points. `frame` has a line a flag: flag, in_order, worth, difference and
    spreads, which is the difference in standard deviations of that flag's worth over orders.
    """

    distance: float
    typical: float
    spearman: Correlation
    kendall: Correlation
    frame: pd.DataFrame = field(compare=False, repr=False)


def worths_in_order(order: Sequence[str], value: Value) -> dict[str, float]:
    """What each flag adds when flags are turned on one after the other, in this order."""
    values = [value(frozenset(order[:place])) for place in range(len(order) + 1)]
    return {flag: values[place + 1] - values[place] for place, flag in enumerate(order)}


def shapley_exact(flags: Collection[str], value: Value) -> dict[str, float]:
    """Each flag's Shapley value: what it adds, averaged over all orders, from the values of all 2^n sets of flags.

    Raises ValueError on flags named twice, or more than 16 of them.
    """
    names = list(flags)
    n = len(names)
    if len(set(names)) < n or n > 16:
        raise ValueError(f"up to 16 different flags, not {names}")
    values = {
        frozenset(chosen): value(frozenset(chosen)) for size in range(n + 1) for chosen in combinations(names, size)
    }
    worths = {}
    for flag in names:
        parts = [
            (values[chosen | {flag}] - without) / (n * math.comb(n - 1, len(chosen)))
            for chosen, without in values.items()
            if flag not in chosen
        ]
        worths[flag] = math.fsum(parts)
    return worths


def shapley_from_orders(orders: Sequence[Sequence[str]], value: Value, level: float = 0.95) -> pd.DataFrame:
    """Sampled Shapley values where a set of flags has one value: as `shapley_over_seeds`, with one seed.

    The error is that of sampling orders only: exact where `value` has no luck in it, too small where it has.
    """
    return shapley_over_seeds(orders, lambda chosen, _: value(chosen), (0,), level)


def shapley_over_seeds(
    orders: Sequence[Sequence[str]], value: SeededValue, seeds: Sequence[int], level: float = 0.95
) -> pd.DataFrame:
    """Each flag's worth averaged over sampled orders and over seeds, in points, with the error of sampling both.

    Orders must be drawn independently, each as likely as any other, and every seed must walk all of them. Columns:
    flag (in the first order's order), worth, se, low, high; sd, min and max of the worth over orders, each order
    averaged over seeds; orders and seeds that it is over.

    Error: an order's runs are shared with other orders of the same seed, so the worths of a seed are not independent;
    seeds are. The variance is that of the seeds' averages, which holds all that sharing does, plus that of the orders'
    averages, less the residual of the two-way layout, which both hold: in expectation the right one whatever is shared.
    It is never taken to be less than either part. The interval is by t, degrees of freedom after Satterthwaite. One
    seed has no seed part: the error is then that of sampling orders only. One order has no known error (NaN).

    A run that is missing (NaN) takes its order or its seed out, whichever keeps more; worths always add up to the
    difference between all flags and none. Raises ValueError where orders are not of the same flags.
    """
    check_level(level)
    if not orders or not seeds or any(len(set(order)) < len(order) or set(order) != set(orders[0]) for order in orders):
        raise ValueError("one seed and one order at least are needed, each order with the same flags once")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {list(seeds)}: each may be there once")
    flags = list(orders[0])
    worths = np.empty((len(orders), len(seeds), len(flags)))
    for column, seed in enumerate(seeds):
        look_up = _with_seed(value, seed)
        for line, order in enumerate(orders):
            in_order = worths_in_order(order, look_up)
            worths[line, column] = [in_order[flag] for flag in flags]

    kept_orders, kept_seeds = _complete(np.asarray(np.isfinite(worths).all(axis=2)))
    worths = worths[np.ix_(kept_orders, kept_seeds)]
    n, m = worths.shape[:2]
    if not n or not m:
        frame = pd.DataFrame(math.nan, range(len(flags)), ["worth", "se", "low", "high", "sd", "min", "max"])
    else:
        frame = _worths_frame(worths, level)
    frame.insert(0, "flag", flags)
    return frame.assign(orders=n, seeds=m)


def _with_seed(value: SeededValue, seed: int) -> Value:
    """The values of one seed, each asked for once."""

    @cache
    def look_up(chosen: frozenset[str]) -> float:
        return float(value(chosen, seed))

    return look_up


def _worths_frame(worths: NDArray[np.float64], level: float) -> pd.DataFrame:
    """Mean, error, interval and spread of worths[order, seed, flag], all of which are there."""
    n, m = worths.shape[:2]
    by_order, by_seed, mean = worths.mean(axis=1), worths.mean(axis=0), worths.mean(axis=(0, 1))
    order_part = by_order.var(axis=0, ddof=1) / n if n > 1 else np.full_like(mean, math.nan)
    variance, freedom = order_part, np.full_like(mean, n - 1)
    if m > 1:
        seed_part = by_seed.var(axis=0, ddof=1) / m
        residual = worths - by_order[:, None] - by_seed[None] + mean
        both = (residual**2).sum(axis=(0, 1)) / max((n - 1) * (m - 1), 1) / (n * m)
        variance = np.maximum(order_part + seed_part - both, np.maximum(order_part, seed_part))
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = variance**2 / (order_part**2 / max(n - 1, 1) + seed_part**2 / (m - 1))
        freedom = np.nan_to_num(np.maximum(freedom, min(n, m) - 1), nan=1.0)
    error = np.sqrt(variance)
    half = stats.t.ppf((1 + level) / 2, np.maximum(freedom, 1)) * error
    return pd.DataFrame(
        {
            "worth": mean,
            "se": error,
            "low": mean - half,
            "high": mean + half,
            "sd": np.sqrt(order_part * n),
            "min": by_order.min(axis=0),
            "max": by_order.max(axis=0),
        }
    )


def _complete(there: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Lines and columns between which nothing is missing: of the fullest columns, as many as leave the most cells."""
    fullest = np.argsort(-there.sum(axis=0), kind="stable")
    counts = [number * int(there[:, fullest[:number]].all(axis=1).sum()) for number in range(1, len(fullest) + 1)]
    columns = np.sort(fullest[: int(np.argmax(counts)) + 1])
    return np.flatnonzero(there[:, columns].all(axis=1)), columns


def distance_from_order(worths: Mapping[str, float], shapley: pd.DataFrame, level: float = 0.95) -> OrderDistance:
    """How far the worths met in one order (`worths_in_order` of the paper's) are from those averaged over orders.

    `shapley` is a frame of `shapley_over_seeds`. A flag that either lacks is NaN and not counted. The correlations take
    the flags as a sample of flags. A difference where orders have no spread at all is infinitely many spreads.
    """
    frame = shapley[["flag", "worth"]].copy()
    frame.insert(1, "in_order", [worths.get(flag, math.nan) for flag in frame["flag"]])
    difference, sd = (frame["in_order"] - frame["worth"]).to_numpy(), shapley["sd"].to_numpy(dtype=float)
    rounding = 1e-9
    with np.errstate(divide="ignore", invalid="ignore"):
        spreads = difference / np.where(sd > rounding, sd, 0.0)
    frame["difference"] = difference
    frame["spreads"] = np.where((np.abs(difference) <= rounding) & (sd <= rounding), 0.0, spreads)
    there = ~np.isnan(difference)
    return OrderDistance(
        distance=root_mean_square(difference[there]),
        typical=root_mean_square(sd[there]),
        spearman=rank_correlation(frame["in_order"], frame["worth"], level),
        kendall=rank_correlation(frame["in_order"], frame["worth"], level, "Kendall"),
        frame=frame,
    )
