"""Designs for screening studies: fractional factorials, and optimal designs where some combinations are ruled out.

A combination of n flags is a number below 2**n whose bit j says whether flag j has its final value. A design is a
matrix of signs, (runs, flags): -1 where a flag has its base value, +1 where it has its final value.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ablations.errors import RequestError
from ablations.studies.schema import Resolution

Signs = NDArray[np.int8]  # (runs, flags), -1 and +1
RESOLUTIONS: dict[str, int] = {"III": 3, "IV": 4, "V": 5}
LETTERS = "abcdefghijklmnopqrstuvwxyz"  # the factors of a generator, as pyDOE3 and the textbooks write them
_MOST_CANDIDATES = 4096  # combinations that an optimal design chooses from; of more, a fixed sample
_ARRANGEMENTS = 2000  # ways to put the flags on a fraction's columns that are tried before the fraction is given up
_STARTS = 6  # random starts of a search


@dataclass(frozen=True)
class ScreeningDesign:
    """Which combinations a screening study trains.

    signs       (runs, flags), -1 for the base value and +1 for the final value
    method      full factorial, regular fraction, Plackett-Burman, folded Plackett-Burman or optimal
    generators  of a regular fraction: one for each flag that is a product of others, as (flag, sign, factors)
    """

    signs: Signs
    method: str
    generators: tuple[tuple[int, int, tuple[int, ...]], ...] = ()


def screening_design(
    costs: NDArray[np.float64], resolution: Resolution = "IV", runs: int | None = None
) -> ScreeningDesign:
    """Choose the combinations to train.

    Args:
        costs: For each of the 2**n combinations, its cost in units of the base's; infinite where it is ruled out.
        resolution: III keeps main effects clear of each other, IV also of two-factor interactions, V keeps those clear
            of each other too. An optimal design comes as near to it as the allowed combinations let it.
        runs: How many combinations; None for the smallest regular fraction of that resolution.

    Returns:
        A regular fraction of minimum aberration where it has no combination that is ruled out; for other numbers of
        runs a (folded) Plackett-Burman design; else an optimal design over the allowed combinations. The same
        arguments give the same design.

    Raises:
        RequestError: If the runs are too few for the resolution, or the allowed combinations for the runs.
    """
    flags = int(math.log2(len(costs)))
    if runs is None:
        runs = _fewest_runs(flags, RESOLUTIONS[resolution])
    _check_runs(flags, runs, resolution, costs)
    found = _orthogonal(flags, runs, RESOLUTIONS[resolution])
    arranged = _arranged(found, costs) if found is not None else None
    design = arranged or ScreeningDesign(_optimal(costs, runs, resolution), "optimal")
    _check_estimable(design.signs, resolution)
    return design


def signs_of(codes: NDArray[np.int64] | Sequence[int], flags: int) -> Signs:
    """The signs of combinations, (combinations, flags)."""
    return (((np.asarray(codes)[:, None] >> np.arange(flags)) & 1) * 2 - 1).astype(np.int8)


def codes_of(signs: Signs) -> NDArray[np.int64]:
    """The number of each combination."""
    return ((signs > 0).astype(np.int64) << np.arange(signs.shape[1])).sum(axis=1)


def _check_runs(flags: int, runs: int, resolution: Resolution, costs: NDArray[np.float64]) -> None:
    """Refuse what no design can do; raises RequestError."""
    least = {"III": flags + 1, "IV": 2 * flags, "V": 1 + flags + flags * (flags - 1) // 2}[resolution]
    least = min(least, 2**flags)
    allowed = int(np.isfinite(costs).sum())
    if runs < least:
        raise RequestError(f"runs={runs}: {flags} flags at resolution {resolution} need {least} or more")
    if runs > allowed:
        of = f"{allowed} combinations of {flags} flags"
        raise RequestError(f"runs={runs}: there are {of}{' within max_cost' if allowed < len(costs) else ''}")


def _check_estimable(signs: Signs, resolution: Resolution) -> None:
    """Refuse a design that cannot estimate what its resolution names; raises RequestError."""
    terms = model_terms(signs, interactions=resolution == "V")
    if np.linalg.matrix_rank(terms) < terms.shape[1]:
        what = "interactions" if resolution == "V" else "flags"
        raise RequestError(
            f"max_cost: the combinations within it cannot tell these {what} apart; raise it, or drop flags"
        )


def model_terms(signs: Signs, interactions: bool = True) -> NDArray[np.float64]:
    """The columns of a linear model, (runs, terms): the mean, each flag, and each pair of flags in order."""
    values = signs.astype(float)
    columns = [np.ones((len(values), 1)), values]
    if interactions:
        columns += [values[:, [i]] * values[:, [j]] for i, j in combinations(range(values.shape[1]), 2)]
    return np.hstack(columns)


# ---- orthogonal designs


def _fewest_runs(flags: int, resolution: int) -> int:
    """The runs of the smallest regular design of a resolution."""
    for basis in range(2, flags):
        columns = minimum_aberration(flags, basis) if 2**basis > flags else None
        if columns is not None and word_lengths(columns, basis)[1] >= resolution:
            return 2**basis
    return 2**flags


def _orthogonal(flags: int, runs: int, resolution: int) -> ScreeningDesign | None:
    """An orthogonal design of so many runs, whatever its combinations cost; None if none has the resolution."""
    import pyDOE3

    if runs == 2**flags:
        return ScreeningDesign(signs_of(np.arange(runs), flags), "full factorial")
    basis = runs.bit_length() - 1
    if runs == 2**basis:
        columns = minimum_aberration(flags, basis)
        if word_lengths(columns, basis)[1] < resolution:
            return None
        words = ["".join(LETTERS[bit] for bit in _bits(column)) for column in columns]
        generators = tuple((place, 1, _bits(column)) for place, column in enumerate(columns) if place >= basis)
        return ScreeningDesign(pyDOE3.fracfact(" ".join(words)).astype(np.int8), "regular fraction", generators)
    if resolution == 3 and runs % 4 == 0:
        screen = pyDOE3.pbdesign(runs - 1).astype(np.int8)
        return ScreeningDesign(screen[:, :flags], "Plackett-Burman") if _is_orthogonal(screen) else None
    if resolution == 4 and runs % 8 == 0 and flags < runs // 2:
        half = pyDOE3.pbdesign(runs // 2 - 1).astype(np.int8)
        folded = pyDOE3.fold(half).astype(np.int8)
        return ScreeningDesign(folded[:, :flags], "folded Plackett-Burman") if _is_orthogonal(folded) else None
    return None


def _is_orthogonal(signs: Signs) -> bool:
    """Whether main effects are clear of each other and of the mean."""
    terms = model_terms(signs, interactions=False)
    return bool(np.array_equal(terms.T @ terms, len(terms) * np.eye(terms.shape[1])))


def minimum_aberration(flags: int, basis: int) -> tuple[int, ...]:
    """The columns of a two-level fraction in 2**basis runs, the basis first, of minimum aberration as far as found.

    A column is the number whose bits say which basic factors it is the product of. Of fractions the one with fewest
    words of length 3 is better, of those the one with fewest of length 4, and so on (Fries and Hunter, Technometrics
    22, 1980): the resolution is as high, and as few interactions are aliased, as can be. Found by exchanging columns.
    """
    chance = random.Random(0)
    parity = _parities(basis)
    odd = [column for column in range(1, 2**basis) if column.bit_count() % 2 and column.bit_count() > 1]
    every = [column for column in range(1, 2**basis) if column.bit_count() > 1]
    first = [1 << bit for bit in range(basis)]
    best: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    for start in range(2 * _STARTS):
        pool = odd if start % 2 == 0 and len(odd) >= flags - basis else every
        chosen = _exchange_columns([*first, *chance.sample(pool, flags - basis)], basis, pool, parity)
        key = tuple(_lengths(parity[:, chosen].sum(axis=1)[:, None], flags)[0])
        if best is None or key < best[0]:
            best = key, (*first, *sorted(chosen[basis:]))
    assert best
    return best[1]


def _exchange_columns(chosen: list[int], basis: int, pool: list[int], parity: NDArray[np.int64]) -> list[int]:
    """Replace one column at a time by the one that lessens aberration the most, until none does."""
    flags = len(chosen)
    current = tuple(_lengths(parity[:, chosen].sum(axis=1)[:, None], flags)[0])
    improved = True
    while improved:
        improved = False
        for place in range(basis, flags):
            others = chosen[:place] + chosen[place + 1 :]
            free = [column for column in pool if column not in others]
            weights = parity[:, others].sum(axis=1)[:, None] + parity[:, free]
            keys = _lengths(weights, flags)
            best = int(np.lexsort(keys.T[::-1])[0])
            if tuple(keys[best]) < current:
                chosen, current, improved = [*others[:place], free[best], *others[place:]], tuple(keys[best]), True
    return chosen


def word_lengths(columns: Sequence[int], basis: int) -> tuple[tuple[int, ...], int]:
    """How many words of each length, from 0, a fraction's defining relation has, and its resolution."""
    weights = _parities(basis)[:, list(columns)].sum(axis=1)[:, None]
    counts = (1, *(int(count) for count in _lengths(weights, len(columns))[0]))
    return counts, next((length for length, count in enumerate(counts) if length and count), len(columns) + 1)


def _parities(basis: int) -> NDArray[np.int64]:
    """For each run and each column of a fraction, whether the product is -1: (2**basis, 2**basis)."""
    return np.array([[(run & column).bit_count() % 2 for column in range(2**basis)] for run in range(2**basis)])


def _lengths(weights: NDArray[np.int64], flags: int) -> NDArray[np.int64]:
    """Word-length patterns from how many factors are at -1 in each run, a pattern for each column: (columns, flags).

    By MacWilliams' identity: a fraction's words and its runs are codes dual to each other.
    """
    runs = len(weights)
    counts = np.stack([(weights == weight).sum(axis=0) for weight in range(flags + 1)], axis=1)
    krawtchouk = [
        [
            sum((-1) ** s * math.comb(weight, s) * math.comb(flags - weight, length - s) for s in range(length + 1))
            for length in range(1, flags + 1)
        ]
        for weight in range(flags + 1)
    ]
    return (counts @ np.array(krawtchouk)) // runs


def _bits(column: int) -> tuple[int, ...]:
    """The basic factors that a column is the product of."""
    return tuple(bit for bit in range(column.bit_length()) if column >> bit & 1)


def _arranged(design: ScreeningDesign, costs: NDArray[np.float64]) -> ScreeningDesign | None:
    """The design with flags put on columns and signs so that no combination is ruled out; None if no try succeeds.

    The cheapest of the arrangements that succeed. Every fraction of the same family serves as well.
    """
    flags = design.signs.shape[1]
    if design.method == "full factorial":
        return design if np.isfinite(costs).all() else None
    best: tuple[float, tuple[int, ...], int] | None = None
    for order, masks in _arrangements(flags, [place for place, _, _ in design.generators]):
        codes = codes_of(design.signs[:, order])
        total = costs[codes[:, None] ^ masks[None]].sum(axis=0)
        place = int(np.argmin(total))
        if math.isfinite(total[place]) and (best is None or total[place] < best[0] - 1e-9):
            best = float(total[place]), order, int(masks[place])
        if np.isfinite(costs).all():
            break
    if best is None:
        return None
    _, order, mask = best
    signs = signs_of(codes_of(design.signs[:, order]) ^ mask, flags)
    flip = [-1 if mask >> place & 1 else 1 for place in range(flags)]
    at = {column: place for place, column in enumerate(order)}
    generators = tuple(
        (at[column], flip[at[column]] * math.prod(flip[at[part]] for part in parts), tuple(at[part] for part in parts))
        for column, _, parts in design.generators
    )
    return ScreeningDesign(signs[np.argsort(codes_of(signs))], design.method, generators)


def _arrangements(flags: int, generated: list[int]) -> Iterator[tuple[tuple[int, ...], NDArray[np.int64]]]:
    """Orders of a design's columns, the given one first, each with the sets of flags whose signs to turn."""
    chance = random.Random(0)
    order = list(range(flags))
    for _ in range(_ARRANGEMENTS):
        if generated:  # turning a basic factor gives a fraction of the same family again
            places = [order.index(column) for column in generated]
            masks = [
                sum(1 << place for bit, place in enumerate(places) if turned >> bit & 1)
                for turned in range(2 ** len(places))
            ]
        else:
            masks = [0, *(chance.getrandbits(flags) for _ in range(31))]
        yield tuple(order), np.array(masks, dtype=np.int64)
        order = chance.sample(range(flags), flags)


# ---- optimal designs


def _optimal(costs: NDArray[np.float64], runs: int, resolution: Resolution) -> Signs:
    """A Bayesian D-optimal design over the allowed combinations (DuMouchel and Jones, Technometrics 36, 1994).

    Main effects, and at resolution V interactions, are estimated whatever they are; at resolution IV interactions are
    taken to be as large as one run's standard deviation, so that the design keeps main effects clear of them. At
    resolution III they are left out.
    """
    flags = int(math.log2(len(costs)))
    codes = _candidates(costs)
    terms = model_terms(signs_of(codes, flags), interactions=resolution != "III")
    prior = np.full(terms.shape[1], 1e-6)
    if resolution == "IV":
        prior[1 + flags :] = 1.0
    return signs_of(np.sort(codes[exchange(terms, np.diag(prior), runs, frozenset())]), flags)


def augmented(signs: Signs, costs: NDArray[np.float64], apart: Sequence[tuple[int, int]], runs: int) -> Signs:
    """Choose further combinations that tell aliased interactions apart.

    The first of them becomes clear of all others if one of its flags is turned in every run (a foldover). The
    combinations are the D-optimal ones, given the runs there are, of those of the two foldovers (a semifold if they are
    half of one: Mee and Peralta, Technometrics 42, 2000), or of all if these are too few.

    Args:
        signs: The runs there are, (runs, flags).
        costs: The cost of every combination, infinite where it is ruled out.
        apart: The pairs of flags whose interactions are to be told apart, the wanted one first. The other interactions
            are taken to be as large as one run's standard deviation.
        runs: How many combinations to add.

    Raises:
        RequestError: If too few combinations are left.
    """
    foldovers = [_augmented(signs, _folded(signs, flag, costs), apart, runs) for flag in apart[0]]
    found = [one for one in foldovers if one is not None]
    if not found and (freely := _augmented(signs, costs, apart, runs)):
        found = [freely]
    if not found:
        left = int(np.isfinite(costs).sum()) - len(signs)
        raise RequestError(f"runs={runs}: only {left} combinations within max_cost are left")
    return max(found, key=lambda one: round(one[0], 6))[1]


def _folded(signs: Signs, flag: int, costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The costs of the combinations that turning a flag in every run gives; the others are ruled out."""
    codes = codes_of(signs) ^ (1 << flag)
    folded = np.full_like(costs, np.inf)
    folded[codes] = costs[codes]
    return folded


def _augmented(
    signs: Signs, costs: NDArray[np.float64], apart: Sequence[tuple[int, int]], runs: int
) -> tuple[float, Signs] | None:
    """The D-optimal combinations to add among those allowed, with the determinant's logarithm; None if too few are."""
    flags = signs.shape[1]
    codes = np.union1d(_candidates(costs), codes_of(signs))
    there = frozenset(np.searchsorted(codes, codes_of(signs)).tolist())
    if runs > len(codes) - len(there):
        return None
    pairs = list(combinations(range(flags), 2))
    prior = np.array([1e-6] * (1 + flags) + [1e-6 if pair in apart else 1.0 for pair in pairs])
    ran, terms = model_terms(signs), model_terms(signs_of(codes, flags))
    known = np.diag(prior) + ran.T @ ran
    chosen = exchange(terms, known, runs, there)
    size = float(np.linalg.slogdet(known + terms[chosen].T @ terms[chosen])[1])
    return size, signs_of(np.sort(codes[chosen]), flags)


def _candidates(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """The allowed combinations, or of very many a fixed sample."""
    allowed = np.flatnonzero(np.isfinite(costs))
    if len(allowed) > _MOST_CANDIDATES:
        allowed = np.array(sorted(random.Random(0).sample(allowed.tolist(), _MOST_CANDIDATES)))
    return allowed


def exchange(terms: NDArray[np.float64], prior: NDArray[np.float64], runs: int, barred: frozenset[int]) -> list[int]:
    """The candidates, none twice and none barred, whose information with the prior's has the largest determinant.

    By Fedorov's exchange from several random starts, one run after the other (Cook and Nachtsheim, Technometrics 22,
    1980): each is swapped for the candidate that gains the most, until no swap gains. `terms` is (candidates, terms),
    `prior` the information there is already.
    """
    chance = random.Random(0)
    free = [place for place in range(len(terms)) if place not in barred]
    best: tuple[float, list[int]] | None = None
    for _ in range(_STARTS):
        chosen = chance.sample(free, runs)
        while _sweep(chosen, terms, prior, barred):
            pass
        size = float(np.linalg.slogdet(prior + terms[chosen].T @ terms[chosen])[1])
        if best is None or size > best[0] + 1e-9:
            best = size, sorted(chosen)
    assert best
    return best[1]


def _sweep(chosen: list[int], terms: NDArray[np.float64], prior: NDArray[np.float64], barred: frozenset[int]) -> bool:
    """Swap each run once for the candidate that gains the most, if one gains; whether any was swapped."""
    inverse = np.linalg.inv(prior + terms[chosen].T @ terms[chosen])
    own = ((terms @ inverse) * terms).sum(axis=1)
    swapped = False
    for run, old in enumerate(chosen):
        cross = terms @ (inverse @ terms[old])
        gain = (1 + own) * (1 - own[old]) + cross**2  # of the determinant, as a factor
        gain[[*chosen, *barred]] = 0
        new = int(np.argmax(np.round(gain, 9)))
        if gain[new] <= 1 + 1e-6:
            continue
        for place, sign in ((new, 1), (old, -1)):  # Sherman and Morrison's update of the inverse
            column = inverse @ terms[place]
            scale = sign / (1 + sign * terms[place] @ column)
            inverse -= scale * np.outer(column, column)
            own -= scale * (terms @ column) ** 2
        chosen[run], swapped = new, True
    return swapped
