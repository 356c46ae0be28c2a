"""Headers say what was done: each change of the recipe, images and steps, seeds, machine, time and software."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import made_up_study

from ablations.recipes import TrainingConfig, load_recipe
from ablations.reporting import read_report
from ablations.store import write_json
from ablations.studies.folder import read_study, run_folder
from ablations.studies.how_made import all_settings, full_name, how_made
from ablations.studies.results import study_runs, update_results
from ablations.studies.run import RunConfig
from ablations.studies.schema import Study
from ablations.studies.variants import setting_text
from modernize.roadmap import split_commas
from reports.formats import RENDERERS
from reports.header import facts, header
from reports.page import explorer, page
from reports.report import Report
from reports.summary import as_markdown, as_text

RESULTS = Path(__file__).parent.parent / "docs/results/first-edition"
SESSION = {
    **{"code": "9.9", "commit": "abc123", "python": "3.12.1", "threads": 1, "processes": 1, "device": "cpu (AVX512)"},
    **{"machine": "Linux x86_64, 2 cores", "packages": {"torch": "2.9.0", "numpy": "2.3", "pandas": "1"}},
}


def reported(folder: Path, settings: dict[str, str], **changes: Any) -> Report:
    """A made-up roadmap with settings from --set."""
    outcome = lambda run: {"processor_seconds": 55.0}  # noqa: E731
    study = made_up_study(folder, "roadmap", (0, 1), outcome, lines=2, settings=settings, **changes)
    with_environments(study, folder, lambda run: SESSION)
    return read_report(study, folder)


def with_environments(study: Study, folder: Path, session_of: Callable[[RunConfig], Any]) -> None:
    """Environments of a study's runs; of some none."""
    for run in study.runs:
        if (session := session_of(run)) is not None:
            write_json(run_folder(folder, run) / "environment.json", {"sessions": [session]})


def details(report: Report) -> dict[str, str]:
    return dict(report.summary.details)


# ---- recipes by name

NAMES = ("quick", "quick,learning_rate=2e-3", "quick_original", "paper_enhanced")
CHANGES: dict[str, list[Any]] = {
    "batch_size": [32, 64, 256],
    "learning_rate": [0.25, 3e-4],
    "label_smoothing": [0.0, 0.25],
    "horizontal_flip": [False, True],
    "accumulation": [1, 2],
    "precision": ["float32", "bf16"],
    "checkpoint_seconds": [5.0, 60.0],
}


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(NAMES), data=st.data())
def test_a_recipes_full_name_gives_the_recipe_again(name: str, data: st.DataObject) -> None:
    """So two recipes have the same full name only if they are the same recipe."""
    changed = data.draw(st.fixed_dictionaries({}, optional={key: st.sampled_from(CHANGES[key]) for key in CHANGES}))
    recipe = TrainingConfig.model_validate(load_recipe(name).model_dump() | changed)
    said = full_name(name, recipe)
    assert load_recipe(said) == recipe
    parts = dict(part.split("=", 1) for part in split_commas(said)[1:])
    assert all(
        parts.get(key) == setting_text(value)
        for key, value in changed.items()
        if value != getattr(load_recipe(name), key)
    )


def test_a_file_that_may_have_changed_is_named_with_all_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("max_epochs: 2\nbatch_size: 16\nlearning_rate: 0.5\noptimizer: sgd\n")
    recipe = load_recipe(str(path), {"batch_size": "8"})
    path.unlink()
    said = full_name("mine.yaml", recipe)
    assert said == "mine.yaml,max_epochs=2,batch_size=8,optimizer=sgd,learning_rate=0.5"


def test_a_longer_budget_scales_the_schedule_without_saying_so_twice() -> None:
    recipe = load_recipe("quick", {"max_epochs": "7"})
    assert full_name("quick", recipe) == "quick,max_epochs=7"
    assert "warmup_epochs=0.7" in all_settings(recipe) and "workers" not in all_settings(recipe)


# ---- the header


def test_a_header_says_that_a_gpu_computed_in_tf32(tmp_path: Path) -> None:
    sessions = [{**SESSION, "device": "NVIDIA A100", **({"float32": kind} if kind else {})} for kind in ("", "tf32")]
    write_json(tmp_path / "environment.json", {"sessions": sessions})
    assert how_made(tmp_path)["data_folder"] is None
    first, second = str(how_made(tmp_path)["machine"]).split("; then ")
    assert ", NVIDIA A100, " in first and ", NVIDIA A100 with TF32, " in second


def test_a_header_names_the_folder_of_own_images(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, "sweep", (0,), lines=2, flags={"kernel_size": [3, 5]})
    with_environments(study, tmp_path, lambda run: {**SESSION, "data": {"name": "folder", "folder": "flowers"}})
    found = header(study_runs(study, tmp_path))
    assert " · data digits (flowers) · " in found.line
    assert dict(found.details)["Data"].startswith("digits (flowers), 500 test images")


def test_the_header_says_everything_on_terminal_tables_figures_and_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer, "MOST_BODIES", 200)  # a small explorer, quick to make
    report = reported(tmp_path, {"batch_size": "32"}, original_recipe="quick_original")
    line, full = report.summary.facts, details(report)
    assert "recipe quick,batch_size=32 · 60,000 images in 468 or 1,875 steps per run" in line and "seeds 0, 1" in line
    assert full["Recipes"] == "quick,batch_size=32 (16 rows); quick_original (ResNet (original recipe))"
    assert full["Each run"] == (
        "60,000 images in 1,875 steps of 32 images (1 epoch) or 60,000 images in 468 steps of 128 images (1 epoch)"
    )
    assert full["Machine"] == "Linux x86_64, 2 cores, cpu (AVX512), 1 thread per run"
    assert full["Time"] == "17 min of training, 34 runs; 31 min of processor time, 34 runs"
    assert full["Software"] == "modernize-convnets 9.9 (abc123), Python 3.12.1, torch 2.9.0, numpy 2.3"
    tables = [RENDERERS[form](table) for table in report.tables for form in ("markdown", "latex")]
    for text in (as_text(report.summary), as_markdown(report.summary), *tables):
        assert all(value.replace("_", "") in text.replace("\\_", "").replace("_", "") for value in full.values())
    shown = page(report)
    assert all(value in shown for value in full.values()) and line in shown
    plot = report.plots[0]
    for suffix in ("png", "svg"):
        assert all(value.encode() in plot.encoded(suffix) for value in full.values())
    assert all(table.subtitle == line for table in report.tables)
    note = next(
        note for note in report.tables[0].notes if note.startswith("trained with recipe quick_original; unlike")
    )
    assert "unlike most rows: batch_size=128, optimizer=sgd, learning_rate=0.1" in note and "label_smoothing=0" in note


@pytest.mark.parametrize("original", [None, "quick", "quick_original"])
def test_a_row_is_called_original_recipe_only_where_it_has_one(tmp_path: Path, original: str | None) -> None:
    report = reported(tmp_path, {}, original_recipe=original)
    labels = report.runs["label"].unique().tolist()
    expected = ["ResNet (original recipe)", "ResNet (enhanced recipe)"]
    expected = expected if original == "quick_original" else ["ResNet", "ResNet (same recipe)"]
    assert labels[:2] == expected
    assert read_study(tmp_path).rows[0].label == "ResNet (original recipe)"  # the folder is as it began
    shown = [
        RENDERERS["markdown"](report.tables[0]),
        *(row.label for row in report.steps.rows),
        *report.curves["label"],
    ]
    assert any("original recipe" in text for text in shown) == (original == "quick_original")


def test_several_machines_are_counted_and_missing_ones_are_not_recorded(tmp_path: Path) -> None:
    def machine(run: RunConfig) -> dict[str, Any] | None:
        return None if "norm=ln" in run.row else SESSION | {"threads": 2 if run.seed else 1}

    study = made_up_study(tmp_path, "grid", (0, 1), flags={"norm": ["bn", "ln"], "kernel_size": [3, 5]}, lines=2)
    with_environments(study, tmp_path, machine)
    full = dict(header(study_runs(study, tmp_path)).details)
    places = [
        f"Linux x86_64, 2 cores, cpu (AVX512), {threads} per run (2 runs)" for threads in ("1 thread", "2 threads")
    ]
    assert full["Machine"] == "; ".join([*places, "not recorded (4 runs)"])
    assert full["Software"].endswith("(4 runs); not recorded (4 runs)")


@pytest.mark.parametrize("name", ["roadmap", "one-in", "recipes", "screen"])
def test_published_results_of_an_earlier_version_are_not_recorded_rather_than_nan(name: str) -> None:
    study = read_study(RESULTS / name)
    runs = study_runs(study, RESULTS / name)
    told = header(runs)
    full = dict(told.details)
    assert full["Machine"] == full["Software"] == "not recorded" and "of training" in full["Time"]
    assert full["Time"].endswith("processor time not recorded")
    assert "nan" not in told.note.lower() and "None" not in told.note and "precise_bn=null" in told.note


def test_a_study_without_finished_runs_has_a_header(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, "sweep", outcome=lambda run: None, flags={"kernel_size": [3, 5]})
    told = header(study_runs(study, tmp_path))
    assert "per run" not in told.line and dict(told.details)["Each run"] == "no run is finished"
    assert "nan" not in told.note.lower()


def test_a_frame_of_plain_columns_has_a_header() -> None:
    line = {"study": "s", "status": "done", "dataset": "d", "recipe": "r", "evaluate": "test", "kind": "grid"}
    runs = pd.DataFrame([line | {"row": "a", "label": "A", "seed": 0, "base": None, "top1": 50.0}])
    assert facts(runs) == "study s · data d · recipe r · seed 0 · 1 run: 1 finished"


def test_results_keep_machine_and_software_and_come_back_as_published(tmp_path: Path) -> None:
    before = reported(tmp_path, {"batch_size": "32"})
    update_results(read_study(tmp_path), tmp_path)
    for run in (tmp_path / "runs").rglob("*"):
        run.unlink() if run.is_file() else None
    (tmp_path / "runs").rename(tmp_path.with_name(f"{tmp_path.name}-gone"))
    after = read_report(read_study(tmp_path), tmp_path)
    assert after.summary.facts == before.summary.facts and after.summary.details == before.summary.details
    assert "settings" not in (tmp_path / "results.csv").read_text().splitlines()[0]
    assert json.loads(json.dumps(after.runs["settings"].iloc[0])) == before.runs["settings"].iloc[0]
