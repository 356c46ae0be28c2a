"""Comparisons of rows over several studies: each study gives one difference, and a t-test is over the studies.

A study's difference has the noise of its seeds and what is particular to its setting. The spread of the differences
between studies has both, so that the interval is about another study of this kind, not about another seed. It is what
a random-effects meta-analysis with equal weights gives.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from reports.statistics.compare import verdicts
from reports.statistics.measures import Measure
from reports.statistics.multiple_testing import holm
from reports.statistics.values import check_level

OVER_STUDIES = "t-test over studies"
COMBINED_COLUMNS = (
    *("difference", "sd", "studies", "same_sign", "se", "df", "low", "high", "p", "p_adjusted"),
    *("verdict", "reason", "method"),
)
_EQUAL = 1e-9  # differences of means that differ by less are equal but for rounding


def across_studies(differences: pd.DataFrame, measure: Measure = "top1", level: float = 0.95) -> pd.DataFrame:
    """Average the differences of several studies, and test each mean over the studies.

    Args:
        differences: One line per comparison and one column per study: row minus baseline, means over seeds; NaN if a
            study has no result of the comparison.
        measure: What was compared. For "loss", lower is better.
        level: Coverage of the intervals; a verdict needs an adjusted p-value of at most 1 − level.

    Returns:
        One line per comparison, with the index of `differences`, see `COMBINED_COLUMNS`. The mean is unweighted, `sd`
        is the standard deviation of the studies' differences, `same_sign` the number of studies whose difference has
        the sign of the mean. Intervals, from Student's t with one degree of freedom less than studies, are not
        adjusted; p-values are adjusted by Holm's method. `reason` says why a comparison is not tested.
    """
    check_level(level)
    values = differences.to_numpy(dtype=float)
    found = [_line(line[np.isfinite(line)], level) for line in values]
    lines = pd.DataFrame(found, index=differences.index, columns=list(COMBINED_COLUMNS))
    lines = lines.astype({"studies": int, "same_sign": int})
    adjusted = holm(lines["p"])
    named = verdicts(lines["difference"].to_numpy(float), adjusted, measure, level)
    return lines.assign(p_adjusted=adjusted, verdict=named)


def _line(values: NDArray[np.float64], level: float) -> dict[str, object]:
    """Test the mean of the differences that are there."""
    many = len(values)
    mean = float(values.mean()) if many else math.nan
    sd = float(values.std(ddof=1)) if many > 1 else math.nan
    line: dict[str, object] = dict.fromkeys(COMBINED_COLUMNS, math.nan)
    line |= {"difference": mean, "sd": sd, "studies": many, "reason": "", "method": OVER_STUDIES}
    line |= {"same_sign": int((np.sign(values) == np.sign(mean)).sum())}
    if many < 2:
        return line | {"reason": "one study" if many else "no study has a result"}
    if sd <= _EQUAL:
        return line | {"reason": "no spread between studies"}
    se, df = sd / math.sqrt(many), many - 1
    half = float(special.stdtrit(df, (1 + level) / 2)) * se
    p = 2 * float(special.stdtr(df, -abs(mean) / se))
    return line | {"se": se, "df": df, "low": mean - half, "high": mean + half, "p": p}
