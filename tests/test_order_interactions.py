"""Pairwise interactions from orders: exact from all sets, unbiased from sampled orders, errors that hold both sources.

The slow test simulates coverage and family-wise error; it is what `PRIOR_DF` was chosen by.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reports.statistics.order_interactions import (
    ALL_SETS,
    SAMPLED_ORDERS,
    pairwise_interactions,
    set_weights,
    step_weights,
)
from reports.statistics.order_walk import SetMean

Value = Callable[[frozenset[str]], float]
FLAGS = ("a", "b", "c", "d", "e")


def without_noise(value: Value) -> Callable[[frozenset[str]], SetMean]:
    return lambda chosen: SetMean(value(chosen), 0.0)


def sets_of(flags: Sequence[str]) -> list[frozenset[str]]:
    return [frozenset(chosen) for size in range(len(flags) + 1) for chosen in itertools.combinations(flags, size)]


def random_value(flags: Sequence[str], seed: int) -> Value:
    """An objective with interactions of every size."""
    chance = np.random.default_rng(seed)
    return {chosen: float(chance.normal()) for chosen in sets_of(flags)}.__getitem__


def index_by_definition(flags: Sequence[str], value: Value) -> dict[tuple[str, str], float]:
    """The coefficients of products in the best fit without larger interactions, by weighted least squares.

    Faith-Shap's own definition: a set of t of n flags weighs (t−1)!(n−t−1)!, no flag and all flags are fitted exactly.
    """
    n = len(flags)
    pairs = list(itertools.combinations(flags, 2))
    rows, weights, reached = [], [], []
    for chosen in sets_of(flags):
        t = len(chosen)
        rows.append([1.0, *(flag in chosen for flag in flags), *(set(pair) <= chosen for pair in pairs)])
        weights.append(math.factorial(t - 1) * math.factorial(n - t - 1) if 0 < t < n else 1e7)
        reached.append(value(chosen))
    root = np.sqrt(weights)[:, None]
    found = np.linalg.lstsq(np.array(rows) * root, np.array(reached) * root[:, 0], rcond=None)[0]
    return dict(zip(pairs, found[1 + n :], strict=True))


def effects(frame: pd.DataFrame) -> dict[tuple[str, str], float]:
    return {(line["flag"], line["other"]): line["effect"] for line in frame.to_dict("records")}


def draw_orders(chance: np.random.Generator, flags: Sequence[str], number: int) -> list[list[str]]:
    return [[flags[place] for place in chance.permutation(len(flags))] for _ in range(number)]


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_from_all_orders_the_index_is_exactly_that_of_its_definition(n: int) -> None:
    flags, value = FLAGS[:n], random_value(FLAGS[:n], n)
    found = pairwise_interactions(flags, list(itertools.permutations(flags)), without_noise(value), 10)
    assert (found["method"] == ALL_SETS).all()
    assert effects(found) == pytest.approx(index_by_definition(flags, value), abs=1e-5)


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_the_weights_of_sets_and_of_steps_are_those_of_an_average(n: int) -> None:
    assert sum(math.comb(n - 2, t) * weight for t, weight in enumerate(set_weights(n))) == pytest.approx(1)
    chance = np.random.default_rng(n)
    positions = np.argsort([chance.permutation(n) for _ in range(20_000)], axis=1)
    weights = step_weights(positions)
    assert np.abs(weights).max() < 6
    assert weights.mean(axis=0) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_over_all_orders_the_weighted_steps_average_to_the_index(n: int) -> None:
    """So that their average over random orders is unbiased."""
    flags, value = FLAGS[:n], random_value(FLAGS[:n], 10 + n)
    orders = list(itertools.permutations(range(n)))
    weights = step_weights(np.argsort(orders, axis=1))
    steps = np.empty((len(orders), n))
    for line, order in enumerate(orders):
        for before, flag in enumerate(order):
            without = frozenset(flags[other] for other in order[:before])
            steps[line, flag] = value(without | {flags[flag]}) - value(without)
    exact = index_by_definition(flags, value)
    for (i, one), (j, other) in itertools.combinations(enumerate(flags), 2):
        assert (weights[:, i, j] * steps[:, i]).mean() == pytest.approx(exact[one, other], abs=1e-5)
        assert (weights[:, j, i] * steps[:, j]).mean() == pytest.approx(exact[one, other], abs=1e-5)


def test_sets_that_only_the_roadmaps_order_visits_count_towards_all_sets() -> None:
    flags, value = ("a", "b"), random_value(("a", "b"), 1)
    orders = [("a", "b")] * 3
    assert pairwise_interactions(flags, orders, without_noise(value), 10)["effect"].isna().all()
    found = pairwise_interactions(flags, orders, without_noise(value), 10, not_random=[("b", "a")])
    assert (found["method"] == ALL_SETS).all()
    exact = value(frozenset("ab")) - value(frozenset("a")) - value(frozenset("b")) + value(frozenset())
    assert found["effect"].tolist() == pytest.approx([exact])


def test_sampled_orders_are_unbiased() -> None:
    flags, value = FLAGS, random_value(FLAGS, 3)
    exact = index_by_definition(flags, value)
    chance = np.random.default_rng(0)
    found = [pairwise_interactions(flags, draw_orders(chance, flags, 12), without_noise(value), 10) for _ in range(150)]
    assert all((frame["method"] == SAMPLED_ORDERS).all() for frame in found)
    for pair in itertools.combinations(flags, 2):
        lines = [effects(frame) for frame in found]
        mine = np.array([line.get(pair, line.get(pair[::-1], math.nan)) for line in lines])
        mine = mine[np.isfinite(mine)]
        assert abs(mine.mean() - exact[pair]) < 3.5 * mine.std(ddof=1) / math.sqrt(len(mine)), pair


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 6), st.integers(4, 12), st.integers(0, 10**6))
def test_an_additive_objective_has_no_interactions_whatever_the_orders(n: int, number: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    flags = "abcdef"[:n]
    worths = dict(zip(flags, chance.normal(0, 3, n), strict=True))
    orders = draw_orders(chance, flags, number)
    found = pairwise_interactions(flags, orders, without_noise(lambda chosen: sum(worths[flag] for flag in chosen)), 10)
    known = found.dropna(subset=["effect"])
    assert known["effect"].to_numpy() == pytest.approx(0, abs=1e-9)
    assert known["se"].to_numpy() == pytest.approx(0, abs=1e-6)
    if (found["method"] == SAMPLED_ORDERS).any():
        for line in found.to_dict("records"):
            first = sum(order.index(line["flag"]) < order.index(line["other"]) for order in orders)
            assert math.isnan(line["effect"]) == (min(first, number - first) < 2)


def test_the_noise_of_runs_that_orders_share_is_counted_as_it_adds_up() -> None:
    """An additive objective: the error is of the runs alone. Nine orders of four flags share most of their runs."""
    chance = np.random.default_rng(7)
    orders = draw_orders(np.random.default_rng(2), "abcd", 9)
    visited = sets_of("abcd")
    estimates, variances = [], []
    for _ in range(200):
        luck = dict(zip(visited, chance.normal(0, 1, len(visited)), strict=True))
        found = pairwise_interactions("abcd", orders, lambda chosen, luck=luck: SetMean(luck[chosen], 1.0), 1e6)  # type: ignore[misc]
        assert (found["method"] == SAMPLED_ORDERS).all()
        estimates.append(found["effect"])
        variances.append(found["se"] ** 2)
    true = np.var(estimates, axis=0, ddof=1)
    stated = np.mean(variances, axis=0)
    assert np.isfinite(true).sum() >= 5
    true, stated = true[np.isfinite(true)], stated[np.isfinite(true)]
    assert (stated > 0.8 * true).all()  # never too small
    assert stated.mean() < 1.5 * true.mean()


def test_a_set_without_a_result_takes_out_its_orders_and_unknown_noise_the_error() -> None:
    orders = draw_orders(np.random.default_rng(4), FLAGS, 12)
    lost = frozenset(orders[0][:2])
    through = sum(frozenset(order[:2]) == lost for order in orders)
    found = pairwise_interactions(
        FLAGS, orders, lambda chosen: SetMean(math.nan if chosen == lost else float(len(chosen)), 1.0), 10
    )
    assert (found["orders"] == 12 - through).all() and found["effect"].notna().any()
    unknown = pairwise_interactions(FLAGS, orders, lambda chosen: SetMean(float(len(chosen)), math.nan), 0)
    assert unknown["effect"].notna().any()
    assert unknown[["se", "low", "high", "p", "p_adjusted"]].isna().all(axis=None)
    few = pairwise_interactions(FLAGS, orders[:3], lambda chosen: SetMean(float(len(chosen)), 1.0), 10)
    assert few["effect"].isna().all()


def simulate(n: int, number: int, seeds: int, size: float, share: float, studies: int) -> tuple[float, float]:
    """Coverage of the intervals, and the share of studies in which any pair is significantly off its true value.

    Runs have noise of standard deviation 1, its variance pooled over all runs; a `share` of the pairs interacts, with a
    standard deviation of `size`.
    """
    chance = np.random.default_rng(0)
    worths = chance.normal(0, 1.5, n)
    pairs = list(itertools.combinations(range(n), 2))
    strength = {pair: chance.normal(0, size) * (chance.random() < share) for pair in pairs}
    inside, wrong = [], []
    for _ in range(studies):
        orders = [[str(flag) for flag in chance.permutation(n)] for _ in range(number)]
        visited = list(dict.fromkeys(frozenset(order[:end]) for order in orders for end in range(n + 1)))
        on = np.array([[str(flag) in chosen for flag in range(n)] for chosen in visited], dtype=float)
        true = on @ worths + sum(value * on[:, i] * on[:, j] for (i, j), value in strength.items())
        luck = chance.normal(0, 1, (len(visited), seeds))
        variance = float(luck.var(axis=1, ddof=1).mean()) / seeds
        reached = dict(zip(visited, true + luck.mean(axis=1), strict=True))
        found = pairwise_interactions(
            [str(flag) for flag in range(n)],
            orders,
            lambda chosen, reached=reached, variance=variance: SetMean(reached[chosen], variance),  # type: ignore[misc]
            len(visited) * (seeds - 1),
        ).dropna(subset=["effect"])
        exact = [
            strength[min(pair), max(pair)] for pair in zip(found["flag"].map(int), found["other"].map(int), strict=True)
        ]
        p = 2 * stats.t.sf(np.abs(found["effect"] - exact) / found["se"], found["df"])
        inside.extend(p > 0.05)
        wrong.append(bool((p * len(p) <= 0.05).any()))
    return float(np.mean(inside)), float(np.mean(wrong))


@pytest.mark.parametrize(
    ("n", "number", "seeds"),
    [
        *(pytest.param(*cell, marks=pytest.mark.slow) for cell in ((4, 5, 3), (12, 10, 2))),
        *(
            pytest.param(*cell, marks=pytest.mark.simulation)
            for cell in ((5, 10, 2), (8, 10, 3), (12, 5, 3), (12, 10, 5), (12, 20, 3))
        ),
    ],
)
@pytest.mark.parametrize(("size", "share"), [(0.0, 0.0), (0.7, 1.0), (2.0, 0.2)])
def test_intervals_cover_and_false_positives_are_rare(
    n: int, number: int, seeds: int, size: float, share: float
) -> None:
    coverage, wrong = simulate(n, number, seeds, size, share, 300)
    assert coverage >= 0.94
    assert wrong <= 0.07  # 0.05 and two standard errors
