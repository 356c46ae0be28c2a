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

from ablations.store import read_json
from modernize.roadmap import roadmap

pytestmark = pytest.mark.benchmark
SETTINGS = ((1, 1), (2, 1), (1, 2))  # jobs side by side, threads of each


def test_two_jobs_of_one_thread_against_one(tmp_path: Path, fashion_dir: Path) -> None:
    """The roadmap on a small budget: exactly the same results, in at most 0.7 of the time, on 2 idle cores."""
    seconds, results = {}, {}
    for jobs, threads in SETTINGS:
        folder = tmp_path / f"{jobs}x{threads}"
        arguments = ("run", "quick", "--budget", "5000images", "--data-dir", fashion_dir, "--out", folder)
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


def bare_speed(row: str, jobs: int, threads: int, folder: Path) -> float:
    """Images a second of all jobs' training steps on a synthetic batch of the recipe's size."""
    out = folder / "bare.json"
    options = ("--batch-size", "128", "--jobs", str(jobs), "--threads", str(threads), "--repeats", "5", "--out", out)
    done = subprocess.run(
        [sys.executable, "-m", "ablations", "bench", f"pocket@{row}", *map(str, options)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout
    return statistics.median(json.loads(out.read_text())["measured"][0]["training"])


def runner_speed(row: str, fashion_dir: Path, folder: Path) -> float:
    """Images a second of two runs side by side, as `ablations run` trains them."""
    study: dict[str, Any] = {"kind": "recipes", "base": f"pocket@{row}", "recipes": ["quick", "quick_original"]}
    study |= {"data": "fashion_mnist", "seeds": [0]}
    (folder / "study.yaml").write_text(json.dumps(study))
    arguments = ("--budget", IMAGES, "--data-dir", fashion_dir, "--out", folder / row)
    done = ablations("run", folder / "study.yaml", *arguments, "--jobs", "2", "--threads", "1", timeout=3600)
    assert done.returncode == 0, done.stderr
    return sum(read_json(path)["images_per_second"] for path in (folder / row).glob("runs/*/result.json"))


def plain_speed(row: str, fashion_dir: Path, folder: Path) -> float:
    """Images a second of the script that one writes without this project."""
    script = Path(__file__).with_name("plain_script.py")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    arguments = [sys.executable, str(script), row, str(fashion_dir), str(folder / "plain"), "12800"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


IMAGES = "20000images"


def test_the_runner_against_bare_steps_and_a_plain_script(tmp_path: Path, fashion_dir: Path) -> None:
    """Each row of the pocket roadmap: at least 0.9 of the bare step's speed, at least twice a plain script's."""
    print("\nrow: images/s of the run, of the bare step, of a plain script")
    over_bare, over_plain = {}, {}
    for row in (row.name for row in roadmap("pocket").rows):
        plain = plain_speed(row, fashion_dir, tmp_path)
        before = [bare_speed(row, jobs, threads, tmp_path) for jobs, threads in ((2, 1), (1, 2))]
        run = runner_speed(row, fashion_dir, tmp_path)
        after = [bare_speed(row, jobs, threads, tmp_path) for jobs, threads in ((2, 1), (1, 2))]
        bare = max(map(statistics.mean, zip(before, after, strict=True)))
        over_bare[row], over_plain[row] = run / bare, run / plain
        print(f"{row}: {run:.0f}, {bare:.0f} ({run / bare:.2f}), {plain:.0f} ({run / plain:.2f})", flush=True)
    for ratios in (over_bare, over_plain):
        print(f"median {statistics.median(ratios.values()):.2f}, least {min(ratios.values()):.2f}")
    assert min(over_bare.values()) >= 0.9
    assert min(over_plain.values()) >= 2.0


def test_what_a_study_costs_besides_training(tmp_path: Path, fashion_dir: Path) -> None:
    """The quick study: start, data, checkpoints and bookkeeping take less than 5% of its wall time."""
    begun = time.monotonic()
    done = ablations("run", "quick", "--data-dir", fashion_dir, "--out", tmp_path / "study", timeout=3600)
    seconds = time.monotonic() - begun
    assert done.returncode == 0, done.stderr
    paths = sorted((tmp_path / "study").glob("runs/*/result.json"), key=lambda path: path.stat().st_mtime)
    assert len(paths) == 17
    jobs = len(os.sched_getaffinity(0))
    idle = sum(paths[-1].stat().st_mtime - path.stat().st_mtime for path in paths[-jobs:])  # nothing left to take
    busy = sum(one["seconds"] + one["evaluation_seconds"] for one in map(read_json, paths))
    own = 1 - (busy + idle) / (seconds * jobs)
    print(f"\n{seconds:.0f} s on {jobs} jobs; besides training, evaluating and the end's wait: {100 * own:.1f}%")
    assert own < 0.05
