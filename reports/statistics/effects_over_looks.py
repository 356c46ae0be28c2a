"""Effects that are computed from all rows of a study together, over the looks that the study has had."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from reports.statistics.compare import verdicts
from reports.statistics.measures import OTHER, Measure
from reports.statistics.sequential import gives_variance, looks, over_looks, stage_of
from reports.statistics.values import known
from reports.statistics.weighted_contrasts import RowValues

Results = Mapping[str, RowValues]  # of each row that has any


def results_of(runs: pd.DataFrame, measure: Measure = "top1") -> dict[str, RowValues]:
    """Collect the top-1 (%) or test loss of each row's finished runs."""
    done = runs.assign(used=gives_variance(runs))[(runs["status"] == "done") & runs[measure].map(known)]
    return {
        str(row): RowValues(tuple(group[measure].astype(float)), tuple(group.loc[group["used"], measure].astype(float)))
        for row, group in done.groupby("row", sort=False)
    }


def over_all_looks(
    runs: pd.DataFrame, analyse: Callable[[Results, Measure], pd.DataFrame], measure: Measure = "top1"
) -> pd.DataFrame:
    """Analyse all runs, with adjusted p-values and verdicts that hold over the looks that the study has had.

    Args:
        runs: The study's tidy frame.
        analyse: Makes a frame of effects from each row's results; its lines are the same at each look.
        measure: The study's primary measure, which the verdicts are about.

    Returns:
        The frame of all runs. Effects on the other measure, with intervals and without verdicts, are in columns such
        as `loss_effect`, `loss_low` and `loss_high`.
    """
    stage, seen = stage_of(runs), looks(runs)
    found = [analyse(results_of(runs[stage <= look.stage], measure), measure) for look in seen]
    now, other = found[-1], OTHER[measure]
    p = over_looks(
        [frame["p_adjusted"].to_numpy(dtype=float) for frame in found],
        [look.share for look in seen],
        [np.sign(frame["effect"].to_numpy(dtype=float)) for frame in found],
        now["p"].to_numpy(dtype=float),
    )
    beside = analyse(results_of(runs, other), other)
    columns = {f"{other}_{name}": beside[name] for name in ("effect", "low", "high")}
    return now.assign(p_adjusted=p, verdict=verdicts(now["effect"].to_numpy(dtype=float), p, measure), **columns)
