"""Looks: how a study's error rate is shared between the tables that its extensions give."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.statistics.sequential import (
    FIRST_SHARE,
    INTERIM_SHARE,
    LATER_SHARE,
    Look,
    gives_variance,
    looks,
    over_looks,
)


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
