"""Benchmarks, left out of the default suite: `pytest -m benchmark -s tests/test_benchmarks.py`."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from commands import ablations
from made_up import made_up_study

from ablations.bench import BenchmarkedModel, ModelRunner, Setting
from ablations.machine import usable_cores
from ablations.store import read_json
from ablations.studies.load import load_study
from ablations.studies.run import build_network, load_data
from ablations.training.trainer import Trainer
from modernize.acceleration import accelerated
from modernize.roadmap import roadmap

pytestmark = pytest.mark.benchmark
SETTINGS = ((1, 1), (2, 1), (1, 2))  # jobs side by side, threads of each
STEP = Setting(threads=1, batch_size=128, image_size=32, in_channels=1, num_classes=10)
STEPS = 4  # in a turn
QUICK = {"base": "pocket", "recipe": "quick", "original_recipe": "quick_original", "data": "fashion_mnist"}


def test_two_jobs_of_one_thread_against_one(tmp_path: Path, fashion_dir: Path) -> None:
    """The roadmap on a small budget: exactly the same results, in at most 0.7 of the time, on 2 idle cores."""
    seconds, results = {}, {}
    for jobs, threads in SETTINGS:
        folder = tmp_path / f"{jobs}x{threads}"
        study = folder.with_suffix(".yaml")
        study.write_text(json.dumps({"kind": "roadmap", **QUICK, "seeds": [0], "budget": "5000 images"}))
        arguments = ("run", study, "--data-dir", fashion_dir, "--out", folder)
        begun = time.monotonic()
        done = ablations(*arguments, "--jobs", str(jobs), "--threads", str(threads), timeout=3600)
        seconds[jobs, threads] = time.monotonic() - begun
        assert done.returncode == 0, done.stderr
        found = {path.parent.name: read_json(path) for path in folder.glob("runs/*/result.json")}
        assert len(found) == 17
        results[jobs, threads] = {name: (one["top1"], one["weights_sha256"]) for name, one in found.items()}
        print(f"{jobs} jobs of {threads} threads: {seconds[jobs, threads]:.0f} s")
    assert results[2, 1] == results[1, 1]
    print(f"2 of 1 over 1 of 1: {seconds[2, 1] / seconds[1, 1]:.2f}; over 1 of 2: {seconds[2, 1] / seconds[1, 2]:.2f}")
    assert seconds[2, 1] <= 0.7 * seconds[1, 1]


def test_the_runners_step_against_the_bare_step(fashion_dir: Path) -> None:
    """Each row of the pocket roadmap, by processor time on one thread, in turns: a busy machine disturbs it little.

    Prints the row, images a processor second of both, and their ratio.
    """
    study = load_study("roadmap", {**QUICK, "seeds": [0]}, {})
    data = load_data(study.runs[0], fashion_dir)
    found = {}
    print("\nrow,run,bare,ratio")
    for run in study.runs:
        trainer = Trainer(build_network(run, data), data.train, data.test, run.recipe)
        runner = ModelRunner(BenchmarkedModel(run.row, f"pocket@{run.row}", "ours", "channels_last", STEP))
        turns = [(bare_time(runner), trainer_time(trainer)) for _ in range(8)][1:]
        found[run.row] = statistics.median(bare / running for bare, running in turns)
        bare, running = (STEPS * STEP.batch_size / statistics.median(column) for column in zip(*turns, strict=True))
        print(f"{run.row},{running:.0f},{bare:.0f},{found[run.row]:.3f}", flush=True)
    assert min(found.values()) >= 0.9


def bare_time(runner: ModelRunner) -> float:
    """CPU seconds of a round of bare steps."""
    begun = time.process_time()
    for _ in range(STEPS):
        runner.train_step()
    return time.process_time() - begun


def trainer_time(trainer: Trainer) -> float:
    """CPU seconds of a round of the trainer's steps, batches included."""
    with accelerated(trainer.model):
        begun = time.process_time()
        for _ in range(STEPS):
            trainer.train_step()
            trainer.step += 1
        return time.process_time() - begun


RUN_IMAGES, PLAIN_IMAGES = 20_000, 12_800  # of each run, and past the script's first ten steps


def runner_speed(row: str, fashion_dir: Path, folder: Path) -> float:
    """Images/s of two runs in parallel, as `ablations run` trains them."""
    study: dict[str, Any] = {
        "kind": "recipes",
        "base": f"pocket@{row}",
        "recipes": ["quick", "quick,learning_rate=2e-3"],
    }
    study |= {"data": "fashion_mnist", "seeds": [0]}
    (folder / "study.yaml").write_text(json.dumps(study))
    arguments = ("--budget", f"{RUN_IMAGES}images", "--data-dir", fashion_dir, "--out", folder / row)
    done = ablations("run", folder / "study.yaml", *arguments, "--jobs", "2", "--threads", "1", timeout=3600)
    assert done.returncode == 0, done.stderr
    return sum(read_json(path)["images_per_second"] for path in (folder / row).glob("runs/*/result.json"))


def plain_speed(row: str, fashion_dir: Path, folder: Path) -> float:
    """Images/s of the script that one writes without this project."""
    script = Path(__file__).with_name("plain_script.py")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    arguments = [sys.executable, str(script), row, str(fashion_dir), str(folder / "plain"), str(PLAIN_IMAGES)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def test_the_runner_against_a_plain_script(tmp_path: Path, fashion_dir: Path) -> None:
    """The 17 networks of the pocket roadmap together: at most half of a plain script's time, on an idle machine.

    Prints each row, and images a second of `ablations run` and of the script: docs/speed/plain.csv.
    """
    found = {}
    print("\nrow,run,plain")
    for row in roadmap("pocket").rows:
        found[row.name] = runner_speed(row.name, fashion_dir, tmp_path), plain_speed(row.name, fashion_dir, tmp_path)
        print(f"{row.name},{found[row.name][0]:.0f},{found[row.name][1]:.0f}", flush=True)
    ours, plain = (sum(1 / speed for speed in speeds) for speeds in zip(*found.values(), strict=True))
    print(f"in all: {plain / ours:.2f}")
    assert plain >= 2 * ours


def test_what_a_study_costs_besides_training(tmp_path: Path, fashion_dir: Path) -> None:
    """The roadmap on Fashion-MNIST: start, data, checkpoints and bookkeeping take less than 5% of its wall time."""
    file = tmp_path / "roadmap.yaml"
    file.write_text(json.dumps({"kind": "roadmap", **QUICK, "seeds": [0, 1, 2, 3], "budget": "10000 images"}))
    begun = time.monotonic()
    done = ablations("run", file, "--data-dir", fashion_dir, "--out", tmp_path / "study", timeout=3600)
    seconds = time.monotonic() - begun
    assert done.returncode == 0, done.stderr
    paths = sorted((tmp_path / "study").glob("runs/*/result.json"), key=lambda path: path.stat().st_mtime)
    assert len(paths) == 4 * 17  # seeds and rows
    jobs = usable_cores()
    idle = sum(paths[-1].stat().st_mtime - path.stat().st_mtime for path in paths[-jobs:])  # nothing left to take
    busy = sum(one["seconds"] + one["evaluation_seconds"] for one in map(read_json, paths))
    own = 1 - (busy + idle) / (seconds * jobs)
    print(f"\n{seconds:.0f} s on {jobs} jobs; besides training, evaluating and the end's wait: {100 * own:.1f}%")
    assert own < 0.05


def seconds_of(*arguments: str | Path) -> float:
    """Wall time of a command."""
    begun = time.monotonic()
    done = ablations(*arguments)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - begun


def test_how_soon_a_command_answers(tmp_path: Path) -> None:
    """`--help` within 0.3 s, `count` of all 34 rows within 5, `report` of 51 runs within 20; medians."""
    assert len(made_up_study(tmp_path / "study", kind="quick").runs) == 51
    found = {
        "--help": statistics.median(seconds_of("--help") for _ in range(9)),
        "count": statistics.median(
            sum(seconds_of("count", "--roadmap", name) for name in ("resnet50", "resnet200")) for _ in range(5)
        ),
        "report": statistics.median(seconds_of("report", tmp_path / "study") for _ in range(3)),
    }
    print("\n" + ", ".join(f"{name}: {seconds:.2f} s" for name, seconds in found.items()))
    assert found["--help"] < 0.3
    assert found["count"] < 5
    assert found["report"] < 20
