"""How many seeds intervals of a given width need: Stein's two-stage procedure.

The noise comes from the first stage alone and fixes the number of seeds once. Under normal errors it is independent of
all means, so an interval about the final means that uses the noise of the first stage covers the true difference with
its nominal probability, whatever number of seeds that noise led to (Stein, Ann. Math. Statist. 16, 1945).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.statistics.compare import fit_rows
from reports.statistics.contrasts import contrasts
from reports.statistics.measures import Measure
from reports.statistics.noise import Noise
from reports.statistics.row_results import baselines, gather, resolution
from reports.statistics.sequential import PRECISION, gives_variance, last_added

LEVEL = 0.95


def seeds_for(noise: Noise, pairs: NDArray[np.intp], half_width: float, level: float = LEVEL) -> NDArray[np.int64]:
    """Compute the seeds per row at which the intervals of all comparisons are at most ± half_width.

    Args:
        noise: Noise of the rows in the first stage, of one study or of many.
        pairs: Row and baseline of each comparison, as places in the rows, (pairs, 2). The noise of both must be known.
        half_width: Half the width of an interval, in the unit of the measure.
        level: Coverage of each interval.

    Returns:
        Number of seeds, for each study.
    """
    single = np.ones(noise.df.shape[-1])
    widest = contrasts(noise, single, pairs).half_widths(level).max(axis=-1)
    return np.asarray(np.ceil((widest / half_width) ** 2 - 1e-6)).astype(np.int64)


def seeds_needed(runs: pd.DataFrame, half_width: float, measure: Measure = "top1", level: float = LEVEL) -> int | None:
    """Compute the seeds per row that a study needs, from the runs of its first stage.

    Args:
        runs: One line per row and seed, as `compare` takes them, with base, the row's baseline.
        half_width: Half the width of an interval, in the unit of the measure.
        measure: The column that is compared.
        level: Coverage of each interval.

    Returns:
        Number of seeds per row; None if no comparison's noise is known.
    """
    rows = gather(runs, measure)
    results = [row for row in rows.values() if row.source == row.name]
    noise = fit_rows(results, resolution(runs, measure))
    places = {row.name: place for place, row in enumerate(results) if noise.known[place]}
    pairs = [
        (places[rows[row].source], places[rows[base].source])
        for row, bases in runs[["row", "base"]].drop_duplicates().itertuples(index=False)
        for base in baselines(bases)
        if base in rows and {rows[row].source, rows[base].source} <= set(places)
        if not rows[row].reason and not rows[base].reason and rows[row].source != rows[base].source
    ]
    return int(seeds_for(noise, np.array(pairs, dtype=np.intp), half_width, level)) if pairs else None


def describe_precision(runs: pd.DataFrame, compared: pd.DataFrame, measure: Measure = "top1") -> str:
    """Say how wide the intervals of a study are that asked for a precision; nothing of another study."""
    asked = last_added(runs)[1] if "added" in runs and len(runs) else ""
    widths = (compared["high"] - compared["low"]).dropna() / 2
    if PRECISION not in asked or not len(widths):
        return ""
    half_width, widest = float(asked.split()[-1]), float(widths.max())
    seeds = int(compared.loc[widths.index, ["seeds", "base_seeds"]].to_numpy(dtype=int).min())
    text = f"Precision asked ±{half_width:g}: the widest 95% CI is ±{widest:.2g} with {seeds} finished seeds per row"
    if widest <= half_width * (1 + 1e-6):
        return f"{text}."
    needed = seeds_needed(runs[gives_variance(runs)], half_width, measure)
    return f"{text}; ±{half_width:g} needs {needed}. Fewer were allowed (max_seeds) or have finished."
