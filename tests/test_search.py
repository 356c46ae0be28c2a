"""The search for a setting that agrees with the paper: on made-up settings whose best one is known, and on noise."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablations.studies.screening import ScreeningDesign, screening_design
from modernize.roadmap import roadmap
from reports.paper_agreement import between_regimes, paper_agreement, printed

HOME = Path(__file__).parent.parent
ADOPTED = [row for row in roadmap("pocket").rows if row.adopted]
PAPER = {regime: np.array(side.of(ADOPTED).means) for regime, side in printed(roadmap("pocket")).items()}


@pytest.fixture(scope="module")
def module() -> Iterator[Callable[[str], ModuleType]]:
    """Import a module beside the published results."""
    sys.path.insert(0, str(HOME / "docs/results"))
    yield importlib.import_module
    sys.path.remove(str(HOME / "docs/results"))


def runs_of(rows: dict[str, list[float]], measure: str = "top1") -> pd.DataFrame:
    """Finished runs with these values by row, a seed each."""
    return pd.DataFrame(
        {"row": row, "seed": seed, "status": "done", "run": f"{row}-s{seed}", measure: value, "dataset": "made-up"}
        | {"macs": 1e6, "images_seen": 1000, "seconds": 2.0}
        for row, values in rows.items()
        for seed, value in enumerate(values)
    )


def setting_of(search: ModuleType, name: str, values: np.ndarray, noise: float = 0.0, seeds: int = 1) -> Any:
    """A setting whose adopted rows have these values, with noise."""
    rng = np.random.default_rng(sum(name.encode()))
    rows = {
        row.name: list(value + noise * rng.standard_normal(seeds)) for row, value in zip(ADOPTED, values, strict=True)
    }
    return search.Setting(name, runs_of(rows), dict.fromkeys(search.MEASURES, 1.0))


# ---- agreement with both regimes


def test_the_paper_agrees_with_its_own_regime_and_with_the_other_as_the_regimes_do() -> None:
    for regime, values in PAPER.items():
        runs = runs_of({row.name: [value] for row, value in zip(ADOPTED, values, strict=True)})
        found = {one.target: one for one in paper_agreement(runs, roadmap("pocket"), sd=0.05)}
        other = next(name for name in PAPER if name != regime)
        assert found[regime].response == pytest.approx(1.0)
        between = between_regimes(roadmap("pocket"), adopted_only=True)
        assert found[other].changes.value == pytest.approx(between.changes.value)
        assert found[other].pairs.value == pytest.approx(between.pairs.value)
        assert found[other].pairs.low < found[other].pairs.value < found[other].pairs.high


def test_less_loss_is_better_and_missing_rows_and_side_branches_are_left_out() -> None:
    values = dict(zip((row.name for row in ADOPTED), PAPER["ResNet-50"], strict=True))
    losses = {name: [3 - value / 50, 3.001 - value / 50] for name, value in values.items() if name != "gelu"}
    found = paper_agreement(runs_of(losses, "loss"), roadmap("pocket"), "loss")[0]
    assert (found.steps, found.pairs.rows, found.response) == (12, 12, pytest.approx(1.0))
    branches = losses | {"kernel-5": [9.0, 9.0]}  # the worst of all
    with_branch = paper_agreement(runs_of(branches, "loss"), roadmap("pocket"), "loss")[0]
    adopted = paper_agreement(runs_of(branches, "loss"), roadmap("pocket"), "loss", adopted_only=True)[0]
    assert (
        with_branch.pairs.rows == 13 and with_branch.pairs.value < 1 and with_branch.changes.value == pytest.approx(1)
    )
    assert (adopted.pairs.rows, adopted.response) == (12, pytest.approx(1.0))


def test_each_row_takes_the_learning_rate_with_its_highest_mean_and_pays_for_all(
    module: Callable[[str], ModuleType],
) -> None:
    low = runs_of({"stem": [50.0, 52.0, 90.0], "norm": [40.0, 44.0, 90.0]})  # seed 2 at this rate alone
    high = runs_of({"stem": [54.0, 49.0], "norm": [41.0, 42.0]})
    both = [one.assign(processor_seconds=3.0) for one in (low, high)]
    found = module("search").best_rates(both).set_index(["row", "seed"]).sort_index()
    assert found["top1"].to_dict() == {("stem", 0): 54, ("stem", 1): 49, ("norm", 0): 40, ("norm", 1): 44}
    assert set(found["processor_seconds"]) == {6.0} and set(found["images_seen"]) == {2000}


# ---- leave steps out


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), digits=st.integers(0, 3))
def test_over_all_steps_the_agreement_is_that_of_the_rows(
    module: Callable[[str], ModuleType], seed: int, digits: int
) -> None:
    values = np.random.default_rng(seed).normal(80, 2, len(ADOPTED)).round(digits)  # few digits: ties
    every = np.arange(len(ADOPTED) - 1)[None]
    found = paper_agreement(
        runs_of({row.name: [value] for row, value in zip(ADOPTED, values, strict=True)}), roadmap("pocket")
    )
    for one in found:
        on_all = module("leave_out").agreement_on(values[None], PAPER[one.target], every)
        assert on_all[0, 0] == pytest.approx(one.response)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), first=st.integers(0, 6), count=st.integers(3, 6))
def test_steps_in_a_row_are_the_roadmap_between_them(
    module: Callable[[str], ModuleType], seed: int, first: int, count: int
) -> None:
    """And a part's agreement does not depend on the steps outside it."""
    leave_out = module("leave_out")
    ours = np.random.default_rng(seed).normal(80, 2, (1, len(ADOPTED)))
    theirs, steps = PAPER["ResNet-200"], np.arange(first, first + count)
    here = slice(first, first + count + 1)
    alone = leave_out.agreement_on(ours[:, here], theirs[here], np.arange(count)[None], own_recipe=first == 0)
    assert leave_out.agreement_on(ours, theirs, steps[None]) == pytest.approx(alone)
    moved = ours + 5 * (np.arange(len(ADOPTED)) > first + count)  # a step beyond
    assert leave_out.agreement_on(moved, theirs, steps[None]) == pytest.approx(alone)


def test_parts_are_complements_and_each_comes_once(module: Callable[[str], ModuleType]) -> None:
    for steps, left, most, count in (
        (6, None, None, 20),
        (13, None, None, 3432),
        (13, None, 50, 100),
        (13, 4, None, 715),
    ):
        ways = module("leave_out").splits(steps, left, most)
        parts = [frozenset(part) for group in ways.groups for part in group.tolist()]
        pairs = [(parts[choose], parts[score]) for choose, score in zip(ways.choose, ways.score, strict=True)]
        assert all(chosen == set(range(steps)) - scored for chosen, scored in pairs)
        assert len(set(pairs)) == len(pairs) == count and (left is None or len(pairs[0][1]) == left)


def test_a_known_best_setting_is_found_whatever_steps_are_left_out(module: Callable[[str], ModuleType]) -> None:
    rng = np.random.default_rng(0)
    ours = {str(place): rng.normal(0, 1, (2, len(ADOPTED))) for place in range(8)}
    ours["best"] = np.array([PAPER["ResNet-50"], PAPER["ResNet-50"]])
    task = module("leave_out").Task(ours, PAPER["ResNet-50"], PAPER["ResNet-50"])
    for found in (module("leave_out").leave_out(task), module("leave_out").leave_out(task, 4)):
        assert found.best == "best" and found.chosen["best"] >= 0.99 * found.splits
        assert found.whole == pytest.approx(1.0) and found.unseen > 0.99 > 0.6 > found.at_random


def test_settings_whose_steps_are_noise_score_a_half_on_steps_left_out(module: Callable[[str], ModuleType]) -> None:
    """Though the best of them agrees with the paper on the steps that chose it."""
    leave_out = module("leave_out")
    rng = np.random.default_rng(1)
    ways = leave_out.splits(len(ADOPTED) - 1, most=40)
    unseen, seen = [], []
    for _ in range(60):
        ours = {str(place): rng.standard_normal((1, len(ADOPTED))).cumsum(axis=1) for place in range(8)}
        task = leave_out.Task(ours, PAPER["ResNet-50"], PAPER["ResNet-50"])
        scores = leave_out._by_setting(task, task.choose, ways)
        unseen.append(scores[scores[:, ways.choose].argmax(axis=0), ways.score].mean())
        seen.append(scores.max(axis=0).mean())
    error = np.std(unseen) / np.sqrt(len(unseen))
    assert abs(np.mean(unseen) - 0.5) < 4 * error < 0.06 and np.mean(seen) > 0.7


# ---- factors


def test_the_factor_that_raises_agreement_is_found(module: Callable[[str], ModuleType]) -> None:
    """Of eight factors one brings rows nearer to the paper's, another has an effect half as large."""
    search = module("search")
    design: ScreeningDesign = screening_design(np.ones(2**8), "IV", 16)
    names = [f"f{place}" for place in range(8)]
    factors = search.Factors(
        dict.fromkeys(names, ("off", "on")),
        {f"{place:02}": tuple(map(int, signs)) for place, signs in enumerate(design.signs)},
    )
    rng = np.random.default_rng(3)
    wrong = rng.permutation(PAPER["ResNet-50"])
    tried = []
    for name, signs in factors.signs.items():
        share = 0.4 + 0.3 * signs[2] + 0.1 * signs[5]
        values = share * PAPER["ResNet-50"] + (1 - share) * wrong
        tried.append(setting_of(search, name, values, noise=0.1))
    found = search.effects(tried, factors)
    effects = found.effects.set_index("flag")
    assert effects["effect"].idxmax() == "f2" and effects.loc["f2", "verdict"] == "better"
    best = search.predicted(tried, factors)[0]
    assert (best.levels["f2"], best.levels["f5"]) == ("on", "on") and best.agreement > 0.8
    assert best.seconds == pytest.approx(1.0) and best.work == pytest.approx(1.0)  # all cost the same
    assert search.effects_table(tried, factors).splitlines()[2].startswith("| f2: off → on |")


def test_the_levels_of_the_screen_are_a_design_of_resolution_four(module: Callable[[str], ModuleType]) -> None:
    factors = module("search").read_factors()
    signs = np.array(list(factors.signs.values()))
    columns = np.hstack([np.ones((len(signs), 1)), signs])
    assert (columns.T @ columns == len(signs) * np.eye(columns.shape[1])).all()
    pairs = np.stack([signs[:, i] * signs[:, j] for i in range(signs.shape[1]) for j in range(i)], axis=1)
    assert not (signs.T @ pairs).any()


def test_settings_are_ranked_by_their_mean_agreement_over_seeds(module: Callable[[str], ModuleType]) -> None:
    search = module("search")
    good = setting_of(search, "good", PAPER["ResNet-50"], noise=0.3, seeds=2)
    one = setting_of(search, "one", PAPER["ResNet-50"][::-1], noise=0.3)
    assert good.response() == pytest.approx(np.mean(good.by_seed())) and good.seeds == [0, 1]
    assert good.seconds == 2 * 14 * 2.0 and good.work == 2 * 14 * 1e9
    assert np.isnan(good.response("ema_top1")) and good.measures == ("top1",)
    values = {row.name: [value] * 2 for row, value in zip(ADOPTED, PAPER["ResNet-50"], strict=True)}
    best = runs_of(values)  # on the rows that it has
    lost = best[(best["row"] != ADOPTED[4].name) | (best["seed"] == 0)]  # the run of one seed has failed
    lacking, empty = search.Setting("lacking", lost, {}), search.Setting("empty", best[:0], {})
    assert np.isnan([lacking.response(), empty.response()]).all() and not search.Setting("", best, {}).lacking
    lines = search.settings_table([empty, lacking, one, good]).splitlines()
    assert lines[2].startswith("| good | 14 | 0, 1 |") and lines[3].startswith("| one | 14 | 0 |")
    assert lines[4].startswith("| empty | 0 |  | 0 | 0.00 | not ranked (failed or missing: ")
    why = f"not ranked (failed or missing: {ADOPTED[4].name})"
    assert lines[5] == f"| lacking | 14 | 0, 1 | 54 | 0.03 | {why} |{' – |' * 9}"
    agreement = one.agreement()["ResNet-50"]
    assert agreement.pairs.low < agreement.pairs.value < agreement.pairs.high  # by the other settings' noise


def test_all_measures_are_compared_on_the_same_steps(module: Callable[[str], ModuleType]) -> None:
    """The original recipe has no EMA weights: its top-1 counts."""
    search = module("search")
    runs = runs_of({row.name: [float(value)] for row, value in zip(ADOPTED, PAPER["ResNet-50"], strict=True)})
    runs["ema_top1"] = (runs["top1"] + 0.1).where(runs["row"] != "resnet")
    made = search.Setting("made", search._with_averaged(runs), dict.fromkeys(search.MEASURES, 1.0))
    assert len(made.rows("ema_top1")[0]) == len(ADOPTED) and made.rows("ema_top1")[0][0] == PAPER["ResNet-50"][0]
    assert made.agreement("ema_top1")["ResNet-50"].steps == made.agreement()["ResNet-50"].steps == 13
    without = search._with_averaged(runs.assign(ema_top1=np.nan))
    assert without["ema_top1"].isna().all()


def test_measures_are_compared_over_the_screen_alone(module: Callable[[str], ModuleType]) -> None:
    """The protocol decides by round 1; settings tried later do not count."""
    search = module("search")

    def made(name: str, top1: np.ndarray) -> Any:
        runs = setting_of(search, name, top1).runs
        losses = [3 - value / 50 for value in PAPER["ResNet-50"]]  # by loss in the paper's order
        return search.Setting(name, runs.assign(loss=losses), dict.fromkeys(search.MEASURES, 1.0))

    alike, reverse = PAPER["ResNet-50"], PAPER["ResNet-50"][::-1]
    tried = [made("1", alike), made("2", alike), made("later", reverse)]
    factors = search.Factors({"f": ("off", "on")}, {"1": (-1,), "2": (1,)})
    found = search.responses_table(tried, factors)
    assert "test loss minus top-1: 0.000 (standard error 0.000, 2 settings)" in found
    assert "| later |" in found and "| mean of the screen | 1.000 |" in found
    few = search.responses_table(tried[2:], factors)
    assert few.endswith("|") and "mean of the screen" not in few


def test_the_settings_of_a_search_are_read_from_their_folders(module: Callable[[str], ModuleType]) -> None:
    """Those of the first edition, whose page names the setting chosen."""
    search = module("search")
    tried = search.settings(HOME / "docs/results/first-edition/search")
    assert len(tried) == 9 and all(setting.seeds == [0] and setting.measures == ("top1", "loss") for setting in tried)
    assert (
        search.settings_table(tried).splitlines()[2].startswith("| 2-kaiming | 17 | 0 | 191 | 1.80 | 0.718 | 0.688 |")
    )
    assert search.measures_compared(tried).startswith(
        "Mean difference in agreement with the ResNet-50 regime: test loss"
    )
