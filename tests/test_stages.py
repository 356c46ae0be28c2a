"""Extending a study: what may be added, what goes on record, and what is refused."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import made_up_study, write_run

from ablations.cli import run_command
from ablations.data.datasets import load as load_data
from ablations.errors import RequestError, RunError
from ablations.reporting import read_report
from ablations.studies.folder import open_folder, read_study, run_folder
from ablations.studies.load import _joined, load_study
from ablations.studies.precision import add_needed_seeds, describe_precision
from ablations.studies.results import forget_failures, study_runs, update_results
from ablations.studies.schema import Precision, Study
from ablations.studies.stages import begun, extended, sized, stage_numbers, unsized
from ablations.studies.status import describe
from reports.statistics.sequential import gives_variance, looks

VALUES = [3, 5, 7, 9, 11]
TRAINED = ["sweep", "--base", "pocket,width=4,depths=1-1", "--flags", "kernel_size=3:5", "--data", "digits"]
TRAINED += ["--budget", "64images", "--set", "batch_size=32", "--set", "image_size=16"]


def sweep(seeds: Sequence[int] = (0, 1, 2), values: Sequence[int] = (3, 7), **changes: Any) -> Study:
    asked = {"base": "pocket", "data": "digits", "seeds": list(seeds), "flags": {"kernel_size": list(values)}}
    return load_study("sweep", {**asked, **changes}, {})


def finish(study: Study, folder: Path, top1: dict[str, float] | None = None) -> None:
    """Give every run that has no result one; results differ by seed, and by row as `top1` says."""
    for run in study.runs:
        if not (run_folder(folder, run) / "result.json").exists():
            value = {"top1": 80 + 3 * (run.seed % 3) + (top1 or {}).get(run.row, 0.0)}
            write_run(run_folder(folder, run), run, value, 4)


# ---- the record


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sets(st.integers(0, 9)), st.integers(2, 5), st.booleans()), max_size=6),
    st.sets(st.integers(0, 9), min_size=1),
)
def test_the_record_names_every_seed_and_row_once_and_no_run_changes_its_stage(
    requests: list[tuple[set[int], int, bool]], first: set[int]
) -> None:
    study, rows = begun(sweep(sorted(first), VALUES[:2])), 2
    for seeds, values, looked in requests:
        before = study
        rows = max(rows, values)
        study = extended(before, sweep(sorted({*before.seeds, *seeds}), VALUES[:rows]), looked)
        assert study.seeds == [seed for stage in study.stages for seed in stage.seeds]
        assert sorted(row.row for row in study.rows) == sorted(row for stage in study.stages for row in stage.rows)
        earlier, now, last = stage_numbers(before), stage_numbers(study), len(study.stages)
        there = {(row.row, seed) for row in before.rows for seed in before.seeds}
        added = {(row.row, seed) for row in study.rows for seed in study.seeds} - there
        assert all(earlier(*run) == now(*run) for run in there)
        assert all(now(*run) == last for run in added)
        assert last == len(before.stages) + bool(added and looked)
        assert extended(study, study, looked) == study
        assert Study.model_validate(yaml.safe_load(yaml.safe_dump(study.model_dump(mode="json")))) == study


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 50), min_size=2, max_size=6), st.integers(1, 30), st.integers(6, 20), st.booleans())
def test_a_precision_adds_the_seeds_that_it_needs_up_to_the_maximum_and_once(
    first: set[int], needed: int, most: int, looked: bool
) -> None:
    asked, pilot = Precision(half_width=0.5, max_seeds=most), len(first)
    study = begun(sweep(list(first)).model_copy(update={"precision": None if looked else asked}))
    if looked:
        study = extended(study, sweep(list(first)).model_copy(update={"precision": asked}), looked)
    assert unsized(study)
    full = sized(study, needed)
    assert not unsized(full)
    assert len(full.seeds) == max(pilot, min(needed, most))
    highest, added = max(first), len(full.seeds) - pilot
    assert full.seeds == [*study.seeds, *range(highest + 1, highest + 1 + added)]
    assert full.stages[-1].why == ("extended to precision 0.5" if looked else "precision 0.5")
    if full.seeds != study.seeds:
        assert [stage.seeds for stage in full.stages] == [study.seeds, full.seeds[pilot:]]


def test_after_the_highest_seed_that_there_is_a_precision_adds_the_lowest() -> None:
    asked = Precision(half_width=0.5, max_seeds=20)
    full = sized(begun(sweep([0, 2**31 - 2, 2**31 - 1]).model_copy(update={"precision": asked})), 5)
    assert full.seeds[3:] == [1, 2]


def test_a_stage_added_before_any_run_ended_is_part_of_the_first(tmp_path: Path) -> None:
    open_folder(sweep(), tmp_path / "study")
    study = open_folder(sweep(range(5)), tmp_path / "study")
    assert [(stage.why, stage.seeds) for stage in study.stages] == [("start", [0, 1, 2, 3, 4])]
    finish(study, tmp_path / "study")
    study = open_folder(sweep(range(6)), tmp_path / "study")
    study = open_folder(sweep(range(7)), tmp_path / "study")  # nothing of the second stage has been seen
    assert [(stage.why, stage.seeds) for stage in study.stages] == [("start", [0, 1, 2, 3, 4]), ("extended", [5, 6])]


def test_results_tell_the_stage_of_each_run_and_a_look_is_counted(tmp_path: Path) -> None:
    finish(open_folder(sweep(), tmp_path), tmp_path)
    study = open_folder(sweep(range(5), (3, 5, 7)), tmp_path)
    runs = study_runs(study, tmp_path)
    stages = {(row, seed): stage for row, seed, stage in runs[["row", "seed", "stage"]].itertuples(index=False)}
    assert stages["kernel_size=3", 2] == stages["kernel_size=7", 0] == 1
    assert stages["kernel_size=5", 0] == stages["kernel_size=3", 3] == 2
    assert [look.stage for look in looks(runs)] == [1, 2]
    assert set(runs["added"]) == {"start", "extended"}
    assert len(study.runs) == 15
    assert "stage 2 (extended, 20" in describe(study, tmp_path)
    assert "): 1 row and seeds 3, 4" in describe(study, tmp_path)


def test_rows_of_a_roadmap_and_of_a_study_of_recipes_may_be_added(tmp_path: Path) -> None:
    made_up_study(tmp_path / "roadmap", seeds=(0, 1))
    more = load_study("roadmap", {"base": "pocket", "data": "digits", "seeds": [0, 1], "extras": ["grn"]}, {})
    assert open_folder(more, tmp_path / "roadmap").stages[-1].rows == ["grn"]
    asked: dict[str, Any] = {"base": "pocket", "data": "digits", "recipes": ["quick_original", "quick"]}
    made_up_study(tmp_path / "recipes", "recipes", **asked)
    asked["recipes"] = ["quick_original", "quick", "quick,learning_rate=0.002"]
    more = load_study("recipes", {**asked, "seeds": [0, 1, 2]}, {})
    assert len(open_folder(more, tmp_path / "recipes").recipes) == 3


# ---- what is refused


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"seeds": [0, 1]}, "seeds was [0, 1, 2] and is now [0, 1]"),
        ({"seeds": [1, 2, 3]}, "seeds[0] was 0 and is now 1"),
        ({"values": [3, 5]}, "the new study lacks row kernel_size=7; "),
        ({"values": [7, 3]}, "rows.kernel_size=3.compared_with was not set"),
        ({"recipe": "quick_original"}, "recipe was quick and is now quick_original"),
        ({"seeds": [0, 1, 2, 3], "evaluate": "validation"}, "evaluate was test and is now validation"),
    ],
)
def test_what_takes_away_or_changes_is_refused_and_nothing_is_written(
    asked: dict[str, Any], says: str, tmp_path: Path
) -> None:
    finish(open_folder(sweep(), tmp_path), tmp_path)
    before = (tmp_path / "study.yaml").read_bytes()
    with pytest.raises(RequestError) as caught:
        open_folder(sweep(**asked), tmp_path)
    assert says in str(caught.value) and "was made with another configuration" in str(caught.value)
    assert (tmp_path / "study.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_seeds": 5}, "max_seeds=5: only with precision"),
        ({"precision": 0.5, "max_seeds": 2, "seeds": [0, 1, 2]}, "max_seeds=2: the study starts with 3 seeds"),
        ({"precision": 0.0}, "precision"),
    ],
)
def test_a_precision_that_makes_no_sense_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        sweep(**changes)


def test_a_study_that_compares_no_rows_has_no_precision_to_ask_for() -> None:
    with pytest.raises(RequestError, match="a study of kind orders compares no rows"):
        load_study("orders", {"base": "pocket", "precision": 0.5}, {})


def test_a_study_of_one_seed_that_asks_for_precision_begins_with_three() -> None:
    assert sweep([7], precision=0.5).seeds == [7, 0, 1]
    assert sweep([4, 5], precision=0.5).seeds == [4, 5]


# ---- by the folder's path


def test_a_folder_is_extended_by_its_path(tmp_path: Path) -> None:
    finish(open_folder(sweep(), tmp_path), tmp_path)
    assert load_study(str(tmp_path), {}, {}) == read_study(tmp_path)
    study = open_folder(load_study(str(tmp_path), {"seeds": [0, 1, 2, 3, 4]}, {}), tmp_path)
    assert (study.seeds, study.stages[1].why, study.stages[1].seeds) == ([0, 1, 2, 3, 4], "extended", [3, 4])
    assert load_study(str(tmp_path), {"seeds": [5]}, {}).seeds == [0, 1, 2, 3, 4, 5]  # those that it has stay
    with pytest.raises(RequestError, match="seeds was"):  # but a list that leaves some out is a mistake
        open_folder(load_study(str(tmp_path), {"seeds": [0, 1]}, {}), tmp_path)
    with pytest.raises(RequestError, match="--budget: the study of a folder is fixed"):
        load_study(str(tmp_path), {"budget": "2 epochs"}, {})
    with pytest.raises(RequestError, match="--set: the study of a folder is fixed"):
        load_study(str(tmp_path), {}, {"learning_rate": "1"})
    with pytest.raises(RequestError, match="it has no study"):
        load_study(str(tmp_path / "runs"), {}, {})


MORE: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[str]]] = {
    "a value": ("sweep", {"flags": {"kernel_size": [3, 7]}}, {"flags": {"kernel_size": ["9"]}}, ["kernel_size=9"]),
    "all values": (
        "sweep",
        {"flags": {"kernel_size": [3, 7]}},
        {"flags": {"kernel_size": ["3", "5", "7"]}},
        ["kernel_size=5"],
    ),
    "values of a grid": (
        "grid",
        {"flags": {"norm": ["bn", "ln"], "recipe.mixup": [0, 0.8]}},
        {"flags": {"recipe.mixup": ["0.2"]}},
        ["norm=bn,recipe.mixup=0.2", "norm=ln,recipe.mixup=0.2"],
    ),
    "a flag": ("one-in", {"flags": {"norm": ["ln"]}}, {"flags": {"kernel_size": ["7"]}}, ["with-kernel_size"]),
    "a row": ("roadmap", {}, {"extras": ["grn"]}, ["grn"]),
    "a recipe": (
        "recipes",
        {"recipes": ["quick_original", "quick"]},
        {"recipes": ["quick,mixup=0.8"]},
        ["quick,mixup=0.8"],
    ),
    "a network": ("one-in", {"flags": ["norm"]}, {"references": ["torchvision:resnet18"]}, ["torchvision-resnet18"]),
}


@pytest.mark.parametrize("name", MORE)
def test_a_folder_takes_further_rows_with_the_settings_that_it_was_made_with(tmp_path: Path, name: str) -> None:
    kind, asked, more, rows = MORE[name]
    first = load_study(kind, {"base": "pocket", "data": "digits", "seeds": [0, 1], **asked}, {"batch_size": "32"})
    finish(open_folder(first, tmp_path), tmp_path)
    study = open_folder(load_study(str(tmp_path), more, {}), tmp_path)
    assert study.stages[-1].rows == rows and study.stages[-1].why == "extended" and study.seeds == [0, 1]
    assert {recipe.batch_size for recipe in study.recipes.values()} == {32}
    whole = {key: _joined(asked.get(key), value) for key, value in more.items()}
    command = {"base": "pocket", "data": "digits", "seeds": [0, 1], **asked, **whole}
    assert open_folder(load_study(kind, command, {"batch_size": "32"}), tmp_path) == study, "as by the whole command"


def test_a_folder_whose_command_was_not_recorded_says_how_it_takes_further_rows(tmp_path: Path) -> None:
    open_folder(sweep(), tmp_path)
    older(tmp_path)
    with pytest.raises(RequestError, match=r"repeat that command, with --flags and --out ") as caught:
        load_study(str(tmp_path), {"flags": {"kernel_size": ["9"]}}, {})
    assert "\n" not in str(caught.value)
    assert load_study(str(tmp_path), {"seeds": [0, 1, 2, 3]}, {}).seeds == [0, 1, 2, 3]


def test_the_study_file_of_a_folder_is_its_folder_and_with_out_begins_its_study_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for seeds in (range(3), range(4)):
        study = open_folder(sweep(seeds).on(load_data("digits", tmp_path)), tmp_path / "first")
        finish(study, tmp_path / "first")
    assert run_command(["run", "first/study.yaml", "--dry-run"]) == 0
    assert "8 finished\n  folder first\n" in capsys.readouterr().out
    assert run_command(["run", "first", "--precision", "0.5", "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith("nothing is left to train unless precision 0.5 needs more seeds\n")
    assert run_command(["run", "first/study.yaml", "--out", "second", "--seeds", "1,2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("sweep: 4 runs of 2 rows on digits\n") and not (tmp_path / "second").exists()
    shutil.copy("first/study.yaml", "again.yaml")
    anew = load_study("again.yaml", {"evaluate": "validation"}, {})
    assert (anew.name, anew.seeds, anew.stages, anew.evaluate) == ("again", [0, 1, 2, 3], [], "validation")
    changes = {"evaluate": "validation", "measure": "loss", "budget": "128images", "seeds": [0, 1]}
    digits = load_data("digits", tmp_path)
    open_folder(load_study("again.yaml", changes, {}).on(digits), tmp_path / "third")
    more = open_folder(load_study("third", {"flags": {"kernel_size": ["9"]}}, {}).on(digits), tmp_path / "third")
    assert [row.row for row in more.rows][2:] == ["kernel_size=9"], "a study begun anew takes further rows, too"
    assert (more.evaluate, more.measure, more.budget, more.seeds) == ("validation", "loss", "128images", [0, 1])
    assert run_command(["run", "first", "--out", "second"]) == 2
    assert "ablations run first/study.yaml --out second" in capsys.readouterr().err


def test_a_dry_run_of_a_folder_counts_what_is_there_and_refuses_what_the_run_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, plan = str(tmp_path / "study"), [*TRAINED, "--out", str(tmp_path / "study"), "--dry-run"]
    states = {0: {}, 1: {"status": "stopped"}, 2: {"status": "failed"}}
    asked: dict[str, Any] = {"base": "pocket,width=4,depths=1-1", "flags": {"kernel_size": ["3", "5"]}}
    asked |= {"budget": "64images", "data": "digits", "seeds": [0, 1, 2]}
    made = load_study("sweep", asked, {"batch_size": "32", "image_size": "16"}).on(load_data("digits", tmp_path))
    study = open_folder(made, tmp_path / "study")
    for run in study.runs:
        if run.row == "kernel_size=3":
            write_run(run_folder(tmp_path / "study", run), run, states[run.seed], 4)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "study").rglob("*")}
    assert run_command(["run", folder, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "6 runs of 2 rows on digits: 1 finished, 1 interrupted, 1 failed, 3 pending" in said
    assert "for the 4 runs left" in said
    rows = {line.split()[0]: line for line in said.splitlines() if " M parameters " in line}
    assert set(rows) == {"kernel_size=3", "kernel_size=5"}
    assert rows["kernel_size=3"].endswith("  1 of 3 finished, 1 of 3 interrupted, 1 of 3 failed")
    assert rows["kernel_size=5"].endswith("recipe quick,batch_size=32,image_size=16")
    assert "\n  seeds 0, 1, 2 of each row; budget 64 images (max_epochs=0.0" in said
    assert run_command(["run", folder, "--dry-run", "--retry-failed", "--seeds", "7"]) == 0
    said = capsys.readouterr().out
    assert "adds seed 7: look 2, with 2.8% of the error rate, because runs have finished; " in said
    assert "for the 7 runs left" in said and "  1 of 4 finished, 1 of 4 interrupted, 2 of 4 pending\n" in said
    (found,) = re.findall(r"([0-9.]+) standard .* by look 2 alone; with 4 seeds .*, one of ([0-9.]+)", said)
    alone, whole = found
    assert float(alone) > 1.5 * float(whole)
    assert run_command(["run", *plan, "--seeds", "0,1,2"]) == 0
    for other in (["--seeds", "0"], ["--evaluate", "validation"], ["--set", "batch_size=16"]):
        assert run_command(["run", *plan, "--seeds", "0,1,2", *other]) == 2
        assert "was made with another configuration" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "study").rglob("*")} == before


# ---- folders made before stages were recorded


def older(folder: Path) -> None:
    """Make the folder as earlier versions did."""
    values = yaml.safe_load((folder / "study.yaml").read_text())
    for key in ("stages", "precision", "asked"):
        del values[key]
    (folder / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def test_a_folder_without_stages_is_one_stage_and_is_resumed_as_it_is(tmp_path: Path) -> None:
    finish(open_folder(sweep(), tmp_path), tmp_path)
    older(tmp_path)
    before = (tmp_path / "study.yaml").read_bytes()
    study = open_folder(sweep(), tmp_path)
    assert study.stages == [] and (tmp_path / "study.yaml").read_bytes() == before
    runs = study_runs(study, tmp_path)
    assert set(runs["stage"]) == {1} and set(runs["added"]) == {"start"}
    study = open_folder(sweep(range(4)), tmp_path)
    assert [(stage.why, stage.date is None, stage.seeds) for stage in study.stages] == [
        ("start", True, [0, 1, 2]),
        ("extended", False, [3]),
    ]


def test_published_results_without_stages_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = open_folder(sweep(), tmp_path)
    finish(study, tmp_path)
    older(tmp_path)
    update_results(study, tmp_path).drop(columns=["stage", "added"]).to_csv(tmp_path / "results.csv", index=False)
    (tmp_path / "runs").rename(tmp_path.parent / f"{tmp_path.name}-runs")
    assert run_command(["report", str(tmp_path), "--format", "table"]) == 0
    assert "kernel_size=7" in capsys.readouterr().out


# ---- failed runs that are tried again


def fail(study: Study, folder: Path, seeds: set[int]) -> None:
    """Let the runs of some seeds fail, and give every other run a result."""
    for run in study.runs:
        value = {"status": "failed"} if run.seed in seeds else {"top1": 80 + 3 * (run.seed % 3)}
        write_run(run_folder(folder, run), run, value, 4)


def test_failed_runs_that_are_tried_again_after_a_look_are_a_stage_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = open_folder(sweep((0, 1, 2, 3)), tmp_path)
    fail(study, tmp_path, {2, 3})
    before = study_runs(study, tmp_path)
    assert [(look.stage, look.finished) for look in looks(before)] == [(1, True)]
    forget_failures(study, tmp_path)
    again = read_study(tmp_path)
    assert again.stages[-1].why == "retried" and sorted(again.stages[-1].runs) == [
        f"kernel_size={value}-s{seed}" for value in (3, 7) for seed in (2, 3)
    ]
    waiting = study_runs(again, tmp_path)
    assert [(look.stage, look.finished) for look in looks(waiting)] == [(1, True), (2, False)]
    finish(again, tmp_path, {"kernel_size=7": 1.0})
    assert open_folder(sweep((0, 1, 2, 3)), tmp_path) == again  # the same command resumes
    runs = study_runs(again, tmp_path)
    first, second = looks(runs)
    assert first.share == 0.9 and 0 < second.share < 0.08
    seen = runs[runs["stage"] == 1]  # what the first look saw, no more
    assert len(seen) == len(before[before["status"] == "done"]) == 4
    assert run_command(["status", str(tmp_path)]) == run_command(["report", str(tmp_path), "--format", "table"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "4 failed runs tried again" in said and "Look 2, after 4 failed runs were tried again" in said


def test_failed_runs_of_an_unfinished_stage_are_tried_again_without_a_look(tmp_path: Path) -> None:
    study = open_folder(sweep((0, 1, 2)), tmp_path)
    fail(study, tmp_path, {1})
    (tmp_path / "runs/kernel_size=7-s2/result.json").unlink()
    forget_failures(study, tmp_path)
    assert [stage.why for stage in read_study(tmp_path).stages] == ["start"]
    assert not (tmp_path / "runs/kernel_size=7-s1/result.json").exists()


def test_seeds_added_while_failed_runs_are_tried_again_are_an_extension(tmp_path: Path) -> None:
    study = open_folder(sweep((0, 1, 2)), tmp_path)
    fail(study, tmp_path, {1})
    forget_failures(study, tmp_path)
    whole = open_folder(sweep((0, 1, 2, 3)), tmp_path)
    assert [stage.why for stage in whole.stages] == ["start", "extended"] and len(whole.stages[-1].runs) == 2
    assert [look.stage for look in looks(study_runs(whole, tmp_path)) if look.finished] == [1]


def test_a_precision_is_sized_once_whatever_runs_are_tried_again(tmp_path: Path) -> None:
    study = open_folder(sweep((0, 1, 2), precision=5.0, max_seeds=9), tmp_path)
    finish(study, tmp_path)
    sized = add_needed_seeds(tmp_path)
    for run in sized.runs:
        if run.seed >= 3:
            status = {"status": "failed"} if run.seed == 4 else {"top1": 80.0 + run.seed}
            write_run(run_folder(tmp_path, run), run, status, 4)
    forget_failures(sized, tmp_path)
    finish(sized, tmp_path)
    again = add_needed_seeds(tmp_path)
    assert again.seeds == sized.seeds and [stage.why for stage in again.stages][-1] == "retried"
    assert str(describe_precision(again)).startswith("±5 needs")
    runs = study_runs(again, tmp_path)
    used = runs[gives_variance(runs)]
    assert set(used["seed"]) == {0, 1, 2}  # the noise is still that of the first stage alone
    first, _second = looks(runs)
    assert first.share == 0.9


# ---- precision


def test_the_second_stage_is_sized_by_the_spread_of_the_first(tmp_path: Path) -> None:
    study = open_folder(sweep(precision=5.0, max_seeds=9), tmp_path)
    assert study.stages[0].why == "pilot"
    assert add_needed_seeds(tmp_path) == study  # its runs are still to come
    finish(study, tmp_path)
    enlarged = add_needed_seeds(tmp_path)
    # the variance over seeds of 80, 83, 86 is 9; t with 4 degrees of freedom is 2.776: 2 * 9 * (2.776 / 5)² = 5.5
    assert len(enlarged.seeds) >= 6 and enlarged.stages[-1].needed == len(enlarged.seeds)
    assert add_needed_seeds(tmp_path) == enlarged == read_study(tmp_path)
    assert open_folder(sweep(precision=5.0, max_seeds=9), tmp_path) == enlarged  # the same command resumes
    with pytest.raises(RequestError, match="seeds was"):
        open_folder(sweep(), tmp_path)
    assert [look.stage for look in looks(study_runs(enlarged, tmp_path))] == [2]


def test_the_maximum_stops_the_second_stage_and_the_record_says_what_was_needed(tmp_path: Path) -> None:
    study = open_folder(sweep(precision=0.5, max_seeds=4), tmp_path)
    finish(study, tmp_path)
    enlarged = add_needed_seeds(tmp_path)
    assert len(enlarged.seeds) == 4 and (enlarged.stages[-1].needed or 0) > 100
    assert str(describe_precision(enlarged)).endswith("max_seeds=4 stops at 4")


def test_a_pilot_that_is_enough_is_the_whole_study(tmp_path: Path) -> None:
    study = open_folder(sweep(precision=50.0), tmp_path)
    finish(study, tmp_path)
    enough = add_needed_seeds(tmp_path)
    assert enough.seeds == study.seeds and [stage.why for stage in enough.stages] == ["precision 50"]
    assert str(describe_precision(enough)).endswith("the present 3 are enough")
    assert looks(study_runs(enough, tmp_path))[0].finished


def test_a_precision_is_sized_with_the_rounding_of_top1_that_the_report_tests_with(tmp_path: Path) -> None:
    """Rows that differ between seeds by one test image, or by none."""
    study = made_up_study(
        tmp_path,
        "sweep",
        precision=0.1,
        max_seeds=40,
        flags={"kernel_size": [3, 5, 7, 9]},
        outcome=lambda run: {"top1": 85.2 if (run.row, run.seed) == ("kernel_size=7", 1) else 85.0},
    )
    enlarged = add_needed_seeds(tmp_path)
    assert len(study.seeds) < len(enlarged.seeds) == enlarged.stages[-1].needed
    finish_alike(enlarged, tmp_path)
    legend = read_report(enlarged, tmp_path).tables[0].legend
    assert "Precision asked ±0.1: the widest 95% CI is ±0.09" in legend and "±0.1 needs" not in legend


def finish_alike(study: Study, folder: Path) -> None:
    """Give every run that has no result the same one."""
    for run in study.runs:
        if not (run_folder(folder, run) / "result.json").exists():
            write_run(run_folder(folder, run), run, {"top1": 85.0}, 4)


def test_a_precision_of_rows_that_do_not_vary_at_all_is_an_error_of_one_line(tmp_path: Path) -> None:
    made_up_study(tmp_path, "sweep", precision=0.1, flags={"kernel_size": [3, 5]}, outcome=lambda run: {"top1": 85.0})
    with pytest.raises(RunError, match=r"^study folder .*: no comparison has a known variance: .* different results$"):
        add_needed_seeds(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two rows with one seed, trained; to be copied."""
    place = tmp_path_factory.mktemp("trained") / "study"
    assert run_command(["run", *TRAINED, "--seeds", "0", "--out", str(place), "--jobs", "1"]) == 0
    return place


# ---- processes


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ablations", "run", *arguments]


def weights(folder: Path) -> dict[str, Any]:
    study = read_study(folder)
    runs = study_runs(study, folder)
    assert set(runs["status"]) == {"done"}
    return dict(zip(runs["run"], runs["weights_sha256"], strict=True))


@pytest.fixture(scope="module")
def extended_twice(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """The study, given the same seeds by two commands at once."""
    place = shutil.copytree(trained, str(tmp_path_factory.mktemp("extended") / "study"))
    asked = [command(place, "--seeds", "0,1", "--jobs", "1") for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        ended = list(pool.map(lambda one: subprocess.run(one, capture_output=True, text=True), asked))
    assert [one.returncode for one in ended] == [0, 0], [one.stderr for one in ended]
    return Path(place)


in_one_worker = pytest.mark.xdist_group("extended")


@in_one_worker
def test_a_study_killed_in_the_middle_of_an_extension_goes_on_to_the_bit(
    tmp_path: Path, trained: Path, extended_twice: Path
) -> None:
    killed = shutil.copytree(trained, str(tmp_path / "killed"))
    process = subprocess.Popen(command(killed, "--seeds", "0,1", "--jobs", "1"), start_new_session=True)
    while len(list(Path(killed).glob("runs/*-s1/result.json"))) < 1:
        time.sleep(0.02)
        assert process.poll() is None, "it ended before it was killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert run_command(["run", killed, "--jobs", "1"]) == 0
    assert weights(Path(killed)) == weights(extended_twice)
    assert [stage.why for stage in read_study(Path(killed)).stages] == ["start", "extended"]


@in_one_worker
def test_two_commands_that_extend_one_folder_at_once_record_all_that_either_adds(extended_twice: Path) -> None:
    study = read_study(extended_twice)
    assert [(stage.why, stage.seeds) for stage in study.stages] == [("start", [0]), ("extended", [1])]
    assert len(weights(extended_twice)) == 4
    assert (extended_twice / "results.csv").read_text().count("done") == 4
