"""Statistics: worked by hand, against scipy and published examples, and under simulations where the truth is known."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

import reports.statistics
from reports.statistics import (
    COVERS_IMAGES,
    MCNEMAR,
    holm,
    paired_correctness,
    rank_correlation,
    summarise,
)

STUDIES = 1000
Correct = NDArray[np.bool_]


def by_seed(values: Iterable[float]) -> dict[int, float]:
    return dict(enumerate(values))


def make_runs(top1: Mapping[str, Sequence[float | None]]) -> pd.DataFrame:
    """A tidy frame: each row's accuracies by seed; None is a run that failed."""
    return pd.DataFrame(
        [
            {"row": row, "seed": seed, "status": "failed" if value is None else "done", "top1": value}
            for row, values in top1.items()
            for seed, value in enumerate(values)
        ]
    )


def images(gained: int, lost: int, both: int, neither: int) -> tuple[Correct, Correct]:
    """Two runs' correctness, by how many images only ours, only the base, both and neither get right."""
    ours = np.repeat([True, False, True, False], [gained, lost, both, neither])
    base = np.repeat([False, True, True, False], [gained, lost, both, neither])
    return ours, base


# --- mean and standard deviation -------------------------------------------------------------------------------------


def test_summary_by_hand() -> None:
    # mean (80 + 82 + 87) / 3 = 83; squares 9 + 1 + 16 = 26; sd = √(26 / 2)
    summary = summarise([80.0, 82.0, 87.0])
    assert (summary.mean, summary.seeds) == (83.0, 3)
    assert summary.sd == pytest.approx(math.sqrt(13))


def test_summary_of_few() -> None:
    assert summarise([80.0]).mean == 80 and math.isnan(summarise([80.0]).sd)
    nothing = summarise([])
    assert math.isnan(nothing.mean) and math.isnan(nothing.sd) and nothing.seeds == 0
    assert summarise([math.nan, 81.0]).seeds == 1


# --- one seed: the same test images ----------------------------------------------------------------------------------


def test_mcnemar_by_hand() -> None:
    # 8 images differ, 1 of them ours: p = 2·(C(8,0) + C(8,1))/2⁸ = 18/256; difference (1 − 7)/21
    found = paired_correctness(*images(1, 7, 1, 12))
    assert found.p == pytest.approx(18 / 256)
    assert found.mean == pytest.approx(-600 / 21)
    assert (found.method, found.covers) == (MCNEMAR, COVERS_IMAGES)
    assert "1 images right in this row alone, 7 in the base alone, of 21" in found.note


def test_tangos_interval_as_published() -> None:
    """Fagerland, Lydersen and Laake, Statistics in Medicine 33, 2014: for 1, 7 of 21, Tango's is -0.517 to -0.026."""
    found = paired_correctness(*images(1, 7, 1, 12))
    assert (found.low, found.high) == pytest.approx((-51.7, -2.6), abs=0.05)


@pytest.mark.parametrize(("gained", "lost", "rest"), [(1, 7, 13), (30, 12, 400), (0, 4, 96), (500, 300, 9200)])
def test_the_interval_ends_where_the_score_test_does(gained: int, lost: int, rest: int) -> None:
    """At each end the score, with the likeliest rates for that difference found by search, is 1.96 errors away."""
    n = gained + lost + rest
    found = paired_correctness(*images(gained, lost, rest, 0))
    for end in (found.low / 100, found.high / 100):
        lost_rates = np.linspace(max(0, -end), (1 - end) / 2, 2_000_001)[1:-1]
        likelihood = gained * np.log(lost_rates + end) + lost * np.log(lost_rates)
        likelihood += rest * np.log1p(-2 * lost_rates - end)
        lost_rate = lost_rates[np.argmax(likelihood)]
        error = math.sqrt((2 * lost_rate + end - end**2) / n)
        assert abs((gained - lost) / n - end) / error == pytest.approx(1.959964, rel=1e-3)


def test_the_interval_is_the_bootstraps_where_images_are_many() -> None:
    ours, base = images(130, 90, 1500, 280)
    found = paired_correctness(ours, base)

    def difference(mine: NDArray[np.float64], other: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return 100 * np.asarray(mine - other).mean(axis=axis)

    drawn = stats.bootstrap(
        (ours.astype(float), base.astype(float)), difference, paired=True, method="percentile", n_resamples=2000,
        batch=200, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == pytest.approx((drawn.low, drawn.high), abs=0.12)  # of a width of 2.9


def test_no_image_differs() -> None:
    # the ends are ± z²/(n + z²), here with n = 100
    found = paired_correctness(*images(0, 0, 90, 10))
    z2 = stats.norm.ppf(0.975) ** 2
    assert (found.mean, found.p) == (0, 1)
    assert (found.low, found.high) == pytest.approx((-100 * z2 / (100 + z2), 100 * z2 / (100 + z2)))


def test_every_image_differs() -> None:
    found = paired_correctness(*images(50, 0, 0, 0))
    assert (found.mean, found.high) == (100, 100)
    assert found.low == pytest.approx(100 * (50 - 3.8415) / (50 + 3.8415), abs=15)
    assert found.p == pytest.approx(2 / 2**50)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 200))
def test_swapping_the_two_turns_the_sign_and_no_verdict_contradicts_the_interval(
    gained: int, lost: int, rest: int
) -> None:
    if gained + lost + rest == 0:
        return
    one, other = paired_correctness(*images(gained, lost, rest, 0)), paired_correctness(*images(lost, gained, 0, rest))
    assert (one.low, one.high, one.p) == pytest.approx((-other.high, -other.low, other.p), abs=1e-6)
    assert -100 <= one.low <= one.mean <= one.high <= 100
    if one.p <= 0.05:
        assert one.low > 0 or one.high < 0


def test_what_is_not_one_bool_an_image_is_refused() -> None:
    ours, base = images(1, 2, 3, 4)
    with pytest.raises(ValueError, match="one bool an image"):
        paired_correctness(ours.astype(np.uint16), base)
    with pytest.raises(ValueError, match="same test images"):
        paired_correctness(ours[:-1], base)
    assert math.isnan(paired_correctness(ours[:0], base[:0]).mean)


# --- many comparisons ------------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    # ascending .005·4 = .02, .01·3 = .03, .03·2 = .06, .04·1 = .04 → no less than the one before: .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == pytest.approx([1, 1])  # 2·.5, then 1·.6 → 1
    assert holm([0.04]) == pytest.approx([0.04])
    assert len(holm([])) == 0


def test_missing_comparisons_do_not_count() -> None:
    adjusted = holm([math.nan, 0.01, math.nan, 0.04])
    assert adjusted == pytest.approx([math.nan, 0.02, math.nan, 0.04], nan_ok=True)
    assert np.isnan(holm([math.nan])).all()


def test_holm_on_scipys_example_of_many_p_values() -> None:
    """The p-values of scipy's `false_discovery_control`; Holm's rejections step down 0.05/15, 0.05/14, 0.05/13, …"""
    p = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.324,
        0.4262,
        0.5719,
        0.6528,
        0.759,
        1.0,
    ]
    assert (holm(p) <= 0.05).sum() == 3  # .0019 ≤ .05/13 = .00385, .0095 > .05/12 = .00417
    assert (holm(p) >= stats.false_discovery_control(p) - 1e-12).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_holm_keeps_order_and_lies_between_p_and_bonferroni(p: list[float], random: Random) -> None:
    adjusted = holm(p)
    assert (np.array(p) <= adjusted).all()
    assert (adjusted <= np.minimum(len(p) * np.array(p), 1)).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    shuffled = random.sample(range(len(p)), len(p))
    assert holm([p[place] for place in shuffled]) == pytest.approx(adjusted[shuffled])


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.1, 1.2])


@pytest.mark.parametrize(("gained", "lost", "n"), [(0.06, 0.04, 500), (0.2, 0.01, 200), (0.004, 0.003, 1000)])
def test_the_interval_of_one_seed_covers_a_true_difference(gained: float, lost: float, n: int) -> None:
    chance = np.random.default_rng(3)
    covered = []
    for only_ours, only_base, rest in chance.multinomial(n, [gained, lost, 1 - gained - lost], 600):
        found = paired_correctness(*images(only_ours, only_base, rest, 0))
        covered.append(found.low <= 100 * (gained - lost) <= found.high)
    assert 0.925 <= np.mean(covered) <= 0.985


# --- ranks ---------------------------------------------------------------------------------------------------------


def test_rank_correlations_of_scipys_examples() -> None:
    """The examples in the documentation of `spearmanr` and `kendalltau`."""
    found = rank_correlation([1, 2, 3, 4, 5], [5, 6, 7, 8, 7])
    assert (found.rho, found.n, found.method) == (pytest.approx(0.8207826816681233), 5, "Spearman")
    found = rank_correlation([12, 2, 1, 12, 2], [1, 4, 7, 1, 0], method="Kendall")
    assert (found.rho, found.p) == pytest.approx((-0.47140452079103173, 0.2827454599327748))


def test_rank_correlation_by_hand() -> None:
    # squared rank differences 0, 1, 1, 1, 1: rho = 1 − 6·4/(5·24) = 0.8; z = atanh .8 = 1.0986, se = √(1.32/2) = .8124
    found = rank_correlation([1, 2, 3, 4, 5], [1, 3, 2, 5, 4])
    assert found.rho == pytest.approx(0.8)
    half = 1.959964 * math.sqrt(1.32 / 2)
    assert (found.low, found.high) == pytest.approx((math.tanh(1.098612 - half), math.tanh(1.098612 + half)), abs=1e-5)
    # of the 120 orders 1, 4 and 3 have squared differences of 0, 2 and 4; as many are as far the other way: 16/120
    assert found.p == pytest.approx(16 / 120)
    # 2 of 10 pairs are discordant: tau = (8 − 2)/10, se = √(.437/1)
    found = rank_correlation([1, 2, 3, 4, 5], [1, 3, 2, 5, 4], method="Kendall")
    assert found.rho == pytest.approx(0.6)
    assert found.high == pytest.approx(math.tanh(math.atanh(0.6) + 1.959964 * math.sqrt(0.437)), abs=1e-5)


def test_perfect_agreement_of_few_is_not_certainty() -> None:
    found = rank_correlation([1, 2, 3, 4], [10, 20, 30, 40])
    assert (found.rho, found.high) == (1, 1)
    assert found.low < 0  # four ranks agree once in 24 by luck
    assert found.p == pytest.approx(2 / 24)
    found = rank_correlation(list(range(30)), list(range(0, -30, -1)))
    assert (found.rho, found.low) == (-1, -1) and -1 < found.high < -0.98


def test_rank_correlation_of_too_little() -> None:
    found = rank_correlation([1, 2, 3], [1, 3, 2])
    assert found.rho == pytest.approx(0.5) and math.isnan(found.low) and math.isnan(found.high) and found.n == 3
    nothing: list[tuple[list[float], list[float]]] = [
        ([1, 2, 3, 4], [5, 5, 5, 5]),
        ([], []),
        ([1], [2]),
        ([math.nan, 1, 2], [1, math.nan, math.nan]),
    ]
    for a, b in nothing:
        assert math.isnan(rank_correlation(a, b).rho)
    assert rank_correlation([1, 2, math.nan, 4, 5, 6], [1, 2, 3, 4, 5, math.nan]).n == 4
    with pytest.raises(ValueError, match="one length"):
        rank_correlation([1, 2], [1])


@pytest.mark.parametrize("method", ["Spearman", "Kendall"])
def test_the_interval_of_a_rank_correlation_covers(method: Literal["Spearman", "Kendall"]) -> None:
    chance = np.random.default_rng(10)
    true = {"Spearman": 6 / math.pi * math.asin(0.3), "Kendall": 2 / math.pi * math.asin(0.6)}[method]  # Pearson 0.6
    covered = []
    for _ in range(500):
        a, b = chance.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 14).T
        found = rank_correlation(a, b, method=method)
        covered.append(found.low <= true <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_statistics_know_neither_training_nor_tables() -> None:
    for module in Path(reports.statistics.__file__).parent.glob("*.py"):
        tree = ast.parse(module.read_text(encoding="utf-8"))
        named = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        named += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        own = [name for name in named if name.split(".")[0] in ("ablations", "modernize", "reports", "torch")]
        leaves = ("reports.errors", "reports.predictions", "reports.statuses")
        assert not [name for name in own if name not in leaves and not name.startswith("reports.statistics.")]
