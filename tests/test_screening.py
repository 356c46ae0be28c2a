"""Screening studies: their designs, what they estimate and how often it is wrong, their folder, command and report."""

from __future__ import annotations

import math
import re
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import ablations_here
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import write_run

from ablations.cli import run_command
from ablations.errors import RequestError
from ablations.reporting import read_report
from ablations.studies.folder import open_folder, run_folder
from ablations.studies.load import load_study
from ablations.studies.schema import Study
from ablations.studies.screen import combination_costs, describe_screen, resolved, with_follow_ups
from ablations.studies.screening import (
    codes_of,
    minimum_aberration,
    model_terms,
    screening_design,
    signs_of,
    word_lengths,
)
from ablations.studies.variants import Variant
from modernize.models import design
from modernize.roadmap import roadmap
from reports.statistics import screening, unreplicated
from reports.statistics.screening import alias_strings, screen_effects, standard_errors
from reports.statistics.screening_looks import interaction_share
from reports.statistics.sequential import looks

FLAGS = tuple(f"f{number}" for number in range(15))


def costs_of(flags: int) -> np.ndarray:
    return np.ones(2**flags)


# ---- designs


@pytest.mark.parametrize(
    ("flags", "basis", "shortest", "words"),
    [
        *[(6, 4, 4, 3), (7, 4, 4, 7), (8, 4, 4, 14), (9, 5, 4, 6), (10, 5, 4, 10), (11, 5, 4, 25), (12, 5, 4, 38)],
        *[(15, 5, 4, 105), (8, 6, 5, 2), (9, 6, 4, 1), (10, 6, 4, 2), (11, 7, 5, 6), (7, 3, 3, 7), (5, 3, 3, 2)],
    ],
)
def test_fractions_have_minimum_aberration_as_published(flags: int, basis: int, shortest: int, words: int) -> None:
    """The counts of Chen, Sun and Wu (International Statistical Review 61, 1993) and of Box and Hunter's table."""
    counts, resolution = word_lengths(minimum_aberration(flags, basis), basis)
    assert resolution == shortest and counts[shortest] == words


@settings(max_examples=25, deadline=None)
@given(flags=st.integers(2, 12), resolution=st.sampled_from(["III", "IV", "V"]))
def test_a_design_has_the_resolution_that_is_asked(flags: int, resolution: Any) -> None:
    signs = screening_design(costs_of(flags), resolution).signs
    terms = model_terms(signs)
    mains, pairs = terms[:, : 1 + flags], terms[:, 1 + flags :]
    assert np.array_equal(mains.T @ mains, len(signs) * np.eye(1 + flags))
    if resolution != "III":
        assert not (mains.T @ pairs).any()
    if resolution == "V":
        assert np.array_equal(pairs.T @ pairs, len(signs) * np.eye(pairs.shape[1]))
    assert len(set(codes_of(signs).tolist())) == len(signs)


def test_eleven_flags_take_32_runs_and_their_generators_hold_in_every_run() -> None:
    made = screening_design(costs_of(11))
    assert made.method == "regular fraction" and len(made.signs) == 32 and len(made.generators) == 6
    for flag, sign, factors in made.generators:
        assert np.array_equal(made.signs[:, flag], sign * made.signs[:, list(factors)].prod(axis=1))


@pytest.mark.parametrize(("runs", "method"), [(24, "folded Plackett-Burman"), (40, "folded Plackett-Burman")])
def test_other_numbers_of_runs_keep_main_effects_clear(runs: int, method: str) -> None:
    made = screening_design(costs_of(11), "IV", runs)
    terms = model_terms(made.signs)
    assert made.method == method and len(made.signs) == runs
    assert not (terms[:, :12].T @ terms[:, 12:]).any()


def test_a_fraction_is_turned_so_that_it_has_no_combination_that_is_ruled_out() -> None:
    """Four flags together are too dear: some arrangement of the fraction never has all four."""
    dear = np.isin(np.arange(2**11) & 0b1111, [0b1011])
    made = screening_design(np.where(dear, np.inf, 1.0))
    assert made.method == "regular fraction" and not dear[codes_of(made.signs)].any()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.3, 0.6))
def test_a_design_works_around_what_is_ruled_out(seed: int, share: float) -> None:
    ruled_out = np.random.default_rng(seed).random(2**7) < share
    made = screening_design(np.where(ruled_out, np.inf, 1.0), "IV", 20)
    assert made.method == "optimal" and not ruled_out[codes_of(made.signs)].any()
    assert len(set(codes_of(made.signs).tolist())) == 20
    # not much worse than the orthogonal design that it cannot be
    errors = standard_errors(made.signs)
    assert errors.max() < 1.8 * 2 / math.sqrt(20)
    again = screening_design(np.where(ruled_out, np.inf, 1.0), "IV", 20)
    assert np.array_equal(made.signs, again.signs)


def test_an_exchange_beats_random_designs_by_its_own_measure() -> None:
    chance = np.random.default_rng(0)
    allowed = np.flatnonzero(chance.random(2**6) < 0.6)
    costs = np.full(2**6, np.inf)
    costs[allowed] = 1
    prior = np.diag([1e-6] * 7 + [1.0] * 15)

    def size(codes: Any) -> float:
        terms = model_terms(signs_of(codes, 6))
        return float(np.linalg.slogdet(prior + terms.T @ terms)[1])

    best = size(codes_of(screening_design(costs, "IV", 14).signs))
    assert best >= max(size(chance.choice(allowed, 14, replace=False)) for _ in range(500))


@pytest.mark.parametrize(
    ("costs", "resolution", "runs", "words"),
    [
        (costs_of(11), "IV", 16, "need 22 or more"),
        (costs_of(3), "IV", 9, "there are 8 combinations of 3 flags"),
        (np.where(np.arange(16) < 8, 1.0, np.inf), "III", 6, "cannot tell these flags apart"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(costs: np.ndarray, resolution: Any, runs: int, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        screening_design(costs, resolution, runs)


# ---- analysis


@settings(max_examples=25, deadline=None)
@given(
    effects=st.lists(st.floats(-3, 3), min_size=6, max_size=6),
    runs=st.sampled_from([16, 20, 24, 32]),
    missing=st.integers(0, 2),
)
def test_effects_of_an_additive_objective_are_recovered_exactly(effects: list[float], runs: int, missing: int) -> None:
    signs = screening_design(costs_of(6), "IV", runs).signs
    values = 80 + signs @ np.array(effects) / 2
    values[:missing] = math.nan
    found = screen_effects(values, signs, FLAGS[:6]).effects
    assert np.allclose(found["effect"], effects, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_with_interactions_main_effects_are_the_full_factorials_averages(seed: int) -> None:
    chance = np.random.default_rng(seed)
    terms = model_terms(signs_of(np.arange(2**6), 6))
    truth = terms @ np.concatenate([[80], chance.normal(size=6), chance.normal(size=15)])
    signs = screening_design(costs_of(6), "IV", 16).signs
    every = signs_of(np.arange(2**6), 6)
    averages = [truth[every[:, flag] > 0].mean() - truth[every[:, flag] < 0].mean() for flag in range(6)]
    found = screen_effects(truth[codes_of(signs)], signs, FLAGS[:6])
    assert np.allclose(found.effects["effect"], averages, atol=1e-9)
    for line in found.interactions.to_dict("records"):
        parts = [line["flags"], *filter(None, line["aliases"].split(", "))]
        pairs = list(combinations(FLAGS[:6], 2))
        whole = sum(
            (-1 if part.startswith("−") else 1)
            * 2
            * np.mean(terms[:, 7 + pairs.index(tuple(part.strip("−").split(":")))] * truth)
            for part in parts
        )
        assert abs(line["effect"] - whole) < 1e-9


def test_aliases_are_the_interactions_with_the_same_column() -> None:
    signs = screening_design(costs_of(11)).signs
    strings = alias_strings(signs)
    assert len(strings) == 15 and sum(1 + len(string.others) for string in strings) == 55
    for string in strings:
        column = signs[:, string.pair[0]] * signs[:, string.pair[1]]
        for pair, sign in string.others:
            assert np.array_equal(column, sign * signs[:, pair[0]] * signs[:, pair[1]])


def test_clean_contrasts_give_the_classical_t_test() -> None:
    """Two seeds of a resolution V design: the error is the pure error, by hand."""
    from scipy import stats

    chance = np.random.default_rng(4)
    once = screening_design(costs_of(4), "V").signs
    signs = np.tile(once, (2, 1))
    values = 80 + signs[:, 0] + chance.normal(size=32)
    found = screen_effects(values, signs, FLAGS[:4])
    sd = math.sqrt(sum(np.var([values[run], values[run + 16]], ddof=1) for run in range(16)) / 16)
    effect = values[signs[:, 0] > 0].mean() - values[signs[:, 0] < 0].mean()
    line = found.effects.iloc[0]
    # 2^4 runs are a full factorial: its five contrasts of three flags and more join the error
    pure = 16 * sd**2
    higher = [np.prod(signs[:, list(some)], axis=1) for size in (3, 4) for some in combinations(range(4), size)]
    sd = math.sqrt((pure + sum((column @ values) ** 2 / 32 for column in higher)) / 21)
    se = sd * 2 / math.sqrt(32)
    assert found.clean and found.dimensions == 21
    assert line["effect"] == pytest.approx(effect) and line["se"] == pytest.approx(se)
    half = stats.t.ppf(0.975, 21) * se
    assert line["high"] - line["effect"] == pytest.approx(half, rel=0.03)


def test_statsmodels_fits_the_same_effects_where_runs_are_missing() -> None:
    import statsmodels.api as sm

    chance = np.random.default_rng(6)
    signs = np.tile(screening_design(costs_of(5), "V").signs, (2, 1))
    values = 80 + signs @ np.array([1, 0.5, 0, 0, -1]) + signs[:, 0] * signs[:, 1] + chance.normal(size=len(signs))
    values[[2, 9, 30]] = math.nan
    there = np.isfinite(values)
    fitted = sm.OLS(values[there], model_terms(signs[there])).fit()
    found = screen_effects(values, signs, FLAGS[:5])
    assert np.allclose(found.effects["effect"], 2 * fitted.params[1:6])
    assert np.allclose(found.effects["se"], 2 * fitted.bse[1:6])
    assert found.sd == pytest.approx(math.sqrt(fitted.scale)) and found.dimensions == fitted.df_resid


@pytest.mark.parametrize("value", [80.0, math.nan])
def test_runs_without_spread_or_result_claim_nothing(value: float) -> None:
    signs = screening_design(costs_of(5)).signs
    found = screen_effects(np.full(len(signs), value), signs, FLAGS[:5])
    assert not set(found.effects["verdict"]) & {"better", "worse"}
    assert found.effects["p_adjusted"].isna().all()


def test_less_loss_is_better() -> None:
    signs = np.tile(screening_design(costs_of(4)).signs, (3, 1))
    values = signs[:, 1] * 0.5 + np.random.default_rng(2).normal(scale=0.1, size=len(signs))
    verdicts = [screen_effects(values, signs, FLAGS[:4], measure=one).effects["verdict"][1] for one in ("top1", "loss")]
    assert verdicts == ["better", "worse"]


def test_a_saturated_design_is_not_tested() -> None:
    made = screening_design(costs_of(11), "III", 12)
    found = screen_effects(np.random.default_rng(0).normal(size=12), made.signs, FLAGS[:11])
    assert found.effects["verdict"].str.startswith("not tested").all() and found.effects["effect"].notna().all()


def test_a_main_effect_that_lost_its_runs_is_not_tested() -> None:
    signs = screening_design(costs_of(4)).signs
    values = np.where(signs[:, 2] > 0, np.nan, np.arange(len(signs), dtype=float))
    found = screen_effects(values, signs, FLAGS[:4]).effects
    assert found["verdict"][2].startswith("not tested") and math.isnan(found["effect"][2])


def simulated(
    signs: np.ndarray, studies: int, interactions: int, size: float, main: float = 2.0, heavy: bool = False
) -> dict[str, float]:
    """How often screening is wrong, over simulated studies with a few real main effects and interactions."""
    flags = signs.shape[1]
    strings, pairs = alias_strings(signs), list(combinations(range(flags), 2))
    terms, chance = model_terms(signs), np.random.default_rng(7)
    wrong = wrong_pairs = covered = detected = real = 0.0
    for _ in range(studies):
        half = np.zeros(terms.shape[1])
        mains = chance.choice(flags, flags // 2, replace=False)
        half[1 + mains] = main / 2 * chance.choice([-1, 1], len(mains))
        chosen = chance.choice(len(strings), interactions, replace=False)
        for string in chosen:
            half[1 + flags + pairs.index(strings[string].pair)] = size / 2 * chance.choice([-1, 1])
        noise = chance.standard_t(4, len(signs)) / math.sqrt(2) if heavy else chance.standard_normal(len(signs))
        found = screen_effects(terms @ half + noise, signs, FLAGS[:flags])
        p, truth = found.effects["p_adjusted"].to_numpy(), 2 * half[1 : 1 + flags]
        wrong += bool((p[truth == 0] <= 0.05).any())
        detected, real = detected + (p[mains] <= 0.05).sum(), real + len(mains)
        covered += ((found.effects["low"] <= truth) & (truth <= found.effects["high"])).mean()
        named = {f"{FLAGS[strings[string].pair[0]]}:{FLAGS[strings[string].pair[1]]}" for string in chosen}
        false = found.interactions[~found.interactions["flags"].isin(named)]
        wrong_pairs += bool((false["p_adjusted"] <= 0.05).any())
    rates = {"wrong": wrong, "wrong interactions": wrong_pairs, "covered": covered}
    return {name: rate / studies for name, rate in rates.items()} | {"power": detected / real}


CELLS = [
    *[
        (32, 11, interactions, size, heavy)
        for interactions, size in ((0, 0), (5, 1.5), (15, 2))
        for heavy in (False, True)
    ],
    *[(16, 6, interactions, 2.0, heavy) for interactions in (0, 2) for heavy in (False, True)],
    (8, 4, 0, 0, False),
]


@pytest.mark.parametrize(
    ("runs", "flags", "interactions", "size", "heavy"),
    [
        pytest.param(*cell, marks=pytest.mark.slow if place % 4 == 1 else pytest.mark.simulation)
        for place, cell in enumerate(CELLS)
    ],
)
def test_family_wise_error_and_coverage_hold(
    runs: int, flags: int, interactions: int, size: float, heavy: bool
) -> None:
    rates = simulated(screening_design(costs_of(flags), "IV", runs).signs, 500, interactions, size, heavy=heavy)
    assert rates["wrong"] <= 0.065 and rates["wrong interactions"] <= 0.065 and rates["covered"] >= 0.935, rates
    if runs == 32:
        assert rates["power"] >= 0.8, rates


# ---- studies, folders, command and report

SCREEN: dict[str, Any] = {
    "base": "pocket",
    "flags": ["stem", "norm", "activation", "fewer_norms", "fewer_activations", "kernel_size"],
    "data": "digits",
}


def made_up(folder: Path, outcome: Any = lambda run: {}, **changes: Any) -> Study:
    """A finished screening study, its accuracies made up."""
    study = load_study("screen", {**SCREEN, **changes}, {})
    open_folder(study, folder)
    finish(study, folder, outcome)
    return study


def finish(study: Study, folder: Path, outcome: Any) -> None:
    for run in study.runs:
        if not run_folder(folder, run).exists():
            write_run(run_folder(folder, run), run, outcome(run), 4)


def additive(run: Any) -> dict[str, float]:
    """What the flags of a run add: norm −4, kernel size +2, and the two together +3 more."""
    norm, kernel = run.flags["norm"] == "ln", run.flags["kernel_size"] == 7
    luck = 0.2 * math.sin(97.0 * sum(map(ord, run.name)))
    return {"top1": 84 - 4 * norm + 2 * kernel + 3 * (norm and kernel) + luck}


def test_a_study_names_rows_by_their_flags_and_is_the_same_each_time() -> None:
    study = load_study("screen", SCREEN, {})
    assert study == load_study("screen", SCREEN, {})
    assert study.screen and study.screen.method == "regular fraction" and len(study.rows) == 16
    for row in study.rows:
        digits = row.row.removeprefix("on-")
        values = zip(digits, study.screen.flags.items(), strict=True)
        assert all(row.flags[flag] == both[int(digit)] for digit, (flag, both) in values)


def test_costs_are_those_of_the_designs_and_limit_the_rows() -> None:
    flags: dict[str, list[Any]] = {"inverted_bottleneck": [False, True], "kernel_size": [3, 7]}
    flags["depthwise"] = [False, True]
    costs = combination_costs(Variant(design("pocket")), flags, roadmap("pocket"), "pocket")
    from modernize import count

    for code, values in enumerate(product((0, 1), repeat=3)):
        on = {flag: both[values[2 - place]] for place, (flag, both) in enumerate(flags.items())}
        one = count(design("pocket").with_flags(on), 32, 1, 10).macs / count("pocket", 32, 1, 10).macs
        assert costs[code] == pytest.approx(one)
    asked = {**SCREEN, "flags": [*flags, "norm", "stem"], "max_cost": 3.0}
    study = load_study("screen", asked, {})
    base = count("pocket", 32, 1, 10).macs
    assert all(count(run.design, 32, 1, 10).macs <= 3 * base for run in study.runs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flags": ["norm"]}, "two flags or more"),
        ({"flags": {"norm": ["bn"], "stem": ["patchify"]}}, "norm=bn is the base's value already"),
        ({"runs": 5}, "need 12 or more"),
        ({"orders": 3}, 'orders: not supported by "screen" studies'),
        ({"max_cost": -1.0}, "max_cost"),
    ],
)
def test_wrong_studies_are_refused_in_a_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        load_study("screen", {**SCREEN, **changes}, {})


def test_a_report_has_effects_interactions_and_their_figures(tmp_path: Path) -> None:
    study = made_up(tmp_path, additive)
    report = read_report(study, tmp_path)
    assert [table.name for table in report.tables] == ["screen", "screen-interactions", "screen-runs"]
    assert [plot.name for plot in report.plots][:3] == ["screen", "screen-half-normal", "screen-interactions"]
    effects = report.tables[0].frame.set_index("flag")
    assert {"effect", "low", "high", "p", "verdict"} <= set(effects)
    assert effects["effect"]["norm"] == pytest.approx(-2.5, abs=0.3)
    assert effects["effect"]["kernel_size"] == pytest.approx(3.5, abs=0.3)
    assert effects["verdict"]["norm"] == "worse" and effects["verdict"]["kernel_size"] == "better"
    interactions = report.tables[1].frame
    assert {"flags", "effect", "low", "high", "p", "verdict", "aliases"} <= set(interactions)
    largest = interactions.iloc[0]
    assert "norm:kernel_size" in f"{largest['flags']}, {largest['aliases']}"
    assert largest["effect"] == pytest.approx(1.5, abs=0.3)
    for plot in report.plots[:3]:
        assert plot.svg.startswith(b"<?xml")


def test_follow_up_runs_tell_an_interaction_from_its_aliases(tmp_path: Path) -> None:
    study = made_up(tmp_path, additive)
    extended = resolved(study, "kernel_size:norm", None)
    assert extended.screen and len(extended.rows) == 24
    (follow_up,) = extended.screen.follow_ups
    assert follow_up.resolve == "norm:kernel_size" and len(follow_up.apart) > 1
    assert resolved(extended, "norm:kernel_size", None) == extended
    there = open_folder(extended, tmp_path)
    assert (there.rows, there.screen) == (extended.rows, extended.screen)
    assert with_follow_ups(study, tmp_path).rows == extended.rows
    assert there.stages[-1].why == "extended" and there.stages[-1].rows == follow_up.rows
    finish(extended, tmp_path, additive)
    interactions = read_report(extended, tmp_path).tables[1].frame.set_index("flags")
    line = interactions.loc["norm:kernel_size"]
    assert line["aliases"] == "" and line["verdict"] == "better" and line["effect"] == pytest.approx(1.5, abs=0.3)
    others = [pair for pair in follow_up.apart if pair != "norm:kernel_size" and pair in interactions.index]
    assert others and all(abs(interactions["effect"][pair]) < 0.5 for pair in others)
    assert any("1 follow-up" in line or "8 follow-up" in line for line in describe_screen(extended))


@pytest.mark.parametrize("runs", [4, 8, 16])
def test_foldovers_leave_the_wanted_interaction_without_an_alias(runs: int) -> None:
    study = load_study("screen", SCREEN, {})
    extended = resolved(study, "norm:kernel_size", runs)
    from ablations.studies.screen import signs_of_rows

    signs = np.array(list(signs_of_rows(extended).values()))
    assert len(signs) == 16 + runs and extended.screen
    flags = list(extended.screen.flags)
    wanted = tuple(sorted((flags.index("norm"), flags.index("kernel_size"))))
    (string,) = [string for string in alias_strings(signs) if string.pair == wanted]
    assert not string.others


@pytest.mark.parametrize("pair", ["norm", "norm:norm", "norm:nrom"])
def test_wrong_interactions_are_refused(pair: str) -> None:
    with pytest.raises(RequestError, match=re.escape(f"--resolve {pair}")):
        resolved(load_study("screen", SCREEN, {}), pair, None)


def test_what_is_not_aliased_needs_no_follow_up() -> None:
    study = load_study("screen", {**SCREEN, "resolution": "V"}, {})
    with pytest.raises(RequestError, match="separate this interaction from all others"):
        resolved(study, "norm:stem", None)


def test_a_dry_run_prints_aliases_cost_and_standard_errors() -> None:
    lines = "\n".join(describe_screen(load_study("screen", SCREEN, {})))
    assert "regular fraction of resolution IV, 16 combinations" in lines
    assert "aliases of main effects among interactions of two flags: none" in lines
    assert (
        "standard error of an average effect: 0.50 standard deviations of a run; of one-in with 16 runs: 0.94" in lines
    )
    assert re.search(r"smallest average effect detected with 80% power: [\d.]+ standard deviations", lines)


def test_the_command_screens_and_resolves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "screen"
    asked: list[str | Path] = [
        "--base",
        "pocket,width=4,depths=1-1",
        "--flags",
        "norm,activation,stem,fewer_norms",
        "--data",
        "digits",
    ]
    asked += ["--budget", "64images", "--set", "batch_size=32", "--out", folder]
    done = ablations_here("run", "screen", *asked, "--jobs", "1")
    assert done.returncode == 0, done.stderr
    more = ablations_here("run", "screen", "--resolve", "norm:stem", "--runs", "4", "--out", folder, "--jobs", "1")
    assert more.returncode == 0 and "12 runs, 8 finished" in more.stdout, more.stdout + more.stderr
    report = ablations_here("report", folder, "--format", "table,csv")
    assert report.returncode == 0, report.stderr
    interactions = pd.read_csv(folder / "report/tables/screen-interactions.csv")
    assert "norm:stem" in set(interactions["flags"])
    arguments = ["run", "screen", "--resolve", "norm:stem", "--seeds", "1", "--out", str(folder)]
    assert run_command(arguments) == 2
    assert "--seeds: follow-up runs are trained like" in capsys.readouterr().err


def test_the_shares_of_looks_at_interactions_add_up_to_less_than_one() -> None:
    first = pd.DataFrame({"stage": 1, "added": "start", "status": "done"}, index=range(32))
    stages = [first]
    for number in range(2, 12):
        more = pd.DataFrame({"stage": number, "added": "extended", "status": "done"}, index=range(16 * number))
        stages.append(more)
    shares = [interaction_share(look) for look in looks(pd.concat(stages))]
    assert shares[0] == 0.5 and len(shares) == 11 and sum(shares) < 1 and min(shares) > 0


# ---- the same on any processor


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_what_noise_gives_does_not_depend_on_the_axes_of_a_decomposition(seed: int) -> None:
    """Libraries of linear algebra choose different axes on different processors."""
    rng = np.random.default_rng(seed)
    columns = rng.standard_normal((4, 6))
    columns /= np.linalg.norm(columns, axis=0)
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    one, other = (unreplicated.reference(unreplicated.Space.of(each, 2)) for each in (columns, turn @ columns))
    assert np.allclose(one.sd, other.sd) and np.allclose(one.t, other.t)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_the_root_of_a_correlation_is_symmetric_so_that_there_is_one(seed: int) -> None:
    blocks = np.kron(np.eye(3), np.full((2, 2), 0.5)) + 0.5 * np.eye(6)  # each eigenvalue three times
    order = np.random.default_rng(seed).permutation(6)
    root = screening._root(blocks[np.ix_(order, order)])
    assert np.allclose(root, root.T) and np.allclose(root @ root, blocks[np.ix_(order, order)])
