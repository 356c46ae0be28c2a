"""The smallest true difference that a planned study finds with a given power."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, special

from reports.statistics.compare import fit_rows, matching_df
from reports.statistics.contrasts import contrasts
from reports.statistics.measures import MEASURES, Measure
from reports.statistics.noise import fit_noise
from reports.statistics.row_results import gather, resolution
from reports.statistics.sequential import FIRST_SHARE, gives_variance, looks, spent, stage_of

POWER, LEVEL = 0.8, 0.95
STUDIES = 40  # whose variances stand for those that the study may have
ALIKE = 1.5  # intervals of comparisons that differ by less have one number
MOST_SEEDS = 100  # per row that anybody is told to train
WIDENS = 5.0  # times the other rows' standard deviation: such a row makes up most of the pooled variance of 25 rows
HOPELESS = 5.0  # standard deviations between seeds: no design change of one flag was ever seen to make as much


@dataclass(frozen=True)
class Power:
    """The true difference that is detected with 80% power, in the measure's unit and in standard deviations.

    `between` names the rows that it holds for, if rows differ in their number of seeds; `apart` rows that vary more.
    """

    difference: float
    in_sds: float
    between: str = ""
    apart: str = ""

    @property
    def shown(self) -> str:
        """The difference with two significant digits."""
        return f"{self.difference:#.2g}".rstrip(".") if self.difference < 99.5 else f"{self.difference:.0f}"


def detectable_difference(
    seeds: int,
    pairs: NDArray[np.intp],
    groups: Sequence[int],
    power: float = POWER,
    level: float = 0.95,
    share: float = FIRST_SHARE,
    variance_seeds: int | None = None,
) -> float:
    """Compute the smallest true difference that is significant with this power, in standard deviations between seeds.

    Rows vary equally; a comparison is tested at (1 − level) · share / comparisons, by Bonferroni's correction, so the
    step-down correction finds a little more.

    Args:
        seeds: Seeds per row.
        pairs: Row and baseline of each comparison, as places in the rows, (pairs, 2).
        groups: Number of each row's recipe, from 0.
        power: Probability that one comparison with this difference is significant.
        level: One minus the family-wise error rate.
        share: The share of the error rate that the look uses.
        variance_seeds: Seeds per row that the variance is estimated from; None: all.

    Returns:
        That difference, averaged over the comparisons; infinity if they cannot be tested.
    """
    if seeds < 2 or not len(pairs):
        return math.inf
    places = tuple((int(row), int(base)) for row, base in pairs)
    return _detectable((seeds, variance_seeds or seeds), places, tuple(groups), power, 1 - (1 - level) * share)


@lru_cache(maxsize=32)
def _detectable(
    numbers: tuple[int, int], pairs: tuple[tuple[int, int], ...], groups: tuple[int, ...], power: float, level: float
) -> float:
    """The detectable difference at an unadjusted level, see `detectable_difference`; seeds of means and variances."""
    (seeds, used), rows = numbers, len(groups)
    variance = np.random.default_rng(0).chisquare(used - 1, (STUDIES, rows)) / (used - 1)
    noise = fit_noise(variance, np.full(rows, used - 1.0), np.asarray(groups, dtype=np.intp))
    found = contrasts(noise, np.full(rows, float(seeds)), np.asarray(pairs, dtype=np.intp))
    critical = found.half_widths(1 - (1 - level) / len(pairs))

    def missing(difference: float) -> float:
        return float(special.ndtr((difference - critical) / math.sqrt(2 / seeds)).mean()) - power

    return float(optimize.brentq(missing, 0.0, 2 * float(critical.max()) + 10))


def study_power(
    runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], measure: Measure = "top1", seeds: int | None = None
) -> Power | None:
    """Compute which true difference a study detects, from the variance that its runs show.

    Args:
        runs: The study's tidy frame.
        pairs: Row and baseline of each comparison.
        measure: The column that is compared.
        seeds: Seeds per row to which the study is extended; None: as it is.

    Returns:
        None if it cannot be computed: a look is unfinished, or the noise is unknown.
    """
    done = runs.assign(used=gives_variance(runs))[(runs["status"] == "done") & runs[measure].notna()]
    rows = done.groupby("row", sort=False)[measure].agg(["var", "count"])
    pairs = [pair for pair in pairs if set(pair) <= set(rows.index)]
    df = rows["count"] - 1
    look = looks(runs)[-1]
    if not look.finished or not pairs or df.sum() < 1 or rows["count"].median() < 2:
        return None
    typical = _typical_spread(runs, pairs, measure)
    if typical is None:
        return None
    sd, alike, apart = typical
    now, used_now = int(rows["count"].median()), int(done[done["used"]].groupby("row").size().median())
    recipes = done.groupby("row", sort=False)["recipe"].first() if "recipe" in done else rows["count"] * 0
    places = {row: place for place, row in enumerate(rows.index)}
    first, planned = int((stage_of(runs) == 1).sum()), len(runs)
    later = round(planned * (seeds or now) / now)
    size = detectable_difference(
        seeds or now,
        np.array([[places[name] for name in pair] for pair in pairs]),
        pd.factorize(recipes)[0].tolist(),
        share=look.share if seeds is None else spent(first, later) - spent(first, planned),
        variance_seeds=used_now if seeds is None else None,
    )
    used = rows.loc[sorted({name for pair in pairs for name in pair}), "count"]
    between = "" if used.nunique() == 1 else f" between rows with {seeds or now} seeds"
    return Power(size * sd, size, between + ("" if alike else ", in the median comparison,"), apart)


def _typical_spread(
    runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], measure: Measure
) -> tuple[float, bool, str] | None:
    """Return a standard deviation between seeds, whether it holds for all comparisons, and for which rows it does not.

    It is the one with which two rows give the median standard error of the comparisons.
    """
    rows = gather(runs, measure, gives_variance(runs))
    results = [row for row in rows.values() if row.source == row.name]
    noise = fit_rows(results, resolution(runs, measure))
    places = {row.name: place for place, row in enumerate(results)}
    compared = np.array([[places[rows[name].source] for name in pair] for pair in pairs], dtype=np.intp)
    compared = compared[noise.known[compared].all(axis=1)]
    if not len(compared):
        return None
    counts = np.array([max(len(row.values), 1) for row in results], dtype=float)
    found, of_means = contrasts(noise, counts, compared), np.sqrt((1 / counts[compared]).sum(axis=1))
    errors, intervals = found.standard_errors / of_means, found.half_widths(LEVEL) / of_means
    apart = [row.name for row, outlier in zip(results, noise.outlier, strict=True) if outlier]
    apart = [name for name in apart if places[name] in compared]
    odd = noise.outlier[compared].any(axis=1)
    usual = ~odd if not odd.all() else odd
    same_seeds = usual & (counts[compared] == np.median(counts)).all(axis=1)
    intervals = intervals[same_seeds if same_seeds.any() else usual]
    alike = bool(intervals.max() < ALIKE * intervals.min())
    named = ", ".join(apart[:3]) + (f" and {len(apart) - 3} more" if len(apart) > 3 else "")
    vary = f"row{'s' if len(apart) > 1 else ''} {named}, which var{'y' if len(apart) > 1 else 'ies'} more"
    return float(np.median(errors[usual])), alike, f", but not for {vary}" if apart else ""


def seeds_to_detect(runs: pd.DataFrame, compared: pd.DataFrame, line: Mapping[Any, Any]) -> int | None:
    """Compute the seeds per row at which an extended study detects a comparison's difference, if it is true.

    The standard error is this comparison's own, which shrinks with the number of seeds, as its degrees of freedom grow.
    The test is that of the look after the extension, by Bonferroni's correction.

    Args:
        runs: The study's tidy frame; its last look is finished.
        compared: All comparisons, as from `compare`.
        line: The comparison, with difference, se, df, seeds and base_seeds.

    Returns:
        The fewest seeds, more than the rows have; None if `MOST_SEEDS` are too few.
    """
    first, planned, many = int((stage_of(runs) == 1).sum()), len(runs), int(compared["p"].notna().sum())
    size, now = abs(float(line["difference"])), 2 / (1 / line["seeds"] + 1 / line["base_seeds"])
    for seeds in range(int(max(line["seeds"], line["base_seeds"])) + 1, MOST_SEEDS + 1):
        later = round(planned * seeds / now)
        level = (1 - LEVEL) * (spent(first, later) - spent(first, planned)) / many
        df = line["df"] * (seeds - 1) / max(now - 1, 1)
        critical = special.stdtrit(df, 1 - level / 2) if np.isfinite(df) else special.ndtri(1 - level / 2)
        if (critical + special.ndtri(POWER)) * line["se"] * math.sqrt(now / seeds) <= size:
            return seeds
    return None


def describe_power(runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], measure: Measure = "top1") -> str:
    """Say which true difference a study with these runs detects; nothing if it cannot be computed."""
    power, words = study_power(runs, pairs, measure), MEASURES[measure]
    if power is None:
        return ""
    if power.difference > words.largest:
        return (
            f"Even the largest possible difference, {words.largest:g} {words.unit}{power.between}, is not detected "
            f"with 80% power{power.apart}."
        )
    size = f"{power.shown} {words.unit} ({power.in_sds:.1f} standard deviations)"
    alone = " by this look alone" if len(looks(runs)) > 1 else ""
    return f"A true difference of {size}{power.between} is detected with 80% power{alone}{power.apart}."


def describe_spread(runs: pd.DataFrame, measure: Measure = "top1") -> str:
    """Name rows that vary so much more than most of their recipe that they widen the CIs of all; else nothing."""
    rows = [row for row in gather(runs, measure, gives_variance(runs)).values() if row.source == row.name]
    noise, digits = fit_rows(rows, resolution(runs, measure)), MEASURES[measure].digits
    labels = runs.groupby("row")["label"].first()
    for number in range(int(noise.group.max(initial=-1)) + 1):
        mine = (noise.group == number) & (noise.df > 0) & ~noise.outlier
        sds = np.sqrt(np.where(mine, noise.variance, np.nan))
        middle = float(np.median(sds[mine])) if mine.sum() > 2 else 0.0
        wild = [place for place in np.flatnonzero(mine) if sds[place] > WIDENS * middle > 0]
        if wild:
            named = ", ".join(f"{labels[rows[place].name]} ({sds[place]:.{digits}f})" for place in wild)
            who = "that row's results vary" if len(wild) == 1 else "those rows' results vary"
            return (
                f"CIs of rows with the recipe of {named} are wide because {who} much more from seed to seed than most: "
                f"the median standard deviation is {middle:.{digits}f}. With more seeds, or in a study without "
                f"{'it' if len(wild) == 1 else 'them'}, the other CIs would be narrower."
            )
    return ""


def detectable_effect(effects: pd.DataFrame, share: float, level: float = 0.95) -> float:
    """Compute the true effect that every tested line of a table detects with 80% power, by Bonferroni's correction.

    Args:
        effects: Lines with effect, se, low, high, p, and family if there are several; NaN if not tested.
        share: The share of the error rate that the look uses.
        level: One minus the family-wise error rate; also the confidence level of the intervals.

    Returns:
        That effect, in the effects' unit; NaN if no line is tested.
    """
    tested = effects[effects["p"].notna() & (effects["se"] > 0)]
    if tested.empty:
        return math.nan
    family = tested["family"] if "family" in tested else pd.Series("", tested.index)
    many = family.map(family.value_counts()).to_numpy(dtype=float)
    se = tested["se"].to_numpy(dtype=float)
    half = (tested["high"] - tested["low"]).to_numpy(dtype=float) / 2
    critical = special.stdtrit(matching_df(half / se, level), 1 - (1 - level) * share / many / 2)
    return float((se * (critical + special.ndtri(POWER))).max())
