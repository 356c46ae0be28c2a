"""A list of designs is a study: how it is read, what is compared, and that its verdicts are those of the statistics."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import made_up_study
from scipy import stats
from statsmodels.stats.multitest import multipletests

from ablations.errors import RequestError
from ablations.reporting import read_report
from ablations.studies.design_list import split_designs
from ablations.studies.folder import open_folder, slug
from ablations.studies.load import load_study
from ablations.studies.precision import describe_power
from ablations.studies.recipe_words import recipe_of_each_row, rows_of_the_same_weights
from ablations.studies.results import study_runs
from ablations.studies.run import RunConfig
from ablations.studies.schema import Study
from reports.statistics.compare import WELCH, compare
from reports.study_tables import pairs

FOUR = ["pocket", "pocket,norm=ln", "pocket@gelu", "pocket,kernel_size=5,recipe.mixup=0.8"]
NET = """
from torch import nn
def net(num_classes, in_channels, width=8):
    return nn.Sequential(nn.Conv2d(in_channels, width, 8), nn.Flatten(), nn.Linear(width, num_classes))
"""


def study(designs: list[Any], settings: dict[str, str] | None = None, **changes: Any) -> Study:
    return load_study("designs", {"designs": designs, "data": "digits", "seeds": [0, 1, 2], **changes}, settings or {})


def refused(designs: Any, settings: dict[str, str] | None = None, **changes: Any) -> str:
    with pytest.raises(RequestError) as caught:
        load_study("designs", {"designs": designs, **changes}, settings or {})
    message = str(caught.value)
    assert message.startswith("study designs: ") and len(message.splitlines()) == 1
    return message


def baselines(found: Study) -> dict[str, list[str]]:
    return {row.row: row.baselines for row in found.rows}


# ---- reading

WORDS = st.text("abcxyz_0189", min_size=1, max_size=6)
VALUES = WORDS | st.lists(st.integers(0, 9), min_size=1, max_size=3).map(lambda values: str(values))
SETTINGS = st.builds("{}={}".format, WORDS.map(lambda word: f"k{word}"), VALUES)
CALLS = st.builds("{}.py:{}({})".format, WORDS, WORDS, st.lists(SETTINGS, max_size=3).map(",".join))
NAMES = WORDS | CALLS | st.builds("{}.yaml@{}".format, WORDS, WORDS) | WORDS.map("timm:{}".format)


@given(st.lists(st.tuples(NAMES, st.lists(SETTINGS, max_size=3)), min_size=1, max_size=5), st.sampled_from(["", " "]))
def test_designs_joined_by_commas_are_split_into_the_same_designs(
    designs: list[tuple[str, list[str]]], blank: str
) -> None:
    written = [",".join([name, *settings]) for name, settings in designs]
    assert split_designs(f",{blank}".join(written)) == written


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pocket,,resnet50", "a comma has no design beside it"),
        ("pocket,", "a comma has no design beside it"),
        ("norm=ln,pocket", "norm=ln has no design before it, as in resnet50,norm=ln"),
    ],
)
def test_a_list_with_something_missing_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        split_designs(text)


def test_rows_are_named_as_designs_are_written_and_compared_with_the_first() -> None:
    found = study(FOUR)
    assert [(row.row, row.label) for row in found.rows] == [(one, one.replace(",", ", ")) for one in FOUR]
    assert baselines(found) == {FOUR[0]: [], **{one: ["pocket"] for one in FOUR[1:]}}
    assert [row.recipe for row in found.rows] == ["quick", "quick", "quick", "quick,mixup=0.8"]
    assert (found.base, found.rows[3].settings, found.recipes["quick,mixup=0.8"].mixup) == (
        "pocket",
        {"mixup": 0.8},
        0.8,
    )
    assert all(slug(row.row) == row.row for row in found.rows)


def test_designs_are_compared_with_one_of_the_list_or_all_with_all() -> None:
    named = study(FOUR, compared_with=" pocket , norm = ln ")
    assert named.base == FOUR[1] and baselines(named) == {one: [FOUR[1]] * (one != FOUR[1]) for one in FOUR}
    every = study(FOUR, compared_with="all")
    assert baselines(every) == {one: FOUR[:place] for place, one in enumerate(FOUR)}
    assert study(FOUR[:2], compared_with="all").rows == study(FOUR[:2]).rows
    assert "6 comparisons with 3 seeds" in str(describe_power(every))
    assert recipe_of_each_row(every) == {row.row: row.recipe for row in every.rows}
    again = study([*FOUR, "pocket@gelu,recipe.evaluation_crop=0.9"], compared_with="all")
    assert [text.partition(" once")[0] for text in rows_of_the_same_weights(again)] == [
        "pocket@gelu,recipe.evaluation_crop=0.9: trains the same weights as pocket@gelu"
    ]
    assert "3 comparisons with 3 seeds" in str(describe_power(named))


def test_each_design_under_each_recipe_is_compared_with_the_baseline_under_the_same_recipe() -> None:
    found = study(FOUR[:3], recipes=["quick", "quick_original,batch_size=64"], compared_with="pocket,norm=ln")
    under = [",recipe=quick", ",recipe=quick_original,batch_size=64"]
    expected = {f"{one}{recipe}": [f"{FOUR[1]}{recipe}"] * (one != FOUR[1]) for recipe in under for one in FOUR[:3]}
    assert baselines(found) == expected
    assert {row.recipe for row in found.rows} == {"quick", "quick_original,batch_size=64"}
    every = study(FOUR[:3], recipes=["quick", "quick_original"], compared_with="all")
    assert sum(len(row.baselines) for row in every.rows) == 2 * 3


def test_entries_may_have_names_and_labels_of_their_own_and_be_networks_of_any_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NET)
    (tmp_path / "mine.yaml").write_text(
        "base: pocket\nsteps:\n- {name: start, label: a}\n- {name: wide, label: b, flags: {kernel_size: 5}}\n"
    )
    own = f"{tmp_path}/nets.py:net(width=4)"
    listed = [
        {"design": "pocket,norm=ln", "name": "ours", "label": "Ours (LN)"},
        f"{tmp_path}/mine.yaml@wide,norm=ln",
        "torchvision:resnet18",
        f"{own},recipe.mixup=0.2",
    ]
    found = study(listed, compared_with="ours")
    assert [(row.row, row.label) for row in found.rows] == [
        ("ours", "Ours (LN)"),
        ("mine@wide,norm=ln", "mine.yaml@wide, norm=ln"),
        ("torchvision-resnet18", "resnet18 (torchvision)"),
        ("nets-net-width=4,recipe.mixup=0.2", "nets.py:net(width=4), recipe.mixup=0.2"),
    ]
    assert found.rows[1].flags["kernel_size"] == 5 and found.rows[1].flags["norm"] == "ln"
    assert (
        found.rows[3].reference == str(own) and found.rows[3].code_sha256 and found.rows[3].recipe == "quick,mixup=0.2"
    )
    assert [row.baselines for row in found.rows] == [[], ["ours"], ["ours"], ["ours"]]
    place = tmp_path / "study"
    open_folder(study([*listed[:2], f"{Path(own).name},recipe.mixup=0.2"], compared_with="ours"), place)
    grown = load_study(str(place), {"designs": ["torchvision:resnet18"]}, {})
    assert [(row.row, row.baselines) for row in grown.rows] == [
        *(("ours", []), ("mine@wide,norm=ln", ["ours"])),
        *(("nets-net-width=4,recipe.mixup=0.2", ["ours"]), ("torchvision-resnet18", ["ours"])),
    ]
    first = study([f"{own},recipe.mixup=0.2", "pocket"])
    assert first.base == "nets.py:net(width=4),recipe.mixup=0.2"


@pytest.mark.parametrize(
    ("designs", "changes", "says"),
    [
        (None, {}, "designs is missing: list two designs or more, as in --designs pocket,pocket,norm=ln"),
        ([], {}, "designs is missing"),
        (["pocket"], {}, "designs: there is one, pocket, and nothing to compare it with"),
        (["pocket", 3], {}, "designs.1=3: must be a valid dictionary"),
        (["pocket", {"design": "resnet50", "lable": "x"}], {}, "unknown key 'designs.1.lable'"),
        (["pocket", "pocket"], {}, "designs: 'pocket' is listed twice"),
        (
            ["resnet50", "resnet50,norm=bn"],
            {},
            "'resnet50, norm=bn' is the same design and recipe as 'resnet50'; list each once",
        ),
        (["pocket", "pocket,recipe.mixup=0"], {}, "'pocket, recipe.mixup=0' is the same design and recipe as 'pocket'"),
        (["pocket", "pockt"], {}, "designs: unknown design 'pockt': did you mean 'pocket'?"),
        (["pocket", "norm=ln"], {}, """'norm=ln' is no design; write "DESIGN,norm=ln" as one entry, in quotes"""),
        (["pocket", "pocket,norm=gn"], {}, "designs: norm=gn: must be one of bn, ln"),
        (["pocket", "pocket,recipe.mixupp=1"], {}, "unknown setting 'recipe.mixupp': did you mean 'recipe.mixup'?"),
        (["pocket", "torchvision:resnt18"], {}, "unknown torchvision model 'resnt18': did you mean 'resnet18'?"),
        (["pocket", "torchvision:resnet18,norm=ln"], {}, "torchvision:resnet18 has no flag norm"),
        (["pocket", {"design": "resnet50", "name": "a b"}], {}, "name 'a b' must be valid for a folder, such as 'a-b'"),
        (
            ["pocket", {"design": "resnet50", "name": "pocket"}],
            {},
            "'pocket' and 'resnet50' have the same name 'pocket'",
        ),
        (["pocket", "resnet50"], {"compared_with": "resnet5"}, "'resnet5' is not in the list of designs: did you mean"),
        (["pocket", "resnet50"], {"base": "pocket"}, 'base: not supported by "designs" studies'),
        (["pocket", "resnet50"], {"flags": ["norm"]}, 'flags: not supported by "designs" studies'),
        (["pocket", "resnet50"], {"end": "pocket"}, 'end: not supported by "designs" studies'),
        (
            ["pocket", "resnet50"],
            {"recipe": "quick", "recipes": ["quick", "desk_enhanced"]},
            "leave one of the two out",
        ),
        (["pocket", "resnet50"], {"recipes": ["quick", "quick"]}, "list each once"),
        (
            ["pocket", "resnet50"],
            {"recipes": ["quick", "desk_enhanced"], "references": ["torchvision:resnet18"]},
            "references: list them in designs",
        ),
        (["pocket", "torchvision:resnet18"], {"references": ["torchvision:resnet18"]}, "is a row of the study already"),
    ],
)
def test_a_list_that_makes_no_study_is_refused_in_one_line(designs: Any, changes: dict[str, Any], says: str) -> None:
    assert says in refused(designs, **changes)


def test_a_setting_of_one_recipe_alone_is_refused_if_recipes_are_compared() -> None:
    says = "--set learning_rate: this study compares recipes"
    assert says in refused(FOUR, {"learning_rate": "0.1"}, recipes=["quick", "quick_original"])


def test_other_kinds_have_no_list_of_designs_and_need_a_base() -> None:
    for key, value in {"designs": FOUR, "compared_with": "all"}.items():
        with pytest.raises(RequestError, match=f'{key}: not supported by "one-in" studies'):
            load_study("one-in", {"base": "pocket", key: value}, {})


def test_designs_may_be_added_and_the_baseline_may_not_change(tmp_path: Path) -> None:
    open_folder(study(FOUR[:2], compared_with="all"), tmp_path)
    assert [row.row for row in open_folder(study(FOUR, compared_with="all"), tmp_path).rows] == FOUR
    kept = load_study(str(tmp_path), {"designs": ["pocket", "resnet50"]}, {})
    assert baselines(kept) == {one: [*FOUR, "resnet50"][:place] for place, one in enumerate([*FOUR, "resnet50"])}
    with pytest.raises(RequestError, match=r"was made with another configuration: .*compared_with"):
        open_folder(study(FOUR), tmp_path)


# ---- comparing


def outcome(run: RunConfig) -> dict[str, Any]:
    """A design's accuracy, which varies with the seed by about 0.6."""
    place = FOUR.index(run.row.partition(",recipe=")[0]) if run.row.partition(",recipe=")[0] in FOUR else len(run.row)
    return {"top1": 80 + 0.8 * place + 0.6 * math.sin(5.3 * run.seed + 2.1 * place)}


@pytest.fixture(scope="module")
def every_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    place = tmp_path_factory.mktemp("pairs")
    return made_up_study(place, "designs", (0, 1, 2, 3, 4), outcome, designs=FOUR, compared_with="all"), place


def values(runs: pd.DataFrame, row: str) -> list[float]:
    return [float(value) for value in runs.loc[runs["row"] == row, "top1"]]


def test_every_pair_is_tested_once_and_corrected_for_all_pairs(every_pair: tuple[Study, Path]) -> None:
    runs = study_runs(*every_pair)
    table = read_report(*every_pair).tables[-1]
    wanted = [(row, base) for place, row in enumerate(FOUR) for base in FOUR[:place]]
    assert pairs(runs) == wanted and len(wanted) == math.comb(len(FOUR), 2)
    assert list(zip(table.frame["row"], table.frame["base"], strict=True)) == wanted
    raw = compare(runs, wanted, resolution=0.2)
    assert table.frame["p"].tolist() == raw["p"].tolist()
    assert table.frame["p_adjusted"].tolist() == pytest.approx((raw["p_adjusted"] / 0.9).clip(upper=1).tolist())
    holm = multipletests(raw["p"], method="holm")[1]
    bonferroni = multipletests(raw["p"], method="bonferroni")[1]
    assert (raw["p_adjusted"] <= holm + 1e-12).all() and (holm <= bonferroni + 1e-12).all()
    assert (raw["p_adjusted"] >= raw["p"]).all() and (raw["p_adjusted"] > raw["p"]).any()


def test_pairs_of_rows_with_recipes_of_their_own_have_the_p_values_of_scipy_and_step_down_as_statsmodels(
    tmp_path: Path,
) -> None:
    listed = ["pocket", *(f"pocket,recipe.mixup={mixup}" for mixup in (0.2, 0.5, 0.8))]

    def result(run: RunConfig) -> dict[str, Any]:
        place = listed.index(run.row)
        return {"top1": 80 + [0, 0.4, 1.0, 6.0][place] + (0.4 + 0.3 * place) * math.sin(5.3 * run.seed + place)}

    found = made_up_study(tmp_path, "designs", range(6), result, designs=listed, compared_with="all")
    runs = study_runs(found, tmp_path)
    lines = compare(runs, pairs(runs))
    for line in lines.to_dict("records"):
        expected = stats.ttest_ind(values(runs, line["row"]), values(runs, line["base"]), equal_var=False)
        assert line["method"] == WELCH and line["p"] == pytest.approx(expected.pvalue, rel=0.02)
    holm = multipletests(lines["p"], method="holm")[1]
    sidak = 1 - (1 - lines["p"].min()) ** len(lines)
    assert (lines["p_adjusted"] <= holm + 1e-12).all()
    assert lines["p_adjusted"].min() == pytest.approx(min(sidak, holm.min()), rel=0.5)


def test_rows_that_vary_alike_are_corrected_as_tukey_does(tmp_path: Path) -> None:
    listed = ["pocket", *(f"pocket,kernel_size={size}" for size in (5, 7, 9))]

    def result(run: RunConfig) -> dict[str, Any]:
        place = listed.index(run.row)
        return {"top1": 80 + [0.0, 0.2, 0.4, 1.0][place] + 0.8 * math.sin(2 * math.pi * (run.seed + place / 4) / 8)}

    found = made_up_study(tmp_path, "designs", range(8), result, designs=listed, compared_with="all")
    runs = study_runs(found, tmp_path)
    lines = compare(runs, pairs(runs))
    tukey = stats.tukey_hsd(*(values(runs, row) for row in listed)).pvalue
    # The step-down correction starts with the largest difference of all pairs.
    largest = min(lines.to_dict("records"), key=lambda line: float(line["p"]))
    expected = tukey[listed.index(largest["row"]), listed.index(largest["base"])]
    assert largest["p_adjusted"] == pytest.approx(expected, abs=0.01)


def test_two_designs_get_the_verdict_of_a_sweep_over_their_two_values(tmp_path: Path) -> None:
    def result(run: RunConfig) -> dict[str, Any]:
        return {"top1": 80 + 0.9 * (run.flags["norm"] == "ln") + 0.4 * math.sin(5 * run.seed + len(run.flags["norm"]))}

    changes: dict[str, dict[str, Any]] = {
        "sweep": {"flags": {"norm": ["bn", "ln"]}},
        "designs": {"designs": ["pocket", "pocket,norm=ln"]},
    }
    found = []
    for kind, keys in changes.items():
        report = read_report(made_up_study(tmp_path / kind, kind, (0, 1, 2), result, **keys), tmp_path / kind)
        line = report.tables[-1].frame.iloc[-1]
        found.append(line[["mean", "sd", "difference", "low", "high", "p", "p_adjusted", "verdict", "method"]].tolist())
    assert found[0] == found[1] and found[0][-2] != "not tested"


# ---- reporting


def test_a_report_of_all_pairs_has_results_pairs_and_a_matrix(every_pair: tuple[Study, Path]) -> None:
    report = read_report(*every_pair)
    designs, every = report.tables
    assert (designs.name, every.name) == ("designs", "pairs") and len(designs.rows) == 4 and len(every.rows) == 6
    assert designs.frame["row"].tolist() == FOUR and {"params", "macs", "mean", "sd"} <= set(designs.frame)
    by_row = designs.frame.set_index("row")
    for line in every.frame.to_dict("records"):
        one, other = by_row.loc[line["row"]], by_row.loc[line["base"]]
        assert line["difference"] == pytest.approx(one["mean"] - other["mean"])
        assert line["macs_ratio"] == pytest.approx(one["macs"] / other["macs"])
        assert line["activations_ratio"] == pytest.approx(one["activations"] / other["activations"])
        assert line["label"] == f"{one['label']} vs. {other['label']}"
    assert any("recipe differs from the second design's: mixup=0.8" in note for note in every.notes)
    assert "recipe differs from that of pocket: mixup=0.8" in designs.notes
    plots = {plot.name: plot for plot in report.plots}
    assert list(plots)[:3] == ["pairs", "pair-matrix", "tradeoff"] and report.summary.figure == "pairs"
    drawn = plots["pair-matrix"].svg.decode()
    assert all(f'id="mark-{place}-0"' in drawn for place in range(6)) and "mark-6-" not in drawn
    assert len(plots["tradeoff"].frame) == 4


def test_a_report_says_that_costs_differ_and_uses_words_for_designs(tmp_path: Path) -> None:
    report = read_report(made_up_study(tmp_path, "designs", (0, 1, 2), outcome, designs=FOUR), tmp_path)
    table = report.tables[0]
    macs, params = table.frame["macs"], table.frame["params"]
    says = f"a factor of {macs.max() / macs.min():.3g}; parameters from"
    assert says in table.legend and f"a factor of {params.max() / params.min():.3g}." in table.legend
    assert any("Cost is not held equal between designs" in note for note in report.summary.notes)
    assert {group.heading.partition(" (")[0] for group in report.summary.groups} >= {"Better", "Worse", "Inconclusive"}
    assert "recipe differs from the baseline's: mixup=0.8" in table.notes
    assert table.title == "designs: each design against the baseline"


def test_designs_under_several_recipes_are_reported_with_all_recipes_named(tmp_path: Path) -> None:
    recipes = ["quick", "quick_original"]
    for wanted, tables in (("pocket", 1), ("all", 2)):
        changes: dict[str, Any] = {"designs": FOUR[:3], "recipes": recipes, "compared_with": wanted}
        place = tmp_path / wanted
        report = read_report(made_up_study(place, "designs", (0, 1), outcome, **changes), place)
        assert len(report.tables) == tables and "recipes quick, quick_original" in report.summary.facts
        tested = report.tables[-1].frame.dropna(subset=["p"])
        under = [[str(name).rpartition("=")[2] for name in tested[column]] for column in ("row", "base")]
        assert under[0] == under[1] and len(tested) == (4 if wanted == "pocket" else 6)
        assert all(plot.figure for plot in report.plots)
        blank = [plot.name for plot in report.plots if "without a cell are not compared" in plot.caption]
        assert blank == ["pair-matrix"] * (wanted == "all")


def test_a_pair_without_results_says_why_it_is_not_tested(tmp_path: Path) -> None:
    def result(run: RunConfig) -> dict[str, Any]:
        return {"status": "failed", "reason": "out of memory"} if run.row == FOUR[1] else outcome(run)

    place = made_up_study(tmp_path, "designs", (0, 1, 2), result, designs=FOUR[:3], compared_with="all"), tmp_path
    report = read_report(*place)
    verdicts = report.tables[-1].frame.set_index(["row", "base"])["reason"]
    assert verdicts[(FOUR[1], "pocket")] == "failed" and verdicts[(FOUR[2], FOUR[1])] == "baseline failed"
    assert verdicts[(FOUR[2], "pocket")] == "" and all(plot.figure for plot in report.plots)


def test_seeds_for_a_precision_are_those_of_the_widest_of_all_pairs(every_pair: tuple[Study, Path]) -> None:
    from reports.statistics.precision import seeds_needed

    runs = study_runs(*every_pair)
    alone = []
    for row, base in itertools.combinations(FOUR[::-1], 2):
        one = runs.assign(base=pd.Series([base if name == row else None for name in runs["row"]], dtype=object))
        alone.append(seeds_needed(one, 0.5) or 0)
    assert seeds_needed(runs, 0.5) == max(alone)
