"""Calibration of the verdicts by simulated studies: family-wise error and power, cell by cell.

`python docs/statistics/calibration.py` writes calibration.csv and limits.csv beside this file, in about five minutes on
one core. The limits are cells in which the error rate is not kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.statistics.contrasts import contrasts, joint_p_values
from reports.statistics.multiple_testing import holm, step_down
from reports.statistics.noise import Floats, fit_noise

FILE = Path(__file__).with_name("calibration.csv")
LIMITS = Path(__file__).with_name("limits.csv")
LEVELS = (0.05, 0.045, 0.04)  # the first look of a study that may be extended has less than 0.05
SPREADS = ("equal", "log-sd 0.3", "log-sd 0.6", "t, 4 df")
UNSTABLE = {"one row × 2": 2, "one row × 3": 3, "one row × 5": 5, "one row × 10": 10}
PATTERNS = 20  # of missing runs in a cell
MISSING = 0.15


@dataclass(frozen=True)
class Cell:
    """A kind of study: `steps` compares each row with the one before, `baseline` with the first.

    `spread`: standard deviations of rows equal, or log-normal; or all noise from a t distribution. `effect` is the true
    difference in standard deviations: of every comparison if `true` is 1, of every other one if 0.5, of none if 0.
    """

    rows: int
    seeds: int
    spread: str
    design: str = "steps"
    missing: bool = False
    effect: float = 0.0
    true: float = 0.0


def cells() -> Iterator[Cell]:
    """Every cell of the calibration."""
    for spread in SPREADS:
        for rows in (5, 17):
            for seeds in (2, 3, 5, 10):
                yield Cell(rows, seeds, spread)
                yield Cell(rows, seeds, spread, "baseline")
                yield Cell(rows, seeds, spread, missing=True)
        yield Cell(17, 3, spread, effect=3.3, true=0.5)
        yield Cell(17, 3, spread, "baseline", effect=3.3, true=0.5)
    yield from (Cell(17, 3, "equal", effect=2.2, true=1), Cell(17, 3, "equal", effect=3.3, true=1))
    yield Cell(17, 5, "equal", effect=2.2, true=1)


def limits() -> Iterator[Cell]:
    """One row that varies several times as much as all others: the first in "baseline", a middle one in "steps"."""
    for spread in UNSTABLE:
        for seeds in (2, 3, 5, 10):
            yield Cell(17, seeds, spread)
            yield Cell(17, seeds, spread, "baseline")


def simulate(cell: Cell, studies: int = 1000, seed: int = 0) -> list[dict[str, object]]:
    """Family-wise error and power of a cell at each level: one record per level."""
    rng = np.random.default_rng([seed, cell.rows, cell.seeds, [*SPREADS, *UNSTABLE].index(cell.spread)])
    adjusted: list[Floats] = []
    batches = PATTERNS if cell.missing else 1
    for _ in range(batches):
        adjusted.append(_adjusted(cell, studies // batches, rng))
    p = np.concatenate(adjusted)
    true = _true(cell)
    records = []
    for level in LEVELS:
        found = p <= level
        wrong = float(found[:, ~true].any(axis=1).mean()) if not true.all() else np.nan
        power = float(found[:, true].mean()) if true.any() else np.nan
        records.append({**asdict(cell), "studies": len(p), "level": level, "error": wrong, "power": power})
    return records


def pairs_of(cell: Cell) -> NDArray[np.intp]:
    """Row and baseline of each comparison."""
    rows = np.arange(1, cell.rows)
    return np.column_stack([rows, rows - 1 if cell.design == "steps" else np.zeros_like(rows)])


def _true(cell: Cell) -> NDArray[np.bool_]:
    """Which comparisons have a true difference."""
    return np.arange(cell.rows - 1) % 2 < {0.0: 0, 0.5: 1, 1.0: 2}[cell.true]


def _adjusted(cell: Cell, studies: int, rng: np.random.Generator) -> Floats:
    """Adjusted p-values of studies with one pattern of missing runs, (studies, comparisons)."""
    noise = _noise(cell, studies, rng)
    there = rng.random((cell.rows, cell.seeds)) >= (MISSING if cell.missing else 0.0)
    there[:, 0] = True
    runs = there.sum(axis=1).astype(float)
    mean = np.where(there, noise, 0.0).sum(axis=2) / runs
    squares = np.where(there, (noise - mean[..., None]) ** 2, 0.0).sum(axis=2)
    fitted = fit_noise(squares / np.maximum(runs - 1, 1), runs - 1, np.zeros(cell.rows, dtype=np.intp))
    pairs = pairs_of(cell)
    difference = mean[:, pairs[:, 0]] - mean[:, pairs[:, 1]] + cell.effect * _true(cell)
    p = contrasts(fitted, runs, pairs).p_values(difference)
    adjusted = np.stack([holm(line) for line in p])
    undecided = ((adjusted > min(LEVELS)) & (adjusted < 5 * max(LEVELS))).any(axis=1)  # too far off for the others
    for place in np.flatnonzero(undecided):
        adjusted[place] = step_down(p[place], joint_p_values(fitted.study(int(place)), runs, pairs))
    return adjusted


def _noise(cell: Cell, studies: int, rng: np.random.Generator) -> Floats:
    """Noise of every run, (studies, rows, seeds)."""
    shape = (studies, cell.rows, cell.seeds)
    if cell.spread == "t, 4 df":
        return rng.standard_t(4, shape) / np.sqrt(2)  # of standard deviation 1
    if cell.spread in UNSTABLE:
        noise = rng.standard_normal(shape)
        noise[:, 0 if cell.design == "baseline" else cell.rows // 2] *= UNSTABLE[cell.spread]
        return noise
    log_sd = {"equal": 0.0, "log-sd 0.3": 0.3, "log-sd 0.6": 0.6}[cell.spread]
    return np.exp(log_sd * rng.standard_normal((*shape[:2], 1))) * rng.standard_normal(shape)


def main(studies: int = 2000, of: Iterable[Cell] | None = None) -> pd.DataFrame:
    """Simulate every cell."""
    return pd.DataFrame([record for cell in of or cells() for record in simulate(cell, studies)])


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    main(number, limits()).to_csv(LIMITS, index=False, float_format="%.4f")
    main(number).to_csv(FILE, index=False, float_format="%.4f")
