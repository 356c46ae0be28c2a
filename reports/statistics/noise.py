"""One noise model for all rows of a study: how much a row's result varies from seed to seed.

Each row has its own variance. A few seeds estimate it badly, so the rows of one group (one recipe, one budget) inform
each other: variances are drawn from a common distribution, and a row's estimate is shrunk towards the pooled variance
of its group ("moderated", Smyth, Statist. Appl. Genet. Mol. Biol. 3, 2004; limma's empirical Bayes). How strongly
depends on the prior degrees of freedom: infinitely many mean one common variance, few mean that rows differ. Smyth
plugs in one estimate of them. With as few rows as a study has, that estimate is poor, and too large a value gives false
positives. Here all p-values are averaged over five values, each weighted by how well it explains the rows' variances.

A row whose variance is far larger than the others' keeps its own variance and informs no other row.
Arrays have rows on the last axis; leading axes are studies, so that simulations use the same code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

PRIOR_DF: Floats = np.array([1, 4, 8, 16, np.inf])
PRIOR_WEIGHT: Floats = np.array([10, 1, 1, 1, 7]) / 20  # chosen by simulation, see docs/statistics.md
OUTLIER_LEVEL = 0.03  # an outlier loses nearly all power, and takes its share out of the noise of the others
_SCALES = np.exp(np.linspace(-2.2, 0.6, 23))


@dataclass(frozen=True)
class Noise:
    """The noise of rows: arrays over (..., rows); `prior_df` (..., rows, nodes), `weight` (..., groups, nodes).

    `variance` and `df` are a row's own (NaN and 0 for a single run); `pooled` and `pooled_df` are those of its group
    (NaN and 0 where none of its rows has two runs). `prior_df` is 0 for a row that is tested with its own variance.
    """

    variance: Floats
    df: Floats
    pooled: Floats
    pooled_df: Floats
    outlier: NDArray[np.bool_]
    group: NDArray[np.intp]
    prior_df: Floats
    weight: Floats

    @property
    def known(self) -> NDArray[np.bool_]:
        """The rows whose noise is known, from their own runs or from others of their group."""
        variance = np.where(self.prior_df[..., 0] > 0, self.pooled, self.variance)
        return np.asarray(np.isfinite(variance) & (variance > 0))

    def study(self, place: int) -> Noise:
        """One of several studies."""
        arrays = (self.variance, self.pooled, self.pooled_df, self.outlier, self.prior_df, self.weight)
        variance, pooled, pooled_df, outlier, prior_df, weight = (array[place] for array in arrays)
        return Noise(variance, self.df, pooled, pooled_df, outlier, self.group, prior_df, weight)


def squeeze_variance(variance: Floats, df: Floats, prior_variance: Floats, prior_df: Floats) -> Floats:
    """Moderated variances: the mean of own and prior variance, weighted by degrees of freedom (limma's squeezeVar)."""
    share = prior_share(df, prior_df)
    own = np.where(share < 1, variance, 0.0)  # a single run has no variance of its own
    return np.where(share > 0, share * prior_variance, 0.0) + (1 - share) * own


def prior_share(df: Floats, prior_df: Floats) -> Floats:
    """How much of a moderated variance is the prior's."""
    with np.errstate(invalid="ignore"):
        share = prior_df / (prior_df + df)
    return np.where(np.isinf(prior_df), 1.0, np.nan_to_num(share, nan=0.0))


def fit_noise(variance: Floats, df: Floats, group: NDArray[np.intp]) -> Noise:
    """Fit the noise model of each group of rows.

    Args:
        variance: Variance over seeds of each row, (..., rows); ignored where `df` is 0.
        df: Its degrees of freedom, (rows,).
        group: Number of each row's group from 0, (rows,).

    Returns:
        The noise model. A row alone in its group, outliers aside, has no prior.
    """
    variance, df = np.asarray(variance, dtype=float), np.asarray(df, dtype=float)
    variance = np.where(df > 0, variance, np.nan)
    pooled, pooled_df = np.full(variance.shape, np.nan), np.zeros(variance.shape)
    outlier, alone = np.zeros(variance.shape, dtype=bool), np.zeros(variance.shape, dtype=bool)
    groups = int(group.max(initial=-1)) + 1
    weight = np.zeros((*variance.shape[:-1], groups, len(PRIOR_DF)))
    for number in range(groups):
        mine = group == number
        own, own_df = variance[..., mine], np.broadcast_to(df[mine], variance[..., mine].shape)
        out = outlying(own, own_df)
        there = (own_df > 0) & ~out
        outlier[..., mine] = out
        alone[..., mine] = (~out).sum(axis=-1, keepdims=True) < 2
        pooled[..., mine], pooled_df[..., mine] = _pool(own, own_df, there)
        weight[..., number, :] = prior_df_weights(own, np.where(there, own_df, 0.0))
    prior_df = np.where(((pooled_df > 0) & ~alone & ~outlier)[..., None], PRIOR_DF, 0.0)
    return Noise(variance, df, pooled, pooled_df, outlier, group, prior_df, weight)


def outlying(variance: Floats, df: Floats) -> NDArray[np.bool_]:
    """The rows whose variance is too large to be the others', as far as the others are alike.

    The row of the largest variance is tested first, at 3% by Bonferroni's correction, against the pooled variance and
    the prior degrees of freedom of the rows without it, so that it cannot hide itself; then the rest without it. At
    most half of the rows are taken out. Rows that differ much among each other make no row an outlier: to drop the
    larger ones would make the noise of the rest too small.
    """
    out = np.zeros(variance.shape, dtype=bool)
    rows = (df > 0).sum(axis=-1)
    for taken in range(int(rows.max(initial=0)) // 2):
        kept = (df > 0) & ~out
        worst = np.where(kept, variance, -1.0).argmax(axis=-1)[..., None]
        is_worst = np.arange(variance.shape[-1]) == worst
        rest_df = np.where(kept & ~is_worst, df, 0.0)
        pooled, total = _pool(variance, rest_df, rest_df > 0)
        error = (
            1 / np.maximum(total[..., :1], 1.0)
            + (rest_df**2).sum(axis=-1, keepdims=True) / total[..., :1] ** 2 / PRIOR_DF
        )
        own_df = np.take_along_axis(np.broadcast_to(df, variance.shape), worst, -1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.take_along_axis(variance / pooled, worst, -1)
        tail = special.fdtrc(np.maximum(own_df, 1.0), 1 / (1 / PRIOR_DF + error), ratio)
        p = (prior_df_weights(variance, rest_df) * tail).sum(axis=-1)
        found = (p * kept.sum(axis=-1) <= OUTLIER_LEVEL) & (kept.sum(axis=-1) >= 3) & (taken < rows // 2)
        if not found.any():
            break
        out |= found[..., None] & is_worst
    return out


def _pool(variance: Floats, df: Floats, there: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The pooled variance of the rows that are there, and its degrees of freedom, for each row."""
    total = np.where(there, df, 0.0).sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = np.where(there, variance * df, 0.0).sum(axis=-1, keepdims=True) / total
    return np.broadcast_to(pooled, df.shape), np.broadcast_to(total, df.shape)


def prior_df_weights(variance: Floats, df: Floats) -> Floats:
    """Posterior weights of `PRIOR_DF`: variances follow s₀² F(df, prior df), the scale s₀² is averaged over.

    Rows with `df` 0 do not count. (Smyth 2004, equation 4 of section 3; the likelihood rather than its moments.)
    """
    there = df > 0
    d = np.where(there, df, 1.0)[..., None, None]
    total = np.where(there, df, 0.0).sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = np.where(there, variance * df, 0.0).sum(axis=-1, keepdims=True) / total
        ratio = np.where(there & (pooled > 0), np.maximum(variance / pooled, 1e-9), 1.0)
    x = ratio[..., None, None] / _SCALES[:, None]
    finite = np.isfinite(PRIOR_DF)
    g = np.where(finite, PRIOR_DF, 1.0)
    with np.errstate(over="ignore"):
        constant = special.gammaln((d + g) / 2) - special.gammaln(g / 2) - (d / 2) * np.log(g)
        log_f = constant - (d + g) / 2 * np.log1p(d * x / g)
        log_chi2 = -(d / 2) * np.log(2.0) - d * x / 2
        log_density = np.where(finite, log_f, log_chi2) + d / 2 * np.log(x)
    log_likelihood = np.where(there[..., None, None], log_density, 0.0).sum(axis=-3)
    log_weight = special.logsumexp(log_likelihood, axis=-2) + np.log(PRIOR_WEIGHT)
    return np.exp(log_weight - special.logsumexp(log_weight, axis=-1, keepdims=True))
