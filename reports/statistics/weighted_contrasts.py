"""Weighted sums of row means, such as averaged effects and interactions, under the noise model of one group of rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from reports.statistics.contrasts import POINTS, Contrasts, normal_points, row_variances
from reports.statistics.multiple_testing import step_down
from reports.statistics.noise import Floats, Noise, fit_noise


@dataclass(frozen=True)
class RowValues:
    """The results of a row's finished runs, and those of them that its variance is estimated from."""

    values: tuple[float, ...]
    for_variance: tuple[float, ...]

    @classmethod
    def all(cls, values: Iterable[float]) -> RowValues:
        """Estimate the variance from every result."""
        known = tuple(float(value) for value in values)
        return cls(known, known)


@dataclass(frozen=True)
class RowMeans:
    """The mean of each row of one group, (rows,), the number of its runs, and the noise model of the rows."""

    mean: Floats
    runs: Floats
    noise: Noise

    @classmethod
    def of(cls, results: Sequence[RowValues], resolution: float = 0.0) -> RowMeans:
        """Summarize the results of rows, each of which has one or more.

        Values come in steps of `resolution` (0: unknown). If any row varies, no variance is less than that of rounding
        to this step.
        """
        runs = np.array([len(row.values) for row in results], dtype=float)
        used = [np.array(row.for_variance) for row in results]
        variance = np.array([values.var(ddof=1) if len(values) > 1 else math.nan for values in used])
        df = np.array([max(len(values) - 1, 0) for values in used], dtype=float)
        if (variance > 0).any():
            variance = np.maximum(variance, resolution**2 / 12)
        mean = np.array([np.mean(row.values) for row in results])
        return cls(mean, runs, fit_noise(variance, df, np.zeros(len(results), dtype=np.intp)))

    @property
    def why_untested(self) -> str:
        """Say why the noise of a row is unknown."""
        return "one seed" if (self.runs < 2).all() else "no variance between seeds"

    @property
    def error_variances(self) -> Floats:
        """The error variance of each mean, averaged over the prior degrees of freedom; NaN if unknown."""
        moderated = row_variances(self.noise, self.runs)[0] @ self.noise.weight[0]
        return np.where(self.noise.known, moderated, math.nan)


def weighted_contrasts(means: RowMeans, weights: Floats) -> Contrasts:
    """Return the distributions of weighted sums of row means.

    Args:
        means: Rows; the noise of those with a weight other than 0 must be known.
        weights: Weight of each row in each sum, (sums, rows).
    """
    moderated, shared, own, pooled_error = (np.nan_to_num(terms) for terms in row_variances(means.noise, means.runs))
    squares = weights**2
    variance = squares @ moderated
    spread = (squares @ shared) ** 2 * pooled_error[:1] + squares**2 @ own
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.where(spread > 0, variance**2 / spread, np.inf)
    return Contrasts(np.sqrt(variance), np.minimum(df, 1e6), np.broadcast_to(means.noise.weight[0], variance.shape))


def weighted_sums(means: RowMeans, weights: Floats, families: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """Estimate weighted sums of row means and test each against 0.

    Args:
        means: Rows of one group.
        weights: Weight of each row in each sum, (sums, rows); NaN in a sum that cannot be computed.
        families: The family of each sum. P-values are adjusted within each.
        level: Confidence level of each interval, which is not adjusted.

    Returns:
        One line per sum: effect, se, low, high, p, p_adjusted, NaN if they cannot be computed.
    """
    frame = pd.DataFrame(math.nan, range(len(weights)), ["effect", "se", "low", "high", "p", "p_adjusted"])
    if not len(means.mean):
        return frame
    possible = np.isfinite(weights).all(axis=1)
    frame.loc[possible, "effect"] = weights[possible] @ means.mean
    testable = possible & ~((np.nan_to_num(weights) != 0) & ~means.noise.known).any(axis=1)
    if not testable.any():
        return frame
    sums = weighted_contrasts(means, weights[testable])
    effect, half = frame.loc[testable, "effect"].to_numpy(), sums.half_widths(level)
    frame.loc[testable, ["se", "low", "high", "p"]] = np.stack(
        [sums.standard_errors, effect - half, effect + half, sums.p_values(effect)], axis=1
    )
    errors = np.nan_to_num(means.error_variances) ** 0.5 * normal_points(len(means.mean), POINTS)
    for family in dict.fromkeys(families):
        mine = testable & (np.array(families) == family)
        if mine.any():
            scale = np.sqrt(weights[mine] ** 2 @ np.nan_to_num(means.error_variances))
            null = 2 * special.ndtr(-np.abs(errors @ weights[mine].T) / scale)
            frame.loc[mine, "p_adjusted"] = step_down(frame.loc[mine, "p"].to_numpy(), null)
    return frame
