"""Agreement with the paper: worked by hand, against scipy, and on the published studies."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from modernize.roadmap import roadmap
from reports.agreement_table import agreement_table
from reports.paper_agreement import paper_agreement
from reports.statistics import Means, agreement, pairwise_accuracy, rerun_agreement
from reports.statistics.agreement import change_correlation

HOME = Path(__file__).parent.parent
PAPER = pd.read_csv(HOME / "tests/paper_roadmap.csv")


def paper(regime: str) -> Means:
    """The paper's rows under the enhanced recipe, side branches included."""
    rows = PAPER[(PAPER["regime"] == regime) & PAPER["adopted"].isin(["yes", "no"]) & (PAPER["row"] != "resnet")]
    rows = rows.set_index("row")
    return Means(rows["top1"].tolist(), (rows["top1_std"] / math.sqrt(3)).tolist())


def ours(study: str) -> Means:
    """Our means of the same rows, with a pooled standard deviation."""
    runs = pd.read_csv(HOME / f"docs/results/first-edition/{study}/results.csv")
    names = PAPER.loc[(PAPER["regime"] == "resnet50") & PAPER["adopted"].isin(["yes", "no"]), "row"][1:]
    top1 = runs[runs["status"] == "done"].groupby("row")["top1"]
    error = math.sqrt(top1.var().mean()) * top1.count() ** -0.5
    return Means(top1.mean().reindex(names).tolist(), error.reindex(names).tolist())


def test_pairwise_accuracy_by_hand() -> None:
    # pairs of 1 2 3 against 1 3 2: two of three alike; a tie counts half
    assert pairwise_accuracy(np.array([1.0, 2, 3]), np.array([1.0, 3, 2])) == pytest.approx(2 / 3)
    assert pairwise_accuracy(np.array([1.0, 2, 2]), np.array([1.0, 3, 2])) == pytest.approx(2.5 / 3)


def test_pairwise_accuracy_is_kendalls_tau_on_another_scale_and_changes_are_scipys() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 12))
    assert pairwise_accuracy(a, b) == pytest.approx((stats.kendalltau(a, b).statistic + 1) / 2)
    assert change_correlation(a, b) == pytest.approx(stats.spearmanr(np.diff(a), np.diff(b)).statistic)


def test_the_published_studies_and_their_yardsticks() -> None:
    roadmap, confirmation = (agreement(ours(study), paper("resnet50")) for study in ("roadmap", "confirmation"))
    assert roadmap.value == pytest.approx(0.27, abs=0.005) and roadmap.high < 0.5  # worse than a coin
    assert confirmation.value == pytest.approx(0.66, abs=0.005) and confirmation.low > 0.5
    assert agreement(paper("resnet200"), paper("resnet50")).value == pytest.approx(0.92, abs=0.005)
    assert rerun_agreement(paper("resnet50")) == pytest.approx(0.97, abs=0.01)


def test_the_correlation_of_the_papers_two_regimes() -> None:
    adopted = PAPER[PAPER["adopted"] == "yes"].pivot(index="row", columns="regime", values="top1")
    order = PAPER.loc[(PAPER["regime"] == "resnet50") & (PAPER["adopted"] == "yes"), "row"]
    both = adopted.loc[order].dropna()
    noiseless = [math.nan] * len(both)
    small, large = (Means(both[regime].tolist(), noiseless) for regime in ("resnet50", "resnet200"))
    changes = [both[regime].diff().iloc[1:].round(2) for regime in ("resnet50", "resnet200")]  # equal changes are ties
    found = agreement(small, large, of="changes").value
    assert found == pytest.approx(stats.spearmanr(*changes).statistic) and found == pytest.approx(0.80, abs=0.005)


def test_the_table_has_every_measure_with_both_regimes_and_the_regimes_with_each_other() -> None:
    runs = pd.read_csv(HOME / "docs/results/first-edition/confirmation/results.csv")
    averaged = runs.assign(ema_top1=runs["top1"].where(runs["row"] != "resnet"))  # no EMA weights in one row
    table = agreement_table(averaged, roadmap("pocket"))
    assert table is not None
    lines = {(line["measure"], line["with"]): line for line in table.frame.to_dict("records")}
    assert [line["steps"] for line in lines.values()] == [13, 13, 13, 13, 12, 12, 13]
    assert {line["rows"] for line in lines.values()} == {16}
    for found in paper_agreement(runs, roadmap("pocket"), "loss"):
        line, pairs = lines["test loss", f"{found.target} regime"], found.pairs
        assert (line["pairs"], line["pairs_low"], line["pairs_high"]) == (pairs.value, pairs.low, pairs.high)
    top1, ema = (lines[measure, "ResNet-50 regime"]["pairs"] for measure in ("top-1", "EMA top-1"))
    assert top1 == ema != lines["top-1", "ResNet-200 regime"]["pairs"]
    one_seed = agreement_table(runs[runs["seed"] == 10], roadmap("pocket"))
    assert one_seed and ["to" in cells[3].text for cells in one_seed.rows] == [False] * 4 + [True]
    few = runs[runs["row"].isin(["resnet", "width"])]
    assert agreement_table(few, roadmap("pocket")) is None


def test_the_interval_covers_the_agreement_of_the_true_means() -> None:
    """Over made-up pairs of studies of 14 rows."""
    rng = np.random.default_rng(2)
    errors = [0.3] * 14
    covered = 0
    for _ in range(300):
        truth = rng.normal(0, 1, (2, 14)) + 2 * rng.normal(0, 1, 14)
        a, b = truth + 0.3 * rng.standard_normal(truth.shape)
        found = agreement(Means(list(a), errors), Means(list(b), errors))
        covered += found.low <= float(pairwise_accuracy(truth[0], truth[1])) <= found.high
    assert covered / 300 >= 0.93


def test_rows_that_either_lacks_are_left_out_and_few_rows_have_no_agreement() -> None:
    found = agreement(Means([1, 2, 3, math.nan], [0, 0, 0, 0]), Means([1, 2, 4, 5], [0, 0, 0, 0]))
    assert (found.value, found.low, found.high, found.rows) == (1, 1, 1, 3)
    assert math.isnan(agreement(Means([1, 2], [0, 0]), Means([1, 2], [0, 0])).value)
