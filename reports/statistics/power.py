"""What a study can find: the smallest true difference that it detects, and the seeds that would settle one.

Computed for the test that is used: variances of simulated studies go through the noise model, and the level of one
comparison is the one at which the smallest of all p-values is significant. Spreads are taken to be equal and noise to
be normal. Differences are in the unit of `sd`; with `sd` 1 they are in standard deviations between seeds, which is what
a plan can state before it has runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from reports.statistics.contrasts import contrasts, joint_p_values
from reports.statistics.noise import Floats, fit_noise
from reports.statistics.values import check_level

POWER = 0.8
STUDIES = 300


def smallest_difference(
    runs: Sequence[int], pairs: Sequence[tuple[int, int]], sd: float = 1.0, level: float = 0.95, power: float = POWER
) -> float:
    """The true difference of one comparison, no other row differing, that is called better or worse with `power`.

    Args:
        runs: Number of runs of each row, all of one recipe and budget.
        pairs: Row and baseline of each comparison, as places in `runs`.
        sd: Standard deviation between the runs of a row.
        level: 1 − the family-wise error rate.
        power: Probability of the verdict, averaged over the comparisons.

    Returns:
        The difference; NaN if there is nothing to compare or no row has two runs.
    """
    check_level(level)
    counts, places = np.array(runs, dtype=float), np.array(pairs, dtype=np.intp).reshape(-1, 2)
    if not len(places) or counts.max() < 2 or counts.min() < 1:
        return math.nan
    widths = _critical_differences(counts, places, 1 - level)
    errors = np.sqrt((1 / counts)[places].sum(axis=1))
    low, high = 0.0, float(np.max(widths) + 10 * np.max(errors))
    for _ in range(40):
        middle = (low + high) / 2
        found = special.ndtr((middle - widths) / errors) + special.ndtr((-middle - widths) / errors)
        low, high = (low, middle) if found.mean() >= power else (middle, high)
    return high * sd


def _critical_differences(counts: Floats, places: NDArray[np.intp], error: float) -> Floats:
    """Observed differences at which a comparison becomes significant, in standard deviations, (studies, pairs)."""
    rng = np.random.default_rng(0)
    df = counts - 1
    variance = rng.chisquare(np.maximum(df, 1), (STUDIES, len(counts))) / np.maximum(df, 1)
    noise = fit_noise(variance, df, np.zeros(len(counts), dtype=np.intp))
    single = error
    if len(places) > 1:
        single = max(
            float(np.quantile(joint_p_values(noise.study(0), counts, places).min(axis=1), error)), error / len(places)
        )
    return contrasts(noise, counts, places).half_widths(1 - single)


def seeds_needed_for(
    difference: float, rows: int, pairs: Sequence[tuple[int, int]], sd: float, level: float = 0.95, most: int = 1000
) -> int | None:
    """The smallest number of seeds per row with which a true `difference` is detected with 80% power.

    None if that takes more than `most` seeds.
    """
    low, high = 1, 2
    while smallest_difference([high] * rows, pairs, sd, level) > abs(difference):
        low, high = high, 2 * high
        if high > 2 * most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = smallest_difference([middle] * rows, pairs, sd, level) <= abs(difference)
        low, high = (low, middle) if enough else (middle, high)
    return high if high <= most else None


def power_statement(runs: Sequence[int], pairs: Sequence[tuple[int, int]], level: float = 0.95) -> str:
    """What a plan can find, before it has runs: one sentence in standard deviations between seeds."""
    found = smallest_difference(runs, pairs, level=level)
    many = f"{len(pairs)} comparison{'s' if len(pairs) != 1 else ''}"
    if math.isnan(found):
        return f"This plan can find nothing: with one seed per row, none of the {many} can be tested."
    size = f"{found:.1f} standard deviations between seeds"
    if found > 10:
        return f"This plan can find next to nothing: {many}, and only a true difference of {size} has 80% power."
    return f"This plan detects a true difference of {size} with 80% power ({many}, family-wise error {1 - level:.0%})."
