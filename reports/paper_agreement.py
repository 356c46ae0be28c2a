"""Agreement of a roadmap study with its source: rank correlation of steps, and pairs of rows ordered alike.

A study on one of the paper's roadmaps is compared with both regimes that the paper prints, ResNet-50 and ResNet-200.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import pandas as pd

from modernize.roadmap import PAPER, Roadmap, Row, roadmap
from reports.statistics import rank_correlation
from reports.statistics.agreement import Agreement, Means, agreement
from reports.statistics.values import known, root_mean_square

Scored = Literal["top1", "ema_top1", "loss"]
REGIMES = {"resnet50": "ResNet-50", "resnet200": "ResNet-200"}


@dataclass(frozen=True)
class RowMeans:
    """The mean of each row, the more the better, with its standard error; NaN if the noise is unknown."""

    means: Mapping[str, float]
    errors: Mapping[str, float]

    def of(self, rows: Sequence[Row]) -> Means:
        """Return the means of some rows, in their order."""
        return Means([self.means[row.name] for row in rows], [self.errors[row.name] for row in rows])

    @property
    def noisy(self) -> bool:
        """Whether the noise is known."""
        return any(map(known, self.errors.values()))


@dataclass(frozen=True)
class PaperAgreement:
    """How far a study agrees with one regime of the paper, or with whatever the source of its roadmap is.

    Attributes:
        target: Regime, such as "ResNet-50", or the short name of the source.
        changes: Spearman's correlation of the changes of adopted steps, with an interval for the noise of both sides.
        sampled: The 95% interval of that correlation if the steps are a sample (Bonett and Wright 2000).
        steps: Number of adopted steps.
        pairs: Pairwise decision accuracy of the rows, without one of the original recipe.
    """

    target: str
    changes: Agreement
    sampled: tuple[float, float]
    steps: int
    pairs: Agreement

    @property
    def response(self) -> float:
        """The mean of pairs in order and (1 + correlation) / 2: 1 for full agreement, 0.5 for none."""
        return (self.pairs.value + (1 + self.changes.value) / 2) / 2


def paper_agreement(
    runs: pd.DataFrame,
    steps: Roadmap,
    measure: Scored = "top1",
    adopted_only: bool = False,
    sd: float | None = None,
) -> tuple[PaperAgreement, ...]:
    """Compare a roadmap study with each regime of the paper, or with whatever its roadmap's source prints.

    Args:
        runs: A line per run, such as a study's `results.csv`: `row`, the measure and, if recorded, `status` and `run`.
            Rows without a result, and rows of no printed top-1, are left out; steps then span them.
        steps: The roadmap.
        measure: Column to compare: `top1`, `ema_top1` or `loss` (the less the better).
        adopted_only: Leave side branches out of the pairs. They never count as steps.
        sd: Standard deviation of one run, if the runs have one seed per row [default: pooled over rows].

    Returns:
        One agreement for each regime: ResNet-50 and ResNet-200, or one for another source.
    """
    ours = row_means(runs, measure, sd)
    rows = [row for row in distinct_rows(runs, steps) if row.name in ours.means]
    return tuple(compared(target, ours, rows, theirs, adopted_only) for target, theirs in printed(steps).items())


def between_regimes(steps: Roadmap, rows: Collection[str] | None = None, adopted_only: bool = False) -> PaperAgreement:
    """Compare the paper's ResNet-200 regime with its ResNet-50 regime: what one size of network knows of another.

    Args:
        steps: One of the paper's roadmaps.
        rows: The rows to compare [default: all].
        adopted_only: Leave side branches out of the pairs.
    """
    small, large = printed(steps).values()
    chosen = [row for row in steps.rows if rows is None or row.name in rows]
    return compared("ResNet-50", large, chosen, small, adopted_only)


def row_means(runs: pd.DataFrame, measure: Scored = "top1", sd: float | None = None) -> RowMeans:
    """Average the finished runs of each row; standard errors are from the variance pooled over rows, or from `sd`."""
    done = runs[runs["status"] == "done"] if "status" in runs else runs
    values = pd.to_numeric(done[measure]) * (-1 if measure == "loss" else 1)
    groups = values[np.isfinite(values)].groupby(done["row"])
    mean, count = groups.mean(), groups.count()
    df = float((count - 1).sum())
    if sd is None:
        sd = math.sqrt(float((groups.var() * (count - 1)).sum()) / df) if df else math.nan
    return RowMeans(mean.to_dict(), (sd / np.sqrt(count)).to_dict())


def distinct_rows(runs: pd.DataFrame, steps: Roadmap) -> list[Row]:
    """Return the rows that were run, in order. Of rows that share their runs the last counts: nothing changes."""
    rows = [row for row in steps.rows if row.name in set(runs["row"])]
    if "run" not in runs:
        return rows
    used = {str(name): frozenset(group["run"]) for name, group in runs.groupby("row")}
    later = [{used[other.name] for other in rows[place + 1 :]} for place in range(len(rows))]
    return [row for row, others in zip(rows, later, strict=True) if used[row.name] not in others]


def printed(steps: Roadmap) -> dict[str, RowMeans]:
    """Return the printed top-1 of each regime by row, with standard errors.

    The paper averages three seeds in the ResNet-50 regime, and prints neither seeds nor standard deviations in the
    ResNet-200 regime. Its values there are taken as single runs that vary as much as those of the ResNet-50 regime.
    """
    return _paper() if steps.base in PAPER else {steps.source.short: _printed(steps)}


@cache
def _paper() -> dict[str, RowMeans]:
    small = roadmap("resnet50")
    sd = root_mean_square(np.array([row.printed.top1_std for row in small.rows if known(row.printed.top1_std)]))
    return {regime: _printed(roadmap(name), sd) for name, regime in REGIMES.items()}


def _printed(steps: Roadmap, sd: float = math.nan) -> RowMeans:
    """The printed top-1 of a source; `sd` takes the place of standard deviations that are not printed."""
    there = [row for row in steps.rows if known(row.printed.top1)]
    sds = {row.name: row.printed.top1_std if known(row.printed.top1_std) else sd for row in there}
    return RowMeans(
        {row.name: row.printed.top1 for row in there},
        {name: one / math.sqrt(steps.source.seeds) for name, one in sds.items()},
    )


def compared(
    target: str, ours: RowMeans, rows: Sequence[Row], theirs: RowMeans, adopted_only: bool = False
) -> PaperAgreement:
    """Compare two sides on rows that both have. Of the original recipe's row only the change counts."""
    rows = [row for row in rows if row.name in theirs.means]
    adopted = [row for row in rows if row.adopted]
    fair = fair_rows(adopted if adopted_only else rows)
    changes = [np.round(np.diff(side.of(adopted).means), 9) for side in (ours, theirs)]
    sampled = rank_correlation(changes[0], changes[1])
    return PaperAgreement(
        target=target,
        changes=agreement(ours.of(adopted), theirs.of(adopted), "changes"),
        sampled=(sampled.low, sampled.high),
        steps=len(changes[0]),
        pairs=agreement(ours.of(fair), theirs.of(fair), "pairs"),
    )


def fair_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of one recipe: all but that of the original recipe."""
    return [row for row in rows if not row.original_recipe]
