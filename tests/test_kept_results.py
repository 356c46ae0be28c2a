"""No command replaces the only record of earlier results: it refuses in one line, or keeps it and says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from made_up import made_up_study

from ablations.bench import with_other_settings
from ablations.cli import run_command
from ablations.studies.folder import is_published, open_folder
from ablations.studies.load import load_study
from ablations.studies.results import update_results

SWEEP = ["sweep", "--base", "pocket,width=4", "--data", "digits", "--flags", "kernel_size=3:5", "--seeds", "0,1"]


def published(folder: Path) -> bytes:
    """A study's folder as it is published, without its run folders; its results."""
    study = made_up_study(folder, "sweep", (0, 1), base="pocket,width=4", flags={"kernel_size": [3, 5]})
    update_results(study, folder)
    shutil.rmtree(folder / "runs")
    return (folder / "results.csv").read_bytes()


@pytest.mark.parametrize("more", [[], ["--seeds", "0,1,2"], ["--retry-failed"], ["--dry-run"], ["--cluster", "local"]])
@pytest.mark.parametrize("by_path", [False, True])
def test_a_published_folder_is_not_run_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], by_path: bool, more: list[str]
) -> None:
    folder = tmp_path / "study"
    before = published(folder)
    arguments = ["run", str(folder), *more] if by_path else ["run", *SWEEP, "--out", str(folder), *more]
    assert run_command(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "published results" in said and "choose another --out" in said
    assert (folder / "results.csv").read_bytes() == before and not (folder / "runs").exists()
    assert run_command(["report", str(folder), "--to", str(tmp_path / "report"), "--format", "csv"]) == 0


def test_a_study_of_which_no_run_was_begun_is_not_published(tmp_path: Path) -> None:
    study = load_study("sweep", {"base": "pocket", "data": "digits", "flags": {"kernel_size": [3, 5]}}, {})
    open_folder(study, tmp_path)
    runs = update_results(study, tmp_path)
    assert set(runs["status"]) == {"left"} and not (tmp_path / "results.csv").exists()
    runs.to_csv(tmp_path / "results.csv", index=False)  # as earlier versions did
    assert not is_published(tmp_path) and open_folder(study, tmp_path).seeds == study.seeds


def test_results_whose_run_folders_are_gone_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = made_up_study(tmp_path, "sweep", (0, 1), flags={"kernel_size": [3, 5]})
    update_results(study, tmp_path)
    before = (tmp_path / "results.csv").read_bytes()
    shutil.rmtree(tmp_path / "runs/kernel_size=3-s0")
    assert run_command(["report", str(tmp_path), "--format", "csv"]) == 0
    said = capsys.readouterr().err
    (kept,) = tmp_path.glob("results-*.csv")
    assert kept.read_bytes() == before and kept.name in said and "kernel_size=3-s0" in said and said.count("\n") == 1
    assert pd.read_csv(tmp_path / "results.csv")["status"].tolist() == ["left", "done", "done", "done"]
    assert run_command(["report", str(tmp_path), "--format", "csv"]) == 0  # once
    assert capsys.readouterr().err == "" and len(list(tmp_path.glob("results-*.csv"))) == 1


def test_results_of_failed_runs_that_are_tried_again_are_no_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = lambda run: {"status": "failed"} if run.seed else {}  # noqa: E731
    study = made_up_study(tmp_path, "sweep", (0, 1), failing, flags={"kernel_size": [3, 5]})
    update_results(study, tmp_path)
    (tmp_path / "runs/kernel_size=3-s1/result.json").unlink()
    update_results(study, tmp_path)
    assert capsys.readouterr().err == "" and not list(tmp_path.glob("results-*.csv"))


def test_a_benchmark_with_another_setting_keeps_the_measurements_of_the_first(tmp_path: Path) -> None:
    line = {"row": "norm=bn", "batch_size": 64, "device": "cpu", "latency_ms": 2.0}
    path = tmp_path / "bench.json"
    assert with_other_settings([line], path) == [line]
    path.write_text(json.dumps([line, line | {"row": "norm=ln"}]))
    for change in ({"device": "cuda:0"}, {"batch_size": 8}, {"precision": "float32"}, {"compiled": True}):
        assert with_other_settings([line | change], path) == [line, line | {"row": "norm=ln"}, line | change]
    again = line | {"latency_ms": 3.0}
    assert with_other_settings([again], path) == [again]
    for corrupt in ("", "{}", "[1]", '[{"row": "norm=bn"}]'):
        path.write_text(corrupt)
        assert with_other_settings([again], path) == [again]
