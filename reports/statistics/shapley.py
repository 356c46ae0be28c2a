"""Shapley values: a flag's effect averaged over sampled orders, with its error under the study's noise model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from reports.statistics.agreement import Correlation, rank_correlation
from reports.statistics.order_walk import SetMean, Walk, is_complete
from reports.statistics.values import check_level, root_mean_square

Value = Callable[[frozenset[str]], float]  # what a set of flags reaches


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


def sampled_shapley(
    orders: Sequence[Sequence[str]],
    value: Callable[[frozenset[str]], SetMean],
    noise_df: float,
    level: float = 0.95,
) -> pd.DataFrame:
    """Estimate each flag's Shapley value, its effect averaged over all orders, from sampled orders.

    The error variance is the noise of the runs, each counted once however many orders share it, plus the variance of
    sampling orders: the variance of a flag's effects over orders, less the noise in it. The sum is never taken to be
    less than the noise of the runs. Satterthwaite's degrees of freedom.

    Args:
        orders: Independent random orders of the same flags. An order through a set without a result is left out.
        value: Mean and error variance of a set of flags.
        noise_df: Degrees of freedom of the error variances.
        level: Confidence level of each interval, which is not corrected for the number of flags.

    Returns:
        One line per flag, in the first order's order: flag, worth (its mean effect), se, df, low, high; sd, min and max
        of its effect over orders; orders, the number used. se to high are NaN if a variance is unknown or one order is
        used. Effects add up to the difference between all flags and none.

    Raises:
        ValueError: If orders are not of the same flags.
    """
    check_level(level)
    if not orders or any(len(set(order)) < len(order) or set(order) != set(orders[0]) for order in orders):
        raise ValueError("one order at least is needed, each order with the same flags once")
    flags = list(orders[0])
    means = {chosen: value(chosen) for order in orders for chosen in _sets(order)}
    kept = [order for order in orders if is_complete(order, means)]
    frame = pd.DataFrame(math.nan, range(len(flags)), ["worth", "se", "df", "low", "high", "sd", "min", "max"])
    if kept:
        walk, number = Walk.of(flags, kept, means), len(kept)
        sd = walk.steps.std(axis=0, ddof=1) if number > 1 else np.full(len(flags), math.nan)
        frame = frame.assign(
            worth=walk.steps.mean(axis=0), sd=sd, min=walk.steps.min(axis=0), max=walk.steps.max(axis=0)
        )
        frame[["se", "df"]] = [_error(walk, flag, sd[flag] ** 2, noise_df) for flag in range(len(flags))]
        half = stats.t.ppf((1 + level) / 2, frame["df"]) * frame["se"]
        frame = frame.assign(low=frame["worth"] - half, high=frame["worth"] + half)
    frame.insert(0, "flag", flags)
    return frame.assign(orders=len(kept))


def _sets(order: Sequence[str]) -> list[frozenset[str]]:
    return [frozenset(order[:end]) for end in range(len(order) + 1)]


def _error(walk: Walk, flag: int, variance_over_orders: float, noise_df: float) -> tuple[float, float]:
    """Return the standard error of a flag's mean effect, and its degrees of freedom."""
    noise, number = walk.noise(flag, flag), len(walk.steps)
    of_runs, of_orders = float(noise.sum()) / number**2, variance_over_orders / number
    if not math.isfinite(of_runs + of_orders):
        return math.nan, math.nan
    shared = of_runs - (float(np.trace(noise)) - float(noise.sum()) / number) / (number * (number - 1))
    variance = of_orders + shared
    if variance <= of_runs:
        return math.sqrt(of_runs), max(noise_df, 1.0)
    return math.sqrt(variance), max(variance**2 / (of_orders**2 / (number - 1) + shared**2 / noise_df), 1.0)


def distance_from_order(worths: Mapping[str, float], shapley: pd.DataFrame, level: float = 0.95) -> OrderDistance:
    """How far the worths met in one order (`worths_in_order` of the paper's) are from those averaged over orders.

    `shapley` is a frame of `sampled_shapley`. A flag that either lacks is NaN and not counted. The correlations take
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
