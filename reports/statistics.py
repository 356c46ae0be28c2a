"""Statistics: how sure a difference is, in numbers and in a word; what a flag is worth over orders, with its error.

Accuracies are top-1 in percent, differences in points. What is not known is NaN, never 0 and never dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, stats

from reports.tables import ReportError, shortened

Correct = NDArray[np.bool_]  # for each test image, in the data set's order, whether the run named its class
Value = Callable[[frozenset[str]], float]  # what a set of flags reaches
SeededValue = Callable[[frozenset[str], int], float]  # what a set of flags reaches with a seed

PAIRED_T = "t, paired by seed"
MCNEMAR = "McNemar, one seed"
NO_METHOD = "none"

COVERS_SEEDS = "the luck of training, on these test images"
COVERS_IMAGES = "the test images only, not the luck of training: one seed"

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


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (n − 1) over seeds; NaN where there are too few."""

    mean: float
    sd: float
    seeds: int


@dataclass(frozen=True)
class Difference:
    """Ours minus base with its interval and the p-value of "no difference", all three NaN where they cannot be had.

    `seeds` both have, `left_out` only one of them has. `covers` says which luck the interval is about; `note` what
    a reader should know of this one.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: tuple[int, ...] = ()
    left_out: tuple[int, ...] = ()
    method: str = NO_METHOD
    covers: str = ""
    note: str = ""
    level: float = 0.95


@dataclass(frozen=True)
class Correlation:
    """A rank correlation with its interval, the p-value of "none", and how many pairs it is over."""

    rho: float
    low: float
    high: float
    p: float
    n: int
    method: str


@dataclass(frozen=True)
class OrderDistance:
    """How far one order's worths are from the average over orders: `distance`, where a random order is at `typical`.

    Both are root mean squares over flags, in points. `frame` has a line a flag: flag, in_order, worth, difference and
    spreads, which is the difference in standard deviations of that flag's worth over orders.
    """

    distance: float
    typical: float
    spearman: Correlation
    kendall: Correlation
    frame: pd.DataFrame = field(compare=False, repr=False)


def summarise(values: Iterable[float]) -> Summary:
    """Mean, standard deviation and number of the values that are there (NaN and None are not)."""
    there = np.array([value for value in values if _known(value)], dtype=float)
    mean = float(there.mean()) if len(there) else math.nan
    return Summary(mean, float(there.std(ddof=1)) if len(there) > 1 else math.nan, len(there))


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
    _check_level(level)
    here = {seed for seed, value in ours.items() if _known(value)}
    there = {seed for seed, value in base.items() if _known(value)}
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


def paired_correctness(ours_correct: Correct, base_correct: Correct, level: float = 0.95) -> Difference:
    """The difference in top-1 of two runs on the same test images, in points; it knows nothing of other seeds.

    p-value: McNemar's exact test, `stats.binomtest` on the images that one of the two gets right alone. Interval: the
    score interval for paired proportions (Tango, Statistics in Medicine 17, 1998): no draws, so the same each time,
    as quick for a million images as for ten, and of a width even where no image differs, where a bootstrap says
    [0, 0]. The exact test is the stricter of the two, so p ≤ 0.05 leaves 0 outside the interval, not always the other
    way round. Raises ValueError unless both are bool arrays of one length.
    """
    _check_level(level)
    for correct in (ours_correct, base_correct):
        if correct.dtype != np.bool_ or correct.ndim != 1:
            raise ValueError(f"one bool an image is needed, not {correct.dtype} of shape {correct.shape}")
    images = len(ours_correct)
    if images != len(base_correct):
        raise ValueError(f"the same test images are needed, not {images} and {len(base_correct)}")
    if not images:
        return Difference(math.nan, math.nan, math.nan, math.nan, level=level)
    gained = int((ours_correct & ~base_correct).sum())
    lost = int((base_correct & ~ours_correct).sum())
    low, high = _score_interval(gained, lost, images, level)
    return Difference(
        mean=100 * (gained - lost) / images,
        low=100 * low,
        high=100 * high,
        p=float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
        method=MCNEMAR,
        covers=COVERS_IMAGES,
        note=f"{gained} images right in this row alone, {lost} in the base alone, of {images}",
        level=level,
    )


def _score_interval(gained: int, lost: int, images: int, level: float) -> tuple[float, float]:
    """The differences of two paired proportions that the score test does not reject (Tango 1998)."""
    z = float(stats.norm.ppf((1 + level) / 2))
    seen = (gained - lost) / images

    def excess(difference: float) -> float:
        """The squared distance of `difference` from the one seen, less what the score test allows for."""
        a, c = 2 * images, -lost * difference * (1 - difference)
        b = (2 * images - gained + lost) * difference - gained - lost
        lost_rate = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = 2 * lost_rate + difference * (1 - difference)
        return (images * (seen - difference)) ** 2 - z * z * images * variance

    inside = 1e-9  # a step off the difference seen, where the allowance is 0 if no image, or every image, differs
    low = -1.0 if seen - inside <= -1 else optimize.brentq(excess, -1, seen - inside)
    high = 1.0 if seen + inside >= 1 else optimize.brentq(excess, seen + inside, 1)
    return float(low), float(high)


def holm(p_values: Iterable[float]) -> NDArray[np.float64]:
    """Holm's step-down adjustment: adjusted p ≤ α keeps the chance of any false "different" at α, however they depend.

    NaN stays NaN and is not counted. Raises ValueError on what is no probability. (Holm, Scand. J. Statist. 6, 1979.)
    """
    p = np.array(list(p_values), dtype=float)
    there = np.flatnonzero(~np.isnan(p))
    if ((p[there] < 0) | (p[there] > 1)).any():
        raise ValueError(f"p-values lie between 0 and 1, not {p[there].tolist()}")
    ascending = there[np.argsort(p[there], kind="stable")]
    weights = np.arange(len(ascending), 0, -1)
    p[ascending] = np.minimum(np.maximum.accumulate(weights * p[ascending]), 1.0)
    return p


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
    _check_level(level)
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
        if status == "done" and _known(value):
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


def worths_in_order(order: Sequence[str], value: Value) -> dict[str, float]:
    """What each flag adds when flags are turned on one after the other, in this order."""
    values = [value(frozenset(order[:place])) for place in range(len(order) + 1)]
    return {flag: values[place + 1] - values[place] for place, flag in enumerate(order)}


def shapley_exact(flags: Collection[str], value: Value) -> dict[str, float]:
    """Each flag's Shapley value: what it adds, averaged over all orders, from the values of all 2^n sets of flags.

    Raises ValueError on flags named twice, or more than 16 of them.
    """
    names = list(flags)
    n = len(names)
    if len(set(names)) < n or n > 16:
        raise ValueError(f"up to 16 different flags, not {names}")
    values = {
        frozenset(chosen): value(frozenset(chosen)) for size in range(n + 1) for chosen in combinations(names, size)
    }
    worths = {}
    for flag in names:
        parts = [
            (values[chosen | {flag}] - without) / (n * math.comb(n - 1, len(chosen)))
            for chosen, without in values.items()
            if flag not in chosen
        ]
        worths[flag] = math.fsum(parts)
    return worths


def shapley_from_orders(orders: Sequence[Sequence[str]], value: Value, level: float = 0.95) -> pd.DataFrame:
    """Sampled Shapley values where a set of flags has one value: as `shapley_over_seeds`, with one seed.

    The error is that of sampling orders only: exact where `value` has no luck in it, too small where it has.
    """
    return shapley_over_seeds(orders, lambda chosen, _: value(chosen), (0,), level)


def shapley_over_seeds(
    orders: Sequence[Sequence[str]], value: SeededValue, seeds: Sequence[int], level: float = 0.95
) -> pd.DataFrame:
    """Each flag's worth averaged over sampled orders and over seeds, in points, with the error of sampling both.

    Orders must be drawn independently, each as likely as any other, and every seed must walk all of them. Columns:
    flag (in the first order's order), worth, se, low, high; sd, min and max of the worth over orders, each order
    averaged over seeds; orders and seeds that it is over.

    Error: an order's runs are shared with other orders of the same seed, so the worths of a seed are not independent;
    seeds are. The variance is that of the seeds' averages, which holds all that sharing does, plus that of the orders'
    averages, less the residual of the two-way layout, which both hold: in expectation the right one whatever is shared.
    It is never taken to be less than either part. The interval is by t, degrees of freedom after Satterthwaite. One
    seed has no seed part: the error is then that of sampling orders only. One order has no known error (NaN).

    A run that is missing (NaN) takes its order or its seed out, whichever keeps more; worths always add up to the
    difference between all flags and none. Raises ValueError where orders are not of the same flags.
    """
    _check_level(level)
    if not orders or not seeds or any(len(set(order)) < len(order) or set(order) != set(orders[0]) for order in orders):
        raise ValueError("one seed and one order at least are needed, each order with the same flags once")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {list(seeds)}: each may be there once")
    flags = list(orders[0])
    worths = np.empty((len(orders), len(seeds), len(flags)))
    for column, seed in enumerate(seeds):
        look_up = _with_seed(value, seed)
        for line, order in enumerate(orders):
            in_order = worths_in_order(order, look_up)
            worths[line, column] = [in_order[flag] for flag in flags]

    kept_orders, kept_seeds = _complete(np.asarray(np.isfinite(worths).all(axis=2)))
    worths = worths[np.ix_(kept_orders, kept_seeds)]
    n, m = worths.shape[:2]
    if not n or not m:
        frame = pd.DataFrame(math.nan, range(len(flags)), ["worth", "se", "low", "high", "sd", "min", "max"])
    else:
        frame = _worths_frame(worths, level)
    frame.insert(0, "flag", flags)
    return frame.assign(orders=n, seeds=m)


def _with_seed(value: SeededValue, seed: int) -> Value:
    """The values of one seed, each asked for once."""

    @cache
    def look_up(chosen: frozenset[str]) -> float:
        return float(value(chosen, seed))

    return look_up


def _worths_frame(worths: NDArray[np.float64], level: float) -> pd.DataFrame:
    """Mean, error, interval and spread of worths[order, seed, flag], all of which are there."""
    n, m = worths.shape[:2]
    by_order, by_seed, mean = worths.mean(axis=1), worths.mean(axis=0), worths.mean(axis=(0, 1))
    order_part = by_order.var(axis=0, ddof=1) / n if n > 1 else np.full_like(mean, math.nan)
    variance, freedom = order_part, np.full_like(mean, n - 1)
    if m > 1:
        seed_part = by_seed.var(axis=0, ddof=1) / m
        residual = worths - by_order[:, None] - by_seed[None] + mean
        both = (residual**2).sum(axis=(0, 1)) / max((n - 1) * (m - 1), 1) / (n * m)
        variance = np.maximum(order_part + seed_part - both, np.maximum(order_part, seed_part))
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = variance**2 / (order_part**2 / max(n - 1, 1) + seed_part**2 / (m - 1))
        freedom = np.nan_to_num(np.maximum(freedom, min(n, m) - 1), nan=1.0)
    error = np.sqrt(variance)
    half = stats.t.ppf((1 + level) / 2, np.maximum(freedom, 1)) * error
    return pd.DataFrame(
        {
            "worth": mean,
            "se": error,
            "low": mean - half,
            "high": mean + half,
            "sd": np.sqrt(order_part * n),
            "min": by_order.min(axis=0),
            "max": by_order.max(axis=0),
        }
    )


def _complete(there: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Lines and columns between which nothing is missing: of the fullest columns, as many as leave the most cells."""
    fullest = np.argsort(-there.sum(axis=0), kind="stable")
    counts = [number * int(there[:, fullest[:number]].all(axis=1).sum()) for number in range(1, len(fullest) + 1)]
    columns = np.sort(fullest[: int(np.argmax(counts)) + 1])
    return np.flatnonzero(there[:, columns].all(axis=1)), columns


def distance_from_order(worths: Mapping[str, float], shapley: pd.DataFrame, level: float = 0.95) -> OrderDistance:
    """How far the worths met in one order (`worths_in_order` of the paper's) are from those averaged over orders.

    `shapley` is a frame of `shapley_over_seeds`. A flag that either lacks is NaN and not counted. The correlations take
    the flags as a sample of flags. A difference where orders have no spread at all is infinitely many spreads.
    """
    frame = shapley[["flag", "worth"]].copy()
    frame.insert(1, "in_order", [worths.get(flag, math.nan) for flag in frame["flag"]])
    difference, sd = (frame["in_order"] - frame["worth"]).to_numpy(), shapley["sd"].to_numpy(dtype=float)
    rounding = 1e-9
    with np.errstate(divide="ignore", invalid="ignore"):
        spreads = difference / np.where(sd > rounding, sd, 0.0)
    frame["difference"] = difference
    frame["spreads"] = np.where((np.abs(difference) <= rounding) & (sd <= rounding), 0.0, spreads)
    there = ~np.isnan(difference)
    return OrderDistance(
        distance=_root_mean_square(difference[there]),
        typical=_root_mean_square(sd[there]),
        spearman=rank_correlation(frame["in_order"], frame["worth"], level),
        kendall=rank_correlation(frame["in_order"], frame["worth"], level, "Kendall"),
        frame=frame,
    )


def rank_correlation(
    a: Iterable[float], b: Iterable[float], level: float = 0.95, method: Literal["Spearman", "Kendall"] = "Spearman"
) -> Correlation:
    """The rank correlation of two vectors, over the places where both have a value, with its interval.

    Interval: Fisher's z, with the variance of Bonett and Wright (Psychometrika 65, 2000) for Spearman's, of Fieller,
    Hartley and Pearson (Biometrika 44, 1957) for Kendall's; none below 4 pairs (5 for Kendall's). Perfect agreement,
    where z is infinite, counts as half a step short of it: ranks cannot tell the two. p-value: over all permutations up
    to 8 pairs, then scipy's. All NaN for a vector without variety. Raises ValueError on vectors of different length.
    """
    _check_level(level)
    left, right = np.array(list(a), dtype=float), np.array(list(b), dtype=float)
    if left.shape != right.shape:
        raise ValueError(f"vectors of one length are needed, not {len(left)} and {len(right)}")
    there = np.isfinite(left) & np.isfinite(right)
    left, right = stats.rankdata(left[there]), stats.rankdata(right[there])
    n = len(left)
    if n < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return Correlation(math.nan, math.nan, math.nan, math.nan, n, method)
    if method == "Spearman":
        found, least, step = stats.spearmanr(left, right), 4, 12 / (n**3 - n)
    else:
        found, least, step = stats.kendalltau(left, right), 5, 4 / (n**2 - n)
    rho = float(found.statistic)
    if abs(rho) > 1 - step / 2:  # perfect but for rounding
        rho = math.copysign(1.0, rho)
    p = _permutation_p(left, right) if method == "Spearman" and n <= 8 else float(found.pvalue)
    if n < least:
        return Correlation(rho, math.nan, math.nan, p, n, method)
    inner = math.copysign(min(abs(rho), 1 - step / 2), rho)
    variance = (1 + inner**2 / 2) / (n - 3) if method == "Spearman" else 0.437 / (n - 4)
    half = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt(variance)
    low, high = math.tanh(math.atanh(inner) - half), math.tanh(math.atanh(inner) + half)
    return Correlation(rho, -1.0 if rho == -1 else low, 1.0 if rho == 1 else high, p, n, method)


def _permutation_p(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """The share of all pairings of ranks that agree, or disagree, as much as this one."""

    def agreement(ranks: NDArray[np.float64], axis: int = -1) -> Any:
        return ((ranks - left.mean()) * (right - right.mean())).sum(axis=axis)

    test = stats.permutation_test((left,), agreement, permutation_type="pairings", n_resamples=np.inf, vectorized=True)
    return float(test.pvalue)


def _root_mean_square(values: NDArray[np.float64]) -> float:
    return float(np.sqrt((values**2).mean())) if len(values) else math.nan


def _known(value: Any) -> bool:
    return value is not None and not pd.isna(value) and math.isfinite(value)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, as 0.95 does; not {level}")
