"""Looks: how a study's error rate is shared between the tables that its extensions give."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.statistics import compare
from reports.statistics.contrasts import contrasts
from reports.statistics.noise import fit_noise
from reports.statistics.power import detectable_difference, study_power
from reports.statistics.precision import describe_precision, seeds_needed
from reports.statistics.sequential import (
    FIRST_SHARE,
    INTERIM_SHARE,
    LATER_SHARE,
    Look,
    compare_over_looks,
    describe_looks,
    gives_variance,
    looks,
    over_looks,
)

FOLDER = Path(__file__).parents[1] / "docs" / "statistics"
sys.path.insert(0, str(FOLDER))
import looks as looks_simulation  # noqa: E402

SPREADS = looks_simulation.SPREADS
Runs = pd.DataFrame


def lines(*stages: tuple[int, str, str]) -> pd.DataFrame:
    """A frame with (number of runs, why added, their status) for each stage."""
    return pd.DataFrame(
        [
            {"row": f"row{index}", "seed": stage, "stage": stage, "added": why, "status": status}
            for stage, (number, why, status) in enumerate(stages, 1)
            for index in range(number)
        ]
    )


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_the_shares_of_all_looks_never_exceed_the_error_rate(numbers: list[int]) -> None:
    whys = ["start", *["extended"] * (len(numbers) - 1)]
    found = looks(lines(*((number, why, "done") for number, why in zip(numbers, whys, strict=True))))
    assert len(found) == len(numbers)
    assert found[0] == Look(1, FIRST_SHARE)
    assert all(look.share > 0 and look.finished for look in found)
    assert sum(look.share for look in found) < FIRST_SHARE + LATER_SHARE


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
def test_one_extension_has_the_share_of_the_same_extension_in_two_parts(start: int, more: int, again: int) -> None:
    whole = looks(lines((start, "start", "done"), (more + again, "extended", "done")))[1].share
    parts = looks(lines((start, "start", "done"), (more, "extended", "done"), (again, "extended", "done")))[1:]
    assert sum(look.share for look in parts) == pytest.approx(whole)


def test_a_study_without_a_record_of_stages_has_one_look() -> None:
    frame = lines((6, "start", "done"))
    assert looks(frame.drop(columns=["stage", "added"])) == looks(frame) == (Look(1, FIRST_SHARE),)


def test_a_failed_run_does_not_keep_a_stage_open_and_a_pending_one_does() -> None:
    for status, look in {
        "failed": Look(1, FIRST_SHARE),
        "left": Look(1, INTERIM_SHARE, finished=False),
        "running": Look(1, INTERIM_SHARE, finished=False),
        "stopped": Look(1, INTERIM_SHARE, finished=False),
    }.items():
        frame = lines((6, "start", "done"))
        frame.loc[3, "status"] = status
        assert looks(frame) == (look,)


def test_an_unfinished_extension_keeps_the_first_look_and_adds_an_interim_one() -> None:
    frame = lines((6, "start", "done"), (4, "extended", "running"))
    assert looks(frame) == (Look(1, FIRST_SHARE), Look(2, INTERIM_SHARE, finished=False))


def test_a_study_extended_before_its_first_stage_ended_has_no_first_look_until_both_are_finished() -> None:
    frame = lines((6, "start", "running"), (4, "extended", "done"))
    assert looks(frame) == (Look(2, INTERIM_SHARE, finished=False),)


def test_a_pilot_and_the_stage_that_it_sizes_are_one_look() -> None:
    pilot = lines((6, "pilot", "done"))
    assert looks(pilot) == (Look(1, INTERIM_SHARE, finished=False),)
    both = lines((6, "pilot", "done"), (10, "precision 0.5", "done"))
    assert looks(both) == (Look(2, FIRST_SHARE),)
    assert gives_variance(both).tolist() == [True] * 6 + [False] * 10


def test_a_pilot_that_is_extended_by_hand_counts_as_a_look() -> None:
    found = looks(lines((6, "pilot", "done"), (6, "extended", "done")))
    assert [look.stage for look in found] == [1, 2]
    assert found[0].share == FIRST_SHARE
    assert found[1].share < LATER_SHARE


def test_an_extension_sized_by_the_variance_is_a_look_and_takes_the_variance_of_what_was_there() -> None:
    frame = lines((6, "start", "done"), (10, "extended to precision 0.5", "done"))
    assert [look.stage for look in looks(frame)] == [1, 2]
    assert gives_variance(frame).sum() == 6
    again = pd.concat([frame, lines((0, "start", "done"), (0, "start", "done"), (3, "extended", "done"))])
    assert gives_variance(again).all()


def test_an_earlier_claim_stands_only_while_the_data_of_today_still_point_there() -> None:
    plus, minus = np.array([1.0]), np.array([-1.0])
    shares, early, late = (0.8, 0.1), np.array([0.01]), np.array([0.5])
    assert over_looks([early, late], shares, [plus, plus], np.array([0.03])) == pytest.approx(0.03)
    assert over_looks([early, late], shares, [plus, plus], np.array([0.2])) == pytest.approx(0.2)
    assert over_looks([early, late], shares, [minus, plus], np.array([0.03])) == pytest.approx(1.0)
    assert over_looks([early, late], shares, [plus, plus], np.array([0.001])) == pytest.approx(0.0125)
    assert np.isnan(over_looks([early, late], shares, [plus, plus], np.array([np.nan]))).all()


def test_a_comparison_that_came_later_is_tested_at_its_own_looks() -> None:
    sign, nan = np.array([1.0, 1.0]), np.nan
    adjusted = [np.array([0.04, nan]), np.array([0.02, 0.002])]
    found = over_looks(adjusted, (0.8, 0.1), [np.array([1.0, nan]), sign], np.array([1e-4, 1e-4]))
    assert found == pytest.approx([0.05, 0.02])


# ---- comparisons over looks

PAIRS = [(f"row{number}", "row0") for number in range(1, 5)]


def study(seeds: Sequence[int], added: Sequence[str] = ("start",), step: float = 0.0, status: str = "done") -> Runs:
    """Runs of five rows; stage k has seeds[k] seeds, and the last row differs by `step`."""
    chance = np.random.default_rng(5)
    lines, seed = [], 0
    for stage, (number, why) in enumerate(zip(seeds, added, strict=True), 1):
        for _ in range(number):
            for row in range(5):
                value = 80 + 0.5 * chance.standard_normal() + (step if row == 4 else 0.0)
                last = stage == len(seeds)
                lines.append((f"row{row}", seed, stage, why, status if last else "done", value))
            seed += 1
    return pd.DataFrame(lines, columns=["row", "seed", "stage", "added", "status", "top1"])


def test_a_study_of_one_stage_differs_from_a_single_table_only_in_the_share() -> None:
    runs = study([4], step=1.5)
    single, found = compare(runs, PAIRS), compare_over_looks(runs, PAIRS)
    same = ["difference", "se", "df", "low", "high", "p"]
    pd.testing.assert_frame_equal(single[same], found[same])
    expected = np.minimum(single["p_adjusted"] / FIRST_SHARE, 1)
    np.testing.assert_allclose(found["p_adjusted"], expected)
    assert list(found["verdict"] != "inconclusive") == list(expected <= 0.05)


def test_an_unfinished_extension_needs_far_more_evidence_than_a_finished_one() -> None:
    finished = compare_over_looks(study([2, 3], ("start", "extended"), step=1.5), PAIRS)
    open_runs = study([2, 3], ("start", "extended"), step=1.5)
    pending = {"row": "row1", "seed": 9, "stage": 2, "why": "extended", "status": "left"}
    open_runs = pd.concat([open_runs, pd.DataFrame([pending])], ignore_index=True)
    assert compare_over_looks(open_runs, PAIRS)["p_adjusted"].iloc[3] > finished["p_adjusted"].iloc[3]


def test_a_verdict_of_the_first_look_is_withdrawn_once_the_data_no_longer_show_it() -> None:
    runs = study([3, 6], ("start", "extended"))
    first = (runs["row"] == "row1") & (runs["stage"] == 1)
    runs.loc[first, "top1"] += 3
    assert compare_over_looks(runs[runs["stage"] == 1], PAIRS)["verdict"].iloc[0] == "better"
    runs.loc[(runs["row"] == "row1") & (runs["stage"] == 2), "top1"] -= 1.5
    now = compare_over_looks(runs, PAIRS).iloc[0]
    assert now["low"] < 0 < now["high"] and now["verdict"] == "inconclusive"


def test_after_a_sized_stage_means_are_of_all_seeds_and_the_noise_is_of_the_first() -> None:
    runs = study([3, 5], ("pilot", "precision 0.4"))
    found = compare_over_looks(runs, PAIRS)
    pilot = compare(runs[runs["stage"] == 1], PAIRS)
    np.testing.assert_allclose(found["high"] - found["low"], (pilot["high"] - pilot["low"]) * np.sqrt(3 / 8))
    means = runs.groupby("row")["top1"].mean()
    np.testing.assert_allclose(found["difference"], [means[row] - means["row0"] for row, _ in PAIRS])


def test_the_seeds_needed_are_the_fewest_that_give_the_width() -> None:
    runs = study([3]).assign(base="row0", run=None, recipe="quick", images_seen=100)
    runs.loc[runs["row"] == "row0", "base"] = None
    table = compare(runs, PAIRS)
    widest = float((table["high"] - table["low"]).max()) / 2
    for half_width in (0.1, 0.2, 0.3):
        seeds = seeds_needed(runs, half_width)
        assert seeds is not None
        assert widest * np.sqrt(3 / seeds) <= half_width * (1 + 1e-6) < widest * np.sqrt(3 / (seeds - 1)) * (1 + 1e-6)
    assert seeds_needed(runs.assign(status="failed"), 0.5) is None
    assert seeds_needed(runs[runs["seed"] == 0], 0.5) is None


@pytest.mark.parametrize(("asked", "says"), [("0.1", "needs"), ("5", "widest 95% CI is ±")])
def test_a_report_says_which_width_was_reached(asked: str, says: str) -> None:
    runs = study([3, 5], ("pilot", f"precision {asked}")).assign(base="row0", run=None)
    runs.loc[runs["row"] == "row0", "base"] = None
    assert says in describe_precision(runs, compare_over_looks(runs, PAIRS))
    assert describe_precision(study([3]), compare_over_looks(study([3]), PAIRS)) == ""


def test_an_interim_report_does_not_count_seeds_that_have_not_finished() -> None:
    runs = study([3, 2], ("pilot", "precision 0.1"), status="left").assign(base="row0", run=None)
    runs.loc[runs["row"] == "row0", "base"] = None
    runs.loc[runs["status"] == "left", "top1"] = np.nan
    words = describe_precision(runs, compare_over_looks(runs, PAIRS))
    assert "with 3 finished seeds per row" in words


def test_the_power_of_a_sized_study_follows_from_the_noise_of_its_first_stage() -> None:
    sized = study([3, 5], ("pilot", "precision 0.5"))
    few, many = study_power(sized, PAIRS), study_power(sized.assign(stage=1, added="start"), PAIRS)
    assert few is not None and many is not None and few.in_sds > many.in_sds  # fewer degrees of freedom


def test_each_look_is_described() -> None:
    assert describe_looks(study([3])).startswith("Verdicts use 90% of the error rate")
    assert describe_looks(study([3], status="left")).startswith("Interim table: 15 of 15 runs have not finished")
    assert describe_looks(study([3, 2], ("start", "extended"))).startswith("Look 2, after 15 runs were extended to 25")
    assert "precision" in describe_looks(study([3], ("pilot",)))


def test_a_report_says_of_which_look_a_printed_p_value_may_be() -> None:
    """Extended at the cost of nearly all of its error rate: what is printed is the first look's p-value."""
    runs = study([2, 1], ("start", "extended"))
    earlier, now = looks(runs)
    found, first = compare_over_looks(runs, PAIRS), compare_over_looks(runs[runs["stage"] == 1], PAIRS)
    alone = compare(runs, PAIRS)["p_adjusted"] / now.share
    of_first = np.maximum(first["p_adjusted"], found["p"])
    assert (found["p_adjusted"] <= np.minimum(alone, 1) + 1e-12).all()
    assert np.isclose(found["p_adjusted"], of_first).any()
    words = describe_looks(runs)
    assert f"smallest of p / {earlier.share:.2g} of look 1 and p / {now.share:.2g} of this look" in words
    assert "(p / " not in words, "as if every p-value were of this look"
    assert "of look 1 and p / 0.01 of this table" in describe_looks(study([2, 1], ("start", "extended"), status="left"))


# ---- power


def test_the_detectable_difference_is_found_with_the_power_that_is_asked() -> None:
    pairs = np.array([(row, 0) for row in range(1, 17)])
    rng = np.random.default_rng(0)
    for seeds in (3, 5):
        size = detectable_difference(seeds, pairs, [0] * 17)
        values = rng.standard_normal((4000, 17, seeds))
        noise = fit_noise(values.var(axis=2, ddof=1), np.full(17, seeds - 1.0), np.zeros(17, dtype=np.intp))
        found = contrasts(noise, np.full(17, float(seeds)), pairs)
        means = values.mean(axis=2)
        p = found.p_values(means[:, 1:] + size - means[:, :1])
        assert np.mean(p <= 0.05 * FIRST_SHARE / 16) == pytest.approx(0.8, abs=0.03)


def test_more_seeds_detect_smaller_differences_and_one_seed_none() -> None:
    pairs = np.array([(1, 0), (2, 0)])
    sizes = [detectable_difference(seeds, pairs, [0, 0, 0]) for seeds in (1, 2, 3, 5, 10)]
    assert sizes[0] == np.inf and sizes == sorted(sizes, reverse=True)


# ---- the published simulations


def test_the_published_simulations_keep_their_promises() -> None:
    simulated = pd.read_csv(FOLDER / "looks.csv")
    assert (simulated["studies"] >= 1000).all()
    assert (simulated["false_claims"] <= 0.06).all()
    assert (simulated.loc[simulated["spread"] == "equal", "false_claims"] <= 0.05).all()
    sized = pd.read_csv(FOLDER / "precision.csv")
    assert (sized["studies"] >= 1000).all() and (sized["narrow_enough"] == 1).all()
    assert sized["coverage"].between(0.935, 0.97).all()
    assert sized.loc[sized["spread"] == "equal", "coverage"].between(0.935, 0.965).all()


def test_the_tables_of_the_page_are_those_of_the_simulations() -> None:
    page = (FOLDER.parent / "precision.md").read_text(encoding="utf-8")
    for name, table in looks_simulation.tables().items():
        assert f"<!-- {name} -->\n{table}<!-- /{name} -->" in page, "run docs/statistics/looks.py"


@pytest.mark.slow
def test_adding_a_seed_at_a_time_until_something_shows_is_wrong_in_five_percent_of_studies() -> None:
    cells = pd.DataFrame(looks_simulation.look_cells(1000, looks_simulation.CELLS[:2]))
    assert (cells["false_claims"] <= 0.06).all()


@pytest.mark.slow
def test_intervals_are_as_narrow_as_asked_and_cover_the_true_differences() -> None:
    cells = pd.DataFrame(looks_simulation.precision_cells(1000, SPREADS[:1]))
    assert (cells["narrow_enough"] == 1).all()
    assert cells["coverage"].between(0.935, 0.965).all()
