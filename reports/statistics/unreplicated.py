"""The standard deviation of a run, estimated from a factorial that runs no combination twice, and what t is worth then.

After the mean and the main effects are fitted, r dimensions of the runs are left. Most hold noise alone; some hold
interactions. Interactions are taken out one by one, the largest first, up to half of the dimensions; the noise of the
rest gives a first estimate; then every interaction below 2.5 standard deviations is put back, and the estimate renewed
until nothing changes. That is Dong's adaptive standard error (Statistica Sinica 3, 1993) with a start that half of the
dimensions cannot spoil, as the median is Lenth's (Technometrics 31, 1989), and it works for designs whose columns are
not orthogonal. How large t must be is found as Ye and Hamada do (Journal of Quality Technology 32, 2000): the same
steps are applied to simulated noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TRIM = 2.5  # standard deviations above which an interaction is kept out of the error
_CHUNK = 500  # simulated studies at once
_ORTHOGONAL_DRAWS, _DRAWS = 10_000, 4_000  # columns that are not orthogonal take longer


@dataclass(frozen=True)
class Space:
    """What is left of the runs beside a model: its dimensions, and in them the columns that may hold interactions.

    `columns` is (dimensions, columns), each of length 1; `most` is how many columns may be taken out of the error.
    """

    columns: Floats
    most: int

    @property
    def dimensions(self) -> int:
        return self.columns.shape[0]

    def without(self, taken: list[int]) -> Space:
        """The space that is left when some columns join the model."""
        left = [place for place in range(self.columns.shape[1]) if place not in taken]
        basis = complement(self.columns[:, taken])
        columns = basis.T @ self.columns[:, left]
        lengths = np.linalg.norm(columns, axis=0)
        return Space(columns[:, lengths > 1e-6] / lengths[lengths > 1e-6], max(self.most - len(taken), 0))


@dataclass(frozen=True)
class Reference:
    """Simulated studies of noise alone: the sd that each would estimate, and each column's |t|, (studies, columns)."""

    sd: Floats
    t: Floats


def complement(columns: Floats) -> Floats:
    """An orthonormal basis of all that is orthogonal to some columns: (rows, rows - rank)."""
    left, sizes, _ = np.linalg.svd(columns, full_matrices=True)
    rank = int((sizes > 1e-9 * max(sizes.max(initial=0.0), 1e-300)).sum())
    return np.asarray(left[:, rank:])


def estimate(space: Space, values: Floats) -> tuple[float, list[int]]:
    """The standard deviation of a run, and the columns that were kept out of it, the largest first.

    `values` are the runs in the space's dimensions.
    """
    sizes, picked = _path(space, values[None])
    factor = _start_factor(space)
    sd, kept = _settled((values**2).sum()[None], sizes, space.dimensions, factor)
    return float(sd[0]), picked[0, : kept[0]].tolist()


def reference(space: Space) -> Reference:
    """What `estimate` gives of noise whose standard deviation is 1."""
    if _is_orthonormal(space.columns):
        return _reference_of_orthonormal(*space.columns.shape, space.most)
    return _simulated(space, _DRAWS)


@lru_cache(maxsize=64)
def _reference_of_orthonormal(dimensions: int, columns: int, most: int) -> Reference:
    """Noise is the same in all directions, so of orthonormal columns only the number counts."""
    return _simulated(Space(np.eye(dimensions)[:, :columns], most), _ORTHOGONAL_DRAWS)


def _simulated(space: Space, draws: int) -> Reference:
    chance = np.random.default_rng(0)
    sds, ts = [], []
    factor = _start_factor(space)
    for _ in range(draws // _CHUNK):
        noise = chance.standard_normal((_CHUNK, space.dimensions))
        sizes, _picked = _path(space, noise)
        sd, _kept = _settled((noise**2).sum(axis=1), sizes, space.dimensions, factor)
        sds.append(sd)
        ts.append(np.abs(noise @ space.columns) / sd[:, None])
    return Reference(np.concatenate(sds), np.concatenate(ts))


def _start_factor(space: Space) -> float:
    """By how much the variance left when the largest columns are out falls short of the noise's."""
    if _is_orthonormal(space.columns):
        return _start_factor_of_orthonormal(*space.columns.shape, space.most)
    return _simulated_factor(space)


@lru_cache(maxsize=64)
def _start_factor_of_orthonormal(dimensions: int, columns: int, most: int) -> float:
    return _simulated_factor(Space(np.eye(dimensions)[:, :columns], most))


def _simulated_factor(space: Space) -> float:
    noise = np.random.default_rng(1).standard_normal((4 * _CHUNK, space.dimensions))
    sizes, _ = _path(space, noise)
    left = (noise**2).sum(axis=1) - (sizes**2).sum(axis=1)
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
