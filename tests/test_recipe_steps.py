"""Settings of the recipe stand beside design flags: in a roadmap's steps, in every kind of study, and in names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import ablations_here
from hypothesis import given
from hypothesis import strategies as st
from made_up import made_up_study
from test_roadmap_files import FIRST, MINE, written

import modernize
from ablations.data.datasets import load
from ablations.errors import RequestError
from ablations.recipes import TrainingConfig, load_recipe
from ablations.reporting import first_order, read_report
from ablations.studies.folder import differences, open_folder, read_study
from ablations.studies.load import load_study
from ablations.studies.run import read_state
from ablations.studies.schema import Study
from ablations.studies.screen import resolved, signs_of_rows
from ablations.studies.variants import Recipes, read_settings, setting_text
from modernize import DesignError
from modernize.yaml_file import parse_yaml
from reports.row_summary import EVALUATION_ONLY

STEPS: list[dict[str, Any]] = [
    *MINE["steps"][:2],
    {"name": "mix", "label": "Mixup", "recipe": {"mixup": 0.8, "label_smoothing": 0}, "printed": {"top1": 77.4}},
    {"name": "long", "recipe": {"max_epochs": 4}, "printed": {"top1": 78.4}},
]
WITH_RECIPE = MINE | {"steps": STEPS}


def study(kind: str, settings: dict[str, str] | None = None, **changes: Any) -> Study:
    return load_study(kind, {"base": "pocket", "data": "digits", "seeds": [0], **changes}, settings or {})


def values(found: Study, *keys: str) -> dict[str, tuple[Any, ...]]:
    """The settings that each row trains with."""
    return {row.row: tuple(getattr(found.recipes[row.recipe], key) for key in keys) for row in found.rows}


def test_four_steps_of_a_users_file_run_report_and_draw_their_page(tmp_path: Path) -> None:
    path, folder = written(tmp_path, WITH_RECIPE), tmp_path / "study"
    small = ("--set", "image_size=16", "--set", "batch_size=256", "--budget", "1epochs", "--seeds", "0,1")
    done = ablations_here("run", "roadmap", "--base", path, "--data", "digits", *small, "--jobs", "1", "--out", folder)
    assert done.returncode == 0, done.stderr
    found = read_study(folder)
    assert values(found, "mixup", "label_smoothing", "max_epochs") == {
        "start": (0, 0.1, 1),
        "wide": (0, 0.1, 1),
        "mix": (0.8, 0, 1),
        "long": (0.8, 0, 4),  # the budget is that of rows that do not change it
    }
    seen = {run.row: read_state(folder / "runs" / run.name).result["images_seen"] for run in found.runs}
    assert seen == {"start": 1280, "wide": 1280, "mix": 1280, "long": 5120}
    told = ablations_here("report", folder, "--format", "html")
    assert told.returncode == 0, told.stderr
    page = (folder / "report/index.html").read_text()
    assert "Somebody et al. 2025" in page and "Mixup" in page and "against-paper" in page
    report = read_report(found, folder)
    notes = " ".join(report.tables[0].notes)
    assert "recipe differs from the previous row's: mixup=0.8, label_smoothing=0" in notes
    assert "recipe differs from the previous row's: max_epochs=4" in notes
    assert "saw 5,120 images, other rows 1,280" in notes
    assert (
        "recipe quick,batch_size=256,image_size=16, whose other settings differ between rows"
        in report.tables[0].subtitle
    )
    assert "4 rows ordered as in Somebody et al. 2025" in " ".join(report.summary.notes)  # not "of one recipe"


def test_each_kind_takes_settings_beside_flags() -> None:
    both: dict[str, Any] = {"recipe.mixup": [0.8], "norm": ["ln"]}
    one_in = study("one-in", flags=both)
    assert values(one_in, "mixup") == {"base": (0,), "with-recipe.mixup": (0.8,), "with-norm": (0,)}
    assert [row.recipe for row in one_in.rows] == ["quick", "quick,mixup=0.8", "quick"]
    one_out = study("one-out", flags=both)
    assert values(one_out, "mixup") == {"end": (0.8,), "without-recipe.mixup": (0,), "without-norm": (0.8,)}
    sweep = study("sweep", flags={"recipe.crop_scale": [[0.25, 1], [0.5, 1]]}, settings={"crop_padding": "0"})
    assert values(sweep, "crop_scale") == {
        "recipe.crop_scale=[0.25,1]": ((0.25, 1.0),),
        "recipe.crop_scale=[0.5,1]": ((0.5, 1.0),),
    }
    grid = study("grid", flags={"recipe.mixup": [0, 0.8], "norm": ["bn", "ln"]})
    assert [row.row for row in grid.rows] == [
        f"recipe.mixup={mixup},norm={norm}" for mixup in ("0", "0.8") for norm in ("bn", "ln")
    ]
    assert sorted(grid.recipes) == ["quick", "quick,mixup=0.8"]
    orders = study("orders", flags=both, orders=3)
    assert values(orders, "mixup")["on-10"] == (0.8,) and values(orders, "mixup")["on-01"] == (0,)
    screen = study("screen", flags={**both, "kernel_size": [5], "recipe.max_epochs": [2]})
    for row, signs in signs_of_rows(screen).items():
        assert values(screen, "mixup", "max_epochs")[row] == (0.8 if signs[0] > 0 else 0, 2 if signs[3] > 0 else 1)


def test_names_set_settings_and_the_command_line_writes_them_as_flags(tmp_path: Path) -> None:
    found = study("one-in", base="pocket,recipe.mixup=0.2", flags={"norm": ["ln"]})
    assert values(found, "mixup") == {"base": (0.2,), "with-norm": (0.2,)}
    ended = study("one-in", end="pocket,recipe.mixup=0.8,recipe.betas=[0.9,0.99],kernel_size=5")
    assert [row.row for row in ended.rows[1:]] == ["with-recipe.mixup", "with-recipe.betas", "with-kernel_size"]
    options = ("--flags", "recipe.crop_scale=[0.25,1]:[0.5,1],norm=bn:ln", "--set", "crop_padding=0")
    told = ablations_here("run", "grid", "--base", "pocket", *options, "--data", "digits", "--dry-run")
    assert told.returncode == 0 and "recipe quick,crop_scale=[0.5,1]" in told.stdout
    counted = json.loads(ablations_here("count", "resnet50,recipe.image_size=160", "--format", "json").stdout)
    assert counted[0]["macs"] == modernize.count("resnet50", 160).macs
    assert ablations_here("show", "pocket,recipe.mixup=0.8").returncode == 0
    trained = ("train", "pocket,depths=1-1,width=4,recipe.max_epochs=0.05,recipe.image_size=16", "--data", "digits")
    done = ablations_here(*trained, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["recipe"]["max_epochs"] == 0.05 and config["recipe_name"] == "quick,max_epochs=0.05,image_size=16"
    with pytest.raises(
        DesignError, match=r"'recipe\.mixup=0\.8' in .*: a setting of the recipe, and a design has none"
    ):
        modernize.build("pocket,recipe.mixup=0.8")


def test_settings_that_a_recipe_has_already_make_no_other_recipe() -> None:
    grid = study("sweep", flags={"recipe.label_smoothing": [0.1, 0.2]})  # quick has 0.1
    assert [row.recipe for row in grid.rows] == ["quick", "quick,label_smoothing=0.2"]
    given_another = study("sweep", {"label_smoothing": "0.2"}, flags={"recipe.label_smoothing": [0.1, 0.2]})
    assert values(given_another, "label_smoothing") == {
        "recipe.label_smoothing=0.1": (0.1,),
        "recipe.label_smoothing=0.2": (0.2,),
    }


def test_what_depends_on_a_setting_follows_it() -> None:
    optimizers = study("sweep", flags={"recipe.optimizer": ["adamw", "sgd"]})
    assert values(optimizers, "betas", "momentum") == {
        "recipe.optimizer=adamw": ((0.9, 0.999), None),
        "recipe.optimizer=sgd": (None, 0.9),
    }
    epochs = study("sweep", flags={"recipe.max_epochs": [1, 4]})
    assert values(epochs, "warmup_epochs") == {"recipe.max_epochs=1": (0.1,), "recipe.max_epochs=4": (0.4,)}
    assert epochs.recipes["quick,max_epochs=4"] == load_recipe("quick,max_epochs=4")


def test_a_budget_keeps_the_ratio_of_epochs_and_recipes_of_a_recipe_study_alike(tmp_path: Path) -> None:
    digits = load("digits", tmp_path, 16)
    epochs = study("sweep", flags={"recipe.max_epochs": [1, 4]}, budget="2 epochs").on(digits)
    assert values(epochs, "max_epochs") == {"recipe.max_epochs=1": (2,), "recipe.max_epochs=4": (8,)}
    recipes = study("recipes", recipes=["quick", "quick,max_epochs=4"], budget="2 epochs").on(digits)
    assert {recipe.max_epochs for recipe in recipes.recipes.values()} == {2}


def test_a_follow_up_of_a_screen_trains_new_combinations_of_settings(tmp_path: Path) -> None:
    flags = {"recipe.mixup": [0.8], "norm": ["ln"], "kernel_size": [5], "recipe.max_epochs": [2]}
    found = study("screen", flags=flags, budget="2 epochs").on(load("digits", tmp_path, 16))
    more = resolved(found, "recipe.mixup:norm", 4)
    for row, signs in signs_of_rows(more).items():
        assert values(more, "mixup", "max_epochs")[row] == (0.8 if signs[0] > 0 else 0, 4 if signs[3] > 0 else 2)
    assert more.on(load("digits", tmp_path, 16)).recipes == more.recipes


def test_a_recipe_has_one_name_in_whatever_order_its_settings_come() -> None:
    """Sets have another order in every process: a study of orders could not be resumed, and had more recipes."""
    keys = ["mixup", "label_smoothing", "weight_decay", "erasing"]
    found = study("orders", flags={f"recipe.{key}": [0.25] for key in keys}, orders=8)
    names = [row.recipe.split(",")[1:] for row in found.rows]
    assert len(names) > 8 and names == [sorted(name, key=lambda one: keys.index(one[:-5])) for name in names]
    recipes = Recipes("quick", {})
    assert recipes.name({"mixup": 0.5, "erasing": 0.1}) == recipes.name({"erasing": 0.1, "mixup": 0.5})


def test_a_folder_whose_recipes_are_named_in_another_order_resumes(tmp_path: Path) -> None:
    """As an earlier version may have named those of a study of orders."""
    new = study("orders", flags={"recipe.mixup": [0.8], "recipe.erasing": [0.1], "norm": ["ln"]}, orders=2)
    last = next(row for row in new.rows if row.row == "on-111")
    assert last.recipe == "quick,mixup=0.8,erasing=0.1"
    other = "quick,erasing=0.1,mixup=0.8"
    rows = [row.model_copy(update={"recipe": other}) if row is last else row for row in new.rows]
    old = new.model_copy(update={"rows": rows, "recipes": new.recipes | {other: new.recipes[last.recipe]}})
    data = load("digits", tmp_path, 16)
    begun = open_folder(old.on(data), tmp_path / "study")
    again = open_folder(new.on(data), tmp_path / "study")
    assert [row.recipe for row in again.rows] == [row.recipe for row in begun.rows] and again.runs == begun.runs


LONG = "a_recipe_whose_name_alone_is_nearly_a_line_long.yaml"


def test_lists_name_a_long_recipe_by_what_it_changes_of_its_baselines(tmp_path: Path) -> None:
    """And they say which rows train the same weights, and evaluate them otherwise."""
    steps = [
        {"name": "first"},
        {"name": "mix", "recipe": {"mixup": 0.8, "label_smoothing": 0.1}},
        {"name": "averaged", "recipe": {"ema_decay": 0.9, "evaluated_weights": "ema"}},
        {"name": "wide", "flags": {"norm": "ln"}},
    ]
    path = written(tmp_path, MINE | {"steps": steps})
    (tmp_path / LONG).write_text("{max_epochs: 1, batch_size: 32, learning_rate: 2e-3}")
    asked = ("--base", path, "--data", "digits", "--seeds", "0", "--recipe", tmp_path / LONG)
    lines = ablations_here("run", "roadmap", *asked, "--dry-run").stdout.splitlines()
    told = {line.split()[0]: line.partition("  recipe ")[2] for line in lines if " M MACs " in line}
    assert f"{LONG},max_epochs=1,batch_size=32" in told.pop("first")
    assert told == {
        "mix": "of first, mixup=0.8, label_smoothing=0.1",
        "averaged": "of mix, ema_decay=0.9, evaluated_weights=ema",
        "wide": "of averaged",
    }
    (same,) = [line for line in lines if "same weights" in line]
    assert same == "  averaged: trains the same weights as mix once more; only the evaluation differs"
    assert set(TrainingConfig.model_fields) > EVALUATION_ONLY


def test_the_first_of_several_orders_has_its_own_name(tmp_path: Path) -> None:
    mine = written(tmp_path, MINE | {"source": "Somebody et al. 2025, ImageNet"})
    nameless = written(tmp_path, {key: value for key, value in MINE.items() if key != "source"}, "nameless.yaml")
    assert first_order(study("orders", base=mine, orders=2)) == "the order of Somebody et al. 2025"
    assert first_order(study("orders", base=nameless, orders=2)) == "the roadmap's order"
    assert first_order(study("orders", flags={"depthwise": ["on"], "kernel_size": [7]})) == "the paper's order"
    assert first_order(study("orders", flags={"kernel_size": [7], "depthwise": ["on"]})) == "the given order"


def test_a_folder_that_started_without_weights_names_those_that_are_new() -> None:
    now = {"weights": {"source": "torchvision:resnet50", "sha256": "0" * 64, "notes": []}}
    assert differences({"weights": None}, now) == ["weights was not set and is now torchvision:resnet50"]


def test_two_rows_that_differ_in_the_recipe_are_compared_by_name(tmp_path: Path) -> None:
    made_up_study(tmp_path / "s", "sweep", flags={"recipe.mixup": [0, 0.8]})
    sides = ("pocket,recipe.mixup=0", "pocket,recipe.mixup=0.8")
    told = ablations_here("compare", *sides, "--results", tmp_path / "s")
    assert told.returncode == 0, told.stderr
    assert "recipe.mixup" in told.stdout and "top-1 (%), ours" in " ".join(told.stdout.split())


def test_a_folder_of_recipe_steps_resumes_and_is_extended(tmp_path: Path) -> None:
    path, folder = written(tmp_path, WITH_RECIPE), tmp_path / "study"

    def again(steps: list[dict[str, Any]], **settings: str) -> Study:
        written(tmp_path, MINE | {"steps": steps})
        return open_folder(load_study("roadmap", {"base": path, "data": "digits"}, settings), folder)

    again(STEPS)
    assert again(STEPS) == read_study(folder)
    more = again([*STEPS, {"name": "wd", "recipe": {"weight_decay": 0.1}}])
    assert values(more, "mixup", "weight_decay")["wd"] == (0.8, 0.1)
    with pytest.raises(RequestError, match=r"rows\.mix\.recipe was quick,mixup=0\.8"):
        again([*STEPS[:2], STEPS[2] | {"recipe": {"mixup": 0.4, "label_smoothing": 0}}, STEPS[3]])


WRONG = {
    "unknown": ({"mixpu": 1}, "step mix: unknown setting 'recipe.mixpu': did you mean 'recipe.mixup'?"),
    "out of range": ({"mixup": -1}, "step mix: recipe.mixup=-1: must be greater than or equal to 0"),
    "no number": ({"mixup": "much"}, "step mix: recipe.mixup='much': must be a valid number"),
    "a contradiction": ({"crop_scale": [0.2, 1]}, "crop_padding: crop_scale crops already"),
    "what nothing uses": ({"randaugment_std": 1}, "randaugment_std: only randaugment uses it, and it is off"),
    "as before": ({"mixup": 0.8}, "step again: recipe.mixup=0.8 is the value already; leave it out"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_of_a_step_is_one_line(case: str, tmp_path: Path) -> None:
    recipe, words = WRONG[case]
    steps = [STEPS[0], {"name": "mix", "recipe": recipe}]
    steps += [{"name": "again", "recipe": recipe}] if case == "as before" else []
    path = written(tmp_path, MINE | {"steps": steps})
    done = ablations_here("run", "roadmap", "--base", path, "--data", "digits", "--dry-run")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and words in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("sweep", {"flags": {"recipe.mixpu": [1]}}, "unknown setting 'recipe.mixpu': did you mean 'recipe.mixup'?"),
        ("sweep", {"flags": {"recipe.mixup": [0.8, 0.80]}}, "recipe.mixup=0.8 is listed twice"),
        ("sweep", {"flags": {"recipe.mixup": [-1]}}, "recipe.mixup=-1: must be greater than or equal to 0"),
        ("one-in", {"base": "pocket,recipe.mixup=x", "flags": ["norm"]}, "base: recipe.mixup='x': must be a valid"),
        ("one-in", {"flags": ["recipe.mixup"]}, "recipe.mixup has the same value in base and end; give a value"),
        (
            "recipes",
            {"base": "pocket,recipe.mixup=1"},
            "base: recipe.mixup: this study compares recipes; set it within",
        ),
        ("screen", {"flags": {"recipe.mixup": [0], "norm": ["ln"]}}, "recipe.mixup=0 is the base's value already"),
    ],
)
def test_wrong_settings_of_a_study_are_one_line(kind: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        study(kind, **changes)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@given(
    st.one_of(
        st.tuples(st.just("mixup"), st.floats(0, 1e6)),
        st.tuples(st.just("learning_rate"), st.floats(1e-12, 10)),
        st.tuples(st.just("crop_scale"), st.tuples(st.floats(0.01, 1), st.floats(0.01, 1))),
        st.tuples(st.just("init"), st.sampled_from(["kaiming", "trunc_normal"])),
        st.tuples(st.just("ema_decay"), st.one_of(st.none(), st.floats(0, 0.999))),
        st.tuples(st.just("horizontal_flip"), st.booleans()),
    )
)
def test_a_setting_is_read_as_it_was_written(setting: tuple[str, Any]) -> None:
    key, value = setting
    assert key in TrainingConfig.model_fields
    text = setting_text(value)
    assert " " not in text and read_settings({key: text}) == read_settings({key: value})
    assert parse_yaml(text) == (list(value) if isinstance(value, tuple) else value)


def test_flags_of_the_first_row_may_hold_settings_too(tmp_path: Path) -> None:
    path = written(tmp_path, MINE | {"base": FIRST | {"recipe.mixup": 0.2}, "steps": STEPS})
    found = study("roadmap", base=path)
    assert values(found, "mixup") == {"start": (0.2,), "wide": (0.2,), "mix": (0.8,), "long": (0.8,)}
    (tmp_path / "design.yaml").write_text("width: 8\nrecipe.mixup: 0.4\n")
    assert values(
        study("one-in", base=str(tmp_path / "design.yaml"), flags=["norm"], end="pocket,norm=ln"), "mixup"
    ) == {
        "base": (0.4,),
        "with-norm": (0.4,),
    }


def test_a_roadmaps_footnote_says_from_which_row_a_recipe_differs(tmp_path: Path) -> None:
    branch = {"name": "aside", "adopted": False, "recipe": {"erasing": 0.25}, "printed": {"top1": 77.0}}
    path = written(tmp_path, MINE | {"steps": [*STEPS[:3], branch, STEPS[3]]})
    made = made_up_study(tmp_path / "study", base=str(path), seeds=(0,))
    notes = read_report(made, tmp_path / "study").tables[0].notes
    assert "recipe differs from the previous row's: erasing=0.25" in notes
    assert "recipe differs from that of Mixup: max_epochs=4" in notes, "the row before it is a side branch"
