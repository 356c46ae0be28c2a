"""Studies: the designs, runs and recipes that each kind stands for; and one line for everything that is none."""

from __future__ import annotations

import collections
import datetime
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import ablations_here
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

import modernize
from ablations import cli
from ablations.cli.train import run as run_study_command
from ablations.data.datasets import DataSet, load
from ablations.errors import RequestError, RunError
from ablations.reach import reached_settings
from ablations.recipes import TrainingConfig, load_recipe, recipe_names
from ablations.reporting import walked
from ablations.store import write_json
from ablations.studies.combined import is_combined, load_combined
from ablations.studies.folder import open_folder, read_study, run_folder
from ablations.studies.kinds import set_name
from ablations.studies.load import load_study, study_names
from ablations.studies.older import older_batch
from ablations.studies.results import study_runs
from ablations.studies.schema import KINDS, Study, StudyFile, read_budget
from ablations.studies.status import describe
from modernize.plan import compile_plan

# The pocket roadmap's ends and the flags that lead from one to the other, in the paper's order, written out by hand.
BASE = {
    "depths": "1-2-2-1",
    "width": 12,
    "stem": "resnet",
    "stem_stride": 2,
    "depthwise": False,
    "inverted_bottleneck": False,
    "depthwise_first": False,
    "kernel_size": 3,
    "activation": "relu",
    "fewer_activations": False,
    "norm": "bn",
    "fewer_norms": False,
    "separate_downsampling": False,
    "layer_scale": "off",
    "grn": False,
}
STEPS = {
    "depths": "1-1-4-1",
    "stem": "patchify",
    "depthwise": True,
    "width": 18,
    "inverted_bottleneck": True,
    "depthwise_first": True,
    "kernel_size": 7,
    "activation": "gelu",
    "fewer_activations": True,
    "fewer_norms": True,
    "norm": "ln",
    "separate_downsampling": True,
}
END = {**BASE, **STEPS}
THREE = ["depthwise", "norm", "activation"]  # few enough to go through every order of them

VALID: dict[str, dict[str, Any]] = {
    "roadmap": {"kind": "roadmap", "base": "pocket"},
    "one-in": {"kind": "one-in", "base": "pocket"},
    "one-out": {"kind": "one-out", "base": "pocket", "end": "pocket@gelu", "flags": ["kernel_size", "activation"]},
    "sweep": {"kind": "sweep", "base": "pocket", "flags": {"kernel_size": [3, 5, 7]}},
    "grid": {"kind": "grid", "base": "pocket", "flags": {"norm": ["bn", "ln"], "depthwise": [True, False]}},
    "orders": {"kind": "orders", "base": "pocket", "flags": THREE, "orders": 4},
    "recipes": {"kind": "recipes", "base": "pocket"},
    "screen": {"kind": "screen", "base": "pocket", "flags": THREE},
    "designs": {"kind": "designs", "designs": ["pocket", "pocket,norm=ln", "torchvision:resnet18"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


def written(folder: Path, contents: str | bytes | dict[Any, Any], name: str = "my-study.yaml") -> str:
    """A study file's name."""
    path = folder / name
    if isinstance(contents, dict):
        contents = yaml.safe_dump(contents, sort_keys=False)
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode("utf-8", "surrogatepass"))
    return str(path)


def study(kind: str, changes: dict[str, Any] | None = None, settings: dict[str, str] | None = None) -> Study:
    """The study of a kind, as `ablations run KIND --base pocket …` has it."""
    base = {} if kind == "designs" else {"base": "pocket"}
    return load_study(kind, {**base, **(changes or {})}, settings or {})


def flags_of(found: Study) -> dict[str, dict[str, Any]]:
    """Every row's flags."""
    return {row.row: row.flags for row in found.rows}


def compared(found: Study) -> dict[str, str | None]:
    return {row.row: next(iter(row.baselines), None) for row in found.rows}


def one_line(error: RequestError, name: str) -> str:
    message = str(error)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert name in message
    return message


def refused(name: str, settings: dict[str, str] | None = None, **changes: Any) -> str:
    """The one line with which a study is refused."""
    with pytest.raises(RequestError) as caught:
        load_study(name, changes, settings or {})
    return one_line(caught.value, name)


# ---- what comes with the project


def test_shipped_studies_and_kinds_do_not_share_names() -> None:
    assert "quick" in study_names()
    assert study_names() == sorted(study_names())
    assert not set(study_names()) & set(KINDS)
    assert set(KINDS) == set(VALID)


@pytest.mark.parametrize("name", study_names())
def test_every_shipped_study_loads_and_its_networks_can_be_built(name: str) -> None:
    several = is_combined(name)
    studies = load_combined(name, {}, {}).studies if several else {name: load_study(name, {}, {})}
    for key, found in studies.items():
        assert found.name == key
        assert found.runs and len({run.name for run in found.runs}) == len(found.runs)
        assert {run.recipe_name for run in found.runs} == set(found.recipes)
        for run in found.runs:
            assert compile_plan(run.design, 1, 10)
            assert run.design.flags() == run.flags


def test_quick_is_the_pocket_roadmap() -> None:
    found = load_study("quick", {}, {})
    assert (found.kind, found.base, found.data, found.seeds) == ("roadmap", "pocket", "fashion_mnist", [*range(6)])
    assert [row.recipe for row in found.rows] == ["quick_original"] + ["quick,learning_rate=2e-3,init=kaiming"] * 16


# ---- what each kind trains


def test_a_roadmap_is_its_rows_each_against_the_last_adopted_one() -> None:
    found = study("roadmap", {"original_recipe": "quick_original"})
    expected = {
        "resnet": (None, {}),
        "enhanced-recipe": ("resnet", {}),
        "stage-ratio": ("enhanced-recipe", {"depths"}),
        "patchify-stem": ("stage-ratio", {"stem"}),
        "depthwise": ("patchify-stem", {"depthwise"}),
        "width": ("depthwise", {"width"}),
        "inverted-bottleneck": ("width", {"inverted_bottleneck"}),
        "depthwise-first": ("inverted-bottleneck", {"depthwise_first"}),
        "kernel-5": ("depthwise-first", {"kernel_size": 5}),
        "kernel-7": ("depthwise-first", {"kernel_size"}),
        "kernel-9": ("kernel-7", {"kernel_size": 9}),
        "kernel-11": ("kernel-7", {"kernel_size": 11}),
        "gelu": ("kernel-7", {"activation"}),
        "fewer-activations": ("gelu", {"fewer_activations"}),
        "fewer-norms": ("fewer-activations", {"fewer_norms"}),
        "layer-norm": ("fewer-norms", {"norm"}),
        "separate-downsampling": ("layer-norm", {"separate_downsampling"}),
    }
    assert compared(found) == {row: before for row, (before, _) in expected.items()}
    flags: dict[str | None, dict[str, Any]] = {None: BASE}
    for row, (before, changes) in expected.items():
        new = changes if isinstance(changes, dict) else {flag: STEPS[flag] for flag in changes}
        flags[row] = {**flags[before], **new}
    assert flags_of(found) == {row: flags[row] for row in expected}
    assert flags["separate-downsampling"] == END
    assert [row.recipe for row in found.rows] == ["quick_original"] + ["quick"] * 16
    assert [row.same_as for row in found.rows] == [None] * 17
    assert len(found.runs) == 17


def test_under_one_recipe_the_roadmaps_first_two_rows_are_one_run() -> None:
    found = study("roadmap")
    assert {row.row: row.same_as for row in found.rows if row.same_as} == {"enhanced-recipe": "resnet"}
    assert len(found.runs) == 16 and "enhanced-recipe-s0" not in {run.name for run in found.runs}


def test_one_in_is_the_base_and_each_flag_alone() -> None:
    found = study("one-in")
    assert list(flags_of(found)) == ["base", *(f"with-{flag}" for flag in STEPS)]
    assert flags_of(found) == {
        "base": BASE,
        **{f"with-{flag}": {**BASE, flag: value} for flag, value in STEPS.items()},
    }
    assert compared(found) == {"base": None, **{f"with-{flag}": "base" for flag in STEPS}}
    labels = {row.row: row.label for row in found.rows}
    assert labels["base"] == "pocket"
    assert labels["with-norm"] == "+ norm=ln" and labels["with-depthwise"] == "+ depthwise=on"


def test_one_out_is_the_end_and_each_flag_alone_turned_back() -> None:
    found = study("one-out")
    assert list(flags_of(found)) == ["end", *(f"without-{flag}" for flag in STEPS)]
    assert flags_of(found) == {
        "end": END,
        **{f"without-{flag}": {**END, flag: BASE[flag]} for flag in STEPS},
    }
    for row in found.rows[1:]:
        differs = [flag for flag in BASE if row.flags[flag] != END[flag]]
        assert row.row == f"without-{differs[0]}" and len(differs) == 1
    assert compared(found) == {"end": None, **{f"without-{flag}": "end" for flag in STEPS}}
    assert [row.label for row in found.rows if row.row == "without-norm"] == ["− norm=bn"]


@pytest.mark.parametrize("kind", ["one-in", "one-out"])
def test_the_flags_of_a_study_are_chosen_in_the_order_given(kind: str) -> None:
    found = study(kind, {"flags": ["norm", "depthwise"]})
    assert [row.row.partition("-")[2] for row in found.rows[1:]] == ["norm", "depthwise"]
    first = BASE if kind == "one-in" else END
    other = STEPS if kind == "one-in" else BASE
    expected = [{**first, flag: other[flag]} for flag in ("norm", "depthwise")]
    assert [row.flags for row in found.rows] == [first, *expected]


def test_flags_with_values_lead_to_an_end_of_their_own() -> None:
    flags = {"kernel_size": ["9"], "layer_scale": ["1e-6"]}
    base = {**BASE, "norm": "ln"}
    changes = {"base": "pocket,norm=ln", "flags": flags}
    assert flags_of(study("one-in", changes)) == {
        "base": base,
        "with-kernel_size": {**base, "kernel_size": 9},
        "with-layer_scale": {**base, "layer_scale": 1e-6},
    }
    end = {**base, "kernel_size": 9, "layer_scale": 1e-6}
    assert flags_of(study("one-out", changes)) == {
        "end": end,
        "without-kernel_size": {**end, "kernel_size": 3},
        "without-layer_scale": {**end, "layer_scale": "off"},
    }
    assert set(flags_of(study("orders", changes))) == {"on-00", "on-01", "on-10", "on-11"}


def test_an_end_that_is_named_is_where_it_leads() -> None:
    found = study("one-in", {"base": "resnet50@depthwise", "end": "convnext_tiny,norm=bn"})
    flags = ["layer_scale", "width", "inverted_bottleneck", "depthwise_first", "kernel_size", "activation"]
    assert set(compared(found)) == {
        "base",
        *(f"with-{flag}" for flag in [*flags, "fewer_activations", "fewer_norms", "separate_downsampling"]),
    } - {"with-layer_scale"}  # the row has it already
    assert found.rows[1].flags["width"] == 96


def test_the_base_of_a_study_may_be_a_row_or_a_file(folder: Path) -> None:
    assert flags_of(study("one-in", {"base": "pocket@gelu"}))["base"]["activation"] == "gelu"
    assert len(study("one-in", {"base": "pocket@gelu"}).rows) == 1 + 4
    design = written(folder, {"width": 8, "depths": "1-1"}, "design.yaml")
    found = study("sweep", {"base": design, "flags": {"norm": ["bn", "ln"]}})
    assert [(row.flags["width"], row.flags["norm"]) for row in found.rows] == [(8, "bn"), (8, "ln")]


def test_a_sweep_keeps_the_order_of_its_values() -> None:
    found = study("sweep", {"flags": {"kernel_size": [7, "3", 11, 5]}})
    assert flags_of(found) == {f"kernel_size={size}": {**BASE, "kernel_size": size} for size in (7, 3, 11, 5)}
    assert [row.row for row in found.rows] == [f"kernel_size={size}" for size in (7, 3, 11, 5)]
    assert list(compared(found).values()) == [None, *["kernel_size=7"] * 3]


def test_a_grid_is_the_product() -> None:
    values = {"norm": ["ln", "bn"], "depthwise": ["on", False], "depths": ["1-1", [2, 2]]}
    found = study("grid", {"flags": values})
    expected = [
        (
            f"norm={norm},depthwise={word},depths={depths}",
            {**BASE, "norm": norm, "depthwise": depthwise, "depths": depths},
        )
        for norm in ("ln", "bn")
        for word, depthwise in (("on", True), ("off", False))
        for depths in ("1-1", "2-2")
    ]
    assert [(row.row, row.flags) for row in found.rows] == expected
    assert list(compared(found).values()) == [None, *["norm=ln,depthwise=on,depths=1-1"] * 7]
    assert len(found.runs) == 8


def test_recipes_are_one_design_under_each(folder: Path) -> None:
    mine = written(folder, {"max_epochs": 1, "batch_size": 32, "learning_rate": 0.1}, "my recipe.yaml")
    found = study("recipes", {"base": "pocket@gelu", "recipes": ["quick", mine, "quick_original"]})
    assert compared(found) == {"quick": None, "my-recipe": "quick", "quick_original": "quick"}
    assert len({str(row.flags) for row in found.rows}) == 1 and found.rows[0].flags["activation"] == "gelu"
    assert found.recipes == {name: load_recipe(name) for name in ("quick", mine, "quick_original")}
    assert [run.recipe for run in found.runs] == list(found.recipes.values())
    assert compared(study("recipes")) == {"quick_original": None, "quick": "quick_original"}
    rates = study("recipes", {"base": "pocket", "recipes": ["quick", f"{mine},learning_rate=0.5"]})
    assert [row.row for row in rates.rows] == ["quick", "my-recipe,learning_rate=0.5"]
    assert rates.recipes[rates.rows[1].recipe] == load_recipe(mine, {"learning_rate": "0.5"})


# ---- orders


def prefixes(orders: list[list[str]]) -> set[frozenset[str]]:
    return {frozenset(order[:length]) for order in orders for length in range(len(order) + 1)}


def test_orders_come_through_every_prefix_of_every_order_once() -> None:
    found = study("orders", {"orders": 7, "orders_seed": 3})
    assert found.orders[0] == list(STEPS)
    assert len(found.orders) == 1 + 7
    assert all(sorted(order) == sorted(STEPS) for order in found.orders)
    rows = {
        frozenset(flag for flag, digit in zip(STEPS, row.row.removeprefix("on-"), strict=True) if digit == "1"): row
        for row in found.rows
    }
    assert len(rows) == len(found.rows)
    assert set(rows) == prefixes(found.orders)
    for chosen, row in rows.items():
        assert row.flags == {**BASE, **{flag: STEPS[flag] for flag in chosen}}
        assert row.row == set_name(list(STEPS), chosen)
        assert row.compared_with is None and row.same_as is None
    assert len(found.runs) == len(rows) < 8 * 12
    labels = {row.row: row.label for row in found.rows}
    assert labels["on-" + "0" * 12] == "pocket" and labels["on-" + "1" * 12] == "all flags"
    assert labels["on-11" + "0" * 10] == "depths + stem"


def test_random_orders_follow_from_their_seed_alone() -> None:
    def orders(**changes: Any) -> list[list[str]]:
        return study("orders", {"flags": THREE, "orders": 30, **changes}).orders

    assert orders() == orders(orders_seed=0) == orders(seeds=[5, 6], data="digits", budget="2 epochs")
    assert orders() == orders(recipe="quick_original", base="pocket,width=8", end="pocket@separate-downsampling")
    assert orders(orders=20) == orders()[:21]
    drawn = {str(orders(orders_seed=seed)[1:]) for seed in range(20)}
    assert len(drawn) == 20
    assert len(study("orders").orders) == 1 + 10


def test_random_orders_are_each_as_likely_as_any_other() -> None:
    found = study("orders", {"flags": THREE, "orders": 6000})
    counts = collections.Counter(map(tuple, found.orders[1:]))
    assert set(counts) == set(itertools.permutations(THREE))
    assert stats.chisquare(list(counts.values())).pvalue > 0.001
    pairs = collections.Counter(itertools.pairwise(map(tuple, found.orders[1:])))  # none depends on the one before
    assert len(pairs) == 36 and stats.chisquare(list(pairs.values())).pvalue > 0.001
    assert len(found.rows) == 8


def test_what_was_walked_names_the_rows() -> None:
    found = study("orders", {"flags": THREE})
    orders = walked(found)
    assert orders is not None and orders.orders == found.orders
    assert {orders.row_of(chosen) for chosen in prefixes(found.orders)} == {row.row for row in found.rows}
    assert walked(study("one-in")) is None


# ---- what is trained once, and in which order


def finish(found: Study, folder: Path) -> None:
    """Gives each run of a study a result of its own."""
    for place, run in enumerate(found.runs):
        where = run_folder(folder, run)
        where.mkdir(parents=True)
        write_json(where / "result.json", {"status": "done", "top1": 50.0 + place, "seconds": 1.0, "params": place})


def test_rows_that_repeat_a_design_share_its_run(tmp_path: Path) -> None:
    found = study("one-in", {"flags": {"kernel_size": [3], "norm": ["ln"]}, "seeds": [4, 2]})
    assert {row.row: row.same_as for row in found.rows} == {"base": None, "with-kernel_size": "base", "with-norm": None}
    assert [run.name for run in found.runs] == ["base-s4", "with-norm-s4", "base-s2", "with-norm-s2"]
    finish(found, tmp_path)
    lines = {(line["row"], line["seed"]): line for line in study_runs(found, tmp_path).to_dict("records")}
    assert len(lines) == 6
    for seed in (4, 2):
        shared, own = lines["with-kernel_size", seed], lines["base", seed]
        assert shared["run"] == own["run"] == f"base-s{seed}"
        assert shared["top1"] == own["top1"] and shared["status"] == "done"
        assert shared["label"] == "+ kernel_size=3" and shared["base"] == "base"
    assert len({line["top1"] for line in lines.values()}) == 4
    assert "4 runs: 4 finished" in describe(found, tmp_path)


def test_the_frame_has_every_row_and_seed_whatever_its_state(tmp_path: Path) -> None:
    found = study("grid", {"flags": {"norm": ["bn", "ln"]}, "seeds": [0, 1], "data": "digits"})
    frame = study_runs(found, tmp_path / "none")
    assert frame["status"].tolist() == ["left"] * 4 and frame["top1"].isna().all()
    assert frame["row"].tolist() == ["norm=bn", "norm=ln"] * 2 and frame["seed"].tolist() == [0, 0, 1, 1]
    assert frame["base"].isna().tolist() == [True, False] * 2 and set(frame["base"].dropna()) == {"norm=bn"}
    assert set(frame["kind"]) == {"grid"} and set(frame["dataset"]) == {"digits"} and frame["roadmap"].isna().all()
    assert set(study_runs(study("roadmap"), tmp_path)["roadmap"]) == {"pocket"}


@pytest.mark.parametrize("kind", KINDS)
def test_runs_go_seed_by_seed_in_folders_of_their_own(kind: str) -> None:
    found = study(kind, {**VALID[kind], "seeds": [3, 0, 2]})
    distinct = [row.row for row in found.rows if row.same_as is None]
    assert [(run.row, run.seed) for run in found.runs] == [(row, seed) for seed in (3, 0, 2) for row in distinct]
    names = [run.name for run in found.runs]
    assert len({name.lower() for name in names}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9@=_.,-]{1,250}", name) for name in names)
    assert {run.evaluate for run in found.runs} == {"test"}


def test_rows_beyond_the_papers_are_in_a_roadmap_where_asked_for() -> None:
    found = study("roadmap", {"base": "pocket,width=24", "extras": ["grn"]})
    assert len(found.rows) == 18 and found.rows[-1].row == "grn"
    assert found.rows[-1].compared_with == "separate-downsampling"
    assert found.rows[-1].flags == study("roadmap", {"base": "pocket,width=24"}).rows[-1].flags | {"grn": True}
    assert found.rows[-1].flags["width"] == 36


# ---- recipes and budgets


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", Path("unused"))


def test_a_budget_in_epochs_stretches_the_whole_schedule(digits: DataSet) -> None:
    found = study("roadmap", {"original_recipe": "quick_original", "budget": "5 epochs"})
    stretched = found.on(digits)
    for name in ("quick", "quick_original"):
        before, after = load_recipe(name).model_dump(), stretched.recipes[name].model_dump()
        factor = 5 / before["max_epochs"]
        assert after["max_epochs"] == 5
        for key in ("warmup_epochs", "step_epochs"):
            assert after[key] == (None if before[key] is None else pytest.approx(before[key] * factor))
            before[key] = after[key]
        assert after == before | {"max_epochs": 5.0}
    assert stretched.recipes["quick_original"].step_epochs
    assert found.recipes["quick"] == load_recipe("quick"), "the budget is for a training set; none is known yet"
    assert stretched.data_checksum == digits.checksum
    assert stretched.model_copy(update={"recipes": found.recipes, "data_checksum": found.data_checksum}) == found
    assert study("roadmap").on(digits).recipes == study("roadmap").recipes


@pytest.mark.parametrize("batch", [32, 100, 128, 1438])
def test_a_budget_in_images_is_images_seen(batch: int, digits: DataSet) -> None:
    sizes = {"batch_size": str(batch)}
    found = study("one-in", {"budget": "200000 images"}, sizes).on(digits)
    for run in found.runs:
        assert abs(run.images(digits) - 200_000) <= batch / 2
    epochs = study("one-in", {"budget": "3 epochs"}, sizes).on(digits)
    assert epochs.runs[0].images(digits) == 3 * (len(digits.train) // batch) * batch


@pytest.mark.parametrize("budget", ["1e99 epochs", "1e99 images", "2000000 epochs", "0.0000001 epochs"])
def test_a_budget_that_no_recipe_may_have_is_refused(budget: str, digits: DataSet) -> None:
    found = study("recipes", {"budget": budget})
    with pytest.raises(RequestError) as caught:
        found.on(digits)
    one_line(caught.value, "a budget of ")


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("5epochs", (5, "epochs")),
        (" 5  epochs ", (5, "epochs")),
        ("1 epoch", (1, "epochs")),
        ("0.25 epochs", (0.25, "epochs")),
        ("200000images", (200_000, "images")),
        ("2e5 images", (200_000, "images")),
        ("1 image", (1, "images")),
    ],
)
def test_budgets_are_epochs_or_images(text: str, means: tuple[float, str]) -> None:
    assert read_budget(text) == means


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "epochs", "-1 epochs", "0 epochs", "0.0images", "nan epochs", "inf epochs", "1e999 epochs"),
        *("9" * 400 + "epochs", "5 steps", "5 epochs 3 images", "1,000 images", "5.epochs", "5 epochs\nx"),
    ],
)
def test_no_other_budget_is(text: str) -> None:
    assert "write epochs or images, such as 5epochs or 200000images" in refused("one-in", base="pocket", budget=text)


# Settings that have a meaning only beside another one.
NEEDS = {
    **{key: {"ema_decay": "0.5"} for key in ("ema_warmup", "ema_steps", "ema_scaled", "evaluated_weights")},
    **{"betas": {"optimizer": "adamw"}, "momentum": {"optimizer": "sgd", "betas": "null"}},
    **{"step_epochs": {"schedule": "step"}, "step_factor": {"schedule": "step"}, "warmup_factor": {}},
    **{"erasing_fill": {"erasing": "0.5"}, "randaugment_std": {"randaugment": "5"}},
    **{"mix_switch": {"mixup": "0.5", "cutmix": "0.5"}, "mix_probability": {"mixup": "0.5", "cutmix": "0.5"}},
    **{"crop_scale": {"crop_padding": "0"}, "warmup_factor": {"warmup_epochs": "0.2"}},
}
VALUES: tuple[str, ...] = (
    "2",
    "16",
    "0.25",
    "true",
    "false",
    "sgd",
    "step",
    "epoch",
    "norms",
    "bicubic",
    "zero",
    "kaiming",
    "ema",
    "bf16",
)
VALUES += ("[0.5,0.75]", "null", "1e-4")


def changed_by_set(kind: str, key: str, changes: dict[str, Any]) -> dict[str, set[str]]:
    """Which settings of each recipe of a study `--set KEY=VALUE` changes, with a value that the main one may have."""
    needs = NEEDS.get(key, {})
    before = study(kind, changes, needs).recipes
    for value in VALUES:
        with suppress(RequestError):
            after = study(kind, changes, {**needs, key: value}).recipes
            found = {name: {one for one, new in after[name] if new != getattr(before[name], one)} for name in before}
            if key in found["quick"]:
                return found
    raise AssertionError(f"no value of {key} is accepted")


@pytest.mark.parametrize("key", TrainingConfig.model_fields)
def test_set_reaches_the_recipes_that_its_help_says(key: str) -> None:
    """For every setting there is; with it change the defaults of settings that it owns, and the schedule's lengths."""
    text = next(str(option.help) for option in run_study_command.params if option.name == "settings")
    listed = text.partition("original recipe takes only ")[2].strip(".").split(", ")
    assert set(listed) < set(TrainingConfig.model_fields)
    scaled = {"warmup_epochs", "step_epochs"} if key == "max_epochs" else {one for one in NEEDS if key in NEEDS[one]}
    found = changed_by_set("roadmap", key, {"original_recipe": "quick_original,ema_decay=0.5"})
    assert key in found["quick"] and found["quick"] <= {key, *scaled}
    original = found["quick_original,ema_decay=0.5"]
    assert (key in original) == (key in listed) and original <= {key, *scaled}


def test_a_study_of_recipes_takes_what_its_recipes_must_share() -> None:
    for key in TrainingConfig.model_fields:
        if key in (*reached_settings(), "batch_size"):
            found = changed_by_set("recipes", key, {})
            assert key in found["quick"] and key in found["quick_original"]
        else:
            with pytest.raises(RequestError, match=f"--set {key}: this study compares recipes"):
                study("recipes", {}, {key: "1"})


def test_the_original_recipe_keeps_its_batch_and_may_be_changed_by_its_own_option(digits: DataSet) -> None:
    found = study("roadmap", {"original_recipe": "quick_original"}, {"batch_size": "32"})
    assert {name: one.batch_size for name, one in found.recipes.items()} == {"quick_original": 128, "quick": 32}
    assert found.recipes["quick_original"] == load_recipe("quick_original")
    changed = study("roadmap", {"original_recipe": "quick_original,batch_size=64"}, {"batch_size": "32"})
    assert [one.batch_size for one in changed.recipes.values()] == [64, 32]


@pytest.mark.parametrize("budget", [None, "3000 images"])
def test_a_folder_in_which_set_changed_both_batches_resumes(
    budget: str | None, tmp_path: Path, digits: DataSet
) -> None:
    """As an earlier version made it; another difference is refused as before."""
    asked = study("roadmap", {"original_recipe": "quick_original", "budget": budget}, {"batch_size": "32"})
    both = {name: one.model_copy(update={"batch_size": 32}) for name, one in asked.recipes.items()}
    begun = open_folder(asked.model_copy(update={"recipes": both}).on(digits), tmp_path)
    opened = open_folder(asked.on(digits), tmp_path)
    assert opened == begun and opened.recipes["quick_original"].batch_size == 32
    said = older_batch("quick_original", asked.recipes["quick_original"], opened.recipes["quick_original"])
    assert said and said.startswith("recipe quick_original keeps batch_size=32")
    other = asked.model_copy(
        update={"recipes": {name: one.model_copy(update={"batch_size": 64}) for name, one in asked.recipes.items()}}
    )
    with pytest.raises(RequestError, match="batch_size was 32 and is now 64"):
        open_folder(other.on(digits), tmp_path)


# ---- files and folders


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_what_its_keys_say(kind: str, folder: Path) -> None:
    keys = {**VALID[kind], "seeds": [0, 7], "data": "digits", "evaluate": "validation", "budget": "3 epochs"}
    from_file = load_study(written(folder, keys), {}, {"batch_size": "64"})
    over = load_study(written(folder, VALID[kind]), {**keys, "kind": kind}, {"batch_size": "64"})
    plain = load_study(kind, keys, {"batch_size": "64"})
    assert from_file == over and from_file.name == "my-study"
    assert plain == from_file.model_copy(update={"name": kind})
    assert (from_file.data, from_file.evaluate, from_file.seeds) == ("digits", "validation", [0, 7])


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_comes_back_from_its_folder(kind: str, tmp_path: Path, digits: DataSet) -> None:
    found = study(kind, {**VALID[kind], "seeds": [1, 0], "budget": "0.3 epochs"}).on(digits)
    open_folder(found, tmp_path / "new" / "study")
    assert without_stages(read_study(tmp_path / "new" / "study")) == found
    assert [path.name for path in (tmp_path / "new" / "study").glob("[!.]*")] == ["study.yaml"]
    before = (tmp_path / "new" / "study" / "study.yaml").read_bytes()
    open_folder(found, tmp_path / "new" / "study")
    assert (tmp_path / "new" / "study" / "study.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "settings", "says"),
    [
        ({"seeds": [1, 2]}, {}, "seeds was [0] and is now [1, 2]"),
        ({"data": "digits"}, {}, "data was fashion_mnist and is now digits"),
        ({"evaluate": "validation"}, {}, "evaluate was test and is now validation"),
        ({"budget": "2 epochs"}, {}, "budget was not set and is now 2 epochs"),
        ({}, {"learning_rate": "0.5"}, "recipes.quick.learning_rate was 0.001 and is now 0.5"),
        ({}, {"betas": "[0.9, 0.95]"}, "recipes.quick.betas[1] was 0.999 and is now 0.95"),
        ({"flags": {"kernel_size": [9]}}, {}, "rows.with-kernel_size.flags.kernel_size was 7 and is now 9"),
        ({"flags": ["norm"]}, {}, "the new study lacks row with-kernel_size"),
        ({"base": "pocket,width=8"}, {}, "base was pocket and is now pocket,width=8"),
        ({"kind": "one-out"}, {}, "kind was one-in and is now one-out"),
    ],
)
def test_a_folder_of_another_configuration_is_refused_naming_what_differs(
    changes: dict[str, Any], settings: dict[str, str], says: str, tmp_path: Path
) -> None:
    keys = {"kind": "one-in", "base": "pocket", "flags": ["kernel_size"]}
    recipe = {"learning_rate": "0.001", "betas": "[0.9, 0.999]"}
    first = load_study(written(tmp_path, keys), {}, recipe)
    open_folder(first, tmp_path / "study")
    before = (tmp_path / "study" / "study.yaml").read_bytes()
    other = load_study(written(tmp_path, keys), changes, {**recipe, **settings})
    with pytest.raises(RequestError) as caught:
        open_folder(other, tmp_path / "study")
    message = one_line(caught.value, str(tmp_path / "study"))
    assert says in message and "was made with another configuration" in message
    assert len(message) < 600 + len(str(tmp_path))
    assert (tmp_path / "study" / "study.yaml").read_bytes() == before


def test_of_many_differences_the_first_few_are_told(tmp_path: Path) -> None:
    open_folder(study("one-in"), tmp_path)
    says = "the new study lacks 13 rows, such as base and with-depths; kind was one-in and is now one-out; choose"
    with pytest.raises(RequestError, match=says):
        open_folder(study("one-out").model_copy(update={"name": "one-in"}), tmp_path)


def test_a_folder_older_than_a_flag_is_of_a_design_without_it(tmp_path: Path) -> None:
    open_folder(study("one-in"), tmp_path / "study")
    path = tmp_path / "study" / "study.yaml"
    older = yaml.safe_load(path.read_text())
    for row in older["rows"]:
        assert row["flags"].pop("grn") is False
    path.write_text(yaml.safe_dump(older))
    assert without_stages(read_study(tmp_path / "study")) == study("one-in")
    open_folder(study("one-in"), tmp_path / "study")


def without_stages(study: Study) -> Study:
    """A folder's study as it was asked for: without the record of stages."""
    return study.model_copy(update={"stages": []})


def test_what_is_no_studys_folder_is_refused(tmp_path: Path) -> None:
    found = study("one-in")
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(RequestError, match=r"is not empty and contains no study\.yaml; choose another --out"):
        open_folder(found, tmp_path)
    with pytest.raises(RequestError, match=r"letter\.txt is a file; choose another --out"):
        open_folder(found, tmp_path / "letter.txt")
    with pytest.raises(RunError, match="cannot be written"):
        open_folder(found, tmp_path / "letter.txt" / "study")
    assert (tmp_path / "letter.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    for place in (tmp_path, tmp_path / "letter.txt", tmp_path / "none"):
        with pytest.raises(RequestError, match=r"is not a study folder: it has no study\.yaml"):
            read_study(place)


def test_an_empty_folder_and_one_whose_maker_was_killed_are_taken(tmp_path: Path) -> None:
    (tmp_path / ".study.yaml.abcd1234.tmp").write_text("kin")  # what write_bytes leaves when it is killed
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path):
        if place == tmp_path:
            for path in (tmp_path / "empty").iterdir():
                path.unlink()
            (tmp_path / "empty").rmdir()
        open_folder(study("one-in"), place)
        assert without_stages(read_study(place)) == study("one-in")


@pytest.mark.parametrize("text", ["", "name: [", "- 1", "name: x\nkind: one-in\n", "name: x\nrows: 3\n", "\x00"])
def test_a_damaged_study_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(text)
    for act in (read_study, lambda place: open_folder(study("one-in"), place)):
        with pytest.raises(RequestError) as caught:
            act(tmp_path)
        one_line(caught.value, str(tmp_path / "study.yaml"))


# ---- wrong requests


EVERY_FLAG = {flag: [value] for flag, value in modernize.design("convnext_tiny").flags().items()}
EVERY_FLAG |= {"depths": ["-".join(["1000"] * 8)], "width": [8]}


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        # keys
        ("one-in", {"seedz": [0]}, "unknown key 'seedz': did you mean 'seeds'?"),
        ("one-in", {3: 4}, "3=3: Keys should be strings"),
        ("one-in", {"kind": "one_in"}, "kind='one_in': must be 'roadmap', 'one-in', 'one-out', 'sweep'"),
        ("one-in", {"kind": None}, "kind=None: must be 'roadmap'"),
        ("sweep", {"orders": 3}, 'orders: not supported by "sweep" studies'),
        ("sweep", {"orders_seed": 0}, 'orders_seed: not supported by "sweep" studies'),
        ("sweep", {"end": "pocket"}, 'end: not supported by "sweep" studies'),
        ("roadmap", {"flags": ["norm"]}, 'flags: not supported by "roadmap" studies'),
        ("roadmap", {"end": "pocket", "orders": 2}, 'end: not supported by "roadmap" studies'),
        ("one-out", {"recipes": ["quick", "x"]}, 'recipes: not supported by "one-out" studies'),
        ("one-in", {"original_recipe": "quick"}, 'original_recipe: not supported by "one-in" studies'),
        ("recipes", {"flags": ["norm"]}, 'flags: not supported by "recipes" studies'),
        # designs
        ("one-in", {"base": "pockt"}, "base: unknown design 'pockt': did you mean 'pocket'?"),
        ("one-in", {"base": "a\nb"}, "base: unknown design 'a\\nb': known:"),
        ("one-in", {"base": "\0.yaml"}, "base: \\x00.yaml: "),
        ("one-in", {"base": "no-design.yaml"}, "base: no-design.yaml: no such file"),
        ("one-in", {"base": "pocket,norm=a\nb"}, "base: norm=a\\nb: must be one of bn, ln"),
        ("one-in", {"base": "pocket@"}, "base: unknown row '' of roadmap pocket"),
        ("one-in", {"base": ["pocket"]}, "base=['pocket']: must be a valid string"),
        ("one-in", {"base": 3}, "base=3: must be a valid string"),
        ("one-in", {"end": "convnext_tny"}, "end: unknown design 'convnext_tny': did you mean 'convnext_tiny'?"),
        ("one-in", {"end": "pocket@gelus"}, "end: unknown row 'gelus' of roadmap pocket: did you mean 'gelu'?"),
        ("one-in", {"base": "convnext_tiny"}, "end: no roadmap starts at 'convnext_tiny'; set end to the final design"),
        ("one-in", {"end": "pocket"}, "end: it is the same design as base, so no flag differs"),
        ("orders", {"base": "pocket@separate-downsampling", "flags": None}, "end: it is the same design as base"),
        (
            "one-in",
            {"end": "pocket@gelu", "flags": {"norm": ["ln"]}},
            "end: the values of flags define the final design",
        ),
        ("roadmap", {"base": "pockt"}, "base: unknown roadmap 'pockt': did you mean 'pocket'?"),
        ("roadmap", {"base": "convnext_tiny"}, "base: unknown roadmap 'convnext_tiny'"),
        ("roadmap", {"base": "pocket@gelu"}, "base: unknown roadmap 'pocket@gelu': did you mean 'pocket'?"),
        # flags
        ("one-in", {"flags": []}, "flags: write names, such as [depthwise, norm], or values, such as kernel_size:"),
        ("one-in", {"flags": {}}, "flags: write names, such as [depthwise, norm], or values"),
        ("one-in", {"flags": "norm"}, "flags: write names, such as [depthwise, norm], or values"),
        ("one-in", {"flags": ["depthwse"]}, "flags: unknown flag 'depthwse': did you mean 'depthwise'?"),
        ("one-in", {"flags": [["norm"]]}, "flags: a flag is a name"),
        ("one-in", {"flags": {3: [3]}}, "flags: a flag is a name"),
        ("one-in", {"flags": ["norm", "stem", "norm"]}, "flags: norm is listed twice"),
        ("one-in", {"flags": ["layer_scale"]}, "flags: layer_scale has the same value in base and end; give a value"),
        ("one-in", {"flags": {"norm": ["bn", "ln"]}}, "flags: norm must have one value in a study of kind one-in"),
        ("one-in", {"flags": {"norm": []}}, "flags: norm needs a list of values, as in kernel_size: [3, 5, 7]"),
        ("one-in", {"flags": {"norm": "ln"}}, "flags: norm needs a list of values, as in kernel_size: [3, 5, 7]"),
        ("one-in", {"flags": {"norms": ["ln"]}}, "flags: unknown flag 'norms': did you mean 'norm'?"),
        ("one-in", {"flags": {"norm": ["gn"]}}, "norm=gn: must be one of bn, ln"),
        ("one-out", {"flags": {"norm": ["gn"]}, "end": None}, "norm=gn: must be one of bn, ln"),
        ("orders", {"flags": {"kernel_size": [4]}}, "kernel_size=4: must be odd; nearest valid values: 3"),
        ("sweep", {"flags": None}, "flags: a sweep needs values, such as kernel_size: [3, 5, 7]"),
        ("grid", {"flags": ["norm"]}, "flags: a grid needs values, such as kernel_size: [3, 5, 7]"),
        ("sweep", {"flags": {"norm": ["bn"], "stem": ["resnet"]}}, "flags: a sweep varies one flag; to vary several"),
        ("sweep", {"flags": {"kernel_size": [3, 4]}}, "kernel_size=4: must be odd"),
        ("sweep", {"flags": {"kernel_size": [3, 5, "3"]}}, "flags: kernel_size=3 is listed twice"),
        ("grid", {"flags": {"norm": ["bn"], "depthwise": [True, "on"]}}, "flags: depthwise=on is listed twice"),
        ("grid", {"flags": EVERY_FLAG}, "row depths=1000-1000-"),
        ("sweep", {"flags": {"depths": [["a", 2]]}}, "depths=a-2: must be the number of blocks per stage"),
        ("sweep", {"flags": {"depths": [[[1], 2]]}}, "flags: depths: values must be strings, numbers below"),
        ("sweep", {"flags": {"width": [2**40]}}, "flags: width: values must be strings, numbers below"),
        ("sweep", {"flags": {"layer_scale": [10**300]}}, "flags: layer_scale: values must be strings, numbers below"),
        ("sweep", {"flags": {"norm": [{"bn": 1}]}}, "flags: norm: values must be strings, numbers below"),
        ("sweep", {"flags": {"norm": [datetime.date(2000, 1, 1)]}}, "norm=2000-01-01: must be one of bn, ln"),
        # orders
        ("orders", {"orders": 0}, "orders=0: must be greater than or equal to 1"),
        ("orders", {"orders": 10_001}, "orders=10001: must be less than or equal to 10000"),
        ("orders", {"orders": True}, "orders: true is not a number"),
        ("orders", {"orders": 2.5}, "orders=2.5: must be a valid integer"),
        ("orders", {"orders_seed": -1}, "orders_seed=-1: must be greater than or equal to 0"),
        # recipes
        ("one-in", {"recipe": "quik"}, "unknown recipe 'quik' (and no YAML file): did you mean 'quick'?"),
        ("one-in", {"recipe": "no-recipe.yaml"}, "recipe no-recipe.yaml: no such file"),
        ("recipes", {"recipe": "quick"}, 'recipe: not supported by "recipes" studies'),
        ("roadmap", {"original_recipe": "orig"}, "unknown recipe 'orig'"),
        ("roadmap", {"extras": ["gnr"]}, "extras: unknown row 'gnr': did you mean 'grn'?"),
        ("roadmap", {"base": "pocket,norm=ln"}, "base: norm=ln: a step of the roadmap pocket sets this flag"),
        ("one-in", {"extras": ["grn"]}, 'extras: not supported by "one-in" studies'),
        ("recipes", {"recipes": ["quick"]}, "recipes=['quick']: List should have at least 2 items"),
        ("recipes", {"recipes": []}, "recipes=[]: List should have at least 2 items"),
        ("recipes", {"recipes": ["quick", "quick"]}, "recipes=['quick', 'quick']: list each once"),
        ("recipes", {"recipes": ["quick", "mine/quick.yaml"]}, "recipes=['quick', 'mine/quick.yaml']: list each"),
        ("recipes", {"recipes": ["quick", "quik"]}, "unknown recipe 'quik' (and no YAML file): did you mean"),
        # the rest
        ("one-in", {"data": "minst"}, "data: unknown dataset 'minst'"),
        ("one-in", {"evaluate": "train"}, "evaluate='train': must be 'test' or 'validation'"),
        ("one-in", {"seeds": []}, "seeds=[]: List should have at least 1 item"),
        ("one-in", {"seeds": [1, 0, 1]}, "seeds=[1, 0, 1]: list each once"),
        ("one-in", {"seeds": [-1]}, "seeds.0=-1: must be greater than or equal to 0"),
        ("one-in", {"seeds": [2**31]}, "seeds.0=2147483648: must be less than 2147483648"),
        ("one-in", {"seeds": ["0"]}, "seeds.0='0': must be a valid integer"),
        ("one-in", {"seeds": [True]}, "seeds.0=True: must be a valid integer"),
        ("one-in", {"seeds": 3}, "seeds=3: must be a valid list"),
        ("one-in", {"budget": 5}, "budget=5: must be a valid string"),
    ],
)
def test_a_wrong_value_is_named(folder: Path, kind: str, changes: dict[Any, Any], says: str) -> None:
    name = written(folder, {**VALID[kind], **changes})
    assert f"study {name}: {says}" in refused(name)


@pytest.mark.parametrize("key", ["kind", "base"])
def test_what_has_no_default_is_missed(folder: Path, key: str) -> None:
    name = written(folder, {other: value for other, value in VALID["one-in"].items() if other != key})
    assert refused(name) == f"study {name}: {key} is missing"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: one-in\nbase: pocket\nkind: sweep\n", ", line 3: not YAML (the key 'kind' is set twice)"),
        ("kind: sweep\nbase: pocket\nflags:\n  norm: [bn]\n  norm: [ln]\n", ", line 5: not YAML (the key 'norm' is"),
        ("kind: [one-in\n", ", line 2: not YAML ("),
        ("kind: one-in\n\tbase: pocket\n", ", line 2: not YAML ("),
        ("- one-in\n", ": must contain keys and values"),
        ("", ": must contain keys and values"),
        (b"\xff\xfe", ": not YAML ("),
        ("kind: sweep\nbase: pocket\nflags: {width: [0x" + "f" * 5000 + "]}\n", ", line 3: not YAML ("),
        ("kind: sweep\nbase: pocket\nflags: {depths: [&a [*a]]}\n", ": flags: depths: values must be"),
        ("kind: sweep\nbase: pocket\nflags: &a {depths: [*a]}\n", ": flags: depths: values must be"),
        ("kind: one-in\nbase: pocket\nseeds: [0x" + "f" * 5000 + "]\n", ", line 3: not YAML ("),
    ],
)
def test_what_is_not_yaml_or_has_no_end_is_one_line(folder: Path, text: str | bytes, says: str) -> None:
    name = written(folder, text)
    assert refused(name).startswith(f"study {name}{says}")


def test_values_that_grow_without_end_are_one_line(folder: Path) -> None:
    lists = [f"x{level}: &{chr(98 + level)} [{', '.join([f'*{chr(97 + level)}'] * 9)}]" for level in range(9)]
    head = "kind: sweep\nbase: pocket\n"
    for key in ("flags: {norm: [*j]}", "seeds: *j", "recipe: *j", "flags: *j"):
        name = written(folder, head + "x: &a [x]\n" + "\n".join(lists) + f"\n{key}\n")
        assert "unknown key" in refused(name)  # the extra keys are named first …
        changes = yaml.safe_load("x: &a [x]\n" + "\n".join(lists) + f"\n{key}\n")
        only = {word: value for word, value in changes.items() if not word.startswith("x")}
        refused("sweep", base="pocket", **only)  # … and without them, what is wrong with the value


def test_unknown_studies_and_files() -> None:
    assert refused("quik") == "unknown study 'quik' (and no YAML file or folder): did you mean 'quick'?"
    assert refused("one-inn") == "unknown study 'one-inn' (and no YAML file or folder): did you mean 'one-in'?"
    assert refused("missing.yaml") == "study missing.yaml: no such file"
    assert refused("one-in") == "study one-in: base is missing"
    with pytest.raises(RequestError, match="unknown study ''"):
        load_study("", {}, {})


def test_settings_that_are_wrong_name_the_recipe() -> None:
    says = refused("one-in", {"learning_rat": "1"}, base="pocket")
    assert says == "study one-in: recipe quick: unknown key 'learning_rat': did you mean " + (
        "'learning_rate' or 'learning_rate_batch'?"
    )
    says = refused("quick", {"label_smoothing": "x"})
    assert says.startswith("study quick: recipe quick,") and "label_smoothing='x': must be a valid number" in says


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("sweep", "--flags", "kernel_size=3:5,norm"), "--flags kernel_size=3:5,norm: write names"),
        (("sweep", "--flags", "kernel_size=3:4"), "kernel_size=4: must be odd"),
        (("sweep", "--flags", "kernel_size="), "kernel_size=: must be an integer"),
        (("sweep", "--flags", "kernel_size=3:3"), "flags: kernel_size=3 is listed twice"),
        (("sweep", "--flags", "kernel_size=3:5,norm=bn:ln"), "a sweep varies one flag; to vary several, use a grid"),
        (("sweep", "--flags", "kernel_size=3:5", "--orders", "3"), 'orders: not supported by "sweep" studies'),
        (("one-in", "--flags", ""), "--flags : write names"),
        (("one-in", "--flags", "norm,norm"), "flags: norm is listed twice"),
        (("one-in", "--seeds", "0,0"), "seeds=[0, 0]: list each once"),
        (("one-in", "--seeds", "-1"), "seeds.0=-1: must be greater than or equal to 0"),
        (("one-in", "--budget", "5"), "budget '5': write epochs or images"),
        (("recipes", "--recipes", "quick"), "recipes=['quick']: List should have at least 2 items"),
        (("orders", "--orders", "0"), "--orders"),
        (("one-in", "--set", "learning_rate=no"), "recipe quick: learning_rate='no': must be"),
    ],
)
def test_wrong_requests_for_a_kind(
    arguments: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    kind, *options = arguments
    assert cli.run_command(["run", kind, "--base", "pocket", "--data", "digits", *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"ablations: .*\n", err) and "Traceback" not in err
    if "false is not a number" not in err:
        assert says in err
    assert not list(tmp_path.iterdir())


# ---- anything at all

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.dates(),
    st.datetimes(timezones=st.none() | st.just(datetime.UTC)),
    st.sampled_from([*KINDS, "pocket", "resnet50", "convnext_tiny", "pocket@gelu", "pocket,norm=ln", "x.yaml", "../x"]),
    st.sampled_from(["quick", "quick_original", "digits", "5 epochs", "100 images", "1-1-4-1", "on", "off", "1e-6"]),
    st.sampled_from(["bn", "ln", "gelu", "patchify", "validation", "0", "7", "\ud800", "\x1b[31m", "a\nb", "\0.yaml"]),
    st.sampled_from([*BASE]),
)
study_keys = st.sampled_from([*StudyFile.model_fields])
keys = study_keys | study_keys.map(lambda key: key[:-1]) | st.sampled_from([*BASE]) | st.text(max_size=5)
flag_lists = st.lists(st.sampled_from([*BASE]), max_size=4)
flag_values = st.dictionaries(st.sampled_from([*BASE]), st.lists(scalars, max_size=3), max_size=3)
values = st.recursive(
    scalars | flag_lists | flag_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | scalars, inner, max_size=3),
    max_leaves=4,
)

_touched: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Notes what this process does to the disk while it is watched."""
    if _watching and event in ("open", "os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink", "os.truncate"):
        writes = isinstance(arguments[-1], int) and arguments[-1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event != "open" or writes:
            _touched.append(f"{event} {arguments}")


sys.addaudithook(_watch)


@contextmanager
def untouched() -> Iterator[None]:
    """Nothing is written to the disk in here."""
    global _watching
    _touched.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    assert not _touched


def test_writing_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), untouched():
        (tmp_path / "x").write_text("x")
    with pytest.raises(AssertionError), untouched():
        open_folder(study("one-in"), tmp_path / "y")


def loads_or_refuses(name: str) -> Study | None:
    """The study of a file, or none where one line says why; nothing is written."""
    try:
        with untouched():
            found = load_study(name, {}, {})
    except RequestError as error:
        one_line(error, name)
        return None
    assert isinstance(found, Study)
    return found


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same YAML, ten times as fast
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def is_kept(found: Study) -> None:
    """It comes back from YAML, as study folders hold it, and names its runs apart."""
    plain = found.model_dump(mode="json")
    assert Study.model_validate(json.loads(json.dumps(plain))) == found
    assert Study.model_validate(yaml.load(yaml.dump(plain, Dumper=DUMPER, allow_unicode=True), Loader=LOADER)) == found
    assert len({run.name for run in found.runs}) == len(found.runs)


@given(st.sampled_from(KINDS), st.dictionaries(keys | scalars, values, max_size=3), st.booleans())
@settings(max_examples=400, deadline=None, derandomize=True)
@example("sweep", {"flags": {"layer_scale": [10**400]}}, True)
@example("one-in", {"base": "\0.yaml"}, True)
@example("one-in", {"budget": "9" * 400 + "epochs"}, True)
@example("grid", {"flags": {"depths": [[1] * 200]}}, True)
def test_any_values_give_a_study_or_one_line(folder: Path, kind: str, changes: dict[Any, Any], over: bool) -> None:
    found = loads_or_refuses(written(folder, {**VALID[kind], **changes} if over else changes))
    if found:
        is_kept(found)
        assert set(changes) <= set(StudyFile.model_fields)


@given(st.sampled_from(KINDS), study_keys, values)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_value_of_one_key_gives_a_study_or_one_line(folder: Path, kind: str, key: str, value: Any) -> None:
    found = loads_or_refuses(written(folder, {**VALID[kind], key: value}))
    if found:
        is_kept(found)


YAML_WORDS = [
    *StudyFile.model_fields, *KINDS, "kind: one-in\n", "base: pocket\n", "flags: [norm]\n", "seeds: [0]\n",
    "flags:\n  norm: [bn, ln]\n", ": ", "\n", "- ", "  ", "[", "]", "{", "}", ",", "&a ", "*a", "!!", "!!int ",
    "!!float ", "!!bool ", "!!timestamp ", "!!set ", "!!omap ", "!!pairs ", "!!binary ", "!!map ", "!!seq ", "!!str ",
    "!!null ", "!!merge ", "!x ", "<<", "=", "? ", "| ", "> ", "---\n", "...\n", "%YAML 1.1\n", "%TAG ! x\n", "#", "'",
    '"', "\\", "\\ud800", "\t", "~", "0x", "0b", "0o", "1:2", ".nan", ".inf", "1_0", "2000-01-01", "2000-99-99",
    "\x00", "\ud800", "\u2028", "\x85", "\ufeff", "é", "1", "0", "9" * 30,
]  # fmt: skip
yaml_texts = st.lists(st.sampled_from(YAML_WORDS) | st.text(max_size=3), max_size=12).map("".join)


@given(yaml_texts | st.text(max_size=30) | st.binary(max_size=30), st.sampled_from([None, *KINDS]))
@settings(max_examples=400, deadline=None, derandomize=True)
@example("flags: !!set {norm}\n", "one-in")
@example("flags: !!omap [norm: [ln]]\n", "one-in")
@example("flags: !!pairs [norm: [ln]]\n", "sweep")
@example("? !!set {a}\n: 1", "grid")
@example('"\\ud800": 1', "orders")
@example('base: "\\ud800.yaml"', None)
def test_any_file_gives_a_study_or_one_line(folder: Path, contents: str | bytes, over: str | None) -> None:
    data = contents if isinstance(contents, bytes) else contents.encode("utf-8", "surrogatepass")
    found = loads_or_refuses(written(folder, (yaml.safe_dump(VALID[over]).encode() if over else b"") + data))
    if found:
        is_kept(found)


@pytest.mark.parametrize(
    "contents",
    [
        "kind: one-in\nbase: pocket\nflags: {layer_scale: [1" + "0" * 400 + "]}\n",
        b"kind: one-in\nbase: \xff\n",
        'kind: sweep\nbase: pocket\nflags: {norm: ["\\ud800\\n\\e[31m", bn]}\n',
        "kind: orders\nbase: pocket\nseeds: [0, 0]\n!!bool x: 1\n",
    ],
)
def test_a_bad_file_starts_nothing(tmp_path: Path, contents: str | bytes) -> None:
    name = Path(written(tmp_path, contents)).name
    done = ablations_here("run", name, "--data", "digits", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(rf"ablations: study {name}[:,] .*\n", done.stderr), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_recipes_of_the_tests_are_there() -> None:
    assert {"quick", "quick_original"} <= set(recipe_names())
