"""Agreement of a roadmap study with the paper, in words: rank correlation of steps, and pairs of rows ordered alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from modernize.roadmap import Row, roadmap
from reports.statistics import rank_correlation
from reports.statistics.agreement import Agreement, Means, agreement, rerun_agreement

_PAPERS_SEEDS = 3  # the paper's means and standard deviations are over three seeds


@dataclass(frozen=True)
class PaperAgreement:
    """How far a study agrees with the paper.

    changes     Spearman's correlation of the changes of `steps` adopted steps, with an interval for the studies' noise
    sampled     the 95% interval of that correlation if the steps are seen as a sample (Bonett and Wright 2000)
    pairs       pairwise decision accuracy of the rows of one recipe
    """

    changes: Agreement
    sampled: tuple[float, float]
    steps: int
    pairs: Agreement


def paper_agreement(runs: pd.DataFrame, roadmap_name: str) -> PaperAgreement:
    """Compare top-1 in a roadmap study with the paper's.

    Args:
        runs: The study's tidy frame, see `Report`. Standard errors come from the variance pooled over its rows.
        roadmap_name: Its roadmap.
    """
    done = runs[(runs["status"] == "done") & runs["top1"].notna()].groupby("row")["top1"]
    mean, count = done.mean(), done.count()
    df = float((count - 1).sum())
    variance = float((done.var() * (count - 1)).sum()) / df if df else math.nan

    def ours(rows: Sequence[Row]) -> Means:
        errors = [math.sqrt(variance / count[row.name]) for row in rows]
        return Means([mean[row.name] for row in rows], errors)

    rows = [row for row in roadmap(roadmap_name).rows if row.name in mean]
    used = {str(name): frozenset(group["run"]) for name, group in runs.groupby("row")}
    # Of rows that share their runs the last counts: there is no change between them.
    later = [{used[other.name] for other in rows[place + 1 :]} for place in range(len(rows))]
    return _compared([row for row, others in zip(rows, later, strict=True) if used[row.name] not in others], ours)


def _compared(rows: Sequence[Row], ours: Callable[[Sequence[Row]], Means]) -> PaperAgreement:
    """Compare a study with the paper on the rows that it has; of the original recipe's row only the change counts."""
    adopted, fair = [row for row in rows if row.adopted], [row for row in rows if row.recipe != "original"]
    changes = [np.diff(study.means) for study in (ours(adopted), _paper(adopted))]
    sampled = rank_correlation(changes[0], changes[1])
    return PaperAgreement(
        changes=_agreement(ours(adopted), _paper(adopted), "changes"),
        sampled=(sampled.low, sampled.high),
        steps=len(changes[0]),
        pairs=_agreement(ours(fair), _paper(fair), "pairs"),
    )


def _agreement(ours: Means, paper: Means, of: Literal["pairs", "changes"]) -> Agreement:
    """Agreement without an interval if our noise is unknown, as with one seed."""
    estimate = agreement(ours, paper, of)
    return estimate if np.isfinite(ours.errors).any() else replace(estimate, low=math.nan, high=math.nan)


def _paper(rows: Sequence[Row]) -> Means:
    stds = [math.nan if row.paper.top1_std is None else row.paper.top1_std for row in rows]
    return Means([row.paper.top1 for row in rows], [std / math.sqrt(_PAPERS_SEEDS) for std in stds])


def agreement_words(runs: pd.DataFrame, roadmap_name: str) -> list[str]:
    """Describe a study's agreement with the paper, beside yardsticks; empty if too few rows are finished."""
    study = paper_agreement(runs, roadmap_name)
    if math.isnan(study.pairs.value):
        return []
    small, large = roadmap("resnet50"), roadmap("resnet200")
    regimes = _compared(small.rows, lambda rows: _paper([large.row(row.name) for row in rows]))
    rerun = rerun_agreement(_paper([row for row in small.rows if row.recipe != "original"]), "pairs")
    below = " Random guesses score 0.50." if study.pairs.value < 0.5 else ""
    return [
        f"Agreement with the paper: Spearman's rank correlation of the changes over {study.steps} adopted steps is "
        f"{_shown(study.changes, study.sampled)}. Between the paper's two regimes it is "
        f"{_number(regimes.changes.value)}.",
        f"Pairwise decision accuracy, the share of pairs among {study.pairs.rows} rows of one recipe ordered as in the "
        f"paper, is {_shown(study.pairs)}.{below} Between the paper's two regimes it is "
        f"{_number(regimes.pairs.value)}, between the paper and simulated re-runs of it {_number(rerun)}.",
    ]


def _shown(estimate: Agreement, sampled: tuple[float, float] = (math.nan, math.nan)) -> str:
    """A statistic with its intervals; `sampled` is the one that takes the steps as a sample."""
    if math.isnan(estimate.value):
        return "not defined for these runs"
    intervals = [(estimate.low, estimate.high, "from the noise of both studies")]
    intervals.append((*sampled, "if the steps are a sample of steps"))
    shown = [f"{_number(low)} to {_number(high)} {source}" for low, high, source in intervals if not math.isnan(low)]
    return _number(estimate.value) + (f" (95% CI: {'; '.join(shown)})" if shown else "")


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
