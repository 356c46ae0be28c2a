"""Effects of a grid: exact without noise, as a factorial analysis of variance with it, and honest where cells lack."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import made_up_study
from numpy.typing import NDArray

from ablations.reporting import read_report
from ablations.studies.load import load_study
from ablations.studies.run import RunConfig
from ablations.studies.schema import Study
from modernize.design import text
from reports.factorial_tables import grid_effects_table
from reports.formats import csv, markdown, terminal
from reports.latex_fit import fit
from reports.layout import Layout
from reports.statistics.factorial import Cell, Factorial, Family, cell_means, effects_frame, effects_of, factorial_of
from reports.statistics.sequential import looks
from reports.statistics.weighted_contrasts import RowValues

FLAGS = {"norm": ("bn", "ln"), "kernel_size": ("3", "5", "7"), "activation": ("relu", "gelu")}


def grid_of(flags: Mapping[str, tuple[str, ...]]) -> Factorial:
    return Factorial(flags, {cell: ",".join(map(str, cell)) for cell in itertools.product(*flags.values())})


def grid_of_study(study: Study) -> Factorial:
    return factorial_of({row.row: {flag: text(value) for flag, value in row.flags.items()} for row in study.rows})


def results_of(grid: Factorial, value: Callable[[Cell], float], noise: Sequence[float]) -> dict[str, RowValues]:
    """Each cell's value with the same deviations from it, so that all cells have one variance."""
    return {row: RowValues.all(value(cell) + one for one in noise) for cell, row in grid.rows.items()}


def effect(frame: pd.DataFrame, change: str, where: str) -> dict[str, Any]:
    (line,) = frame[(frame["change"] == change) & (frame["where"] == where)].to_dict("records")
    return {str(name): value for name, value in line.items()}


# ---- which effects


def test_a_grid_of_two_flags_has_each_effect_at_each_value_averaged_and_the_interaction() -> None:
    grid = grid_of({"norm": ("bn", "ln"), "kernel_size": ("3", "7")})
    top1 = {"bn,3": 80.0, "bn,7": 82.0, "ln,3": 81.0, "ln,7": 86.0}
    frame = effects_frame(
        grid, effects_of(grid), {row: RowValues.all([value - 0.1, value + 0.1]) for row, value in top1.items()}
    )
    found = {(line["change"], line["where"]): line["effect"] for line in frame.to_dict("records")}
    assert found == pytest.approx(
        {
            ("norm: ln − bn", "at kernel_size=3"): 1.0,
            ("norm: ln − bn", "at kernel_size=7"): 4.0,
            ("norm: ln − bn", "averaged"): 2.5,
            ("norm: ln − bn", "interaction with kernel_size: 7 − 3"): 3.0,
            ("kernel_size: 7 − 3", "at norm=bn"): 2.0,
            ("kernel_size: 7 − 3", "at norm=ln"): 5.0,
            ("kernel_size: 7 − 3", "averaged"): 3.5,
        }
    )
    assert frame["verdict"].tolist() == ["better"] * 7


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 4), min_size=2, max_size=4), st.integers(0, 10**6))
def test_averages_and_interactions_are_means_and_differences_of_single_effects(sizes: list[int], seed: int) -> None:
    flags = {f"flag{place}": tuple(map(str, range(size))) for place, size in enumerate(sizes)}
    grid, chance = grid_of(flags), np.random.default_rng(seed)
    value = {cell: float(chance.normal()) for cell in grid.cells}
    for contrast in effects_of(grid):
        assert sum(contrast.weights.values()) == pytest.approx(0, abs=1e-12)
        found = sum(weight * value[cell] for cell, weight in contrast.weights.items())
        held = dict(contrast.at)
        others = [name for name in flags if name not in held and name not in {one.flag for one in contrast.changes}]

        def at(changed: Mapping[str, str], held: Mapping[str, str] = held, others: Sequence[str] = others) -> float:
            chosen = itertools.product(*(flags[name] for name in others))
            cells = [{**held, **changed, **dict(zip(others, values, strict=True))} for values in chosen]
            return float(np.mean([value[tuple(cell[name] for name in flags)] for cell in cells]))

        (one, *more) = contrast.changes
        if more:
            (other,) = more
            by_hand = sum(
                sign * at({one.flag: value_of_one, other.flag: value_of_other})
                for value_of_one, value_of_other, sign in (
                    (one.after, other.after, 1),
                    (one.before, other.after, -1),
                    (one.after, other.before, -1),
                    (one.before, other.before, 1),
                )
            )
        else:
            by_hand = at({one.flag: one.after}) - at({one.flag: one.before})
        assert found == pytest.approx(by_hand, abs=1e-9)


def test_every_pair_of_changes_has_one_interaction_and_every_combination_an_effect() -> None:
    effects = effects_of(grid_of(FLAGS))
    assert sum(len(one.changes) == 2 for one in effects) == 1 * 2 + 1 * 1 + 2 * 1
    assert sum(len(one.changes) == 1 and not one.at for one in effects) == 1 + 2 + 1
    assert sum(one.family == Family.AT_ONE for one in effects) == 1 * (3 + 2) + 2 * (2 + 2) + 1 * (2 + 3)
    assert sum(one.family == Family.AT_EACH for one in effects) == 1 * 6 + 2 * 4 + 1 * 6
    assert not any(one.family == Family.AT_EACH for one in effects_of(grid_of({"a": ("x", "y"), "b": ("x", "y")})))


@pytest.mark.parametrize(
    "flags", [{"kernel_size": [7, 3], "norm": ["ln", "bn"]}, {"norm": ["bn", "ln"], "depths": ["1-1", "2-1"]}]
)
def test_a_studys_flags_come_from_its_designs_in_the_studys_order(flags: dict[str, list[Any]]) -> None:
    study = load_study("grid", {"base": "pocket", "flags": flags, "data": "digits"}, {})
    grid = grid_of_study(study)
    assert grid.flags == {flag: tuple(map(str, values)) for flag, values in flags.items()}
    assert list(grid.flags) == list(flags)
    assert list(grid.rows.values()) == [row.row for row in study.rows] and set(grid.rows) == set(grid.cells)


def test_a_flag_of_one_value_is_no_flag_of_the_grid() -> None:
    study = load_study("grid", {"base": "pocket", "flags": {"norm": ["ln"], "width": [8, 16]}, "data": "digits"}, {})
    assert grid_of_study(study).flags == {"width": ("8", "16")}
    assert factorial_of({}) == Factorial({}, {})


# ---- against statsmodels


def sum_coded(grid: Factorial) -> NDArray[Any]:
    """The design matrix of all effects and interactions under sum contrasts, one line per cell."""
    design: NDArray[Any] = np.ones((1, 1))
    for values in grid.flags.values():
        coding = np.vstack([np.eye(len(values) - 1), -np.ones(len(values) - 1)])
        design = np.kron(design, np.column_stack([np.ones(len(values)), coding]))
    return design


@pytest.mark.parametrize("flags", [FLAGS, {"norm": ("bn", "ln"), "kernel_size": ("3", "5", "7")}])
def test_effects_and_errors_are_those_of_a_factorial_analysis_of_variance(flags: dict[str, tuple[str, ...]]) -> None:
    """All cells have one sample variance, so that moderation changes nothing: the errors are those of least squares."""
    linear_model = pytest.importorskip("statsmodels.api")
    chance = np.random.default_rng(1)
    grid, noise = grid_of(flags), [-0.5, 0.1, 0.4]
    value = {cell: 85 + float(chance.normal()) for cell in grid.cells}
    frame = effects_frame(grid, effects_of(grid), results_of(grid, value.__getitem__, noise))
    design = sum_coded(grid)
    top1 = [value[cell] + one for cell in grid.cells for one in noise]
    fitted = linear_model.OLS(top1, np.repeat(design, len(noise), axis=0)).fit()
    for contrast, line in zip(effects_of(grid), frame.to_dict("records"), strict=True):
        test = fitted.t_test(np.array([contrast.weights.get(cell, 0.0) for cell in grid.cells]) @ design)
        assert line["effect"] == pytest.approx(float(np.squeeze(test.effect)))
        assert line["se"] == pytest.approx(float(np.squeeze(test.sd)))


def test_sum_contrasts_are_half_the_effects_and_a_quarter_of_the_interaction() -> None:
    smf = pytest.importorskip("statsmodels.formula.api")
    grid = grid_of({"a": ("x", "y"), "b": ("x", "y")})
    chance = np.random.default_rng(2)
    results = {row: RowValues.all(chance.normal(85, 1, 3)) for row in grid.rows.values()}
    runs = pd.DataFrame(
        [{"a": cell[0], "b": cell[1], "top1": one} for cell, row in grid.rows.items() for one in results[row].values]
    )
    fitted = smf.ols("top1 ~ C(a, Sum) * C(b, Sum)", runs).fit().params
    frame = effects_frame(grid, effects_of(grid), results)
    assert effect(frame, "a: y − x", "averaged")["effect"] == pytest.approx(-2 * fitted["C(a, Sum)[S.x]"])
    assert effect(frame, "b: y − x", "averaged")["effect"] == pytest.approx(-2 * fitted["C(b, Sum)[S.x]"])
    interaction = effect(frame, "a: y − x", "interaction with b: y − x")["effect"]
    assert interaction == pytest.approx(4 * fitted["C(a, Sum)[S.x]:C(b, Sum)[S.x]"])


# ---- what is not tested, and why


def test_an_effect_that_needs_a_cell_without_a_result_is_not_tested_and_the_others_are() -> None:
    grid = grid_of({"norm": ("bn", "ln"), "kernel_size": ("3", "5", "7")})
    results = results_of(grid, lambda cell: 80.0 + int(cell[1]), [-0.1, 0.1])
    del results["ln,7"]
    frame = effects_frame(grid, effects_of(grid), results)
    lost = "no result for norm=ln, kernel_size=7"
    for contrast, line in zip(effects_of(grid), frame.to_dict("records"), strict=True):
        needed = ("ln", "7") in contrast.weights
        assert (
            (line["verdict"] == "not tested") == needed == math.isnan(line["effect"]) == math.isnan(line["p_adjusted"])
        )
        assert line["reason"] == (lost if needed else "")
    assert effect(frame, "norm: ln − bn", "at kernel_size=3")["verdict"] == "inconclusive"
    assert effect(frame, "norm: ln − bn", "interaction with kernel_size: 5 − 3")["effect"] == pytest.approx(0)
    assert effect(frame, "norm: ln − bn", "averaged")["verdict"] == "not tested"


def test_one_seed_gives_effects_without_verdicts_and_one_cell_of_one_seed_is_tested_by_the_others() -> None:
    grid = grid_of({"a": ("x", "y"), "b": ("x", "y")})
    single = effects_frame(grid, effects_of(grid), results_of(grid, lambda cell: float(cell == ("y", "y")), [0.0]))
    assert single["effect"].notna().all() and single[["se", "low", "high", "p", "p_adjusted"]].isna().all(axis=None)
    assert set(single["verdict"]) == {"not tested"} and set(single["reason"]) == {"one seed"}
    several = results_of(grid, lambda cell: 9.0 * (cell == ("y", "y")), [-0.1, 0.0, 0.2]) | {
        "x,x": RowValues.all([0.0])
    }
    frame = effects_frame(grid, effects_of(grid), several)
    assert (effect(frame, "a: y − x", "at b=x")["verdict"], effect(frame, "a: y − x", "at b=y")["verdict"]) == (
        "inconclusive",
        "better",
    )
    constant = effects_frame(grid, effects_of(grid), results_of(grid, lambda cell: 1.0, [0.0, 0.0]))
    assert set(constant["reason"]) == {"no variance between seeds"} and set(constant["verdict"]) == {"not tested"}
    nothing = effects_frame(grid, effects_of(grid), {})
    assert nothing["effect"].isna().all() and nothing["reason"].str.startswith("no result for a=").all()


def test_families_are_corrected_apart() -> None:
    """Adding effects at each combination must not change what is said of averages."""
    chance = np.random.default_rng(3)
    grid = grid_of(FLAGS)
    results = {row: RowValues.all(chance.normal(85, 0.5, 3)) for row in grid.rows.values()}
    whole = effects_frame(grid, effects_of(grid), results)
    for family in Family:
        mine = [one for one in effects_of(grid) if one.family == family]
        alone = effects_frame(grid, mine, results)
        assert alone["p_adjusted"].tolist() == whole.loc[whole["family"] == family, "p_adjusted"].tolist()
        raised = (alone["p_adjusted"] - alone["p"]).to_numpy(dtype=float)
        assert raised.min() >= -1e-12 and raised.max() > 1e-6


def test_the_mean_at_some_values_is_over_the_other_flags() -> None:
    grid = grid_of(FLAGS)
    chance = np.random.default_rng(4)
    results = {row: RowValues.all(chance.normal(85, 0.5, 3)) for row in grid.rows.values()}
    means = cell_means(grid, [{"norm": "ln", "kernel_size": "5"}, {"activation": "gelu"}], results)
    assert means.loc[0, "mean"] == pytest.approx(np.mean([results["ln,5,relu"].values, results["ln,5,gelu"].values]))
    assert means.loc[1, "mean"] == pytest.approx(
        np.mean([row_values.values for row, row_values in results.items() if "gelu" in row])
    )
    low, middle, high = (means[name].to_numpy(dtype=float) for name in ("low", "mean", "high"))
    assert (low < middle).all() and (middle < high).all()
    assert high[1] - low[1] < high[0] - low[0]  # over three times as many runs


# ---- in a report


def additive(run: RunConfig) -> dict[str, Any]:
    """Layer norm gains 4, a larger kernel 2 without it and 8 with it."""
    norm, kernel = run.flags["norm"] == "ln", run.flags["kernel_size"] == 7
    return {"top1": 60.0 + 4 * norm + 2 * kernel + 6 * (norm and kernel) + 0.4 * (run.seed - 1)}


def test_a_grids_report_states_each_effect_in_every_format(tmp_path: Path) -> None:
    flags = {"norm": ["bn", "ln"], "kernel_size": [3, 7]}
    report = read_report(made_up_study(tmp_path / "study", "grid", outcome=additive, flags=flags), tmp_path / "study")
    table, compared = report.tables
    assert (table.name, compared.name) == ("grid-effects", "grid")
    told = terminal(table, 100)
    lines = [" ".join(line.split()) for line in told.splitlines()]
    for start in (
        "norm: ln − bn at kernel_size=3 +4.00 ",
        "norm: ln − bn at kernel_size=7 +10.00 ",
        "norm: ln − bn averaged +7.00 ",
        "norm: ln − bn interaction with kernel_size: 7 − 3 +6.00 ",
        "kernel_size: 7 − 3 at norm=ln +8.00 ",
    ):
        assert [line.endswith("better") for line in lines if line.startswith(start)] == [True], start
    assert "4 effects at one value and 3 averaged effects and interactions" in table.legend
    assert "| norm: ln − bn | averaged | +7.00 |" in markdown(table)
    narrow = fit(table, Layout(84.0)).table  # a column of a paper
    assert [column.name for column in narrow.columns] == ["change", "effect", "interval", "verdict"]
    assert narrow.rows[2][0].text == "norm: ln − bn, averaged"
    raw = pd.read_csv(io.StringIO(csv(table)))
    assert {"flag", "before", "after", "family", "effect", "low", "high", "p", "p_adjusted", "verdict"} <= set(raw)
    assert [plot.name for plot in report.plots][:4] == ["heatmap", "interaction", "grid-effects", "grid"]


def test_cells_that_are_constant_to_the_rounding_have_the_errors_of_the_other_comparisons(tmp_path: Path) -> None:
    """Top-1 comes in steps of 0.2, and one cell alone varies by a step: no variance is less than that of rounding."""

    def constant(run: RunConfig) -> dict[str, Any]:
        varies = run.row == "norm=bn,kernel_size=3" and run.seed == 0
        return {"top1": 80.0 + 0.2 * (run.flags["norm"] == "ln") + 0.2 * varies}

    flags = {"norm": ["bn", "ln"], "kernel_size": [3, 7]}
    report = read_report(made_up_study(tmp_path, "grid", outcome=constant, flags=flags), tmp_path)
    effects, compared = (table.frame for table in report.tables)
    differences = compared.set_index("row").astype({"difference": float, "low": float, "high": float})
    for change, where, row in (
        ("norm: ln − bn", "at kernel_size=3", "norm=ln,kernel_size=3"),
        ("kernel_size: 7 − 3", "at norm=bn", "norm=bn,kernel_size=7"),
    ):
        line = effect(effects, change, where)
        expected = [float(differences[name][row]) for name in ("difference", "low", "high")]
        assert [line["effect"], line["low"], line["high"]] == pytest.approx(expected)
    assert effects["se"].min() > 0.9 * 0.2 * math.sqrt(2 / 12 / 3 / 2)  # of an average over two cells


def test_one_seed_is_not_tested_and_a_lost_cell_is_named(tmp_path: Path) -> None:
    flags = {"norm": ["bn", "ln"], "kernel_size": [3, 7]}
    one = read_report(made_up_study(tmp_path / "one", "grid", (0,), additive, flags=flags), tmp_path / "one").tables[0]
    assert {row[-1].text for row in one.rows} == {"not tested: one seed"}
    failed = made_up_study(
        tmp_path / "lost",
        "grid",
        outcome=lambda run: {"status": "failed"} if run.row == "norm=ln,kernel_size=7" else additive(run),
        flags=flags,
    )
    lost = read_report(failed, tmp_path / "lost").tables[0]
    assert lost.notes == ("no result for norm=ln, kernel_size=7",)
    assert [bool(row[-1].marks) for row in lost.rows] == [False, True, True, True, False, True, True]


def test_p_values_hold_over_looks_at_a_grid_that_was_extended() -> None:
    """Of one look they are divided by its share; a second look is tested at a small one."""
    grid = grid_of({"a": ("x", "y"), "b": ("x", "y")})
    chance = np.random.default_rng(5)
    lines = [
        {"row": row, "seed": seed, "loss": np.nan, "top1": 85 + 1.2 * row.startswith("y") + chance.normal(0, 0.5)}
        for row in grid.rows.values()
        for seed in range(5)
    ]
    facts = {"study": "s", "status": "done", "dataset": "d", "recipe": "r", "evaluate": "test", "kind": "grid"}
    runs = pd.DataFrame(lines).assign(**facts, label=lambda runs: runs["row"], stage=1, added="start")
    results = {str(row): RowValues.all(group["top1"]) for row, group in runs.groupby("row")}
    one_look = effects_frame(grid, effects_of(grid), results)
    shown = grid_effects_table(runs, grid).frame
    expected = np.minimum(one_look["p_adjusted"].to_numpy(dtype=float) / looks(runs)[0].share, 1.0)
    assert shown["p_adjusted"].to_numpy(dtype=float) == pytest.approx(expected)
    later = runs["seed"] >= 3
    extended = runs.assign(stage=np.where(later, 2, 1), added=np.where(later, "extended", "start"))
    twice = grid_effects_table(extended, grid).frame["p_adjusted"].to_numpy(dtype=float)
    first_results = {str(row): RowValues.all(group["top1"]) for row, group in runs[~later].groupby("row")}
    first = effects_frame(grid, effects_of(grid), first_results)
    shares = [look.share for look in looks(extended)]
    same = np.sign(first["effect"].to_numpy(dtype=float)) == np.sign(one_look["effect"].to_numpy(dtype=float))
    earlier = np.where(same, first["p_adjusted"].to_numpy(dtype=float) / shares[0], np.inf)
    best = np.minimum(earlier, one_look["p_adjusted"].to_numpy(dtype=float) / shares[1])
    by_hand = np.minimum(np.maximum(best, one_look["p"].to_numpy(dtype=float)), 1.0)
    assert twice == pytest.approx(by_hand)
    sized = runs.assign(stage=np.where(later, 2, 1), added=np.where(later, "extended to precision 0.5", "start"))
    changed = sized.assign(top1=sized["top1"].where(~later, sized["top1"] + 50 * (sized["seed"] - 3)))
    errors = [grid_effects_table(frame, grid).frame["se"].to_numpy(dtype=float) for frame in (sized, changed)]
    assert errors[0] == pytest.approx(errors[1])  # the runs of the second stage give no variance


# ---- false positives


def false_positives(sizes: Sequence[int], seeds: int, log_sd: float, tails: bool, studies: int) -> dict[str, float]:
    """The share of studies of equal cells in which an effect of a family is better or worse."""
    chance = np.random.default_rng(0)
    grid = grid_of({f"flag{place}": tuple(map(str, range(size))) for place, size in enumerate(sizes)})
    effects = effects_of(grid)
    wrong: list[pd.Series[Any]] = []
    for _ in range(studies):
        results = {}
        for row in grid.rows.values():
            luck = chance.standard_t(4, seeds) / math.sqrt(2) if tails else chance.normal(0, 1, seeds)
            results[row] = RowValues.all(85 + math.exp(chance.normal(0, log_sd)) * luck)
        frame = effects_frame(grid, effects, results)
        wrong.append((frame["p_adjusted"] <= 0.05).groupby(frame["family"]).any())
    return {str(family): float(rate) for family, rate in pd.DataFrame(wrong).mean().items()}


GRIDS = [((2, 2), 3), ((2, 3), 2), ((2, 3), 5), ((2, 2, 2), 3)]  # numbers of values, and seeds
HARDEST = {((2, 3), 2, 0.6, False), ((2, 2, 2), 3, 0.6, False)}  # few seeds, several flags, unequal cells


@pytest.mark.parametrize(
    ("sizes", "seeds", "log_sd", "tails"),
    [
        pytest.param(*cell, marks=pytest.mark.slow if cell in HARDEST else pytest.mark.simulation)
        for grid in GRIDS
        for noise in ((0.0, False), (0.3, False), (0.6, False), (0.0, True))
        for cell in [(*grid, *noise)]
    ],
)
def test_equal_cells_rarely_give_a_verdict(sizes: tuple[int, ...], seeds: int, log_sd: float, tails: bool) -> None:
    rates = false_positives(sizes, seeds, log_sd, tails, 1000)
    assert max(rates.values()) <= 0.06 + 0.014  # 0.06 and two standard errors of 1,000 studies
