"""Folders in daily work: their status, what is sent to a colleague, and their contents as data."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pandas as pd
import pytest
import yaml
from commands import ablations_here
from hypothesis import strategies as st
from made_up import made_up_study, write_run

import ablations
from ablations import store
from ablations.cli import run_command
from ablations.data.datasets import load as load_data
from ablations.progress import clock
from ablations.recipes import load_recipe
from ablations.reporting import read_report
from ablations.studies.folder import open_folder, run_folder, slug
from ablations.studies.load import load_study, refuse_two_meanings
from ablations.studies.loose_runs import opened
from ablations.studies.results import update_results
from ablations.studies.run import RunConfig, locked, read_state
from ablations.studies.run_times import after_training, makespan, read_times, seconds_left
from ablations.studies.status import describe
from ablations.studies.variants import variant

SWEEP: dict[str, Any] = {"kind": "sweep", "flags": {"kernel_size": [3, 7]}, "base": "pocket,width=4"}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- status


def by_seed(*outcomes: dict[str, Any] | None) -> Callable[[RunConfig], dict[str, Any] | None]:
    return lambda run: outcomes[run.seed]


def test_status_says_of_each_run_what_became_of_it_and_how_long_the_rest_takes(tmp_path: Path) -> None:
    outcome = by_seed({"top1": 85.0}, {"status": "stopped"}, {"status": "failed", "reason": "the loss is nan"}, None)
    study = made_up_study(tmp_path, seeds=(0, 1, 2, 3), outcome=outcome, **SWEEP)
    lines = describe(study, tmp_path).splitlines()
    assert lines[0] == "sweep: 8 runs: 2 finished, 0 running, 2 interrupted, 2 failed, 2 pending"
    found = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[1:]}
    assert found["kernel_size=3-s0"].startswith("0:30 finished: top-1 85.00%")
    assert found["kernel_size=3-s1"].startswith("0:15 interrupted: 30,000 of 60,000 images seen (50%), training loss ")
    assert found["kernel_size=7-s2"] == "failed: the loss is nan" and "kernel_size=7-s3" not in found
    # two runs are half done at 15 s, two have not begun and take 30 s each
    assert lines[-1] == "  about 1:30 left with one run at a time"


def test_running_runs_share_the_time_left(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, seeds=(0, 1, 2), outcome=by_seed({}, {"status": "stopped"}, None), **SWEEP)
    begun, pending = ([run for run in study.runs if run.seed == seed] for seed in (1, 2))
    (run_folder(tmp_path, begun[0]) / "log.jsonl").unlink()
    with locked(run_folder(tmp_path, begun[0])), locked(run_folder(tmp_path, begun[1])):
        said = ablations_here("status", tmp_path).stdout
        watched = subprocess.Popen(
            [sys.executable, "-m", "ablations", "status", tmp_path, "--watch", "0.2"], stdout=subprocess.PIPE, text=True
        )
        assert watched.stdout is not None
        assert [watched.stdout.readline() for _ in range(12)].count(said.splitlines()[0] + "\n") >= 2
    assert "2 finished" in watched.communicate(timeout=60)[0] and watched.returncode == 0, "no run is running any more"
    assert "top-1" in said and "training loss" in said
    assert "2 finished, 2 running, 0 interrupted" in said and "nan" not in said
    assert "running: no images logged yet" in said and "running: 30,000 of 60,000 images seen (50%)" in said
    # of two workers, one needs 30 s and then 30 s for a pending run, the other 15 s and then 30 s
    assert len(pending) == 2 and "about 1:00 left with 2 runs in parallel" in said


MEASURED: dict[str, Any] = {"data": {"train": 1000, "test": 400}, "images": {"size": 32, "channels": 1, "classes": 10}}
MADE = {"machine": "Linux", "device": "cpu", "threads": 1, "code": "1", "python": "3", "packages": {}}


def session(folder: Path, began: float, ended: float | None = None) -> None:
    """Write the environment of a run's only session, and date the run's files."""
    store.write_json(folder / "environment.json", {"sessions": [MEASURED | MADE]})
    os.utime(folder / "environment.json", (began, began))
    if ended is not None:
        os.utime(folder / "result.json", (ended, ended))


def test_before_any_run_ends_the_time_left_has_all_pending_runs_with_their_work_and_evaluation(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, outcome=by_seed({"status": "stopped"}, None, None), lines=4, **SWEEP)
    first, second = study.runs[:2]
    shutil.rmtree(run_folder(tmp_path, second))
    place = run_folder(tmp_path, first)
    with locked(place):
        session(place, time.time() - 3.0)  # as long as the log says that it has been training
        times = read_times(study, tmp_path, {run.name: read_state(run_folder(tmp_path, run)) for run in study.runs})
        said = describe(study, tmp_path)
    running, *others = times
    assert (running.status, running.trained, running.share) == ("running", 3.0, 0.5) and running.work is not None
    per_image = 6.0 / first.images_of(1000)
    evaluation = per_image * after_training(first, 1000, 400)
    expected = {"kernel_size=3": 6.0 + evaluation}
    assert first.recipe.precise_bn == 2048 and evaluation == pytest.approx(per_image * (100 + 1000))
    more = others[0].work / running.work if others[0].work else 0
    expected["kernel_size=7"] = more * expected["kernel_size=3"]
    assert 1 < more < 7 and [one.row for one in others].count("kernel_size=7") == 3
    left = seconds_left(times) or []
    assert left == pytest.approx([expected[one.row] - (3.0 if one is running else 0) for one in times], abs=0.5)
    assert said.splitlines()[-1] == f"  about {clock(sum(left))} left with one run at a time"


def test_the_time_left_has_what_finished_runs_took_beside_training(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, outcome=by_seed({}, {"status": "stopped"}, None), **SWEEP)
    for run, beside in zip(study.runs[:2], (12.0, 4.0), strict=True):  # beside 30 s of training
        session(run_folder(tmp_path, run), 1000.0, 1030.0 + beside)
    # half of each row's second run, and its third run, one after the other
    assert describe(study, tmp_path).splitlines()[-1] == "  about 2:02 left with one run at a time"
    copied = shutil.copytree(tmp_path, tmp_path / "copy", copy_function=shutil.copyfile)  # all files are of now
    evaluation = 30 * after_training(study.runs[0], 1000, 400) / study.runs[0].images_of(1000)  # in proportion to work
    assert (
        describe(study, copied).splitlines()[-1] == f"  about {clock(90 + 4 * evaluation)} left with one run at a time"
    )


@hypothesis.given(st.lists(st.floats(0, 100), max_size=20), st.integers(1, 5))
def test_workers_end_no_earlier_than_their_work_and_no_later_than_one_alone(seconds: list[float], workers: int) -> None:
    found = makespan(seconds, workers)
    assert max([0.0, *seconds, sum(seconds) / workers]) <= found * (1 + 1e-9)
    assert found <= sum(seconds) / workers + max([0.0, *seconds]) + 1e-9


# ---- names


@pytest.mark.parametrize("name", ["quick", "sweep"])
def test_a_name_that_is_also_a_study_folder_is_refused_with_both(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study = load_study("sweep", {**SWEEP, "data": "digits", "seeds": [0]}, {"image_size": "16"})
    open_folder(study.on(load_data("digits", tmp_path, 16)), tmp_path / name)
    assert run_command(["run", name, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert f"ablations run ./{name} for the folder" in error and f"--out runs/{name}" in error
    assert error.count("\n") == 1
    assert run_command(["run", f"./{name}", "--dry-run"]) == 0
    assert f"folder {name}\n" in capsys.readouterr().out
    if name == "sweep":
        asked = ["--flags", "kernel_size=3:7", "--data", "digits", "--set", "image_size=16", "--dry-run"]
        assert run_command(["run", name, "--base", "pocket,width=4", *asked, "--out", f"runs/{name}"]) == 0
    (tmp_path / name / "study.yaml").unlink()
    refuse_two_meanings(name)  # a folder without a study means nothing


def test_while_a_study_runs_rows_and_baselines_of_the_same_state_share_a_footnote(tmp_path: Path) -> None:
    rows = ["resnet", "enhanced-recipe", "stage-ratio", "patchify-stem", "depthwise", "width"]

    def outcome(run: RunConfig) -> dict[str, Any] | None:
        return {} if run.row in rows and run.seed == 0 else None

    report = read_report(made_up_study(tmp_path, seeds=(0, 1, 2, 3), outcome=outcome), tmp_path)
    tables = [table for table in report.tables if table.name in ("roadmap", "steps")]
    assert len(tables) == 2
    for table in tables:
        pending = [note for note in table.notes if "pending" in note]
        assert len(pending) <= 3 and "seeds 1, 2, 3 pending" in pending, pending


# ---- single runs


def single(folder: Path, design: str, seed: int = 0, top1: float = 85.0, **changes: Any) -> Path:
    """A run's folder as `ablations train` leaves it, its results made up."""
    one, own = variant(design), changes.pop("settings", {})
    recipe = load_recipe("quick", own)
    values: dict[str, Any] = {"row": slug(design), "label": design, "flags": one.design.flags(), "recipe_name": "quick"}
    run = RunConfig(**values, recipe=recipe, data=changes.pop("data", "digits"), seed=seed)
    place = folder / changes.pop("name", run.name)
    write_run(place, run, {"top1": top1, **changes}, 4)
    return place


@pytest.fixture
def singles(tmp_path: Path) -> list[Path]:
    """Runs of two designs with two and three seeds, and of one of them with another batch."""
    folder = tmp_path / "runs"
    runs = [single(folder, "pocket", seed, 84 + seed) for seed in (0, 1)]
    runs += [single(folder, "pocket,norm=ln", seed, 88 + seed) for seed in (0, 1, 2)]
    return [*runs, single(folder, "pocket", 1, 80.0, name="small-batch", settings={"batch_size": "32"})]


def test_single_runs_are_reported_and_compared_with_the_first(singles: list[Path], tmp_path: Path) -> None:
    for given in ([tmp_path / "runs"], singles):
        done = ablations_here("report", *given, "--to", tmp_path / "to", "--format", "table,csv")
        assert done.returncode == 0, done.stderr
    frame = pd.read_csv(tmp_path / "to/tables/designs.csv").set_index("row")
    assert dict(frame["seeds"]) == {"pocket": 2, "pocket,norm=ln": 3, "pocket,quick,batch_size=32": 1}
    assert dict(frame["base"].dropna()) == {row: "pocket" for row in frame.index if row != "pocket"}
    assert frame.loc["pocket,norm=ln", "difference"] == pytest.approx(4.5)
    assert frame.loc["pocket,norm=ln", "verdict"] != "not tested"
    assert "Not tested (1 of 2): one seed: pocket, quick,batch_size=32." in " ".join(done.stdout.split())
    assert "pending" not in done.stdout, "seeds that a design was not given are not missing"
    assert "6 runs: 6 finished" in ablations_here("status", *singles).stdout
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {path.name for path in singles}


def test_one_run_has_a_report_in_its_folder(singles: list[Path]) -> None:
    assert ablations_here("report", singles[0], "--format", "csv").returncode == 0
    assert (singles[0] / "report/tables/designs.csv").exists()
    assert ablations_here("status", singles[0]).stdout.startswith("pocket-s0: 1 run: 1 finished")
    said = ablations_here("report", singles[0], "--format", "table").stdout
    assert (
        "Nothing is compared." in said
        and "pocket-s0: results" in said
        and "baseline" not in said.partition("pocket-s0: results")[2].splitlines()[0]
    )


def test_single_runs_load_as_data(singles: list[Path], tmp_path: Path) -> None:
    data = ablations.load_study(tmp_path / "runs")
    assert sorted(data.runs["seed"]) == [0, 0, 1, 1, 1, 2] and len(data.curves) == 6 * 4
    assert set(data.predictions["row"]) == {"pocket", "pocket,norm=ln", "pocket,quick,batch_size=32"}
    assert set(data.comparisons["row"]) == {"pocket", "pocket,quick,batch_size=32"}
    assert set(data.comparisons["base"]) == {"pocket,norm=ln"}, "the first by name"


def test_a_run_of_a_changed_recipe_is_not_labelled_as_the_recipe_itself_if_it_comes_first(tmp_path: Path) -> None:
    changed = single(tmp_path, "pocket", name="a", settings={"learning_rate": "1.0"})
    with opened([changed, single(tmp_path, "pocket", name="b")]) as (study, _):
        labels = [row.label for row in study.rows]
    assert labels == ["pocket, quick,learning_rate=1", "pocket, quick,learning_rate=0.001"]


def test_labels_say_from_which_weights_single_runs_start_if_these_differ(singles: list[Path]) -> None:
    config = yaml.safe_load((singles[0] / "config.yaml").read_text())
    config["weights"] = {"source": "torchvision:resnet18", "sha256": "0123456789abcdef"}
    (singles[0] / "config.yaml").write_text(yaml.safe_dump(config))
    with opened([singles[0], singles[2]]) as (study, _):
        labels = [row.label for row in study.rows]
    weights = ablations.load_study(singles[0].parent).runs.set_index(["row", "seed"])["weights"]
    assert weights.notna().sum() == 1 and weights.dropna().iloc[0].startswith("torchvision:resnet18")
    assert labels[0].startswith("pocket, from torchvision:resnet18 (sha256 0123")
    assert labels[1] == "pocket,norm=ln, from new weights"


def test_designs_and_rows_of_any_runs_are_compared(singles: list[Path], tmp_path: Path) -> None:
    results = [option for path in singles for option in ("--results", path)]
    done = ablations_here("compare", "pocket", "pocket,norm=ln", *results)
    assert done.returncode == 0 and "+4.50" in done.stdout, done.stderr
    done = ablations_here("compare", "pocket", "pocket,quick,batch_size=32", "--results", tmp_path / "runs")
    assert "trained with recipe quick,batch_size=32" in " ".join(done.stdout.split()), done.stderr
    made_up_study(tmp_path / "study", references=["torchvision:resnet18"], **SWEEP)
    for pair in (("kernel_size=3", "kernel_size=7"), ("torchvision:resnet18", "kernel_size=3")):
        done = ablations_here("compare", *pair, "--results", tmp_path / "study")
        assert done.returncode == 0 and "1×32×32 images and 10 classes" in done.stdout, done.stderr
        assert "better" in done.stdout or "worse" in done.stdout or "inconclusive" in done.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "cifar10"}, "cannot be compared: data is cifar10 there and digits here"),
        ({"name": "again"}, "have the same design, recipe and seed; leave one out"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = single(tmp_path, "pocket"), single(tmp_path / "other", "pocket", **change)
    for command in ("report", "status"):
        assert run_command([command, str(first), str(second)]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and words in said.err and str(second) in said.err


def test_what_is_no_folder_of_runs_is_one_line(singles: list[Path], tmp_path: Path) -> None:
    study = tmp_path / "study"
    made_up_study(study, **SWEEP)
    (tmp_path / "empty").mkdir()
    for given, words in (
        ([tmp_path / "empty"], "it has no study.yaml and no config.yaml"),
        ([study, singles[0]], "give folders of studies alone, or folders of runs"),
        ([tmp_path / "missing", singles[0]], "missing is not a folder"),
    ):
        done = ablations_here("report", *given)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


# ---- pack


def unpacked(path: Path, place: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(place)
    (folder,) = place.iterdir()
    return folder


def test_a_packed_study_reports_elsewhere_as_it_does_here(tmp_path: Path) -> None:
    outcome = by_seed({}, {}, {"status": "failed"})
    folder = tmp_path / "mine"
    study = made_up_study(folder, seeds=(0, 1, 2), outcome=outcome, **SWEEP)
    (run_folder(folder, study.runs[0]) / "checkpoints/step-100.pt").write_bytes(b"weights" * 10_000)
    said = ablations_here("pack", folder)
    assert said.returncode == 0 and said.stdout.startswith(f"{tmp_path / 'mine.zip'}  "), said.stderr
    assert " kB  6 runs, 2 of them not finished; unpacks to mine/" in said.stdout
    there = unpacked(tmp_path / "mine.zip", tmp_path / "elsewhere")
    assert there.name == "mine" and not list(there.rglob("checkpoints")) and not list(there.rglob("*.lock"))
    for place in (folder, there):
        done = ablations_here("report", place, "--format", "table,markdown,csv,svg,html", "--to", place / "report")
        assert done.returncode == 0, done.stderr
    assert tree(there / "report") == tree(folder / "report") and tree(there / "report")
    status, compare = ("status",), ("compare", "pocket,width=4", "pocket,width=4,kernel_size=7", "--results")
    for command in (status, compare):
        assert ablations_here(*command, there).stdout == ablations_here(*command, folder).stdout


def test_a_packed_study_of_an_own_network_reports_without_its_file(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text("from torch import nn\n\n\ndef net(num_classes, in_channels, width=8):\n    return nn.Flatten()\n")
    folder = tmp_path / "study"
    made_up_study(folder, "grid", (0, 1), base=f"{code}:net", flags={"width": [4, 8]})
    (folder / "runs/width=4-s0/code").mkdir()
    shutil.copy(code, folder / "runs/width=4-s0/code")
    assert run_command(["report", str(folder), "--format", "markdown,csv,html"]) == 0
    assert run_command(["pack", str(folder)]) == 0
    there = unpacked(tmp_path / "study.zip", tmp_path / "there")
    code.unlink()
    assert run_command(["report", str(there), "--format", "markdown,csv,html"]) == 0
    assert tree(there / "report") == tree(folder / "report") and len(tree(there / "report")) > 4
    assert (there / "runs/width=4-s0/code/mine.py").exists()
    assert ablations_here("compare", "width=4", "width=8", "--results", there).returncode == 0


def test_a_study_packs_to_the_same_bytes_whatever_was_made_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    study = made_up_study(folder, seeds=(0, 1), **SWEEP)
    assert run_command(["pack", str(folder), "--to", str(tmp_path / "1.zip")]) == 0
    update_results(study, folder)
    assert run_command(["report", str(folder), "--format", "csv"]) == 0
    (run_folder(folder, study.runs[0]) / "log.jsonl").touch()
    assert run_command(["pack", str(folder), "--to", str(tmp_path / "new/2.zip")]) == 0
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "new/2.zip").read_bytes()
    there = unpacked(tmp_path / "1.zip", tmp_path / "there")
    assert run_command(["pack", str(there), "--to", str(tmp_path / "3.zip")]) == 0
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "3.zip").read_bytes(), "a packed study can be sent on"


def test_a_published_study_is_packed_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    update_results(made_up_study(folder, seeds=(0, 1), **SWEEP), folder)
    shutil.rmtree(folder / "runs")
    assert run_command(["pack", str(folder)]) == 0
    there = unpacked(tmp_path / "study.zip", tmp_path / "there")
    assert tree(there) == {name: (folder / name).read_bytes() for name in ("study.yaml", "results.csv")}


def test_what_cannot_be_packed_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    study = made_up_study(folder, seeds=(0, 1), outcome=by_seed({}, {"status": "stopped"}), **SWEEP)
    with locked(run_folder(folder, study.runs[-1])):
        assert run_command(["pack", str(folder)]) == 2
        assert "kernel_size=7-s1 is running; pack it when" in capsys.readouterr().err
    for command, status, words in (
        (["pack", str(tmp_path / "missing")], 2, "has no study.yaml"),
        (["pack", str(folder), "--to", str(tmp_path)], 2, "write the name of a file, such as"),
        (["pack", str(folder), "--to", str(tmp_path / "x.tar")], 2, "x/study.zip"),
        (["pack", str(folder), "--to", str(folder / "study.yaml/x.zip")], 1, "cannot be written"),
    ):
        assert run_command(command) == status
        assert words in (said := capsys.readouterr().err) and said.count("\n") == 1
    assert not list(tmp_path.rglob("*.zip"))


# ---- data frames

PAGE = (Path(__file__).parent.parent / "docs/frames.md").read_text(encoding="utf-8")


def documented(heading: str) -> dict[str, str]:
    """The columns below a heading of the page with their types, in order."""
    part = PAGE.split(f"# {heading}\n")[1].split("\n#")[0]
    lines = re.findall(r"^\| (`.*?`) \| (\w+) \|", part, re.MULTILINE)
    return {name: kind for names, kind in lines for name in re.findall(r"`(\w+)`", names)}


def types(frame: pd.DataFrame) -> dict[str, str]:
    return {str(name): str(kind) for name, kind in frame.dtypes.items()}


def test_every_column_of_results_csv_and_of_the_frames_is_documented_with_its_type(tmp_path: Path) -> None:
    made = {"whole": by_seed({}, {"status": "stopped"}, {"status": "failed"}), "not begun": lambda run: None}
    for name, outcome in made.items():
        study = made_up_study(tmp_path / name, seeds=(0, 1, 2), outcome=outcome, **SWEEP)
        update_results(study, tmp_path / name)
        data = ablations.load_study(tmp_path / name)
        for heading in ("curves", "predictions", "comparisons"):
            assert types(getattr(data, heading)) == documented(heading), heading
        assert types(data.runs) == documented("results.csv")
    assert list(pd.read_csv(tmp_path / "whole/results.csv")) == list(documented("results.csv"))


def test_the_frames_are_what_the_run_folders_and_the_report_say(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, seeds=(0, 1, 2), **SWEEP)
    before = tree(tmp_path)
    data = ablations.load_study(str(tmp_path))
    assert tree(tmp_path) == before, "reading writes nothing"
    report = read_report(study, tmp_path)
    (line,) = report.tables[-1].frame.dropna(subset="difference").to_dict("records")
    (found,) = data.comparisons.to_dict("records")
    assert found == {name: line[name] for name in found} and found["verdict"] in ("better", "worse", "inconclusive")
    right = 100 * data.predictions.groupby("run")["correct"].mean()
    assert right.to_dict() == pytest.approx(data.runs.set_index("run")["top1"].to_dict())
    assert len(data.curves) == 6 * 20 and set(data.curves["row"]) == {"kernel_size=3", "kernel_size=7"}
    assert list(data.tables) == [table.name for table in report.every_table] and data.measure == "top1"


def test_a_packed_and_a_published_study_load_as_the_folder_that_they_are_from(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    warnings = ["one; and more", "another"]
    outcome = by_seed({"warnings": warnings}, {"status": "failed"})
    update_results(made_up_study(folder, seeds=(0, 1), outcome=outcome, **SWEEP), folder)
    assert run_command(["pack", str(folder)]) == 0
    there = unpacked(tmp_path / "study.zip", tmp_path / "there")
    whole, sent = ablations.load_study(folder), ablations.load_study(there)
    for name in ("runs", "curves", "predictions", "comparisons"):
        pd.testing.assert_frame_equal(getattr(whole, name), getattr(sent, name))
    shutil.rmtree(there / "runs")
    public = ablations.load_study(there)
    for name in ("runs", "comparisons"):
        pd.testing.assert_frame_equal(getattr(whole, name), getattr(public, name))
    with opened([there]) as (study, place):
        notes = read_report(study, place).summary.notes
    assert [note for note in notes if note.startswith("Warning")] == [
        f"Warning (recipe quick): {one}." for one in warnings
    ]
    assert public.predictions.empty and types(public.predictions) == types(whole.predictions)
