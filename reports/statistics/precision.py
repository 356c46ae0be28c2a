"""How many seeds an interval of a given width needs: Stein's two-stage procedure.

The variance and its degrees of freedom come from the first stage alone; they fix the number of seeds once. Under normal
errors the variance of the first stage is independent of all means, so an interval of the final means with the variance
and degrees of freedom of the first stage covers the true difference with exactly its nominal probability.
(Stein, Annals of Mathematical Statistics 16, 1945.)
"""

from __future__ import annotations

import math

from scipy import stats


def seeds_needed(variance: float, df: float, half_width: float, level: float = 0.95) -> int:
    """The number of seeds per row at which a comparison's interval is at most ± `half_width`.

    Args:
        variance: Sum of the two rows' variances between seeds, as the first stage estimates them.
        df: Degrees of freedom of that estimate.
        half_width: Half the width of the interval, in the measure's unit.
        level: Coverage of the interval.
    """
    t = float(stats.t.ppf((1 + level) / 2, df))
    needed = variance * (t / half_width) ** 2
    return max(math.ceil(needed - 1e-9), 1)


def half_width_at(variance: float, df: float, seeds: int, level: float = 0.95) -> float:
    """Half the width of a comparison's interval when each row has `seeds` seeds (arguments as `seeds_needed`)."""
    return float(stats.t.ppf((1 + level) / 2, df)) * math.sqrt(variance / seeds)
