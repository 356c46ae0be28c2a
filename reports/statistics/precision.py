"""How many seeds intervals of a given width need: Stein's two-stage procedure.

The noise comes from the first stage alone and fixes the number of seeds once. Under normal errors it is independent of
all means, so an interval about the final means that uses the noise of the first stage covers the true difference with
its nominal probability, whatever number of seeds that noise led to (Stein, Ann. Math. Statist. 16, 1945).
"""

from __future__ import annotations

import math

import pandas as pd
from scipy import stats

LEVEL = 0.95


def seeds_needed(runs: pd.DataFrame, half_width: float, measure: str = "top1", level: float = LEVEL) -> int | None:
    """Compute the seeds per row at which all intervals are at most ± half_width, from the runs of a first stage.

    Args:
        runs: One line per row and seed with row, status and the measure.
        half_width: Half the width of an interval, in the unit of the measure.
        measure: The column that is compared.
        level: Coverage of each interval.

    Returns:
        Number of seeds per row; None if no row has two finished runs.
    """
    done = runs[(runs["status"] == "done") & runs[measure].notna()].groupby("row")[measure]
    df = float((done.count() - 1).sum())
    if df < 1:
        return None
    variance = float((done.var() * (done.count() - 1)).sum()) / df
    return math.ceil(2 * variance * (float(stats.t.ppf((1 + level) / 2, df)) / half_width) ** 2 - 1e-6)
