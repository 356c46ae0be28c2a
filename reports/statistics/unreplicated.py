"""The standard deviation of a run, estimated from a factorial with few or no repeated runs, and the critical t.

Beside the mean and the main effects, the runs have dimensions that may hold interactions of two flags, and dimensions
that are clean: repeated runs, and contrasts that hold no effect but of three flags and more. If there are a few clean
dimensions, the error is their root mean square and t has its usual distribution, however many interactions are real.

Otherwise most interactions must be taken to be 0. The largest are taken out one by one, up to half of the dimensions,
and what is left gives a first estimate, as the median does for Lenth (Technometrics 31, 1989). Then the interactions
below 2.5 standard deviations join it, and the estimate is renewed until nothing changes: Dong's adaptive standard error
(Statistica Sinica 3, 1993). The distribution of t is found as Ye and Hamada do (Journal of Quality Technology 32,
2000): the same steps are applied to simulated noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TRIM = 2.5  # standard deviations above which an interaction is kept out of the error
_ENOUGH = 4  # clean dimensions that estimate the error alone
_CHUNK = 500  # simulated studies at once
_CLEAN_DRAWS, _ORTHOGONAL_DRAWS, _DRAWS = 20_000, 10_000, 4_000  # columns that are not orthogonal take longer


@dataclass(frozen=True)
class Space:
    """What is left of the runs beside a model.

    columns  (dimensions, columns): the interactions, each of length 1, in the dimensions that they span
    clean    how many further dimensions hold no interaction
    most     how many interactions may be kept out of the error
    """

    columns: Floats
    clean: int
    most: int

    @classmethod
    def of(cls, columns: Floats, clean: int) -> Space:
        """Choose how many interactions may be kept out of the error."""
        spanned, count = columns.shape
        # of columns far more than dimensions, the largest fit noise: fewer may be kept out
        return cls(columns, clean, min(count, (spanned + clean) // (4 if count > spanned else 2)))

    @property
    def is_clean(self) -> bool:
        """Whether the clean dimensions alone estimate the error."""
        return self.clean >= _ENOUGH

    @property
    def dimensions(self) -> int:
        return self.columns.shape[0] + self.clean

    def without(self, taken: list[int]) -> Space:
        """The space that is left when some columns join the model."""
        left = [place for place in range(self.columns.shape[1]) if place not in taken]
        columns = complement(self.columns[:, taken]).T @ self.columns[:, left]
        lengths = np.linalg.norm(columns, axis=0)
        return Space(columns[:, lengths > 1e-6] / lengths[lengths > 1e-6], self.clean, max(self.most - len(taken), 0))


@dataclass(frozen=True)
class Reference:
    """Simulated studies of noise alone: the sd that each would estimate, and each column's |t|, (studies, columns).

    From clean dimensions, the error does not depend on the columns, and there are no |t|.
    """

    sd: Floats
    t: Floats


def complement(columns: Floats) -> Floats:
    """An orthonormal basis of all that is orthogonal to some columns: (rows, rows - rank)."""
    left, sizes, _ = np.linalg.svd(columns, full_matrices=True)
    rank = int((sizes > 1e-9 * max(sizes.max(initial=0.0), 1e-300)).sum())
    return np.asarray(left[:, rank:])


def estimate(space: Space, values: Floats, clean: float) -> tuple[float, list[int]]:
    """The standard deviation of a run, and the interactions that stand out from it, the largest first.

    `values` are the runs in the dimensions of the columns, `clean` the sum of squares in the clean ones. From clean
    dimensions, every interaction belongs to the model if all can be fitted together.
    """
    sizes, picked = _path(space, values[None])
    if not space.is_clean:
        total = np.array([(values**2).sum() + clean])
        sd, kept = _settled(total, sizes, space.dimensions, _start_factor(space))
        return float(sd[0]), picked[0, : kept[0]].tolist()
    error = math.sqrt(clean / space.clean)
    spanned, count = space.columns.shape
    if count == spanned:
        return error, list(range(count))
    return error, picked[0, np.logical_and.accumulate(sizes[0] > TRIM * error)].tolist()


def reference(space: Space) -> Reference:
    """What `estimate` gives of noise whose standard deviation is 1."""
    if space.is_clean:
        chance = np.random.default_rng(0)
        sd = np.sqrt(chance.chisquare(space.clean, _CLEAN_DRAWS) / space.clean)
        return Reference(sd, np.zeros((_CLEAN_DRAWS, 0)))
    if _is_orthonormal(space.columns):
        return _reference_of_orthonormal(space.columns.shape, space.clean, space.most)
    return _simulated(space, _DRAWS)


@lru_cache(maxsize=64)
def _reference_of_orthonormal(shape: tuple[int, int], clean: int, most: int) -> Reference:
    """Noise is the same in all directions, so of orthonormal columns only the number counts."""
    return _simulated(Space(np.eye(*shape), clean, most), _ORTHOGONAL_DRAWS)


def _simulated(space: Space, draws: int) -> Reference:
    chance = np.random.default_rng(0)
    sds, ts = [], []
    factor = _start_factor(space)
    for _ in range(draws // _CHUNK):
        noise, total = _noise(space, _CHUNK, chance)
        sizes, _picked = _path(space, noise)
        sd, _kept = _settled(total, sizes, space.dimensions, factor)
        sds.append(sd)
        ts.append(np.abs(noise @ space.columns) / sd[:, None])
    return Reference(np.concatenate(sds), np.concatenate(ts))


def _noise(space: Space, studies: int, chance: np.random.Generator) -> tuple[Floats, Floats]:
    """Noise of standard deviation 1 in the columns' dimensions, and its sum of squares in all dimensions.

    It is sampled in a basis computed from the columns, so that a seed gives the same noise on any processor. The
    dimensions come from a singular value decomposition, whose basis is not unique.
    """
    noise = chance.standard_normal((studies, space.columns.shape[0])) @ _axes(space.columns)
    clean = chance.chisquare(space.clean, studies) if space.clean else np.zeros(studies)
    return noise, (noise**2).sum(axis=1) + clean


def _axes(columns: Floats) -> Floats:
    """Orthonormal axes, one per line: the columns in their order, each without what those before it span."""
    found = np.zeros((0, len(columns)))
    for column in columns.T:
        left = column
        for _ in range(2):  # once leaves rounding errors
            left = left - (left @ found.T) @ found
        if (length := np.linalg.norm(left)) > 1e-6:
            found = np.vstack([found, left / length])
    return np.vstack([found, complement(found.T).T])


def _start_factor(space: Space) -> float:
    """By how much the variance that is left when the largest columns are out falls short of the noise's."""
    if not space.most:
        return 1.0
    if _is_orthonormal(space.columns):
        return _start_factor_of_orthonormal(space.columns.shape, space.clean, space.most)
    return _simulated_factor(space)


@lru_cache(maxsize=64)
def _start_factor_of_orthonormal(shape: tuple[int, int], clean: int, most: int) -> float:
    return _simulated_factor(Space(np.eye(*shape), clean, most))


def _simulated_factor(space: Space) -> float:
    noise, total = _noise(space, 4 * _CHUNK, np.random.default_rng(1))
    sizes, _ = _path(space, noise)
    left = total - (sizes**2).sum(axis=1)
    return float((space.dimensions - sizes.shape[1]) / left.mean())


def _is_orthonormal(columns: Floats) -> bool:
    return bool(np.allclose(columns.T @ columns, np.eye(columns.shape[1]), atol=1e-9))


def _path(space: Space, values: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """The columns as they are taken out of each study, the largest first: their sizes and which, (studies, most)."""
    if _is_orthonormal(space.columns):
        sizes = np.abs(values @ space.columns)
        order = np.argsort(-sizes, axis=1, kind="stable")[:, : space.most]
        return np.take_along_axis(sizes, order, axis=1), order
    columns = np.repeat(space.columns[None], len(values), axis=0)
    left = values.copy()
    sizes = np.zeros((len(values), space.most))
    picked = np.zeros((len(values), space.most), dtype=np.intp)
    for step in range(space.most):
        lengths = np.sqrt((columns**2).sum(axis=1))
        along = np.abs(np.einsum("sr,src->sc", left, columns))
        score = np.where(lengths > 1e-6, along / np.maximum(lengths, 1e-6), -1.0)
        best = score.argmax(axis=1)
        picked[:, step], sizes[:, step] = best, np.maximum(np.take_along_axis(score, best[:, None], 1)[:, 0], 0.0)
        unit = np.take_along_axis(columns, best[:, None, None], axis=2)[:, :, 0]
        unit = unit / np.maximum(np.linalg.norm(unit, axis=1), 1e-6)[:, None]
        left -= unit * (unit * left).sum(axis=1)[:, None]
        columns -= unit[:, :, None] * np.einsum("sr,src->sc", unit, columns)[:, None]
    return sizes, picked


def _settled(total: Floats, sizes: Floats, dimensions: int, factor: float) -> tuple[Floats, NDArray[np.intp]]:
    """The standard deviation of each study and how many columns are kept out of it.

    `total` is each study's sum of squares, `sizes` what each column in turn takes out of it.
    """
    left = total[:, None] - np.concatenate([np.zeros((len(total), 1)), np.cumsum(sizes**2, axis=1)], axis=1)
    left = np.maximum(left, 0.0)
    most = sizes.shape[1]
    variance = factor * left[:, most] / (dimensions - most)
    kept = np.full(len(total), most)
    for _ in range(50):
        kept = (np.logical_and.accumulate(sizes**2 > TRIM**2 * variance[:, None], axis=1)).sum(axis=1)
        renewed = left[np.arange(len(total)), kept] / (dimensions - kept)
        if np.array_equal(renewed, variance):
            break
        variance = renewed
    return np.sqrt(variance), kept
