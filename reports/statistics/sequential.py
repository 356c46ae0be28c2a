"""Error control over looks: a study may be extended after its results were seen, and its verdicts stay valid.

A study has stages: what it began with, and what each extension added. A look is the table of comparisons when a stage
has finished. Each look tests at a share of the study's error rate, and the shares are spent once:

- the first look has 90%, so a study that is never extended loses little power;
- the look that ends an extension from N' to N planned runs has 8% · ((N₁/N')^1.5 − (N₁/N)^1.5), where N₁ is the number
  of runs planned at first. These shares sum to less than 8% for any number of extensions, and depend on nothing that
  the results show except the number of runs that somebody chose to add;
- a table of an unfinished stage tests at 1%, so that nobody gains by watching runs finish and stopping early.

This is alpha spending (Lan and DeMets, Biometrika 70, 1983) with a Bonferroni split between looks, which needs no plan
of the number of looks and leaves room for extensions whose size depends on the results (see docs/precision.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.statistics.compare import compare, with_verdicts
from reports.statistics.measures import Measure
from reports.statuses import NOT_COMPARED

FIRST_SHARE = 0.90
LATER_SHARE = 0.08
INTERIM_SHARE = 0.01
EXPONENT = 1.5

START = "start"
PILOT = "pilot"  # the first stage of a study whose second stage is sized by the pilot's variance
PRECISION = "precision"  # that second stage; `precision 0.5` says what was asked
EXTENDED = "extended"  # added when results were there; `extended to precision 0.5` where the size was computed
RETRIED = "retried"  # runs that failed, were missing at an earlier look, and were tried again

ENDED = ("done", "failed", NOT_COMPARED)  # statuses of a run that will not change by itself


@dataclass(frozen=True)
class Look:
    """A table of comparisons over stages 1 to `stage`, and the share of the error rate that it may use."""

    stage: int
    share: float
    finished: bool = True


def spent(runs_at_first: int, runs: int) -> float:
    """The share that extensions up to `runs` planned runs have used."""
    return LATER_SHARE * (1 - (runs_at_first / runs) ** EXPONENT)


def looks(runs: pd.DataFrame) -> tuple[Look, ...]:
    """The looks that a study has had, from its runs: one for each finished stage, and one of an unfinished last stage.

    Args:
        runs: One line per row and seed, with status, stage (from 1) and added (why the stage was added). A frame
            without these two columns is a study of one stage.

    Returns:
        Looks in the order of their stages. An extension of an unfinished stage ends the unfinished one as planned.
    """
    if runs.empty:
        return (Look(1, FIRST_SHARE),)
    stages = _stages(runs)
    found: list[Look] = []
    first = before = 0
    for stage, planned, ended, why in stages:
        last = stage == stages[-1][0]
        if ended and not (last and why == PILOT):  # a pilot's second stage is still to come
            share = spent(first, planned) - spent(first, before) if first else FIRST_SHARE
            found.append(Look(stage, share))
        elif last:
            found.append(Look(stage, INTERIM_SHARE, finished=False))
        first, before = first or planned, planned
    return tuple(found)


def gives_variance(runs: pd.DataFrame) -> pd.Series:
    """Which lines the noise may be estimated from: all, but after a stage sized by the variance only those before."""
    stage = stage_of(runs)
    if "added" not in runs or runs.empty:
        return stage >= 1
    last, why = last_added(runs)
    sized = last > 1 and why.removeprefix(f"{EXTENDED} to ").startswith(PRECISION)
    return stage < last if sized else stage >= 1


def last_added(runs: pd.DataFrame) -> tuple[int, str]:
    """The number of the last stage that is more than another trial of failed runs, and why it was added."""
    stage = stage_of(runs)
    added = runs["added"] if "added" in runs else pd.Series(START, runs.index)
    planned = added != RETRIED
    last = int(stage[planned].max()) if planned.any() else 1
    return last, str(added[stage == last].iloc[0]) if planned.any() else START


def _stages(runs: pd.DataFrame) -> list[tuple[int, int, bool, str]]:
    """For each look: its last stage, the planned runs up to it, whether all of these have ended, why it was added."""
    stage = stage_of(runs)
    added = runs["added"] if "added" in runs else pd.Series(START, runs.index)
    open_run = ~runs["status"].isin(ENDED)
    found: list[tuple[int, int, bool, str]] = []
    for number in sorted(stage.unique()):
        why = str(added[stage == number].iloc[0])
        until = stage <= number
        line = (int(number), int(until.sum()), not bool(open_run[until].any()), why)
        if why.startswith(PRECISION) and found and found[-1][3] == PILOT:
            found[-1] = line  # planned before there were results: the same look
        else:
            found.append(line)
    return found


def stage_of(runs: pd.DataFrame) -> pd.Series:
    """The stage of each line; 1 where the study keeps no record of stages."""
    return runs["stage"].astype(int) if "stage" in runs else pd.Series(1, runs.index)


def over_looks(
    adjusted: Sequence[NDArray[np.float64]],
    shares: Sequence[float],
    signs: Sequence[NDArray[np.float64]],
    p_now: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Adjusted p-values that hold over comparisons and looks.

    A comparison that was significant at an earlier look stays so while the data of today, by themselves and without
    correction, still show the same sign at the same level: the result is never below `p_now`.

    Args:
        adjusted: For each look, the p-values adjusted for the comparisons of that look (NaN: not tested then).
        shares: For each look, its share of the error rate.
        signs: For each look, the signs of the differences.
        p_now: Unadjusted p-values of the last look.

    Returns:
        One p-value per comparison; NaN where `p_now` is.
    """
    best = np.full(len(p_now), np.inf)
    for p, share, sign in zip(adjusted, shares, signs, strict=True):
        counts = ~np.isnan(p) & (sign == signs[-1])
        best[counts] = np.minimum(best[counts], p[counts] / share)
    return np.where(np.isnan(p_now), np.nan, np.minimum(np.maximum(best, p_now), 1.0))


def compare_over_looks(
    runs: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    measure: Measure = "top1",
    level: float = 0.95,
    resolution: float = 0.0,
) -> pd.DataFrame:
    """Compare rows as `compare` does, with p-values that hold over the looks that the study has had.

    Means, intervals and unadjusted p-values are those of all runs; after a stage that was sized by the variance, the
    noise is that of the runs before it.

    Args:
        runs: One line per row and seed, as `compare` takes them, with stage and added (see `looks`).
        pairs: Row and baseline of each comparison.
        measure: The column that is compared.
        level: Coverage of the intervals; a verdict needs an adjusted p-value of at most 1 − level.
        resolution: The step in which values come, as for `compare`.

    Returns:
        One line per pair, as from `compare`.

    Raises:
        ReportError: As `compare`.
    """
    stage, seen = stage_of(runs), looks(runs)
    found = []
    for look in seen:
        there = runs[stage <= look.stage]
        found.append(compare(there, pairs, measure, level, resolution, gives_variance(there)))
    now = found[-1]
    p = over_looks(
        [lines["p_adjusted"].to_numpy(float) for lines in found],
        [look.share for look in seen],
        [np.sign(lines["difference"].to_numpy(float)) for lines in found],
        now["p"].to_numpy(float),
    )
    return with_verdicts(now, pd.Series(p, now.index), measure, level)


def describe_looks(runs: pd.DataFrame) -> str:
    """Say which share of the error rate a table's verdicts use, and why."""
    *earlier, now = looks(runs)
    share = f"{100 * now.share:.2g}% of the error rate"
    if not now.finished:
        waiting = int((~runs["status"].isin(ENDED)).sum())
        many = f"{waiting} of {len(runs)} runs have" if waiting != 1 else f"1 of {len(runs)} runs has"
        text = f"{many} not finished" if waiting else "the seeds that the precision needs are missing"
        how = f"uses {share}. {_over(earlier, now)}" if earlier else f"verdicts use {share} (p / {now.share:.2g})."
        return f"Interim table: {text}, and until then {'it ' if earlier else ''}{how}"
    if not earlier:
        return f"Verdicts use {share} (p / {now.share:.2g}); the rest is kept for extensions of the study."
    before = int((stage_of(runs) <= earlier[-1].stage).sum())
    why = f"{before} runs were extended to {len(runs)}"
    if "added" in runs and (runs.loc[stage_of(runs) > earlier[-1].stage, "added"] == RETRIED).all():
        why = f"{len(runs) - before} failed run{'s were' if len(runs) - before > 1 else ' was'} tried again"
    return f"Look {len(earlier) + 1}, after {why}: it uses {share}. {_over(earlier, now)}"


def _over(earlier: Sequence[Look], now: Look) -> str:
    """Say how adjusted p-values hold over looks."""
    shares = [f"p / {look.share:.2g} of look {number}" for number, look in enumerate(earlier, 1)]
    own = f"p / {now.share:.2g} of {'this look' if now.finished else 'this table'}"
    return (
        f"An adjusted p-value is the smallest of {', '.join(shares)} and {own}, and never below today's unadjusted "
        "p-value. Verdicts of earlier looks stand while the present CI still excludes 0 on the same side."
    )
