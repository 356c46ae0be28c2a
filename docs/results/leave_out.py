"""Leave-steps-out: how well the setting chosen on some of a roadmap's steps agrees with the paper on the others.

On a part of the steps, a setting's rows are those of a roadmap with these steps alone: each row is the sum of the
changes up to it. No difference between two such rows has a step of the other part. Agreement is
`PaperAgreement.response`, the mean of pairs in order and (1 + rank correlation) / 2; over all steps it is the agreement
of the rows themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Steps = NDArray[np.intp]
_DIGITS = 9  # decimals of differences: printed values that differ by the same amount are ties
_NULL_STUDIES, _NULL_SPLITS = 150, 60


@dataclass(frozen=True)
class Task:
    """Settings whose rows are compared with the paper's.

    Attributes:
        ours: For each setting a line per seed with the rows' means, (seeds, rows), the more the better.
        choose: The paper's printed rows by which a setting is chosen, (rows,).
        score: The paper's printed rows by which the chosen setting is scored, (rows,).
        own_recipe: Whether the first row has a recipe of its own, so that only its change counts, as a step.
    """

    ours: Mapping[str, Floats]
    choose: Floats
    score: Floats
    own_recipe: bool = True


@dataclass(frozen=True)
class LeftOut:
    """What a choice of settings loses on steps that it has not seen, over all splits of the steps into two parts.

    Attributes:
        best: The setting chosen on all steps.
        whole: Its agreement on all steps, by the regime that scores.
        on_parts: Its mean agreement on the steps left out: from it to `unseen`, the optimism of the choice is lost.
        seen: Mean agreement of the setting chosen on a part, on that part, by the regime that chooses.
        unseen: Mean agreement of the setting chosen on a part, on the steps left out, by the regime that scores.
        low: 5% quantile of `unseen` over splits.
        high: Its 95% quantile.
        at_random: Mean agreement of all settings on the steps left out: what choosing at random gives.
        splits: Number of splits.
        chosen: How often each setting was chosen.
    """

    best: str
    whole: float
    on_parts: float
    seen: float
    unseen: float
    low: float
    high: float
    at_random: float
    splits: int
    chosen: Mapping[str, int]


@dataclass(frozen=True)
class OfNoise:
    """What settings of noise alone give: means over simulated searches, with the 90% range of `unseen`."""

    whole: float
    unseen: float
    low: float
    high: float


def leave_out(task: Task, left: int | None = None) -> LeftOut:
    """Choose a setting on a part of the steps and score it on those left out, in all ways.

    Args:
        task: The settings.
        left: How many steps are left out [default: half of them].
    """
    ways = splits(len(task.choose) - 1, left)
    chosen_by, scored_by = (_by_setting(task, theirs, ways) for theirs in (task.choose, task.score))
    best = chosen_by[:, ways.choose].argmax(axis=0)
    unseen = scored_by[best, ways.score]
    names = list(task.ours)
    whole_choose, whole_score = (_whole(task, theirs) for theirs in (task.choose, task.score))
    winner = int(whole_choose.argmax())
    low, high = np.quantile(unseen, [0.05, 0.95])
    return LeftOut(
        best=names[winner],
        whole=float(whole_score[winner]),
        on_parts=float(scored_by[winner, ways.score].mean()),
        seen=float(chosen_by[:, ways.choose].max(axis=0).mean()),
        unseen=float(unseen.mean()),
        low=float(low),
        high=float(high),
        at_random=float(scored_by[:, ways.score].mean()),
        splits=len(best),
        chosen=dict(Counter(names[place] for place in best).most_common()),
    )


def of_noise(task: Task, seed: int = 0) -> OfNoise:
    """Repeat a search with as many settings and seeds whose rows are noise alone: equal rows, independent noise."""
    rng = np.random.default_rng(seed)
    ways = splits(len(task.choose) - 1, most=_NULL_SPLITS)
    whole, unseen = [], []
    for _ in range(_NULL_STUDIES):
        ours = {name: rng.standard_normal(rows.shape) for name, rows in task.ours.items()}
        made = Task(ours, task.choose, task.score, task.own_recipe)
        chosen_by, scored_by = (_by_setting(made, theirs, ways) for theirs in (task.choose, task.score))
        whole.append(_whole(made, task.choose).max())
        unseen.append(scored_by[chosen_by[:, ways.choose].argmax(axis=0), ways.score].mean())
    low, high = np.quantile(unseen, [0.05, 0.95])
    return OfNoise(float(np.mean(whole)), float(np.mean(unseen)), float(low), float(high))


@dataclass(frozen=True)
class Splits:
    """Parts of the steps, in groups of one size; `choose` and `score` are places in all groups, a pair per split."""

    groups: tuple[Steps, ...]
    choose: Steps
    score: Steps


def splits(steps: int, left: int | None = None, most: int | None = None) -> Splits:
    """Return all ways to leave out `left` of the steps, or half of them; `most` are chosen at random.

    Of an odd number of steps, the smaller and the larger half are left out in turn.
    """
    small = steps // 2 if left is None else left
    parts = list(combinations(range(steps), small))
    if left is None and 2 * small == steps:
        parts = [part for part in parts if 0 in part]
    if most is not None and len(parts) > most:
        places = np.random.default_rng(0).choice(len(parts), most, replace=False)
        parts = [parts[place] for place in sorted(places)]
    others = [tuple(step for step in range(steps) if step not in part) for part in parts]
    first, second = np.arange(len(parts)), np.arange(len(parts), 2 * len(parts))
    groups = np.array(parts), np.array(others)
    if left is not None:
        return Splits(groups, choose=second, score=first)
    return Splits(groups, choose=np.concatenate([first, second]), score=np.concatenate([second, first]))


def _by_setting(task: Task, theirs: Floats, ways: Splits) -> Floats:
    """The agreement of each setting on each part, averaged over its seeds, (settings, parts)."""
    rows = np.concatenate(list(task.ours.values()))
    scores = np.concatenate([agreement_on(rows, theirs, group, task.own_recipe) for group in ways.groups], axis=1)
    return _over_seeds(scores, task)


def _whole(task: Task, theirs: Floats) -> Floats:
    """The agreement of each setting on all steps, averaged over its seeds."""
    rows = np.concatenate(list(task.ours.values()))
    every = np.arange(len(theirs) - 1)[None]
    return _over_seeds(agreement_on(rows, theirs, every, task.own_recipe), task)[:, 0]


def _over_seeds(scores: Floats, task: Task) -> Floats:
    seeds = [len(rows) for rows in task.ours.values()]
    starts = np.concatenate([[0], np.cumsum(seeds)[:-1]])
    return np.asarray(np.add.reduceat(scores, starts, axis=0) / np.array(seeds)[:, None])


def agreement_on(ours: Floats, theirs: Floats, parts: Steps, own_recipe: bool = True) -> Floats:
    """The agreement on parts of the steps.

    Args:
        ours: Means of rows, (studies, rows).
        theirs: Means of the same rows, (rows,).
        parts: The steps of each part, ascending, (parts, steps); step 0 leads from row 0 to row 1.
        own_recipe: Whether row 0 has a recipe of its own, and counts in no pair.

    Returns:
        The mean of pairs in order and (1 + rank correlation) / 2, (studies, parts).
    """
    changes = [np.diff(rows, axis=-1)[..., parts] for rows in (ours, theirs)]  # (studies, parts, steps)
    ranks = [_centered_ranks(change) for change in changes]
    scale = np.sqrt((ranks[0] ** 2).sum(axis=-1) * (ranks[1] ** 2).sum(axis=-1))
    products = (ranks[0] * ranks[1]).sum(axis=-1)
    correlation = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    fair = np.ones_like(parts, dtype=bool) if not own_recipe else parts > 0
    return (_pairs(changes[0], changes[1], fair) + (1 + correlation) / 2) / 2


def _centered_ranks(values: Floats) -> Floats:
    """Ranks minus their mean, ties averaged, along the last axis."""
    differences = np.round(values[..., :, None] - values[..., None, :], _DIGITS)
    return np.asarray(np.sign(differences).sum(axis=-1) / 2)


def _pairs(ours: Floats, theirs: Floats, fair: NDArray[np.bool_]) -> Floats:
    """The share of pairs of rows in the same order, where rows are the sums of the fair steps before them."""
    steps = ours.shape[-1]
    agreeing, pairs = np.zeros(ours.shape[:-1]), np.zeros(fair.shape[0])
    for first in range(steps):
        sums = [np.cumsum(np.where(fair, side, 0.0)[..., first:], axis=-1) for side in (ours, theirs)]
        signs = [np.sign(np.round(side, _DIGITS)) for side in sums]
        counted = fair[:, first, None] & fair[:, first:]
        agreeing += np.where(counted, (signs[0] * signs[1] + 1) / 2, 0.0).sum(axis=-1)
        pairs += counted.sum(axis=-1)
    return np.asarray(agreeing / np.maximum(pairs, 1))
