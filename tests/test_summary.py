"""The summary that opens a report, the declared measure, and the agreement with the paper."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from made_up import made_up_study
from matplotlib.text import Text
from scipy import stats

from ablations.errors import RequestError
from ablations.reporting import read_report
from ablations.studies.folder import open_folder
from ablations.studies.load import load_study
from ablations.studies.run import RunConfig
from modernize.design import Design
from modernize.roadmap import roadmap
from reports import two_designs
from reports.agreement_words import agreement_words
from reports.formats import terminal
from reports.page.svg import described
from reports.paper_agreement import paper_agreement
from reports.predictions import Predicted
from reports.statistics.factorial import Family
from reports.statistics.power import describe_power, describe_spread, detectable_effect, seeds_to_detect, study_power
from reports.statistics.sequential import spent
from reports.study_tables import comparison_table, pairs
from reports.summary import as_markdown, as_text, findings_of, summarise_study

RESULTS = Path(__file__).parent.parent / "docs/results/first-edition"
EFFECTS = {"base": 0.0, "up": 3.0, "down": -3.0, "same": 0.05}


def study_runs(seeds: int = 3, **changes: object) -> pd.DataFrame:
    """Runs of four rows against a base; the loss moves against top-1."""
    chance = np.random.default_rng(3)
    lines = []
    for row, effect in EFFECTS.items():
        for seed in range(seeds):
            noise = 0.3 * chance.normal()
            line: dict[str, Any] = {
                "study": "mine",
                "kind": "one-in",
                "roadmap": None,
                "row": row,
                "label": f"+ {row}",
                "seed": seed,
            }
            line |= {"base": None if row == "base" else "base", "run": f"{row}-s{seed}", "recipe": "quick"}
            line |= {"dataset": "digits", "status": "done", "reason": None, "params": 1000, "macs": 10**6}
            line |= {"images_seen": 60_000, "seconds": 60.0, "top1": 80 + effect + noise, "note": None}
            lines.append(line | {"loss": 0.5 - 0.1 * (effect + noise)} | changes)
    return pd.DataFrame(lines)


def test_each_tested_row_is_in_one_group_with_its_effect() -> None:
    runs = study_runs()
    table = comparison_table(runs)
    summary = summarise_study("mine", runs, [table])
    labels = {group.kind: [finding.label for finding in group.findings] for group in summary.groups}
    assert labels == {"helped": ["+ up"], "hurt": ["+ down"], "inconclusive": ["+ same"]}
    up = table.frame.set_index("row").loc["up"]
    for text in (as_text(summary), as_markdown(summary)):
        assert f"+ up {up['difference']:+.2f} ({up['low']:+.2f} to {up['high']:+.2f})".replace("-", "−") in text
    assert "Helped (1 of 3)" in as_text(summary) and "detected with 80% power" in as_text(summary)


def test_findings_are_the_best_first() -> None:
    effects = [finding.effect for finding in findings_of(comparison_table(study_runs()))]
    assert effects == sorted(effects, reverse=True) and len(effects) == 3
    losses = [finding.effect for finding in findings_of(comparison_table(study_runs(), measure="loss"), "loss")]
    assert losses == sorted(losses) and len(losses) == 3


def test_one_seed_has_no_verdict_and_says_what_would_give_some() -> None:
    runs = study_runs(seeds=1)
    table = comparison_table(runs)
    summary = summarise_study("mine", runs, [table])
    assert [group.kind for group in summary.groups] == ["not-tested"]
    assert set(table.frame["verdict"].dropna()) == {"not tested"}
    assert "3 seeds per row would give verdicts: 8 more runs, about 8 min of training." in summary.notes


def test_more_seeds_are_offered_only_if_they_detect_less() -> None:
    """With two seeds a third one detects less than a later look costs."""
    runs = study_runs(seeds=2)
    now = study_power(runs, pairs(runs))
    note = next(note for note in summarise_study("mine", runs, [comparison_table(runs)]).notes if "add seeds" in note)
    offered = [float(size) for size in re.findall(r"would detect ([\d.]+) pp", note)]
    assert now and offered and offered == sorted(offered, reverse=True) and offered[0] < now.difference


def test_an_unfinished_study_does_not_ask_for_seeds_that_it_has_planned() -> None:
    runs = study_runs()
    late = runs["seed"] > 0
    runs.loc[late, "status"] = "left"
    runs.loc[late, ["top1", "loss"]] = np.nan
    summary = summarise_study("mine", runs, [comparison_table(runs)])
    assert summary.notes == ("8 of 12 runs are not finished; 3 seeds per row are planned.",)


def test_the_seeds_that_would_settle_a_difference_have_the_power_that_is_promised() -> None:
    runs = study_runs(4)
    compared = comparison_table(runs).frame
    compared = compared[compared["p"].notna()]
    line = compared.set_index("row", drop=False).loc["same"].to_dict()

    def power(seeds: int, size: float) -> float:
        """Of a test of the look after the extension, at its Bonferroni level, with this comparison's standard error."""
        level = 0.05 * (spent(len(runs), len(EFFECTS) * seeds) - spent(len(runs), len(runs))) / len(compared)
        df, se = line["df"] * (seeds - 1) / 3, line["se"] * math.sqrt(4 / seeds)
        return float(stats.nct.sf(stats.t.isf(level / 2, df), df, size / se))

    needed = {size: seeds_to_detect(runs, compared, {**line, "difference": size}) for size in (0.3, -0.6, 1.2)}
    for size, seeds in needed.items():
        assert seeds is not None and power(seeds, abs(size)) > 0.78 and power(seeds - 1, abs(size)) < 0.81
    assert needed[0.3] / needed[-0.6] == pytest.approx(4, rel=0.35)  # type: ignore[operator]
    assert seeds_to_detect(runs, compared, {**line, "difference": 0.01}) is None
    wide = {**line, "difference": 1.2, "se": 3 * line["se"]}  # a row that varies more needs more
    assert (seeds_to_detect(runs, compared, wide) or 999) > 3 * (needed[1.2] or 0)


def test_a_row_that_widens_the_intervals_of_the_others_is_named() -> None:
    runs = study_runs(3)
    assert not describe_spread(runs)
    runs.loc[runs["row"] == "down", "top1"] += 15 * (runs["seed"] - 1)
    said = describe_spread(runs)
    sd = runs[runs["row"] == "down"]["top1"].std()
    assert f"recipe of + down ({sd:.2f}) are wide" in said and "the median standard deviation is 0." in said
    assert said in summarise_study("mine", runs, [comparison_table(runs)]).notes
    frames = (comparison_table(study_runs(3)).frame, comparison_table(runs).frame)
    narrow, wide = ((frame["high"] - frame["low"])[frame["row"] == "up"].item() for frame in frames)
    assert wide > 5 * narrow
    runs.loc[runs["row"] == "down", "recipe"] = "another"
    assert not describe_spread(runs), "it informs no other row"
    more = study_runs(3).assign(row=lambda frame: frame["row"] + "2", run=lambda frame: frame["run"] + "2")
    more.loc[more["row"] == "base2", "top1"] += 12 * (more["seed"] - 1)
    runs = pd.concat([runs.assign(recipe="quick"), more])
    assert "+ down (" in describe_spread(runs) and "+ base (" in describe_spread(runs), "both are named"


def test_no_difference_is_promised_that_top1_cannot_have() -> None:
    runs = study_runs(2)
    runs["top1"] += 25 * (2 * runs["seed"] - 1)
    said = describe_power(runs, pairs(runs))
    assert said.startswith("Even the largest possible difference, 100 pp, is not detected with 80% power")
    notes = " ".join(summarise_study("mine", runs, [comparison_table(runs)]).notes)
    assert all(float(size) < 100 for size in re.findall(r"([\d.]+) pp", notes.replace("100 pp", "")))
    assert "in loss" in describe_power(runs.assign(loss=runs["top1"]), pairs(runs), "loss")


def test_a_row_that_is_its_baseline_is_named_and_its_runs_count_once(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, "one-in", flags={"norm": ["bn"], "kernel_size": [7]})
    summary = read_report(study, tmp_path).summary
    assert "Not compared, because design and recipe are the baseline's: + norm=bn (as pocket)." in summary.notes
    assert "6 runs: 6 finished" in summary.facts


def test_a_grid_names_its_interaction_whatever_the_verdict(tmp_path: Path) -> None:
    flags = {"norm": ["bn", "ln"], "kernel_size": [3, 7]}
    for size, start in (
        (0, "Significant interactions (0 of 1): none; norm: "),
        (20, "Significant interactions (1 of 1): "),
    ):

        def outcome(run: RunConfig, size: int = size) -> dict[str, float]:
            both = run.flags["norm"] == "ln" and run.flags["kernel_size"] == 7
            return {"top1": 70 + size * both + 0.2 * (run.seed + len(run.row) % 2)}

        study = made_up_study(tmp_path / str(size), "grid", outcome=outcome, flags=flags)
        notes = read_report(study, tmp_path / str(size)).summary.notes
        assert notes[0].startswith(start) and "interaction with kernel_size: 7 − 3" in notes[0]


def test_a_summary_says_what_would_settle_the_largest_inconclusive_difference() -> None:
    runs = study_runs(3)
    runs.loc[runs["row"] == "same", ["top1"]] += 0.5
    table = comparison_table(runs)
    (note,) = [note for note in summarise_study("mine", runs, [table]).notes if "inconclusive difference" in note]
    line = table.frame.set_index("row", drop=False).loc["same"].to_dict()
    seeds = seeds_to_detect(runs, table.frame, line)
    assert seeds is not None and f"about {seeds} seeds per row ({4 * (seeds - 3)} more runs" in note
    assert "This is rough" in note and line["verdict"] == "inconclusive"


def test_the_detectable_difference_does_not_speak_for_a_row_that_varies_more() -> None:
    runs = study_runs(5)
    alike = study_runs(5)
    assert describe_power(alike, pairs(alike)).endswith("is detected with 80% power.")
    runs.loc[runs["row"] == "up", "top1"] += 40 * (runs["seed"] - 2)  # one of three comparisons
    assert ", in the median comparison, is detected" in describe_power(runs, pairs(runs))
    many = pd.concat([runs, *(runs[runs["row"] == "same"].assign(row=f"same{n}", run=f"same{n}") for n in range(9))])
    chance = np.random.default_rng(1)
    many["top1"] += 0.3 * chance.normal(size=len(many))
    many = many.reset_index(drop=True).assign(run=lambda frame: frame["row"] + "-s" + frame["seed"].astype(str))
    assert describe_power(many, pairs(many)).endswith("with 80% power, but not for row up, which varies more.")


def test_a_study_of_recipes_calls_no_recipe_the_usual_one(tmp_path: Path) -> None:
    recipes = ["quick", "quick,learning_rate=1e-3", "quick,learning_rate=3e-3"]
    report = read_report(made_up_study(tmp_path, "recipes", recipes=recipes), tmp_path)
    assert "· 3 recipes ·" in report.summary.facts
    assert not any("trained with recipe" in note for note in report.tables[0].notes)


def test_the_primary_measure_alone_has_verdicts() -> None:
    runs = study_runs()
    top1, loss = comparison_table(runs), comparison_table(runs, measure="loss")
    by_top1, by_loss = (dict(table.frame.set_index("row").loc["up"]) for table in (top1, loss))
    assert by_loss["verdict"] == by_top1["verdict"] == "better"
    assert by_loss["difference"] == pytest.approx(by_top1["loss_difference"])
    assert by_loss["top1_difference"] == pytest.approx(by_top1["difference"])
    assert by_loss["mean"] == by_top1["mean"]  # top-1 whatever the measure
    for table in (top1, loss):
        assert sum(column.name == "verdict" for column in table.columns) == 1
    assert "lower is better" in loss.legend


def test_a_study_declares_its_measure_and_keeps_it(tmp_path: Path) -> None:
    declared = {"base": "pocket", "data": "digits", "seeds": [0]}
    open_folder(load_study("one-in", declared, {}), tmp_path / "study")
    with pytest.raises(RequestError, match="measure was top1 and is now loss"):
        open_folder(load_study("one-in", {**declared, "measure": "loss"}, {}), tmp_path / "study")


FLAGS_OF: dict[str, Any] = {
    "grid": {"norm": ["bn", "ln"], "kernel_size": [3, 7], "activation": ["relu", "gelu"]},
    "orders": ["norm", "kernel_size", "activation"],
    "screen": ["norm", "kernel_size", "activation", "fewer_norms"],
}


def opposite(run: RunConfig) -> dict[str, float]:
    """Top-1 by flags, and a loss that falls by 0.02 where top-1 rises by 1."""
    norm, kernel = run.flags["norm"] == "ln", run.flags["kernel_size"] == 7
    luck = np.random.default_rng([len(run.row), *run.row.encode(), run.seed]).integers(-3, 4)
    top1 = 70 + 6 * norm - 4 * kernel + 3 * (norm and kernel) + 0.2 * luck
    return {"top1": top1, "loss": 2 - top1 / 50}


@pytest.mark.parametrize("kind", ["orders", "grid", "screen"])
def test_a_loss_that_mirrors_top1_gives_the_same_verdicts(tmp_path: Path, kind: str) -> None:
    reports = {}
    for measure in ("top1", "loss"):
        folder = tmp_path / measure
        study = made_up_study(folder, kind, (0, 1), opposite, flags=FLAGS_OF[kind], measure=measure)
        reports[measure] = read_report(study, folder)
    for top1, loss in zip(reports["top1"].tables, reports["loss"].tables, strict=True):
        assert top1.name == loss.name
        name = next((name for name in ("worth", "effect", "difference") if name in top1.frame), None)
        if name is None:  # the combinations of a screen are not compared
            continue
        key = [column for column in ("flag", "flags", "other", "change", "where", "row") if column in top1.frame]
        ours, mirrored = top1.frame.set_index(key), loss.frame.set_index(key).loc[top1.frame.set_index(key).index]
        numbers = ours[name].astype(float).to_numpy()
        assert numbers == pytest.approx(-50 * mirrored[name].astype(float).to_numpy(), abs=1e-6, nan_ok=True)
        low, high = ours["low"].astype(float).to_numpy(), mirrored["high"].astype(float).to_numpy()
        assert low == pytest.approx(-50 * high, abs=0.02, nan_ok=True)  # the rounding of top-1 is no part of a loss
        # the other measure is beside it, without verdicts
        assert mirrored[f"top1_{name}"].astype(float).to_numpy() == pytest.approx(numbers, abs=1e-6, nan_ok=True)
        assert ours[f"loss_{name}"].notna().sum() == ours[name].notna().sum()
        if "verdict" in ours:
            assert ours["verdict"].tolist() == mirrored["verdict"].tolist()
            p = (frame["p_adjusted"].astype(float).to_numpy() for frame in (ours, mirrored))
            assert next(p) == pytest.approx(next(p), abs=0.01, nan_ok=True)
        assert [column.name for column in loss.columns] == [column.name for column in top1.columns]
    words = [table.legend for table in reports["loss"].tables] + [reports["loss"].summary.about]
    assert all("loss" in text for text in words) and not any("percentage points" in text for text in words)


@pytest.mark.parametrize("kind", ["orders", "grid", "screen"])
def test_figures_and_page_of_a_study_of_the_loss_speak_of_the_loss(tmp_path: Path, kind: str) -> None:
    study = made_up_study(tmp_path, kind, (0, 1), opposite, flags=FLAGS_OF[kind], measure="loss")
    report = read_report(study, tmp_path)
    mirrored = [plot for plot in report.plots if plot.measure == "loss"]
    assert len(mirrored) >= {"orders": 2, "grid": 3, "screen": 3}[kind]
    for plot in mirrored:
        drawn = " ".join(text.get_text() for text in plot.figure.findobj(Text))
        assert "top-1 (pp)" not in drawn and "percentage points" not in drawn and "pp)" not in drawn, plot.name
        for place in plot.frame.index[:3]:
            if plot.frame.get("mean", pd.Series([np.nan] * len(plot.frame), plot.frame.index)).notna()[place]:
                assert "test loss" in described(plot, int(place)) and "top-1" not in described(plot, int(place))
    main = next(plot for plot in mirrored if plot.name in ("grid-effects", "worths", "screen"))
    assert "loss" in " ".join(text.get_text() for text in main.figure.findobj(Text))


@pytest.mark.parametrize(
    ("kind", "measure"), [("orders", "loss"), ("grid", "loss"), ("screen", "loss"), ("screen", "top1")]
)
def test_losses_that_are_no_numbers_and_designs_that_lost_their_runs_are_reported(
    tmp_path: Path, kind: str, measure: str
) -> None:
    def outcome(run: RunConfig) -> dict[str, Any] | None:
        place = sum(run.row.encode()) % 5
        losses = {0: math.inf, 1: math.nan, 2: None}
        return opposite(run) | ({"loss": losses[place]} if place in losses and run.seed == 0 else {})

    study = made_up_study(tmp_path / "odd", kind, (0, 1), outcome, flags=FLAGS_OF[kind], measure=measure)
    kept = [run.name for run in study.runs[:3]]  # no run is left to estimate an error from
    few = made_up_study(
        tmp_path / "few", kind, (0,), lambda run: {} if run.name in kept else None, flags=FLAGS_OF[kind]
    )
    for name, made in {"odd": study, "few": few}.items():
        report = read_report(made, tmp_path / name)
        assert as_text(report.summary)
        for table in report.tables:
            assert terminal(table, 100)
            numbers = table.frame.select_dtypes(float).to_numpy()
            assert not np.isinf(numbers).any(), table.name
        for plot in report.plots:
            assert plot.name.startswith(("curves", "tradeoff")) or plot.figure


def test_the_command_line_and_a_yaml_file_declare_the_loss(tmp_path: Path) -> None:
    for kind, flags in FLAGS_OF.items():
        declared = {"base": "pocket", "data": "digits", "seeds": [0], "flags": flags}
        assert load_study(kind, {**declared, "measure": "loss"}, {}).measure == "loss"
        path = tmp_path / f"{kind}.yaml"
        path.write_text(yaml.safe_dump({"kind": kind, **declared, "measure": "loss"}))
        assert load_study(str(path), {}, {}).measure == "loss"


@pytest.mark.parametrize("kind", ["orders", "grid", "screen"])
def test_effects_over_many_rows_are_summarized_by_flag(tmp_path: Path, kind: str) -> None:
    grid = {"norm": ["bn", "ln"], "kernel_size": [3, 7], "activation": ["relu", "gelu"]}
    flags = grid if kind == "grid" else ["norm", "stem", "kernel_size"]
    study = made_up_study(tmp_path, kind, flags=flags)
    summary = read_report(study, tmp_path).summary
    labels = [finding.label for group in summary.groups for finding in group.findings]
    assert labels and all(any(flag in label for flag in flags) for label in labels)
    assert len(set(labels)) == len(labels) and not any("interaction" in label for label in labels)


def test_the_paper_agrees_with_itself() -> None:
    rows = roadmap("pocket").rows
    lines = [
        {"row": row.name, "seed": seed, "status": "done", "top1": row.printed.top1, "run": f"{row.name}-s{seed}"}
        for row in rows
        for seed in range(2)
    ]
    study, _large = paper_agreement(pd.DataFrame(lines), roadmap("pocket"))
    assert (study.changes.value, study.pairs.value) == (pytest.approx(1.0), pytest.approx(1.0, abs=0.02))  # two ties


def test_the_published_studies_agree_as_published() -> None:
    for name, in_order in (("roadmap", 0.27), ("confirmation", 0.66)):
        runs = pd.read_csv(RESULTS / name / "results.csv")
        study, words = paper_agreement(runs, roadmap("pocket"))[0], " ".join(agreement_words(runs, roadmap("pocket")))
        assert study.pairs.value == pytest.approx(in_order, abs=0.005)
        assert study.pairs.low < study.pairs.value < study.pairs.high
        assert f"{in_order} (95% CI" in words and "random guesses 0.50" in words
        means = runs.groupby("row")["top1"].mean()
        steps = [(row, roadmap("pocket").before(row)) for row in roadmap("pocket").rows if row.adopted]
        ours = [means[row.name] - means[before.name] for row, before in steps if before]
        papers = [round(row.printed.top1 - before.printed.top1, 2) for row, before in steps if before]
        assert study.changes.value == pytest.approx(stats.spearmanr(ours, papers).statistic, abs=0.03)


def test_one_seed_claims_no_interval_from_noise() -> None:
    runs = pd.read_csv(RESULTS / "confirmation/results.csv")
    one = runs[runs["seed"] == 10]
    assert all(np.isnan(found.pairs.low) for found in paper_agreement(one, roadmap("pocket")))
    words = " ".join(agreement_words(one, roadmap("pocket")))
    assert "noise of both sides" not in words and "the noise of this study is unknown" in words
    assert all(found.pairs.low < found.pairs.high for found in paper_agreement(one, roadmap("pocket"), sd=0.5))


def test_two_trained_networks_are_compared_as_that_and_without_a_verdict() -> None:
    runs = study_runs(seeds=1)
    designs = {row: {"width": 7 + place} for place, row in enumerate(EFFECTS)}
    sides = tuple(two_designs.Side(name, Design(width=7 + place), 1, 1) for place, name in enumerate(("a", "b")))
    order, labels = np.arange(400), np.zeros(400, dtype=int)
    hits = {"base": 320, "up": 332}
    right = {row: Predicted(row, 1 * (order >= hits[row]), labels, order, images=400) for row in hits}
    measured = two_designs.measure(runs, designs, (sides[0], sides[1]), lambda row, seed: right[row])
    assert measured.networks and (found := measured.networks.difference)
    assert found.mean == pytest.approx(3.0) and found.p == pytest.approx(stats.binomtest(12, 12).pvalue)
    assert measured.line["verdict"] == "not tested" and "not the designs" in measured.legend


# ---- no claim larger than its evidence


def test_designs_are_compared_by_the_primary_measure_alone() -> None:
    lines = [("base", 80.0, 0.50), ("ours", 90.0, 0.90)]
    runs = pd.DataFrame(
        {"study": "s", "row": row, "seed": seed, "status": "done", "recipe": "a", "top1": top1 + 0.1 * seed}
        | {"loss": loss + 0.01 * seed}
        for row, top1, loss in lines
        for seed in range(3)
    )
    designs = {"base": Design().flags(), "ours": Design(kernel_size=7).flags()}
    sides = two_designs.Side("one", Design(), 1, 1), two_designs.Side("two", Design(kernel_size=7), 2, 2)
    verdicts = {
        "top1": two_designs.measure(runs, designs, sides).line["verdict"],
        "loss": two_designs.measure(runs, designs, sides, primary="loss").line["verdict"],
    }
    assert verdicts == {"top1": "better", "loss": "worse"}
    measured = two_designs.measure(runs, designs, sides, primary="loss")
    table = two_designs.two_designs_table(*sides, "images", measured)
    shown = table.frame.set_index("what").loc["test loss, ours"]
    assert shown["after"] == "0.910 ± 0.010" and str(shown["difference"]).startswith("+0.400 (")
    assert "lower is better" in table.legend and "top-1 (%), ours" not in set(table.frame["what"])


def test_orders_of_one_seed_have_no_interval(tmp_path: Path) -> None:
    flags = ["norm", "kernel_size", "activation"]
    report = read_report(made_up_study(tmp_path, "orders", (0,), orders=3, flags=flags), tmp_path)
    worths = report.tables[0]
    assert worths.frame["worth"].notna().all() and worths.frame[["se", "low", "high"]].isna().all(axis=None)
    assert "one seed does not show seed-to-seed variance" in worths.legend
    said = as_text(report.summary)
    assert "without CI" in said and "3 seeds per row would give confidence intervals" in said


def test_orders_through_a_set_without_a_result_are_said_to_be_missing(tmp_path: Path) -> None:
    flags = ["norm", "kernel_size", "activation"]
    lost = made_up_study(
        tmp_path,
        "orders",
        (0, 1),
        lambda run: {"status": "failed"} if run.row == "on-111" else {},
        orders=3,
        flags=flags,
    )
    report = read_report(lost, tmp_path)
    said = as_text(report.summary)
    assert "without CI, because no random order has a result for every set of flags along it; no verdicts." in said
    assert "the best first: none yet." in said and "one seed" not in said
    assert "averaged over 0 of 3 random orders (the sampled Shapley value), without" in report.tables[0].legend
    assert "one seed" not in report.tables[0].legend and "spread between seeds" not in report.tables[0].legend


def test_orders_that_leave_one_random_order_say_that_one_order_is_too_few(tmp_path: Path) -> None:
    report = read_report(made_up_study(tmp_path, "orders", (0, 1), orders=1, flags=["norm", "stem"]), tmp_path)
    assert "because one order does not show how effects vary over orders" in as_text(report.summary)


def test_an_unfinished_study_says_so_and_asks_for_no_more_runs() -> None:
    runs = study_runs()
    runs.loc[runs["seed"] == 2, "status"] = "left"
    runs.loc[runs["seed"] == 2, ["top1", "loss"]] = np.nan
    table = comparison_table(runs)
    notes = summarise_study("s", runs, [table]).notes
    assert notes[0].startswith("Interim table: ") and "1% of the error rate" in notes[0]
    assert "more runs" not in " ".join(notes)


def test_a_failed_run_is_no_reason_to_ask_for_seeds(tmp_path: Path) -> None:
    flags = ["norm", "stem", "activation"]
    lost = made_up_study(
        tmp_path,
        "screen",
        (0,),
        lambda run: {"status": "failed"} if run.design.flags()["stem"] == "patchify" else {},
        flags=flags,
        runs=8,
    )
    report = read_report(lost, tmp_path)
    assert "not tested" in set(report.tables[0].frame["verdict"])
    assert "would give verdicts" not in as_text(report.summary)


def test_the_power_of_rows_with_unequal_seeds_names_the_rows_that_it_holds_for() -> None:
    runs = study_runs(5)
    power = describe_power(runs, pairs(runs))
    assert "between rows" not in power
    few = runs[(runs["row"] != runs["row"].iloc[-1]) | (runs["seed"] == 0)]
    assert "between rows with 5 seeds is detected" in describe_power(few, pairs(few))


def test_the_power_is_not_said_of_a_comparison_whose_interval_is_much_wider() -> None:
    """The first row of a roadmap has a recipe of its own, so its comparison has few degrees of freedom."""
    chance = np.random.default_rng(0)
    rows = {"row-0": np.array([84.4, 85.0, 85.6])}
    rows |= {f"row-{place}": 85 + 0.4 * chance.standard_normal(3) for place in range(1, 8)}
    runs = pd.concat(
        [
            pd.DataFrame(
                {"row": row, "seed": range(3), "status": "done", "top1": values, "recipe": f"r{row == 'row-0'}"}
            )
            for row, values in rows.items()
        ]
    ).reset_index(drop=True)
    steps = [(f"row-{place}", f"row-{place - 1}") for place in range(1, 8)]
    assert ", in the median comparison, is detected" in describe_power(runs, steps)
    assert "median" not in describe_power(runs, steps[1:])


@pytest.mark.parametrize(("many", "share"), [(1, 0.9), (11, 0.9), (16, 0.04)])
def test_the_detectable_effect_is_detected_with_the_power_that_is_said(many: int, share: float) -> None:
    df, se = 12.0, 0.4
    half = stats.t.ppf(0.975, df) * se
    lines = pd.DataFrame({"effect": 0.0, "se": se, "low": -half, "high": half, "p": 1.0}, index=range(many))
    effect = detectable_effect(lines, share)
    critical = stats.t.isf(0.05 * share / many / 2, df)
    assert stats.nct.sf(critical, df, effect / se) == pytest.approx(0.8, abs=0.07)


def test_a_grids_detectable_effect_is_that_of_the_lines_that_its_table_shows(tmp_path: Path) -> None:
    flags = {"norm": ["bn", "ln"], "kernel_size": [3, 7], "activation": ["relu", "gelu"]}
    table = read_report(made_up_study(tmp_path, "grid", flags=flags), tmp_path).tables[0]
    frame = table.frame
    said = " ".join(summarise_study("s", study_runs(), [table]).notes)
    shown, every = (detectable_effect(lines, 0.9) for lines in (frame[frame["family"] != Family.AT_EACH], frame))
    assert every > shown * 1.05 and f"A true effect of {shown:#.2g} pp" in said


def test_a_summary_names_significant_interactions(tmp_path: Path) -> None:
    """Each flag helps with one value of the other and hurts with the other value: on average it does nothing."""

    def outcome(run: RunConfig) -> dict[str, float]:
        together = ("kernel_size=7" in run.row) == ("norm=ln" in run.row)
        return {"top1": (88.0 if together else 85.0) + 0.4 * run.seed}

    flags = {"norm": ["bn", "ln"], "kernel_size": [3, 7]}
    report = read_report(made_up_study(tmp_path, "grid", outcome=outcome, flags=flags), tmp_path)
    (note,) = [note for note in report.summary.notes if note.startswith("Significant interactions (1 of 1): norm: ")]
    assert "interaction with kernel_size: 7 − 3 +6.00 (" in note and "do not read their averages alone" in note
    assert not any("nteraction" in note for note in summarise_study("s", study_runs(), [report.tables[-1]]).notes)


def test_differences_of_zero_are_not_to_be_detected() -> None:
    runs = study_runs()
    runs["top1"] = 85.0 + 0.3 * runs["seed"]
    table = comparison_table(runs)
    assert set(table.frame["verdict"].dropna()) == {"inconclusive"}
    assert not any("inconclusive difference is" in note for note in summarise_study("s", runs, [table]).notes)


def test_a_grid_says_that_each_family_is_corrected_on_its_own(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, "grid", flags={"norm": ["bn", "ln"], "kernel_size": [3, 7]})
    said = as_text(read_report(study, tmp_path).summary)
    assert "corrected for the effects of each family in the table" in said and "in any line of the table" in said
