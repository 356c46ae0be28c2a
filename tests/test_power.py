"""What a study can find, against simulations of whole studies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.power import TTestIndPower

from reports.statistics import holm, power_statement, seeds_needed_for, smallest_difference
from reports.statistics.contrasts import contrasts
from reports.statistics.noise import fit_noise

STEPS = [(row, row - 1) for row in range(1, 17)]


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_smallest_difference_is_detected_as_often_as_stated(seeds: int) -> None:
    """2,000 studies of 17 rows; Holm's correction, whose first step is nearly the one used."""
    difference = smallest_difference([seeds] * 17, STEPS)
    noise = np.random.default_rng(9).standard_normal((2000, 17, seeds))
    fit = fit_noise(noise.var(axis=2, ddof=1), np.full(17, seeds - 1.0), np.zeros(17, dtype=np.intp))
    pairs = np.array(STEPS)
    mean = noise.mean(axis=2)
    found = mean[:, pairs[:, 0]] - mean[:, pairs[:, 1]]
    found[:, 8] += difference
    p = contrasts(fit, np.full(17, float(seeds)), pairs).p_values(found)
    power = np.mean([holm(line)[8] <= 0.05 for line in p])
    assert 0.74 <= power <= 0.82


def test_many_seeds_and_one_comparison_are_the_textbooks() -> None:
    expected = TTestIndPower().solve_power(nobs1=60, alpha=0.05, power=0.8)
    assert smallest_difference([60, 60], [(1, 0)]) == pytest.approx(expected, rel=0.03)


def test_more_seeds_detect_less_and_the_unit_is_that_of_the_standard_deviation() -> None:
    sizes = [smallest_difference([seeds] * 5, [(row, 0) for row in range(1, 5)]) for seeds in (2, 3, 5, 10)]
    assert sizes == sorted(sizes, reverse=True)
    assert smallest_difference([3] * 5, [(1, 0)], sd=0.4) == pytest.approx(0.4 * smallest_difference([3] * 5, [(1, 0)]))


def test_the_number_of_seeds_that_settle_a_difference_is_the_smallest_that_does() -> None:
    pairs = [(row, 0) for row in range(1, 4)]
    seeds = seeds_needed_for(0.8, 4, pairs, sd=0.5)
    assert seeds is not None
    assert smallest_difference([seeds] * 4, pairs, 0.5) <= 0.8 < smallest_difference([seeds - 1] * 4, pairs, 0.5)
    assert seeds_needed_for(1e-6, 4, pairs, sd=0.5, most=20) is None


def test_a_plan_that_can_find_nothing_says_so() -> None:
    assert math.isnan(smallest_difference([1] * 17, STEPS))
    assert power_statement([1] * 17, STEPS).startswith("This plan can find nothing: with one seed per row")
    assert "80% power (16 comparisons, family-wise error 5%)" in power_statement([3] * 17, STEPS)
