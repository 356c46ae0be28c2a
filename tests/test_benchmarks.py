"""Benchmarks, left out of the default suite: `pytest -m benchmark -s tests/test_benchmarks.py`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from commands import ablations

from ablations.store import read_json

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
