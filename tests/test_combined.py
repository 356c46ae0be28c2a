"""Several studies combined: statistics over studies, tables, agreement of the mean, and what is refused."""

from __future__ import annotations

import functools
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import ablations_here
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from made_up import made_up_study
from scipy import stats
from statsmodels.stats.multitest import multipletests

from ablations.combined_reporting import combined_report
from ablations.errors import RequestError
from ablations.studies.combined import refuse_different
from ablations.studies.differing_settings import differing_steps
from ablations.studies.folder import read_study
from ablations.studies.run import RunConfig
from ablations.studies.schema import Study
from modernize.roadmap import roadmap
from reports.combined import Combined, combine, uncorrected_looks
from reports.combined_agreement import MOST_SUBSETS, growth, mean_agreement
from reports.errors import ReportError
from reports.latex import latex
from reports.layout import Layout
from reports.page import page
from reports.paper_agreement import paper_agreement
from reports.report import Report
from reports.statistics.across_studies import across_studies
from reports.view import View

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


# ---- a report of published studies


def frames(*names: str) -> dict[str, pd.DataFrame]:
    return {name: pd.read_csv(SETTINGS / name / "results.csv") for name in names}


def differences(row: str, base: str) -> np.ndarray:
    """Each study's difference, from its published results."""
    values = [frame.set_index("row")["top1"] for frame in frames(*EIGHT).values()]
    return np.array([one[row] - one[base] for one in values])


def test_the_main_table_says_what_the_published_results_say(eight: Report) -> None:
    table = eight.tables[0]
    assert table.name == "combined" and len(table.rows) == 14
    assert [column.title for column in table.columns][:4] == ["row", "top-1 (%)", "studies", "difference (pp)"]
    for line, cells in zip(table.frame.to_dict("records"), table.rows, strict=True):
        values = [frame.set_index("row")["top1"][line["row"]] for frame in frames(*EIGHT).values()]
        assert line["mean"] == pytest.approx(np.mean(values))
        if not isinstance(line["base"], str):
            assert line["row"] == "resnet" and [cell.text for cell in cells[3:]] == ["–"] * 5 + [""]
            continue
        own = differences(line["row"], line["base"])
        test = stats.ttest_1samp(own, 0)
        assert line["difference"] == pytest.approx(own.mean()) and line["p"] == pytest.approx(test.pvalue)
        assert line["studies"] == 8 and line["sd"] == pytest.approx(own.std(ddof=1))
    by_name = {line["row"]: cells for line, cells in zip(table.frame.to_dict("records"), table.rows, strict=True)}
    shown = [cell.text for cell in by_name["width"]]
    assert shown == [shown[0], "66.74", "8", "+1.83", "+0.78 to +2.88", "1.25", "7 of 8", "0.048", "better"]


def test_each_studys_own_differences_have_a_column(eight: Report) -> None:
    table = eight.tables[1]
    assert [column.title for column in table.columns] == ["row", "mean", *EIGHT] and len(table.rows) == 13
    for line in table.frame.to_dict("records"):
        own = [line[f"difference in {name}"] for name in EIGHT]
        assert own == pytest.approx(differences(line["row"], line["base"]))


def test_the_studies_are_told_apart(eight: Report) -> None:
    lines = eight.tables[-1].frame.set_index("study")
    assert str(lines.loc["01", "setting"]).startswith("batch_size=128, learning_rate=0.002")
    assert "width=6" in str(lines.loc["06", "setting"]) and "width" not in str(lines.loc["03", "setting"])
    assert list(lines["dataset"])[:2] == ["fashion_mnist", "cifar10"] and set(lines["images"]) == {"19,968", "80,000"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [(EIGHT, (0.819, 0.798)), (tuple(f"{number:02d}" for number in range(1, 17)), (0.815, 0.812))],
)
def test_the_mean_of_settings_agrees_with_the_paper_as_published(
    names: tuple[str, ...], expected: tuple[float, float]
) -> None:
    studies = combine(frames(*names))
    found = mean_agreement(studies, roadmap("pocket"))
    assert [round(one.response, 3) for one in found] == list(expected)
    whole = pd.concat(frames(*names).values()).groupby("row", sort=False)["top1"].mean().reset_index()
    again = paper_agreement(whole.assign(status="done"), roadmap("pocket"))
    assert [one.response for one in found] == pytest.approx([one.response for one in again])


def test_agreement_grows_with_the_number_of_studies() -> None:
    names = tuple(f"{number:02d}" for number in range(1, 17))
    steps, few, many = roadmap("pocket"), combine(frames(*EIGHT)), combine(frames(*names))
    found = growth(few, steps)
    of = found[found["with"] == "ResNet-50"].set_index("studies")
    assert list(of["subsets"]) == [8, 28, 56, 70, 56, 28, 8, 1] and not of["sampled"].any()
    single = [mean_agreement(few, steps, [name])[0].response for name in EIGHT]
    assert [of[name].loc[1] for name in ("mean", "min", "max")] == pytest.approx(
        [np.mean(single), min(single), max(single)]
    )
    pairs = [mean_agreement(few, steps, [a, b])[0].response for a in EIGHT for b in EIGHT if a < b]
    assert of.loc[2, "mean"] == pytest.approx(np.mean(pairs))
    assert of.loc[8, "mean"] == pytest.approx(mean_agreement(few, steps)[0].response)
    assert bool(of["mean"].is_monotonic_increasing)
    sampled = growth(many, steps).query("sampled")
    assert set(sampled["studies"]) == {5, 6, 7, 8, 9, 10, 11} and set(sampled["subsets"]) == {MOST_SUBSETS}


def without(frame: pd.DataFrame, row: str) -> pd.DataFrame:
    """Results in which a row's runs failed."""
    failed = frame["row"] == row
    return frame.assign(status=frame["status"].mask(failed, "failed"), top1=frame["top1"].mask(failed))


def test_a_failed_row_is_compared_over_the_other_studies() -> None:
    runs = frames(*EIGHT)
    runs["03"] = without(runs["03"], "gelu")
    studies: Combined = combine(runs)
    row, base = next(pair for pair in studies.compared.index if pair[0] == "gelu")
    kept = np.delete(differences(row, base), 1)
    assert studies.compared.loc[(row, base), "studies"] == 7
    assert studies.compared.loc[(row, base), "p"] == pytest.approx(stats.ttest_1samp(kept, 0).pvalue)
    assert studies.notes[row, base] == "without 03 (failed)"
    after = next(pair for pair in studies.compared.index if pair[1] == "gelu")
    assert studies.notes[after] == "without 03 (baseline failed)"
    assert mean_agreement(studies, roadmap("pocket"))[0].pairs.rows == 12  # those that all studies have


def test_a_failed_seed_and_a_copy_are_named() -> None:
    runs = {
        name: pd.concat([one, one.assign(seed=one["seed"] + 1, run=one["run"] + "-again")], ignore_index=True)
        for name, one in frames("01", "03", "06").items()
    }
    failed = (runs["03"]["row"] == "gelu") & runs["03"]["run"].str.endswith("-again")
    runs["03"] = runs["03"].assign(status=runs["03"]["status"].mask(failed, "failed"))
    studies = combine(runs)
    (seed,) = runs["03"].loc[failed, "seed"]
    assert studies.notes["gelu", "kernel-7"] == studies.notes["gelu", None] == f"fewer seeds in 03 (seed {seed} failed)"
    (after,) = (pair for pair in studies.compared.index if pair[1] == "gelu")
    assert studies.notes[after] == f"fewer seeds in 03 (baseline: seed {seed} failed)"
    assert studies.notes["width", "depthwise"] == "" and studies.alike == []
    copied = {**published("01", "03"), "copy": published("01")["01"]}
    assert "01 and copy have the same mean in every row" in " ".join(combined_report(copied).summary.warnings)


def test_looks_that_no_verdict_is_corrected_for_are_named() -> None:
    runs = frames("01", "03")
    assert uncorrected_looks(runs) == []
    early = runs["01"].assign(status=["left", "running", *["done"] * 12], stage=[2, *[1] * 13])
    pending, added = uncorrected_looks(runs | {"01": early})
    assert pending.startswith("2 of 28 results are pending") and added.startswith("Runs were added")


def test_means_of_the_loss_are_ordered_as_losses() -> None:
    by_loss = {
        name: (study.model_copy(update={"measure": "loss"}), folder)
        for name, (study, folder) in published("01", "03").items()
    }
    means = combined_report(by_loss, View(order=("loss",))).tables[0].frame["loss_mean"]
    assert list(means) == sorted(means)
    with pytest.raises(ReportError, match="no top1 of each row"):
        combined_report(by_loss, View(order=("top1",)))


def test_pairs_of_designs_are_compared_by_loss(tmp_path: Path) -> None:
    def loss(run: RunConfig, study: int) -> dict[str, float]:
        return {"loss": 0.5 + 0.01 * len(run.row) + 0.001 * study * (len(run.row) % 3)}

    studies = {}
    for place, name in enumerate("abc"):
        designs: dict[str, Any] = {
            "designs": ["pocket", "pocket@gelu", "pocket@depthwise"],
            "compared_with": "all",
            "measure": "loss",
        }
        outcome = functools.partial(loss, study=place)
        studies[name] = made_up_study(tmp_path / name, "designs", (place,), outcome, **designs), tmp_path / name
    report = combined_report(studies)
    table = report.tables[0]
    pairs = [("pocket@gelu", "pocket"), ("pocket@depthwise", "pocket"), ("pocket@depthwise", "pocket@gelu")]
    assert list(zip(table.frame["row"], table.frame["base"], strict=True)) == pairs
    assert [cell.text for cell in table.rows[0]][:2] == ["pocket@gelu", "pocket"] and "Shown are" not in table.legend
    assert table.frame["difference"].iloc[0] == pytest.approx(0.05 + 0.001 * (11 % 3 - 6 % 3))
    assert [one.name for one in report.tables] == ["combined", "by-study", "studies"] and len(report.plots) == 1
    assert report.plots[0].encoded("png")


def test_the_level_of_a_study_changes_no_difference() -> None:
    runs = frames(*EIGHT)
    shifted = {name: frame.assign(top1=frame["top1"] + 3 * place) for place, (name, frame) in enumerate(runs.items())}
    numbers = ["difference", "sd", "low", "high", "p_adjusted"]
    np.testing.assert_allclose(combine(runs).compared[numbers], combine(shifted).compared[numbers], atol=1e-9)


def test_the_figures_and_the_page_show_all_comparisons(eight: Report) -> None:
    assert [plot.name for plot in eight.plots] == ["combined", "agreement-by-studies"]
    text = page(eight)
    assert text.count("Mean of 8 studies") > 5 and "Select a row" not in text and 'href="#row=' not in text
    assert "increase width" in text and "7 of 8" in text and "Toggle flags" not in text


def test_a_view_selects_orders_and_names_rows() -> None:
    view = View("Steps", ("gelu", "kernel-7", "width"), {"gelu": "GELU"}, ("difference",))
    report = combined_report(published("01", "03", "06"), view)
    table = report.tables[0]
    values = [float(line["difference"]) for line in table.frame.to_dict("records")]
    assert values == sorted(values, reverse=True) and set(table.frame["row"]) == set(view.rows)
    assert "GELU" in [row[0].text for row in table.rows] and table.title.startswith("Steps: ")
    assert "Shown are 3 of 14 rows" in table.legend and len(report.plots[0].frame) == 3


@pytest.mark.parametrize("size", [7.0, 8.0, 10.0])
def test_the_tables_fit_a_column_of_a_paper(eight: Report, size: float) -> None:
    for table in eight.tables:
        assert "wider" not in latex(table, Layout(82.55, size)), table.name
    text = latex(eight.tables[-1], Layout(82.55, size))
    head = next(line for line in text.splitlines() if line.startswith("study &"))
    assert "setting" in head and "split" not in head and "\\begin{table}" in text
    left_out = next(line for line in text.splitlines() if line.startswith("% left out at this width: "))
    assert "split" in left_out and "images per run" in left_out
    assert "left out" not in latex(eight.tables[-1], Layout(174.625, 7.0))


# ---- designs of one name


def changed(study: Study, name: str, **changes: object) -> Study:
    rows = [one.model_copy(update=changes) if one.row == name else one for one in study.rows]
    return study.model_copy(update={"rows": rows})


def from_row_on(study: Study, first: str, **flags: object) -> Study:
    """The study with flags changed in a row and all behind it."""
    place = [one.row for one in study.rows].index(first)
    rows = [one.model_copy(update={"flags": one.flags | flags}) for one in study.rows[place:]]
    return study.model_copy(update={"rows": [*study.rows[:place], *rows]})


def test_what_rows_change_in_one_study_alone_is_shown_and_warned_of() -> None:
    first, second = published("01", "06").values()
    other = from_row_on(second[0], "gelu", activation="relu", norm="ln"), second[1]
    report = combined_report({"A": first, "B": other})
    settings = report.tables[-1].frame.set_index("study")["setting"]
    labels = report.tables[0].frame.set_index("row")["label"]
    gelu, layer_norm = str(labels["gelu"]), str(labels["layer-norm"])
    assert str(settings["A"]).endswith(f"; {gelu}: activation=gelu, norm unchanged; {layer_norm}: norm=ln")
    assert str(settings["B"]).endswith(f"; {gelu}: activation unchanged, norm=ln; {layer_norm}: norm unchanged")
    assert "After a row's name: what the row changes" in report.tables[-1].legend
    (warning,) = [text for text in report.summary.warnings if text.startswith("rows of one name")]
    assert f"in different studies ({gelu}, {layer_norm})" in warning and "the table studies" in warning
    alike = combined_report({"A": first, "B": second})  # all widths are half as large
    assert "; " not in " ".join(alike.tables[-1].frame["setting"]) and "rows of" not in " ".join(alike.summary.warnings)


def test_a_flag_is_found_in_the_row_that_changes_it() -> None:
    first, second = (read_study(SETTINGS / name) for name in ("01", "06"))
    resnet = from_row_on(first, "resnet", norm="ln")
    assert first.base != second.base and differing_steps({"A": first, "B": second}) == {}
    assert differing_steps({"A": first, "B": resnet}) == {
        "resnet": {"A": "norm=bn", "B": "norm=ln"},
        "layer-norm": {"A": "norm=ln", "B": "norm unchanged"},
    }
    said = resnet.model_copy(update={"base": f"{first.base},norm=ln"})  # as the setting says
    assert list(differing_steps({"A": first, "B": said})) == ["layer-norm"]
    wider = from_row_on(second, "width", width=12)  # twice the width, and not 1.5 times
    assert differing_steps({"A": first, "B": wider}) == {"width": {"A": "width=18", "B": "width=12"}}
    model = changed(first, "separate-downsampling", reference="timm:resnet18", flags={})
    (own,) = differing_steps({"A": first, "B": model}).values()
    assert own["B"] == "model=timm:resnet18" and "unchanged" not in own["A"]
    mixup = changed(first, "separate-downsampling", settings={"mixup": 0.8})
    assert list(differing_steps({"A": first, "B": mixup}).values()) == [
        {"A": "recipe.mixup unchanged", "B": "recipe.mixup=0.8"}
    ]


# ---- what cannot be combined


def test_other_studies_are_refused_in_one_line() -> None:
    first, second = (read_study(SETTINGS / name) for name in ("01", "03"))
    few = second.model_copy(update={"rows": second.rows[:-2]})
    for others, words in (
        ({"B": few}, "B lacks 2 rows of A, such as 'layer-norm'; combine"),
        ({"B": changed(second, "gelu", row="silu")}, "B lacks a row of A, 'gelu'; combine"),
        ({"B": changed(second, "gelu", compared_with="resnet")}, "B compares row 'gelu' with 'resnet', A with "),
        ({"B": second.model_copy(update={"measure": "loss"})}, "its measure is loss, not top1"),
        ({"B": second.model_copy(update={"kind": "designs"})}, "its kind is designs, not roadmap"),
        ({}, "one study is not combined"),
    ):
        with pytest.raises(RequestError) as error:
            refuse_different({"A": first, **others})
        assert words in str(error.value) and "\n" not in str(error.value)
    for kind in ("screen", "orders"):
        with pytest.raises(RequestError, match=f"its kind is {kind}"):
            refuse_different(dict.fromkeys("AB", first.model_copy(update={"kind": kind})))


def test_the_command_reports_several_study_folders(tmp_path: Path) -> None:
    for name in ("01", "03"):
        shutil.copytree(SETTINGS / name, tmp_path / name)
    done = ablations_here("report", tmp_path / "01", tmp_path / "03", "--format", "table,csv")
    assert done.returncode == 0 and "Mean of 2 studies" in done.stdout, done.stderr
    assert (tmp_path / "01/combined-report/tables/combined.csv").exists() and not (tmp_path / "01/report").exists()
    (tmp_path / "empty").mkdir()
    for folders, words in (
        (("01", "01"), "is given twice"),
        (("01", "empty"), "is not a study folder, as others are"),
    ):
        done = ablations_here("report", *(tmp_path / one for one in folders))
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    done = ablations_here("report", tmp_path / "01", tmp_path / "03", "--order", "params")
    assert done.returncode == 2 and "has no params" in done.stderr, done.stderr
