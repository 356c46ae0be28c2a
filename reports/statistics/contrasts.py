"""Differences of row means under the noise model: p-values, intervals, and their joint distribution.

Given the prior degrees of freedom, a row's true variance has a scaled inverse chi-square distribution about its
moderated variance, and the rows of a group share the uncertainty of their pooled variance. A difference of two means
then has a t distribution with Satterthwaite's degrees of freedom. P-values average these over the prior degrees of
freedom.
Means are compared unpaired: pairing by seed does not reduce the noise (see docs/statistics.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from reports.statistics.noise import PRIOR_DF, Floats, Noise, prior_share, squeeze_variance

POINTS = 2**14  # of the fixed quasi-random sequence


@dataclass(frozen=True)
class Contrasts:
    """Differences of row means: t distributions with scale `se` and `df`, mixed with `weight`; (..., pairs, nodes)."""

    se: Floats
    df: Floats
    weight: Floats

    def p_values(self, difference: Floats) -> Floats:
        """Two-sided p-values of differences, (..., pairs)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            tails = 2 * special.stdtr(self.df, -np.abs(difference)[..., None] / self.se)
        return np.minimum((self.weight * tails).sum(axis=-1), 1.0)

    def half_widths(self, level: float) -> Floats:
        """Half the width of each interval, (..., pairs): the differences whose p-value is 1 − level."""
        ends = special.stdtrit(self.df, (1 + level) / 2) * self.se
        used = self.weight > 0
        low, high = np.where(used, ends, np.inf).min(axis=-1), np.where(used, ends, -np.inf).max(axis=-1)
        for _ in range(50):
            middle = (low + high) / 2
            above = self.p_values(middle) > 1 - level
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.asarray((low + high) / 2)

    @property
    def standard_errors(self) -> Floats:
        """The root mean square of the nodes' standard errors, (..., pairs)."""
        return np.asarray(np.sqrt((self.weight * self.se**2).sum(axis=-1)))


def contrasts(noise: Noise, runs: Floats, pairs: NDArray[np.intp]) -> Contrasts:
    """The distribution of differences of row means.

    Args:
        noise: The noise model of the rows.
        runs: Number of runs that each mean is over, (rows,).
        pairs: Row and baseline of each comparison, as places in the rows, (pairs, 2). The noise of both must be known.
    """
    moderated, shared, own, pooled_error = row_variances(noise, runs)
    a, b = pairs[:, 0], pairs[:, 1]
    together = (noise.group[a] == noise.group[b])[:, None, None]
    first, second = np.s_[..., a, :, None], np.s_[..., b, None, :]
    variance = moderated[first] + moderated[second]
    between = 2 * shared[first] * shared[second] * pooled_error[first] * together
    spread = (shared**2 * pooled_error + own)[first] + (shared**2 * pooled_error + own)[second] + between
    weight_a, weight_b = noise.weight[..., noise.group[a], :, None], noise.weight[..., noise.group[b], None, :]
    weight = weight_a * np.where(together, np.eye(len(PRIOR_DF)), weight_b)
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.minimum(np.where(spread > 0, variance**2 / spread, np.inf), 1e6)
    flat = (*variance.shape[:-2], -1)
    used = (weight > 0).reshape(-1, len(PRIOR_DF) ** 2).any(axis=0)
    return Contrasts(*(terms.reshape(flat)[..., used] for terms in (np.sqrt(variance), df, weight)))


def row_variances(noise: Noise, runs: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """The variance of each row's mean, (..., rows, nodes), and what its degrees of freedom come from.

    The latter are the pooled variance's part of it, its square over the row's own degrees of freedom, and 1 / the
    degrees of freedom of the pooled variance.
    """
    own_df = np.where(noise.df > 0, noise.df, 0.0)[..., None]
    share = prior_share(own_df, noise.prior_df)
    pooled = noise.pooled[..., None]
    moderated = squeeze_variance(noise.variance[..., None], own_df, pooled, noise.prior_df) / runs[:, None]
    shared = np.where(share > 0, share * pooled, 0.0) / runs[:, None]
    return moderated, shared, _ratio(moderated**2, noise.prior_df + own_df), _pooled_error(noise)


def _pooled_error(noise: Noise) -> Floats:
    """1 / degrees of freedom of the pooled variance, given each prior degrees of freedom; (..., rows, nodes)."""
    squares = np.zeros(noise.pooled_df.shape)
    used = np.where(noise.outlier, 0.0, noise.df)
    for number in range(noise.weight.shape[-2]):
        mine = noise.group == number
        squares[..., mine] = (np.broadcast_to(used, squares.shape)[..., mine] ** 2).sum(axis=-1, keepdims=True)
    total = np.where(noise.pooled_df > 0, noise.pooled_df, np.inf)[..., None]
    return np.asarray(1 / total + squares[..., None] / total**2 / PRIOR_DF)


def _ratio(above: Floats, below: Floats) -> Floats:
    """`above` / `below`, 0 where `below` is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isinf(below), 0.0, above / below)


def joint_p_values(noise: Noise, runs: Floats, pairs: NDArray[np.intp], points: int = POINTS) -> Floats:
    """The joint distribution of the comparisons' p-values if no row differs, (points, pairs).

    Each point is a set of row means from a fixed quasi-random sequence (Sobol): normal errors with the rows' moderated
    variances, averaged over the prior degrees of freedom. Comparisons that share a row are correlated by it. Only this
    correlation is taken from the points: each comparison's p-values are uniform by construction.
    Arguments as `contrasts`, of one study.
    """
    own_df = np.where(noise.df > 0, noise.df, 0.0)[:, None]
    moderated = squeeze_variance(noise.variance[:, None], own_df, noise.pooled[:, None], noise.prior_df)
    variance = (moderated * noise.weight[noise.group]).sum(axis=1) / runs
    used, places = np.unique(pairs, return_inverse=True)
    errors = normal_points(len(used), points) * np.sqrt(variance[used])
    places = places.reshape(pairs.shape)
    scale = np.sqrt(variance[pairs].sum(axis=1))
    return 2 * special.ndtr(-np.abs(errors[:, places[:, 0]] - errors[:, places[:, 1]]) / scale)


@lru_cache(maxsize=4)
def normal_points(dimensions: int, number: int) -> Floats:
    """Independent standard normal values from a scrambled Sobol sequence, the same each time."""
    points = stats.qmc.Sobol(dimensions, scramble=True, rng=0).random(number)
    return np.asarray(special.ndtri(np.clip(points, 1e-12, 1 - 1e-12)))
