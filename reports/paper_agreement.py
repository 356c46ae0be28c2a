"""Agreement of a roadmap study with the paper: rank correlation of steps, and pairs of rows ordered alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from modernize.roadmap import Roadmap, Row, roadmap
from reports.statistics import rank_correlation

Floats = NDArray[np.float64]
_PAPERS_SEEDS = 3  # the paper's means and standard deviations are over three seeds
_DRAWS = 4000


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95% interval, which carries the noise of both studies (NaN: noise unknown)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """How well a study agrees with the paper.

    spearman    Spearman's rank correlation of the adopted steps' changes, over `steps` steps
    over_steps  the 95% interval of that correlation if the steps are a sample (Bonett and Wright 2000)
    accuracy    pairwise decision accuracy: share of the pairs of `rows` rows that both studies order alike
    """

    spearman: Estimate
    over_steps: tuple[float, float]
    steps: int
    accuracy: Estimate
    rows: int


@dataclass(frozen=True)
class _Means:
    """Means of rows and their standard errors (NaN: unknown)."""

    mean: Floats
    error: Floats


def agreement(runs: pd.DataFrame, roadmap_name: str) -> Agreement:
    """Compare a roadmap study's top-1 with the paper's: its adopted steps, and its rows of one recipe.

    Intervals are percentiles over draws of the true means given each study's noise: normal, with our pooled variance
    and the paper's printed ones (a row without one has the mean variance of the others). The steps are taken as given.

    Args:
        runs: The study's tidy frame, see `Report`.
        roadmap_name: Its roadmap.
    """
    steps = roadmap(roadmap_name)
    done = runs[(runs["status"] == "done") & runs["top1"].notna()].groupby("row")["top1"]
    mean, count = done.mean(), done.count()
    df = float((count - 1).sum())
    variance = float((done.var() * (count - 1)).sum()) / df if df else math.nan
    rows = [row for row in steps.rows if row.name in mean]
    ours = np.array([mean[row.name] for row in rows])
    errors = np.array([math.sqrt(variance / count[row.name]) for row in rows])
    return _agreement(_Means(ours, errors), _papers(rows), steps, rows)


def regimes_agreement() -> Agreement:
    """Compare the paper's two regimes, ResNet-50 and ResNet-200, as a yardstick."""
    small, large = roadmap("resnet50"), roadmap("resnet200")
    rows = list(small.rows)
    return _agreement(_papers(rows), _papers([large.row(row.name) for row in rows]), small, rows)


def rerun_accuracy() -> float:
    """Return the mean pairwise decision accuracy of simulated re-runs of the paper's ResNet-50 regime."""
    rows = [row for row in roadmap("resnet50").rows if row.recipe != "original"]
    papers = _papers(rows)
    return float(_pairwise(_draws(papers, 0), papers.mean[None]).mean())


def _papers(rows: list[Row]) -> _Means:
    mean = np.array([row.paper.top1 for row in rows])
    error = np.array([math.nan if row.paper.top1_std is None else row.paper.top1_std for row in rows])
    usual = math.sqrt(np.nanmean(error**2)) if np.isfinite(error).any() else math.nan
    return _Means(mean, np.where(np.isnan(error), usual, error) / math.sqrt(_PAPERS_SEEDS))


def _steps(steps: Roadmap, rows: list[Row]) -> NDArray[np.intp]:
    """The adopted rows and the rows before them, as places."""
    places = {row.name: place for place, row in enumerate(rows)}
    pairs = [(row, steps.before(row)) for row in rows if row.adopted]
    found = [(places[row.name], places[before.name]) for row, before in pairs if before and before.name in places]
    return np.array(found, dtype=np.intp).reshape(-1, 2)


def _agreement(ours: _Means, papers: _Means, steps: Roadmap, rows: list[Row]) -> Agreement:
    draws = _draws(ours, 1), _draws(papers, 2)
    pairs = _steps(steps, rows)
    same_recipe = np.array([row.recipe != "original" for row in rows], dtype=bool)

    def estimate(statistic: Callable[[Floats, Floats], Floats]) -> Estimate:
        value = float(statistic(ours.mean[None], papers.mean[None])[0])
        simulated = statistic(*draws)
        if np.isnan(simulated).any():
            return Estimate(value, math.nan, math.nan)
        low, high = np.quantile(simulated, [0.025, 0.975])
        return Estimate(value, float(low), float(high))

    def spearman(left: Floats, right: Floats) -> Floats:
        changes = [means[:, pairs[:, 0]] - means[:, pairs[:, 1]] for means in (left, right)]
        return _spearman(*changes)

    def accuracy(left: Floats, right: Floats) -> Floats:
        return _pairwise(left[:, same_recipe], right[:, same_recipe])

    changes = [means.mean[pairs[:, 0]] - means.mean[pairs[:, 1]] for means in (ours, papers)]
    sampled = rank_correlation(changes[0], changes[1])
    return Agreement(
        spearman=estimate(spearman),
        over_steps=(sampled.low, sampled.high),
        steps=len(pairs),
        accuracy=estimate(accuracy),
        rows=int(same_recipe.sum()),
    )


def agreement_words(runs: pd.DataFrame, roadmap_name: str) -> list[str]:
    """Describe a study's agreement with the paper, beside yardsticks; empty if no row is finished."""
    study, regimes = agreement(runs, roadmap_name), regimes_agreement()
    if not study.rows:
        return []
    below = " A coin scores 0.50." if study.accuracy.value < 0.5 else ""
    return [
        f"Agreement with the paper: Spearman's rank correlation of the changes over {study.steps} adopted steps is "
        f"{_shown(study.spearman, study.over_steps)}. Between the paper's two regimes it is "
        f"{_number(regimes.spearman.value)}.",
        f"Pairwise decision accuracy, the share of pairs among {study.rows} rows of one recipe ordered as in the "
        f"paper, is {_shown(study.accuracy)}.{below} Between the paper's two regimes it is "
        f"{_number(regimes.accuracy.value)}, between the paper and simulated re-runs of it "
        f"{_number(rerun_accuracy())}.",
    ]


def _shown(estimate: Estimate, sampled: tuple[float, float] = (math.nan, math.nan)) -> str:
    """A statistic with its intervals; `sampled` is the one that also takes the steps as a sample."""
    if math.isnan(estimate.value):
        return "not defined for these runs"
    shown = []
    if not math.isnan(estimate.low):
        shown.append(f"{_number(estimate.low)} to {_number(estimate.high)} from the noise of both studies")
    if not math.isnan(sampled[0]):
        shown.append(f"{_number(sampled[0])} to {_number(sampled[1])} if the steps are a sample of steps")
    return _number(estimate.value) + (f" (95% CI: {'; '.join(shown)})" if shown else "")


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _draws(means: _Means, seed: int) -> Floats:
    """True means that a study's noise allows, (draws, rows)."""
    noise = np.random.default_rng(seed).normal(size=(_DRAWS, len(means.mean)))
    return np.asarray(means.mean + noise * means.error)


def _spearman(left: Floats, right: Floats) -> Floats:
    """Spearman's rank correlation of each line."""
    if left.shape[-1] < 2:
        return np.full(len(left), math.nan)
    ranks = [stats.rankdata(values, axis=-1) for values in (left, right)]
    centered = [rank - rank.mean(axis=-1, keepdims=True) for rank in ranks]
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = (centered[0] * centered[1]).sum(-1) / np.sqrt((centered[0] ** 2).sum(-1) * (centered[1] ** 2).sum(-1))
    return np.where(np.isnan(left).any(-1) | np.isnan(right).any(-1), math.nan, rho)


def _pairwise(left: Floats, right: Floats) -> Floats:
    """The share of pairs of columns that both order alike, of each line."""
    first, second = np.triu_indices(left.shape[-1], 1)
    if not len(first):
        return np.full(len(left), math.nan)
    signs = [np.sign(values[..., first] - values[..., second]) for values in (left, right)]
    shares = (signs[0] == signs[1]).mean(axis=-1)
    return np.where(np.isnan(left).any(-1) | np.isnan(right).any(-1), math.nan, shares)
