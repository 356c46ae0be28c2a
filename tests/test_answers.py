"""Answers per hour: what the script in docs/speed makes of a study's folder and of its noise."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import environment
from hypothesis import given
from hypothesis import strategies as st
from made_up import made_up_study
from scipy import stats

SCRIPT = Path(__file__).parent.parent / "docs/speed/answers.py"
TINY: dict[str, Any] = {"kind": "sweep", "base": "pocket,width=4", "flags": {"kernel_size": [3, 5]}, "data": "digits"}


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("answers", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["answers"] = module  # where dataclasses look
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


answers = script()


@given(
    st.lists(st.tuples(*[st.integers(0, 40)] * 4), min_size=1, max_size=7),
    st.integers(1, 3),
    st.integers(0, 30),
    st.integers(0, 30),
)
def test_every_second_of_every_worker_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, ...]], jobs: int, start: int, closing: int
) -> None:
    folder = tmp_path_factory.mktemp("study")
    workers = [start] * min(jobs, len(runs))
    for number, (training, evaluation, other, gap) in enumerate(runs):
        worker = workers.index(min(workers))
        place = folder / "runs" / str(number)
        place.mkdir(parents=True)
        result = {"status": "done", "seconds": training, "evaluation_seconds": evaluation}
        for name, content, when in (
            ("environment.json", {}, workers[worker]),
            ("result.json", result, workers[worker] + training + evaluation + other),
        ):
            (place / name).write_text(json.dumps(content))
            os.utime(place / name, (1000 + when, 1000 + when))
        workers[worker] += training + evaluation + other + gap
    last = max((place / "result.json").stat().st_mtime for place in (folder / "runs").iterdir())
    found = answers.spent(folder, 1000, last + closing, jobs, 1.0, answers.Peaks())
    assert found.wall == pytest.approx(last + closing - 1000)
    assert found.training == sum(run[0] for run in runs) and found.evaluation == sum(run[1] for run in runs)
    assert found.start == found.jobs * (start + closing) and min(found.waiting, found.rest) >= 0
    projected = answers.projected([found], 3, 5.0)
    assert sum(projected.values()) == pytest.approx(found.wall + 2 * found.per_seed / found.jobs + 5)


def made_up_runs(sd: float, seeds: int, rows: int = 17) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Rows of one recipe that differ by nothing but noise, each compared with the one before."""
    noise = np.random.default_rng(0).standard_normal((rows, seeds))
    noise *= sd / np.sqrt(noise.var(axis=1, ddof=1, keepdims=True))
    lines = [
        {"row": f"row {row}", "seed": seed, "status": "done", "top1": 80 + noise[row, seed], "recipe": "quick"}
        for row in range(rows)
        for seed in range(seeds)
    ]
    frame = pd.DataFrame(lines).assign(stage=1, added="start", images_seen=1000)
    return frame.assign(run=frame["row"] + "-s" + frame["seed"].astype(str)), [
        (f"row {row}", f"row {row - 1}") for row in range(1, rows)
    ]


@pytest.mark.parametrize(("sd", "difference"), [(0.5, 1.0), (1.0, 1.0), (1.0, 2.0)])
def test_the_demand_is_that_of_the_normal_approximation_and_a_few_seeds_for_the_unknown_noise(
    sd: float, difference: float
) -> None:
    runs, pairs = made_up_runs(sd, 4)
    found = answers.demand_of(runs, pairs, "top1", difference)
    critical = stats.norm.isf(0.05 * 0.9 / 16 / 2)
    known = 2 * (sd / difference) ** 2 * (critical + stats.norm.ppf(0.8)) ** 2
    assert found.sd == pytest.approx(sd, rel=0.02) and found.df == 17 * 3
    assert known <= found.seeds <= known + 3 and found.low <= found.seeds <= found.high
    assert answers.demand_of(runs, pairs, "top1", 2 * difference).seeds < found.seeds


@given(st.floats(0.1, 5), st.integers(1, 100))
def test_a_study_of_that_precision_detects_the_difference_with_80_percent_power(difference: float, many: int) -> None:
    error = answers.half_width(difference, many) / stats.norm.isf(0.025)
    power = stats.norm.sf(stats.norm.isf(0.05 * 0.9 / many / 2) - difference / error)
    assert power == pytest.approx(0.8)


def test_the_noise_of_one_seed_is_unknown() -> None:
    runs, pairs = made_up_runs(1.0, 2)
    with pytest.raises(SystemExit, match="it takes two finished seeds"):
        answers.demand_of(runs[runs["seed"] == 0], pairs, "top1", 1.0)


PARENT_AND_FORK = """
import os, time

def taken(megabytes):
    memory = bytearray(megabytes * 2**20)
    memory[::1024] = bytes([1]) * (megabytes * 2**10)
    return memory

held = taken(100)
if not os.fork():
    os.setsid()  # as workers do
    own = taken(50)
    time.sleep(8)
    os._exit(0)
os.wait()
"""


@pytest.mark.linux
def test_memory_that_processes_share_counts_once(tmp_path: Path) -> None:
    done, peaks = answers.run_measured([sys.executable, "-c", PARENT_AND_FORK], tmp_path, environment())
    assert done.returncode == 0, done.stderr
    assert 150 < peaks.together < 190  # 100 MB of both, 50 MB of the fork, and two interpreters
    assert 150 < peaks.worker_rss < 180 and 100 < peaks.worker_pss < 125


@pytest.mark.linux
@pytest.mark.slow
def test_a_study_is_trained_and_projected(tmp_path: Path) -> None:
    made_up_study(tmp_path / "known", seeds=(0, 1, 2), **TINY)
    study = {**TINY, "recipe": "quick,batch_size=32", "budget": "640 images"}
    (tmp_path / "tiny.yaml").write_text(json.dumps(study))
    line = [sys.executable, SCRIPT, tmp_path / "tiny.yaml", "--turns", "1", "--jobs", "1", "--difference", "2"]
    line += ["--noise", tmp_path / "known", "--csv", tmp_path / "turns.csv"]
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    shown = dict(row.strip("| ").split(" | ") for row in done.stdout.splitlines())
    (turn,) = pd.read_csv(tmp_path / "turns.csv").to_dict("records")
    names = [one.name for kind in (answers.Spent, answers.Peaks) for one in dataclasses.fields(kind)]
    assert turn["together"] > turn["worker_pss"] > 100 and turn["worker_rss"] > 400, "workers import torch"
    assert turn["runs"] == 2 and set(turn) == {"version", *names} - {"memory"}
    assert shown["comparisons"] == "1" and shown["runs"] == str(2 * int(shown["seeds per row"].split()[0]))
    shares = [float(value) for name, value in shown.items() if name.endswith("(%)")]
    assert sum(shares) == pytest.approx(100, abs=0.4) and float(shown["answers per hour"]) > 0
