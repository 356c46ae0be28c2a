"""Several studies combined: statistics over studies, tables, agreement of the mean, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from statsmodels.stats.multitest import multipletests

from ablations.combined_reporting import combined_report
from ablations.studies.folder import read_study
from ablations.studies.schema import Study
from reports.report import Report
from reports.statistics.across_studies import across_studies

HOME = Path(__file__).parent.parent
SETTINGS = HOME / "docs/results/settings"
EIGHT = ("01", "03", "06", "08", "10", "12", "13", "15")


def published(*names: str) -> dict[str, tuple[Study, Path]]:
    return {name: (read_study(SETTINGS / name), SETTINGS / name) for name in names}


@pytest.fixture(scope="module")
def eight() -> Report:
    return combined_report(published(*EIGHT))


# ---- statistics

DIFFERENCES = arrays(float, st.tuples(st.integers(1, 5), st.integers(2, 7)), elements=st.floats(-20, 20, width=16))


@settings(max_examples=40, deadline=None)
@given(DIFFERENCES)
def test_each_comparison_is_a_t_test_over_studies_corrected_by_holm(values: np.ndarray) -> None:
    found = across_studies(pd.DataFrame(values))
    for line, own in zip(found.itertuples(), values, strict=True):
        assert line.difference == pytest.approx(own.mean(), abs=1e-9)
        assert line.same_sign == sum(np.sign(own) == np.sign(own.mean()))
        if np.ptp(own) == 0:
            assert line.verdict == "not tested" and line.reason == "no spread between studies"
            continue
        test = stats.ttest_1samp(own, 0.0)
        interval = test.confidence_interval(0.95)
        assert line.sd == pytest.approx(own.std(ddof=1))
        assert (line.low, line.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
        assert line.p == pytest.approx(test.pvalue, abs=1e-12) and line.df == len(own) - 1
    tested = found[found["p"].notna()]
    if len(tested):
        rejected, adjusted, *_ = multipletests(tested["p"], alpha=0.05, method="holm")
        assert tested["p_adjusted"].to_numpy() == pytest.approx(adjusted)
        assert (tested["verdict"].isin(["better", "worse"]).to_numpy() == rejected).all()


@settings(max_examples=40, deadline=None)
@given(DIFFERENCES, st.randoms())
def test_the_order_of_studies_and_the_unit_change_nothing(values: np.ndarray, chance: random.Random) -> None:
    frame = pd.DataFrame(values)
    order = list(frame.columns)
    chance.shuffle(order)
    numbers = ["difference", "sd", "low", "high", "p", "p_adjusted"]
    found, shuffled, turned = (across_studies(one) for one in (frame, frame[order], -frame))
    np.testing.assert_allclose(found[numbers], shuffled[numbers], atol=1e-9)
    np.testing.assert_allclose(found["p_adjusted"], turned["p_adjusted"], atol=1e-12)
    opposite = {"better": "worse", "worse": "better"}
    assert [opposite.get(one, one) for one in found["verdict"]] == list(turned["verdict"])
    assert list(across_studies(-frame, "loss")["verdict"]) == list(found["verdict"])


def test_a_comparison_uses_the_studies_that_have_it() -> None:
    nan = float("nan")
    found = across_studies(pd.DataFrame([[1.0, nan, 2.0, 3.5], [nan, nan, 1.0, nan], [nan] * 4, [0.5, 0.5, nan, 0.5]]))
    assert list(found["studies"]) == [3, 1, 0, 3]
    assert found["p"].iloc[0] == pytest.approx(stats.ttest_1samp([1.0, 2.0, 3.5], 0).pvalue) == found["p_adjusted"][0]
    assert list(found["reason"]) == ["", "one study", "no study has a result", "no spread between studies"]
    assert found["low"].isna().tolist() == [False, True, True, True]
    assert found["difference"].iloc[1] == 1.0


def test_errors_are_as_rare_as_promised() -> None:
    """16 correlated comparisons without a true effect, over 8 studies whose noise differs."""
    chance = np.random.default_rng(0)
    studies, rows, repeats = 8, 16, 400
    scale = np.linspace(0.5, 2.0, studies)
    false, covered = 0, []
    for _ in range(repeats):
        values = chance.standard_normal((rows + 1, studies)) * scale
        found = across_studies(pd.DataFrame(np.diff(values, axis=0)))
        false += bool(found["verdict"].isin(["better", "worse"]).any())
        covered.append(((found["low"] < 0) & (found["high"] > 0)).mean())
    assert false / repeats < 0.075
    assert 0.935 < np.mean(covered) < 0.97
