"""Orders of flags in numbers: what each flag adds in each order, and which sets' means that is the difference of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reports.statistics.weighted_contrasts import RowMeans, RowValues

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SetMean:
    """The mean result of a set of flags over seeds and the variance of that mean; NaN if unknown."""

    mean: float
    variance: float


@dataclass(frozen=True)
class SetMeans:
    """The mean result of each row, the degrees of freedom of the error variances, and why variances are unknown."""

    by_row: Mapping[str, SetMean]
    noise_df: float
    why_untested: str

    @classmethod
    def of(cls, results: Mapping[str, RowValues], resolution: float = 0.0) -> SetMeans:
        """Summarize the results of the rows that have any; `resolution` as for `RowMeans.of`."""
        if not results:
            return cls({}, 0.0, "no result")
        rows = RowMeans.of(list(results.values()), resolution)
        known = zip(results, rows.mean.tolist(), rows.error_variances.tolist(), strict=True)
        means = {row: SetMean(mean, variance) for row, mean, variance in known}
        return cls(means, float(rows.noise.pooled_df.max()), rows.why_untested)

    def of_row(self, row: str) -> SetMean:
        """Return a row's mean; NaN if it has no result."""
        return self.by_row.get(row, SetMean(math.nan, math.nan))


def is_complete(order: Sequence[str], means: Mapping[frozenset[str], SetMean]) -> bool:
    """Whether every set of flags along an order has a result."""
    return all(math.isfinite(means[frozenset(order[:end])].mean) for end in range(len(order) + 1))


@dataclass(frozen=True)
class Walk:
    """Orders in numbers: the place and the step of each flag, and which sets' means each step is the difference of.

    positions, steps    (orders, flags): the flags before a flag, and what it adds
    visits              for each flag (orders, sets): +1 for the set with it, −1 for the set without
    variances           (sets,): error variances of the sets' means
    """

    positions: NDArray[np.intp]
    steps: Floats
    visits: list[sparse.csr_array]
    variances: Floats

    @classmethod
    def of(cls, flags: Sequence[str], orders: Sequence[Sequence[str]], means: Mapping[frozenset[str], SetMean]) -> Walk:
        sets: dict[frozenset[str], int] = {}
        place = {flag: number for number, flag in enumerate(flags)}
        positions, ends = np.empty((2, len(orders), len(flags)), dtype=int)
        starts = np.empty_like(ends)
        for line, order in enumerate(orders):
            numbers = [sets.setdefault(frozenset(order[:end]), len(sets)) for end in range(len(order) + 1)]
            for before, flag in enumerate(order):
                column = place[flag]
                positions[line, column] = before
                starts[line, column], ends[line, column] = numbers[before], numbers[before + 1]
        reached = np.array([means[chosen].mean for chosen in sets])
        lines = np.arange(len(orders))
        signs, both = np.repeat([1.0, -1.0], len(orders)), np.tile(lines, 2)
        shape = (len(orders), len(sets))
        visits = [
            sparse.csr_array((signs, (both, np.concatenate([ends[:, flag], starts[:, flag]]))), shape=shape)
            for flag in range(len(flags))
        ]
        variances = np.array([means[chosen].variance for chosen in sets])
        return cls(positions, reached[ends] - reached[starts], visits, variances)

    def noise(self, one: int, other: int) -> Floats:
        """Return the noise covariance of two flags' steps: (orders, orders)."""
        return np.asarray((self.visits[one].multiply(self.variances) @ self.visits[other].T).toarray())

    def centered_noise(self, one: int, other: int) -> Floats:
        """Return the noise covariance of two flags' steps, each less its mean over orders: (orders, orders)."""
        covariance = self.noise(one, other)
        covariance = covariance - covariance.mean(axis=0)
        return np.asarray(covariance - covariance.mean(axis=1, keepdims=True))
