"""Effects of a full grid: each flag's effect at each value of the others and averaged, and two-flag interactions.

Every effect is a contrast of cell means: a sum of means with weights that add up to 0. Averages are over cells with
equal weights, however many seeds a cell has (the marginal means of a factorial analysis of variance).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.statistics.compare import Verdict, verdicts
from reports.statistics.measures import Measure
from reports.statistics.weighted_contrasts import RowMeans, RowValues, weighted_sums

Cell = tuple[str, ...]  # one value per flag, as a user types it, in the grid's order of flags


class Family(StrEnum):
    """The effects that are corrected together."""

    MAIN = "averaged effects and interactions"
    AT_ONE = "effects at one value"
    AT_EACH = "effects at each combination"


@dataclass(frozen=True)
class Factorial:
    """The flags of a grid with their values, and the row of each cell; a cell that was not run has no row."""

    flags: Mapping[str, tuple[str, ...]]
    rows: Mapping[Cell, str]

    @property
    def cells(self) -> list[Cell]:
        """Every combination of values, the last flag's changing fastest."""
        return list(product(*self.flags.values()))


@dataclass(frozen=True)
class Change:
    """A flag and two of its values: from the grid's first one to another."""

    flag: str
    before: str
    after: str


@dataclass(frozen=True)
class Effect:
    """A contrast of cells: what `changes` (one, or two for their interaction) make of the measure.

    Flags in `at` are held at a value; over those in neither the effect is averaged. `weights` has every cell that the
    contrast needs.
    """

    changes: tuple[Change, ...]
    at: tuple[tuple[str, str], ...]
    family: Family
    weights: Mapping[Cell, float]


def factorial_of(designs: Mapping[str, Mapping[str, str]]) -> Factorial:
    """Arrange a study's rows by the flags in which their designs differ.

    Args:
        designs: All design flags of each row, as text, in the order of the study, whose last flag changes fastest.

    Returns:
        The flags that take two or more values, in the study's order, each with its values in the study's order.
    """
    rows = list(designs.values())
    first_change = {}
    for flag, value in (rows[0] if rows else {}).items():
        changed = (place for place, row in enumerate(rows) if row.get(flag) != value)
        place = next(changed, None)
        if place is not None:
            first_change[flag] = place
    order = sorted(first_change, key=lambda flag: -first_change[flag])
    flags = {flag: tuple(dict.fromkeys(row[flag] for row in rows)) for flag in order}
    return Factorial(flags, {tuple(row[flag] for flag in order): name for name, row in designs.items()})


def effects_of(grid: Factorial) -> list[Effect]:
    """List the effects of a grid, flag by flag and value by value, each value against its flag's first.

    Each change has its effect at each value of each other flag, at each combination of values (with three flags or
    more), averaged, and its interactions with the changes of later flags: the difference of two differences, averaged
    over the other flags.
    """
    return [effect for flag in grid.flags for change in _changes(grid, flag) for effect in _effects_of(grid, change)]


def _effects_of(grid: Factorial, change: Change) -> Iterator[Effect]:
    others = {flag: values for flag, values in grid.flags.items() if flag != change.flag}
    for flag, values in others.items():
        yield from (_contrast(grid, (change,), ((flag, value),), Family.AT_ONE) for value in values)
    if len(others) > 1:
        for chosen in product(*others.values()):
            yield _contrast(grid, (change,), tuple(zip(others, chosen, strict=True)), Family.AT_EACH)
    yield _contrast(grid, (change,), (), Family.MAIN)
    names = list(grid.flags)
    for later in names[names.index(change.flag) + 1 :]:
        for other in _changes(grid, later):
            yield _contrast(grid, (change, other), (), Family.MAIN)


def _changes(grid: Factorial, flag: str) -> list[Change]:
    first, *rest = grid.flags[flag]
    return [Change(flag, first, value) for value in rest]


def _contrast(grid: Factorial, changes: tuple[Change, ...], at: tuple[tuple[str, str], ...], family: Family) -> Effect:
    """Weigh each cell by the product of one weight per flag: ±1 for a change, 1 if held, 1/values if averaged."""
    by_flag: dict[str, Mapping[str, float]] = {
        flag: dict.fromkeys(values, 1 / len(values)) for flag, values in grid.flags.items()
    }
    by_flag |= {flag: {value: 1.0} for flag, value in at}
    by_flag |= {change.flag: {change.before: -1.0, change.after: 1.0} for change in changes}
    weights = {
        tuple(value for value, _ in cell): math.prod(weight for _, weight in cell)
        for cell in product(*(by_flag[flag].items() for flag in grid.flags))
    }
    return Effect(changes, at, family, weights)


def effects_frame(
    grid: Factorial,
    effects: Sequence[Effect],
    results: Mapping[str, RowValues],
    measure: Measure = "top1",
    resolution: float = 0.0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Estimate and test effects under one noise model for all cells.

    Args:
        grid: The grid.
        effects: Effects to test.
        results: Top-1 (%) or test loss of each row's finished runs.
        measure: What the results are.
        resolution: The step in which they come, as for `RowMeans.of`.
        level: Confidence level of each interval, which is not corrected for the number of effects.

    Returns:
        One line per effect: change and where in words, flag, before, after, other_flag, other_before, other_after,
        family, effect (in the unit of the results), se, low, high, p, p_adjusted (step-down maximum of |t| within its
        family), verdict, reason (of "not tested") and note. Numbers that are not known are NaN.
    """
    cells = _cell_results(grid, results)
    means = RowMeans.of(list(cells.values()), resolution)
    weights = _weight_matrix([effect.weights for effect in effects], list(cells))
    outliers = [cell for cell, outlier in zip(cells, means.noise.outlier, strict=True) if outlier]
    reasons, notes = [], []
    for effect in effects:
        missing = [cell for cell in effect.weights if cell not in cells]
        outlying = [cell for cell in outliers if cell in effect.weights]
        varies = f"{_cell_words(grid, outlying)} varies more than the other cells; its own variance is used"
        reasons.append(f"no result for {_cell_words(grid, missing)}" if missing else means.why_untested)
        notes.append(varies if outlying and not missing else "")
    tested = weighted_sums(means, weights, [effect.family.value for effect in effects], level)
    frame = pd.concat([_described(effects), tested], axis=1)
    frame["verdict"] = verdicts(frame["effect"].to_numpy(), frame["p_adjusted"].to_numpy(), measure, level)
    frame["reason"] = pd.Series(reasons).where(frame["verdict"] == Verdict.NOT_TESTED, "")
    return frame.assign(note=notes)


def cell_means(
    grid: Factorial,
    places: Sequence[Mapping[str, str]],
    results: Mapping[str, RowValues],
    resolution: float = 0.0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Estimate the mean at some values, averaged over the flags without one: mean, low and high of each place."""
    cells = _cell_results(grid, results)
    weights = _weight_matrix(
        [_contrast(grid, (), tuple(at.items()), Family.MAIN).weights for at in places], list(cells)
    )
    sums = weighted_sums(RowMeans.of(list(cells.values()), resolution), weights, [""] * len(weights), level)
    return sums[["effect", "low", "high"]].rename(columns={"effect": "mean"})


def _cell_results(grid: Factorial, results: Mapping[str, RowValues]) -> dict[Cell, RowValues]:
    """Collect the results of each cell that has one."""
    return {cell: results[row] for cell, row in grid.rows.items() if row in results}


def _weight_matrix(weights: Sequence[Mapping[Cell, float]], cells: Sequence[Cell]) -> NDArray[np.float64]:
    """Arrange weights by cell, (sums, cells); NaN in a sum that needs another cell."""
    places = {cell: place for place, cell in enumerate(cells)}
    matrix = np.zeros((len(weights), len(cells)))
    for line, by_cell in enumerate(weights):
        if by_cell.keys() <= places.keys():
            matrix[line, [places[cell] for cell in by_cell]] = list(by_cell.values())
        else:
            matrix[line] = math.nan
    return matrix


def _described(effects: Sequence[Effect]) -> pd.DataFrame:
    """Name each effect: in words, and in columns of their own."""
    lines = []
    for effect in effects:
        first, second = effect.changes[0], effect.changes[1] if len(effect.changes) > 1 else None
        change, where = effect_words(effect)
        line = {"change": change, "where": where, "family": effect.family.value}
        line |= {"flag": first.flag, "before": first.before, "after": first.after}
        line |= {f"other_{name}": getattr(second, name) if second else "" for name in ("flag", "before", "after")}
        lines.append(line)
    return pd.DataFrame(lines)


def effect_words(effect: Effect) -> tuple[str, str]:
    """Name a change, and where it is taken: `norm: ln − bn` and `at kernel_size=3`."""
    first, *second = [f"{change.flag}: {change.after} − {change.before}" for change in effect.changes]
    if second:
        return first, f"interaction with {second[0]}"
    return first, f"at {_values_words(effect.at)}" if effect.at else "averaged"


def _values_words(values: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{flag}={value}" for flag, value in values)


def _cell_words(grid: Factorial, cells: Sequence[Cell]) -> str:
    """Name cells, the first two of many."""
    named = [_values_words(zip(grid.flags, cell, strict=True)) for cell in cells[:2]]
    return " or ".join(named) + (f" and {len(cells) - 2} more cells" if len(cells) > 2 else "")
