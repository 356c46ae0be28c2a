"""Comparisons of rows: one line per row and baseline, with interval, p-value and verdict.

The noise of all rows comes from one model (`noise.py`); p-values are adjusted for all comparisons of the table.
Top-1 is in percent, its differences in percentage points. What is not known is NaN, never 0 and never dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from reports.statistics.contrasts import contrasts, joint_p_values
from reports.statistics.measures import MEASURES, Measure
from reports.statistics.multiple_testing import step_down
from reports.statistics.noise import Noise, fit_noise
from reports.statistics.row_results import RowResults, gather, refuse_duplicates
from reports.statistics.values import NO_METHOD, check_level, summarise

MODERATED = "moderated t-test"
WELCH = "Welch's t-test"
ONE_SEED = "one seed"

_UNITS: dict[Measure, str] = {"top1": "percentage points", "loss": "test loss, lower is better"}
_LEGENDS = {
    MODERATED: "from a moderated t-test, in which rows of the same recipe and budget share their noise model",
    WELCH: "from Welch's t-test, used if no other row shares the recipe and budget or a row's variance is out of line",
}


class Verdict(StrEnum):
    """The verdict on a comparison; "not tested" has its reason in the column beside it."""

    BETTER = "better"
    WORSE = "worse"
    INCONCLUSIVE = "inconclusive"
    NOT_TESTED = "not tested"


COMPARISON_COLUMNS = (
    *("row", "base", "mean", "sd", "seeds", "base_mean", "base_sd", "base_seeds"),
    *("difference", "se", "df", "low", "high", "p", "p_adjusted", "verdict", "reason", "method", "note"),
)
_NUMBERS = ("difference", "se", "df", "low", "high", "p", "p_adjusted")


def compare(
    runs: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    measure: Measure = "top1",
    level: float = 0.95,
    resolution: float = 0.0,
    variance_from: pd.Series | None = None,
) -> pd.DataFrame:
    """Compare rows with their baselines under one noise model.

    Args:
        runs: One line per row and seed with row, seed, status and the measure; maybe reason, recipe, images_seen, run.
            Rows of one recipe and number of images seen inform each other's variances (all rows, if these columns are
            missing). Rows that share all their runs count once.
        pairs: Row and baseline of each comparison.
        measure: The column that is compared. For "loss", lower is better.
        level: Coverage of the intervals; a verdict needs an adjusted p-value of at most 1 − level.
        resolution: The step in which values come, 100 / test images for top-1, 0 if unknown. A variance is never taken
            to be less than that of rounding to this step, resolution² / 12. Rows that share a noise model are not
            tested if none of them varies between seeds: such seeds may change nothing.
        variance_from: The lines of `runs` that the variances are estimated from (all); means are over all lines.

    Returns:
        One line per pair, in the order of `pairs`, see `COMPARISON_COLUMNS`. Intervals are not adjusted; `se` and `df`
        are the standard error and the degrees of freedom of t that give the interval.

    Raises:
        ReportError: If a row has two runs of a seed, a pair is there twice or a row is its own baseline.
    """
    check_level(level)
    refuse_duplicates(runs, pairs)
    rows = gather(runs, measure, variance_from)
    rows |= {name: RowResults(name, source=name) for pair in pairs for name in pair if name not in rows}
    lines = pd.DataFrame([_line(rows[row], rows[base]) for row, base in pairs], columns=list(COMPARISON_COLUMNS))
    units = {name: place for place, name in enumerate(name for name, row in rows.items() if row.source == name)}
    if pairs:
        results = [rows[name] for name in units]
        places = np.array([[units[rows[name].source] for name in pair] for pair in pairs], dtype=np.intp)
        _test(lines, results, fit_rows(results, resolution), places, level)
    return with_verdicts(lines, lines["p_adjusted"], measure, level)


def with_verdicts(
    lines: pd.DataFrame, p_adjusted: pd.Series, measure: Measure = "top1", level: float = 0.95
) -> pd.DataFrame:
    """Lines of `compare` with other adjusted p-values, and the verdicts that follow from them."""
    p_adjusted = p_adjusted.where(lines["p"].notna())
    named = verdicts(lines["difference"].to_numpy(float), p_adjusted.to_numpy(float), measure, level)
    return lines.assign(p_adjusted=p_adjusted, verdict=named)


def verdicts(
    effects: NDArray[np.float64], p_adjusted: NDArray[np.float64], measure: Measure = "top1", level: float = 0.95
) -> list[str]:
    """Name the verdict on each effect; "not tested" if it has no p-value."""
    better = MEASURES[measure].sign * effects > 0
    verdict = np.where(better, Verdict.BETTER, Verdict.WORSE)
    verdict = np.where(p_adjusted <= round(1 - level, 12), verdict, Verdict.INCONCLUSIVE)
    return [str(one) for one in np.where(np.isnan(p_adjusted), Verdict.NOT_TESTED, verdict)]


def fit_rows(results: Sequence[RowResults], resolution: float = 0.0) -> Noise:
    """Fit the noise model of rows, none of which shares its runs with another."""
    groups: dict[object, int] = {}
    group = [groups.setdefault(row.group, len(groups)) for row in results]
    df = np.array([max(len(row.variance_values) - 1, 0) for row in results], dtype=float)
    variance = [np.var(row.variance_values, ddof=1) if len(row.variance_values) > 1 else math.nan for row in results]
    varying = {place for place, value in zip(group, variance, strict=True) if value > 0}
    floor = [resolution**2 / 12 if place in varying else 0.0 for place in group]
    return fit_noise(np.maximum(np.array(variance, dtype=float), floor), df, np.array(group, dtype=np.intp))


def _line(row: RowResults, base: RowResults) -> dict[str, object]:
    """The line of a comparison before it is tested."""
    ours, theirs = summarise(row.values), summarise(base.values)
    same = "same runs as its baseline" if row.source == base.source and row.name != base.name else ""
    has = "has " if base.reason.startswith(("no ", "several ")) else ""
    baseline = f"baseline {has}{base.reason}" if base.reason else ""
    return {
        **{"row": row.name, "base": base.name, "mean": ours.mean, "sd": ours.sd, "seeds": ours.seeds},
        **{"base_mean": theirs.mean, "base_sd": theirs.sd, "base_seeds": theirs.seeds},
        **dict.fromkeys(_NUMBERS, math.nan),
        "difference": ours.mean - theirs.mean,
        "verdict": Verdict.NOT_TESTED.value,
        "reason": row.reason or baseline or same,
        "method": NO_METHOD,
        # the same of both, such as seeds that are pending, is one note for all rows
        "note": "; ".join(
            filter(None, [row.note, f"{base.name}: {base.note}" if base.note not in ("", row.note) else ""])
        ),
    }


def _test(
    lines: pd.DataFrame, results: Sequence[RowResults], noise: Noise, places: NDArray[np.intp], level: float
) -> None:
    """Fill in what the test of each comparison gives, or why it could not be tested."""
    runs = np.array([max(len(row.values), 1) for row in results], dtype=float)
    for line, pair in enumerate(places):
        unknown = [results[place] for place in pair if not noise.known[place]]
        if not lines.at[line, "reason"] and unknown:
            single = any(len(row.values) == 1 for row in unknown)
            lines.at[line, "reason"] = ONE_SEED if single else "no spread between seeds"
        remarks = [_remark(results[place], noise, int(place)) for place in pair]
        lines.at[line, "note"] = "; ".join(filter(None, [str(lines.at[line, "note"]), *remarks]))
    tested = np.flatnonzero(lines["reason"] == "")
    if not len(tested):
        return
    pairs = places[tested]
    found = contrasts(noise, runs, pairs)
    difference, half, se = lines["difference"].to_numpy(float)[tested], found.half_widths(level), found.standard_errors
    p = found.p_values(difference)
    own = (noise.prior_df[pairs, 0] == 0).all(axis=1)
    columns = {
        "se": se,
        "df": matching_df(half / se, level),
        "low": difference - half,
        "high": difference + half,
        "p": p,
        "p_adjusted": step_down(p, joint_p_values(noise, runs, pairs)) if len(p) > 1 else p,
        "method": np.where(own, WELCH, MODERATED),
    }
    for name, values in columns.items():
        lines.loc[tested, name] = values


def matching_df(multiple: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """The degrees of freedom of t whose interval is `multiple` standard errors to each side."""
    wide = multiple > special.ndtri((1 + level) / 2)
    return np.where(wide, special.stdtridf((1 + level) / 2, np.where(wide, multiple, 2.0)), np.inf)


def _remark(row: RowResults, noise: Noise, place: int) -> str:
    """What a reader should know of a row's noise."""
    if len(row.values) > 1 and len(set(row.values)) == 1:
        return f"{row.name}: the same result with all {len(row.values)} seeds"
    if noise.outlier[place]:
        sd, pooled = math.sqrt(noise.variance[place]), math.sqrt(noise.pooled[place])
        return f"{row.name}: standard deviation {sd:.2g}, pooled over the other rows {pooled:.2g}; tested with its own"
    return ""


def legend(compared: pd.DataFrame, measure: Measure = "top1", level: float = 0.95) -> str:
    """How to read a table of comparisons: its effect, unit, tests, interval, correction and verdicts."""
    tested = int(compared["p"].notna().sum())
    if not tested:
        return ""
    methods = "; ".join(text for method, text in _LEGENDS.items() if (compared["method"] == method).any())
    parts = [
        f"Difference: row minus baseline ({_UNITS[measure]}), difference of the means over seeds; {100 * level:g}% CI "
        f"{methods}. The CI covers seed-to-seed variance, not test-set sampling."
    ]
    if tested == 1:
        parts.append(
            "The verdict uses the p-value of one comparison, adjusted for no other one; better and worse need "
            f"{1 - level:.3g} or less."
        )
    else:
        parts.append(
            f"Verdicts use p-values adjusted for {tested} comparisons (step-down on their joint distribution): the "
            f"family-wise error rate is about {100 * (1 - level):.3g}% if rows vary about alike, more if one row "
            "varies far more than the others. CIs are unadjusted: one that excludes 0 may be inconclusive; one that "
            "includes 0 is never better or worse."
        )
    return " ".join([*parts, "Inconclusive does not mean equal."])
