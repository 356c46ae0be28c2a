"""Shapley values from sampled orders: exact where they must be, by hand, and intervals that cover the true values.

The slow test writes the coverage table of docs/grids-and-orders.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reports.statistics import distance_from_order, sampled_shapley, worths_in_order
from reports.statistics.order_walk import SetMean, SetMeans
from reports.statistics.weighted_contrasts import RowValues

FLAGS = ("a", "b", "c", "d", "e")
WORTHS = {"a": 3.0, "b": -1.0, "c": 0.5, "d": 7.0, "e": 0.0}
Value = Callable[[frozenset[str]], float]


def additive(chosen: frozenset[str]) -> float:
    return 70 + sum(WORTHS[flag] for flag in chosen)


def interacting(chosen: frozenset[str]) -> float:
    """Additive, but a and b are worth 4 more together, and d and e and a 6 less."""
    return additive(chosen) + 4 * ({"a", "b"} <= chosen) - 6 * ({"a", "d", "e"} <= chosen)


# what flags are worth together is shared out evenly: a: 3 + 4/2 − 6/3, b: −1 + 2, d: 7 − 2, e: 0 − 2
INTERACTING = {"a": 3.0, "b": 1.0, "c": 0.5, "d": 5.0, "e": -2.0}


def shapley_exact(flags: Collection[str], value: Value) -> dict[str, float]:
    """Each flag's Shapley value by its definition, from the values of all 2^n sets of flags."""
    names, n = list(flags), len(flags)
    sets = [frozenset(chosen) for size in range(n + 1) for chosen in itertools.combinations(names, size)]
    return {
        flag: math.fsum(
            (value(chosen | {flag}) - value(chosen)) / (n * math.comb(n - 1, len(chosen)))
            for chosen in sets
            if flag not in chosen
        )
        for flag in names
    }


def without_noise(orders: Sequence[Sequence[str]], value: Value) -> pd.DataFrame:
    return sampled_shapley(orders, lambda chosen: SetMean(value(chosen), 0.0), 10)


def draw_orders(chance: np.random.Generator, number: int, flags: Sequence[str] = FLAGS) -> list[list[str]]:
    return [[flags[place] for place in chance.permutation(len(flags))] for _ in range(number)]


def by_letters(values: Mapping[str, float]) -> Value:
    return lambda chosen: values["".join(sorted(chosen))]


def test_worths_in_an_order() -> None:
    assert worths_in_order(["a", "b"], by_letters({"": 1.0, "a": 3.0, "ab": 2.0})) == {"a": 2.0, "b": -1.0}
    assert worths_in_order([], additive) == {}


def test_the_definition_by_hand() -> None:
    """The glove game: a left glove and either of two right ones are a pair. Left 2/3, each right one 1/6."""

    def pairs(chosen: frozenset[str]) -> float:
        return float("left" in chosen and len(chosen) > 1)

    assert shapley_exact(["left", "one", "two"], pairs) == pytest.approx({"left": 2 / 3, "one": 1 / 6, "two": 1 / 6})
    assert shapley_exact(FLAGS, interacting) == pytest.approx(INTERACTING)


def test_all_orders_give_the_definitions_value() -> None:
    chance = np.random.default_rng(6)
    table = {
        frozenset(chosen): chance.normal() for size in range(5) for chosen in itertools.combinations(FLAGS[:4], size)
    }
    every = without_noise(list(itertools.permutations(FLAGS[:4])), table.__getitem__)
    exact = shapley_exact(FLAGS[:4], table.__getitem__)
    assert dict(zip(every["flag"], every["worth"], strict=True)) == pytest.approx(exact)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_an_additive_objective_is_exact_from_any_orders(number: int) -> None:
    orders = draw_orders(np.random.default_rng(number), number)
    found = without_noise(orders, additive)
    assert list(found["flag"]) == orders[0]
    assert list(found["worth"]) == [WORTHS[flag] for flag in orders[0]]
    assert list(found["min"]) == list(found["max"]) == list(found["worth"])
    assert (found["orders"] == number).all()
    if number > 1:
        assert (found["se"] == 0).all() and (found["sd"] == 0).all()
        assert list(found["low"]) == list(found["high"]) == list(found["worth"])
    else:  # one order shows nothing of how effects vary over orders
        assert found[["se", "low", "high", "sd"]].isna().all(axis=None)


def test_the_error_by_hand() -> None:
    """a is worth 1.5 before b and 4.5 after it, in the orders ab, ab and ba; each mean has an error variance of 0.25.

    Over orders the variance is 3, of their mean 1. The first two orders share their runs: of the mean effect, the noise
    is (4 · 0.5 + 0.5)/9 = 0.2778; in the variance over orders it is expected to be (1.5 − 2.5/3)/(3 · 2) = 0.1111.
    """
    values = by_letters({"": 0.0, "a": 1.5, "b": 0.0, "ab": 4.5})
    orders = [("a", "b"), ("a", "b"), ("b", "a")]
    a = sampled_shapley(orders, lambda chosen: SetMean(values(chosen), 0.25), 8).set_index("flag").loc["a"]
    assert (a["worth"], a["min"], a["max"], a["sd"]) == pytest.approx((2.5, 1.5, 4.5, math.sqrt(3)))
    shared = 2.5 / 9 - 1 / 9
    assert a["se"] == pytest.approx(math.sqrt(1 + shared))
    assert a["df"] == pytest.approx((1 + shared) ** 2 / (1 / 2 + shared**2 / 8))
    half = stats.t.ppf(0.975, a["df"]) * a["se"]
    assert (a["low"], a["high"]) == pytest.approx((2.5 - half, 2.5 + half))


def test_if_orders_do_not_matter_the_error_is_that_of_the_runs() -> None:
    """Equal effects in all orders: the variance over orders is less than the noise in it; the noise is the floor."""
    orders = [("a", "b"), ("b", "a")]
    a = sampled_shapley(orders, lambda chosen: SetMean(float(len(chosen)), 0.25), 8).set_index("flag").loc["a"]
    assert (a["se"], a["df"]) == pytest.approx((math.sqrt(4 * 0.25 / 4), 8))


def test_an_interaction_within_its_stated_error() -> None:
    """500 times 30 orders: the interval covers the exact value, and the error is the size that it says."""
    chance = np.random.default_rng(11)
    inside, estimates, errors = [], [], []
    for _ in range(500):
        found = without_noise(draw_orders(chance, 30), interacting).set_index("flag").loc[["a", "b", "d", "e"]]
        exact = np.array([INTERACTING[flag] for flag in found.index])
        inside.append((found["low"].to_numpy() <= exact) & (exact <= found["high"].to_numpy()))
        estimates.append(found["worth"].to_numpy())
        errors.append(found["se"].to_numpy())
    assert ((np.mean(inside, axis=0) >= 0.92) & (np.mean(inside, axis=0) <= 0.985)).all()
    assert np.mean(np.square(errors), axis=0) == pytest.approx(np.var(estimates, axis=0), rel=0.2)
    assert np.mean(estimates, axis=0) == pytest.approx([INTERACTING[flag] for flag in "abde"], abs=0.08)  # 3.5 errors


def coverage(flags: int, orders: int, seeds: int, size: float, log_sd: float, studies: int) -> tuple[float, float]:
    """The share of intervals that cover the true value, and stated over true error (root mean squares).

    Runs have noise of standard deviation 1, or log-normal with `log_sd`; every two flags interact, with a standard
    deviation of `size`.
    """
    chance = np.random.default_rng(1)
    names = [str(number) for number in range(flags)]
    worths = chance.normal(0, 1.5, flags)
    strength = np.triu(chance.normal(0, size, (flags, flags)), 1)
    exact = worths + (strength.sum(axis=0) + strength.sum(axis=1)) / 2
    inside, estimates, errors = [], [], []
    for _ in range(studies):
        drawn = draw_orders(chance, orders, names)
        sets = list(dict.fromkeys(frozenset(order[:end]) for order in drawn for end in range(flags + 1)))
        on = np.array([[name in chosen for name in names] for chosen in sets], dtype=float)
        true = on @ worths + np.einsum("si,ij,sj->s", on, strength, on)
        luck = np.exp(log_sd * chance.normal(size=(len(sets), 1))) * chance.normal(size=(len(sets), seeds))
        rows = {
            str(sorted(chosen)): RowValues.all(line) for chosen, line in zip(sets, true[:, None] + luck, strict=True)
        }
        means = SetMeans.of(rows)
        found = sampled_shapley(drawn, lambda chosen, means=means: means.of_row(str(sorted(chosen))), means.noise_df)  # type: ignore[misc]
        found = found.set_index("flag").loc[names]
        inside.append(((found["low"] <= exact) & (exact <= found["high"])).to_numpy())
        estimates.append(found["worth"].to_numpy())
        errors.append(found["se"].to_numpy())
    return float(np.mean(inside)), float(np.sqrt(np.mean(np.square(errors)) / np.mean(np.var(estimates, axis=0))))


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_intervals_cover_runs_noise_and_sampled_orders(size: float) -> None:
    covered, ratio = coverage(4, 6, 2, size, 0.0, 200)
    assert 0.92 <= covered <= 0.985
    assert 0.95 <= ratio <= 1.2  # never too small; the floor makes it a little large


NUMBERS = [(3, 6, 2), (5, 10, 2), (5, 5, 3), (12, 10, 2), (12, 20, 3)]  # flags, orders, seeds
NOISES = [(0.0, 0.0), (0.7, 0.0), (2.0, 0.0), (0.7, 0.6)]  # size of interactions, log-sd of rows


@pytest.mark.parametrize(
    ("flags", "orders", "seeds", "size", "log_sd"),
    [  # the slow ones are half of the cells of each number and of each noise
        pytest.param(*numbers, *noise, marks=pytest.mark.simulation if (place + other) % 2 else pytest.mark.slow)
        for place, numbers in enumerate(NUMBERS)
        for other, noise in enumerate(NOISES)
    ],
)
def test_intervals_cover_in_every_cell(flags: int, orders: int, seeds: int, size: float, log_sd: float) -> None:
    covered, ratio = coverage(flags, orders, seeds, size, log_sd, 300)
    assert 0.935 <= covered <= 0.985
    assert 0.95 <= ratio <= 1.2


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 5), st.integers(1, 4))
def test_worths_add_up(data: st.DataObject, n: int, orders: int) -> None:
    """Efficiency: over any orders, worths sum to what all flags reach less what none does."""
    flags = FLAGS[:n]
    sets = [frozenset(chosen) for size in range(n + 1) for chosen in itertools.combinations(flags, size)]
    values = {chosen: float(data.draw(st.integers(-1000, 1000))) for chosen in sets}
    drawn = [data.draw(st.permutations(flags)) for _ in range(orders)]
    found = without_noise(drawn, values.__getitem__)
    gain = values[frozenset(flags)] - values[frozenset()]
    assert found["worth"].sum() == pytest.approx(gain, abs=1e-9)
    assert (found["min"] <= found["worth"] + 1e-9).all() and (found["worth"] <= found["max"] + 1e-9).all()
    assert math.fsum(shapley_exact(flags, values.__getitem__).values()) == pytest.approx(gain, abs=1e-9)


def test_a_set_without_a_result_takes_out_its_orders_and_unknown_noise_the_error() -> None:
    orders = [("a", "b", "c"), ("b", "a", "c"), ("c", "b", "a"), ("c", "a", "b")]
    lost = frozenset("a")
    found = without_noise(orders, lambda chosen: math.nan if chosen == lost else additive(chosen))
    assert (found["orders"] == 3).all() and list(found["worth"]) == [WORTHS[flag] for flag in "abc"]
    nothing = without_noise(orders, lambda chosen: math.nan)
    assert (nothing["orders"] == 0).all() and nothing["worth"].isna().all()
    assert list(nothing.columns) == list(found.columns)
    unknown = sampled_shapley(orders, lambda chosen: SetMean(interacting(chosen | {"d", "e"}), math.nan), 0)
    assert unknown["worth"].notna().all() and unknown["sd"].notna().all()
    assert unknown[["se", "low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize("orders", [[], [("a", "b"), ("a", "c")], [("a", "a")], [("a", "b"), ("a",)]])
def test_orders_of_different_flags_are_refused(orders: list[tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match="same flags"):
        without_noise(orders, additive)


# ---- an order against the average over orders


def test_distance_from_an_order_by_hand() -> None:
    """a before b: a 1, b 5; after it: a 3, b 3. Averages 2 and 4, each with sd √2; the order a, b is 1 off for both."""
    value = by_letters({"": 0.0, "a": 1.0, "b": 3.0, "ab": 6.0})
    shapley = without_noise([("a", "b"), ("b", "a")], value)
    found = distance_from_order(worths_in_order(("a", "b"), value), shapley)
    assert list(found.frame.columns) == ["flag", "in_order", "worth", "difference", "spreads"]
    assert list(found.frame["difference"]) == [-1, 1]
    assert list(found.frame["spreads"]) == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2)])
    assert (found.distance, found.typical) == pytest.approx((1, math.sqrt(2)))
    assert found.spearman.n == 2 and math.isnan(found.spearman.low)


def test_an_additive_objective_is_no_distance_from_any_order() -> None:
    shapley = without_noise(draw_orders(np.random.default_rng(0), 5), additive)
    found = distance_from_order(worths_in_order(FLAGS, additive), shapley)
    assert (found.distance, found.typical) == (0, 0)
    assert (found.frame["spreads"] == 0).all()
    assert (found.spearman.rho, found.kendall.rho) == (1, 1)
    off = distance_from_order({**WORTHS, "a": 4.0, "b": math.nan}, shapley).frame.set_index("flag")["spreads"]
    assert off["a"] == math.inf and math.isnan(off["b"]) and off["c"] == 0


def test_a_drawn_order_is_at_the_typical_distance() -> None:
    chance = np.random.default_rng(9)
    shapley = without_noise(draw_orders(chance, 200), interacting)
    distances = [
        distance_from_order(worths_in_order(order, interacting), shapley) for order in draw_orders(chance, 200)
    ]
    assert np.sqrt(np.mean([found.distance**2 for found in distances])) == pytest.approx(distances[0].typical, rel=0.1)
