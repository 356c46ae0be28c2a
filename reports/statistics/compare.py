"""Comparisons of rows: one line per row and base, with interval, p-value and verdict.

Accuracies are top-1 in percent, differences in points. What is not known is NaN, never 0 and never dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum

import numpy as np
import pandas as pd
from scipy import stats

from reports.errors import ReportError, shortened
from reports.statistics.multiple_testing import holm
from reports.statistics.two_networks import COVERS_IMAGES, MCNEMAR, Correct, paired_correctness
from reports.statistics.values import NO_METHOD, Difference, check_level, known, summarise

PAIRED_T = "t, paired by seed"

COVERS_SEEDS = "the luck of training, on these test images"

LEGEND_PAIRED = (
    "difference: row minus base, in points, mean over the seeds that both have; its interval is by t, paired by seed, "
    f"and covers {COVERS_SEEDS}."
)

LEGEND_ONE_SEED = (
    "One seed: difference on the same test images, Tango's score interval, McNemar's exact test. They cover "
    f"{COVERS_IMAGES}, and another seed may say otherwise."
)

LEGEND_VERDICT = (
    "The words go by p after Holm's correction for all comparisons of the table. Each interval is for its comparison "
    "alone, without correction: one may leave out 0 and the words still be “cannot be told apart”; one that holds 0 "
    "is never called better or worse."
)


class Verdict(StrEnum):
    """What is said of a comparison: the first three where it was tested, the others why it could not be.

    The last two are of the row's own runs.
    """

    BETTER = "better"
    WORSE = "worse"
    SAME = "cannot be told apart"
    ONE_SEED = "cannot be told: one seed"
    NO_COMMON_SEED = "cannot be told: no seed in common"
    NO_BASE = "cannot be told: its base has no result"
    NOT_RUN = "not run"
    FAILED = "failed"


def paired_difference(
    ours: Mapping[int, float], base: Mapping[int, float], level: float = 0.95, resolution: float = 0.0
) -> Difference:
    """The mean difference over the seeds that both have, with its interval and p-value by t (`stats.ttest_rel`'s).

    `resolution` is the step in which values come: 100 / test images for top-1, 0 where not known. Differences
    cannot show less spread than their own rounding has, resolution / √6 (the standard deviation of the difference of
    two rounded values), so t never takes them to have less. That is for few images and few seeds, where all seeds can
    differ by the same number of images: t would call this certain, though it is a coincidence of coarse steps. With
    the resolution unknown, all differences 0 give p = 1 and the interval [0, 0]; all equal and not 0 give neither
    interval nor p-value, for there is nothing to judge them by. Raises ValueError on a level that is none.
    """
    check_level(level)
    here = {seed for seed, value in ours.items() if known(value)}
    there = {seed for seed, value in base.items() if known(value)}
    seeds = tuple(sorted(here & there))
    left_out = tuple(sorted((set(ours) | set(base)) - (here & there)))
    differences = np.array([ours[seed] - base[seed] for seed in seeds], dtype=float)
    n = len(seeds)
    mean = float(differences.mean()) if n else math.nan
    if n < 2:
        return Difference(mean, math.nan, math.nan, math.nan, seeds, left_out, level=level)

    rounding = 1e-12 * max(max(abs(ours[seed]), abs(base[seed])) for seed in seeds)
    mean = mean if abs(mean) > rounding else 0.0
    alike = np.ptp(differences) <= rounding
    sd = max(0.0 if alike else float(differences.std(ddof=1)), resolution / math.sqrt(6))
    note = "the same difference with every seed" if alike else ""
    if sd == 0 and mean:
        low = high = p = math.nan
        note += ": nothing to judge it by"
    elif sd == 0:
        low, high, p = 0.0, 0.0, 1.0
    else:
        error = sd / math.sqrt(n)
        half = float(stats.t.ppf((1 + level) / 2, n - 1)) * error
        low, high, p = mean - half, mean + half, 2 * float(stats.t.sf(abs(mean) / error, n - 1))
    return Difference(mean, low, high, p, seeds, left_out, PAIRED_T, COVERS_SEEDS, note, level)


def verdict(difference: Difference, adjusted_p: float, level: float = 0.95) -> Verdict:
    """The word for a difference, by its p-value after correction: `adjusted_p` ≤ 1 − level is better or worse."""
    if difference.method == NO_METHOD:
        return Verdict.ONE_SEED if difference.seeds else Verdict.NO_COMMON_SEED
    if not adjusted_p <= round(1 - level, 12):  # NaN too: nothing to tell them apart by
        return Verdict.SAME
    return Verdict.BETTER if difference.mean > 0 else Verdict.WORSE


def compare(
    runs: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    predictions: Callable[[str, int], Correct | None] | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """One line for each (row, base) of `pairs`, in that order, whatever became of their runs: see `legend`.

    `runs` has row, seed, status, top1 and maybe reason; `predictions(row, seed)` tells which test images that run got
    right, None where that is not known. Seeds in common: two or more are compared by t, one by its predictions.
    Columns: row, base, mean, sd, seeds, base_mean, base_sd, base_seeds (each over all its own finished seeds),
    common_seeds, difference, low, high, p, p_holm (over the lines that have a p), verdict, method, covers, note.
    Raises ReportError where a row and seed are there twice, a pair is twice or a row is its own base.
    """
    check_level(level)
    _check(runs, pairs)
    top1: dict[str, dict[int, float]] = {}
    statuses: dict[str, dict[int, str]] = {}
    reasons: dict[str, dict[int, str]] = {}
    told = runs.assign(reason=runs.get("reason"))
    columns = ["row", "seed", "status", "top1", "reason"]
    for row, seed, status, value, reason in told[columns].itertuples(index=False, name=None):
        statuses.setdefault(row, {})[int(seed)] = status
        if isinstance(reason, str) and reason:
            reasons.setdefault(row, {})[int(seed)] = shortened(reason)
        if status == "done" and known(value):
            top1.setdefault(row, {})[int(seed)] = float(value)
    compared = [_compare(row, base, top1, predictions, level) for row, base in pairs]
    adjusted = holm(difference.p for difference in compared)
    lines = []
    for (row, base), difference, p_holm in zip(pairs, compared, adjusted, strict=True):
        ours, theirs = summarise(top1.get(row, {}).values()), summarise(top1.get(base, {}).values())
        if row not in top1:
            word = Verdict.FAILED if "failed" in statuses.get(row, {}).values() else Verdict.NOT_RUN
        else:
            word = verdict(difference, p_holm, level) if base in top1 else Verdict.NO_BASE
        own, others = (
            _account(statuses.get(name, {}), top1.get(name, {}), reasons.get(name, {})) for name in (row, base)
        )
        lines.append(
            {
                "row": row,
                "base": base,
                "mean": ours.mean,
                "sd": ours.sd,
                "seeds": ours.seeds,
                "base_mean": theirs.mean,
                "base_sd": theirs.sd,
                "base_seeds": theirs.seeds,
                "common_seeds": len(difference.seeds),
                "difference": difference.mean,
                "low": difference.low,
                "high": difference.high,
                "p": difference.p,
                "p_holm": float(p_holm),
                "verdict": word.value,
                "method": difference.method,
                "covers": difference.covers,
                "note": "; ".join(filter(None, [difference.note, own, f"{base}: {others}" if others else ""])),
            }
        )
    return pd.DataFrame(lines, columns=COMPARISON_COLUMNS)


COMPARISON_COLUMNS = (
    *("row", "base", "mean", "sd", "seeds", "base_mean", "base_sd", "base_seeds", "common_seeds"),
    *("difference", "low", "high", "p", "p_holm", "verdict", "method", "covers", "note"),
)


def legend(compared: pd.DataFrame, level: float = 0.95) -> str:
    """What a reader of a table of comparisons must know: of the methods that it used, and of words beside intervals."""
    tested = int(compared["p"].notna().sum())
    parts = [text for method, text in _LEGENDS.items() if (compared["method"] == method).any()]
    if tested == 1:
        parts.append(f"Level {100 * level:g}%; the word goes by p.")
    elif tested:
        parts += [f"Level {100 * level:g}%, {tested} comparisons.", LEGEND_VERDICT]
    return " ".join(parts)


_LEGENDS = {PAIRED_T: LEGEND_PAIRED, MCNEMAR: LEGEND_ONE_SEED}


def _check(runs: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse what would be counted twice."""
    twice = runs[runs.duplicated(["row", "seed"])]
    if len(twice):
        row, seed = twice.iloc[0][["row", "seed"]]
        raise ReportError(f"row {row} has two runs of seed {seed}")
    for place, (row, base) in enumerate(pairs):
        if row == base:
            raise ReportError(f"row {row} is compared with itself")
        if (row, base) in pairs[:place]:
            raise ReportError(f"row {row} is compared with {base} twice")


def _compare(
    row: str,
    base: str,
    top1: Mapping[str, Mapping[int, float]],
    predictions: Callable[[str, int], Correct | None] | None,
    level: float,
) -> Difference:
    """The difference of two rows by the method that their seeds in common allow."""
    ours, theirs = top1.get(row, {}), top1.get(base, {})
    common = sorted(set(ours) & set(theirs))
    seen = predictions(row, common[0]) if predictions and common else None
    if len(common) == 1 and predictions and seen is not None:
        seen_by_base = predictions(base, common[0])
        if seen_by_base is not None:
            found = paired_correctness(seen, seen_by_base, level)
            return replace(found, seeds=tuple(common), left_out=tuple(sorted(set(ours) ^ set(theirs))))
    return paired_difference(ours, theirs, level, 100 / len(seen) if seen is not None and len(seen) else 0.0)


def _account(statuses: Mapping[int, str], top1: Mapping[int, float], reasons: Mapping[int, str]) -> str:
    """What became of the runs of a row that have no result, like ones together: `seeds 0, 2 failed (loss is nan)`."""
    if not statuses:
        return "not run"
    fates: dict[str, list[str]] = {}
    for seed, status in sorted(statuses.items()):
        if seed not in top1:
            fates.setdefault(f"{status} ({reasons[seed]})" if seed in reasons else status, []).append(str(seed))
    return ", ".join(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)} {fate}" for fate, seeds in fates.items())
