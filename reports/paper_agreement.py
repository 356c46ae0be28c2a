"""Agreement of a roadmap study with its source, in words: rank correlation of steps, and pairs ordered alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from modernize.roadmap import PAPER, Roadmap, Row, roadmap
from reports.numbers import fixed
from reports.statistics import rank_correlation
from reports.statistics.agreement import Agreement, Means, agreement, rerun_agreement
from reports.statistics.values import known


@dataclass(frozen=True)
class PaperAgreement:
    """How far a study agrees with the paper, or whatever the source of its roadmap is.

    changes     Spearman's correlation of the changes of `steps` adopted steps, with an interval for the studies' noise
    sampled     the 95% interval of that correlation if the steps are seen as a sample (Bonett and Wright 2000)
    pairs       pairwise decision accuracy of the rows, without one of the original recipe
    """

    changes: Agreement
    sampled: tuple[float, float]
    steps: int
    pairs: Agreement


def paper_agreement(runs: pd.DataFrame, steps: Roadmap) -> PaperAgreement:
    """Compare top-1 in a roadmap study with what the roadmap's source prints.

    Args:
        runs: The study's tidy frame, see `Report`. Standard errors come from the variance pooled over its rows.
        steps: Its roadmap. Rows without a printed top-1 are left out.
    """
    done = runs[(runs["status"] == "done") & runs["top1"].notna()].groupby("row")["top1"]
    mean, count = done.mean(), done.count()
    df = float((count - 1).sum())
    variance = float((done.var() * (count - 1)).sum()) / df if df else math.nan

    def ours(rows: Sequence[Row]) -> Means:
        errors = [math.sqrt(variance / count[row.name]) for row in rows]
        return Means([mean[row.name] for row in rows], errors)

    rows = [row for row in steps.rows if row.name in mean and known(row.printed.top1)]
    used = {str(name): frozenset(group["run"]) for name, group in runs.groupby("row")}
    # Of rows that share their runs the last counts: there is no change between them.
    later = [{used[other.name] for other in rows[place + 1 :]} for place in range(len(rows))]
    distinct = [row for row, others in zip(rows, later, strict=True) if used[row.name] not in others]
    return _compared(distinct, ours, steps.source.seeds)


def _compared(rows: Sequence[Row], ours: Callable[[Sequence[Row]], Means], seeds: int) -> PaperAgreement:
    """Compare a study with printed results, which are means over `seeds`, on the rows that it has.

    Of the original recipe's row only the change counts.
    """
    adopted, fair = [row for row in rows if row.adopted], _fair(rows)
    printed = _printed(adopted, seeds), _printed(fair, seeds)
    changes = [np.diff(study.means) for study in (ours(adopted), printed[0])]
    sampled = rank_correlation(changes[0], changes[1])
    return PaperAgreement(
        changes=_agreement(ours(adopted), printed[0], "changes"),
        sampled=(sampled.low, sampled.high),
        steps=len(changes[0]),
        pairs=_agreement(ours(fair), printed[1], "pairs"),
    )


def _fair(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not row.original_recipe]


def _agreement(ours: Means, paper: Means, of: Literal["pairs", "changes"]) -> Agreement:
    """Agreement without an interval if our noise is unknown, as with one seed."""
    estimate = agreement(ours, paper, of)
    return estimate if np.isfinite(ours.errors).any() else replace(estimate, low=math.nan, high=math.nan)


def _printed(rows: Sequence[Row], seeds: int) -> Means:
    errors = [row.printed.top1_std / math.sqrt(seeds) for row in rows]
    return Means([row.printed.top1 for row in rows], errors)


def agreement_words(runs: pd.DataFrame, steps: Roadmap) -> list[str]:
    """Describe a study's agreement with its roadmap's source, beside yardsticks; empty if too few rows are finished."""
    study = paper_agreement(runs, steps)
    if math.isnan(study.pairs.value):
        return []
    short = steps.source.short
    below = " Random guesses score 0.50." if study.pairs.value < 0.5 else ""
    of = "" if any(row.recipe_changes for row in steps.rows) else " of one recipe"
    changes, pairs = _yardsticks(steps)
    correlation = [
        f"Agreement with {short}: Spearman's rank correlation of the changes over {study.steps} adopted steps is "
        f"{_shown(study.changes, study.sampled)}.{changes}"
    ]
    return [
        *(correlation if study.steps > 1 else []),
        f"Pairwise decision accuracy, the share of pairs among {study.pairs.rows} rows{of} ordered as in {short}, is "
        f"{_shown(study.pairs)}.{below}{pairs}",
    ]


def _yardsticks(steps: Roadmap) -> tuple[str, str]:
    """Describe what agreement to expect: that of the paper's two regimes, and of re-runs of the source."""
    if steps.base not in PAPER:
        again = _printed(_fair([row for row in steps.rows if known(row.printed.top1)]), steps.source.seeds)
        if not any(map(known, again.errors)):
            return "", ""
        rerun = _number(rerun_agreement(again, "pairs"))
        return "", f" Between {steps.source.short} and simulated re-runs of it, it is {rerun}."
    small, large = roadmap("resnet50"), roadmap("resnet200")
    seeds = small.source.seeds
    regimes = _compared(small.rows, lambda rows: _printed([large.row(row.name) for row in rows], seeds), seeds)
    rerun = _number(rerun_agreement(_printed(_fair(small.rows), seeds), "pairs"))
    return (
        f" Between the paper's two regimes it is {_number(regimes.changes.value)}.",
        f" Between the paper's two regimes it is {_number(regimes.pairs.value)}, between the paper and simulated "
        f"re-runs of it {rerun}.",
    )


def _shown(estimate: Agreement, sampled: tuple[float, float] = (math.nan, math.nan)) -> str:
    """A statistic with its intervals; `sampled` is the one that takes the steps as a sample."""
    if math.isnan(estimate.value):
        return "not defined for these runs"
    intervals = [(estimate.low, estimate.high, "from the noise of both studies")]
    intervals.append((*sampled, "if the steps are a sample of steps"))
    shown = [f"{_number(low)} to {_number(high)} {source}" for low, high, source in intervals if not math.isnan(low)]
    return _number(estimate.value) + (f" (95% CI: {'; '.join(shown)})" if shown else "")


def _number(value: float) -> str:
    return fixed(value, 2)
