"""`tests/gpu.sh` needs a GPU, and does not rot without one: its commands parse, its files exist, it ends in time."""

from __future__ import annotations

import os
import py_compile
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import gpu_graphs
import gpu_pictures
import gpu_tables
import pytest
from commands import ablations_here

from ablations.cli.main import cli
from ablations.data.datasets import load
from ablations.machine import Machine
from ablations.recipes import load_recipe

HOME = Path(__file__).parent.parent
SCRIPT = HOME / "tests/gpu.sh"


def listed() -> list[tuple[int, list[str]]]:
    """Return the time limit (s) and the command of each step."""
    done = subprocess.run(
        ["bash", str(SCRIPT), "--list"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHON": "python"},
    )
    pairs = (line.split("\t") for line in done.stdout.splitlines())
    return [(int(limit), shlex.split(command)) for limit, command in pairs]


STEPS = listed()


def test_it_ends_within_25_minutes() -> None:
    assert len(STEPS) > 10 and sum(limit for limit, _ in STEPS) <= 25 * 60


COMMANDS = [command for _, command in STEPS]
OURS = [command[3:] for command in COMMANDS if command[1:3] == ["-m", "ablations"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_parses_here(command: list[str]) -> None:
    if command[0] == "env":
        command = command[2:]
    assert command[0] == "python"
    if command[1:3] == ["-m", "ablations"]:
        name, *arguments = command[3:]
        made = cli.get_command(click.Context(cli), name)
        assert made is not None
        parameters = made.make_context(name, arguments).params  # as the command line parses and checks them
        if parameters.get("recipe"):
            settings = dict(one.split("=", 1) for one in command if "=" in one and not one.startswith("-"))
            load_recipe(parameters["recipe"], settings if name == "train" else {})
    else:
        files = [one for one in command if one.endswith(".py")]
        assert files and all(py_compile.compile(str(HOME / one), doraise=True) for one in files)


class PlannedError(Exception):
    """Ends a command that has checked its request, before it measures anything."""


@pytest.mark.parametrize("arguments", [one for one in OURS if one[0] in ("bench", "loops")], ids=" ".join)
def test_each_benchmark_measures_what_the_script_says(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[Any] = []

    def plan(models: list[Any], *_others: Any, **_named: Any) -> None:
        planned.extend(models)
        raise PlannedError

    monkeypatch.setattr("ablations.bench.measure", plan)
    monkeypatch.setattr("ablations.bench.loops.measure_loops", plan)
    monkeypatch.setattr("ablations.training.gpu_arithmetic.check_arithmetic", lambda *_: None)  # a CPU has no TF32
    monkeypatch.setattr("ablations.cli.bench._check_built", lambda *_: None)  # other tests build these
    monkeypatch.setattr("ablations.machine.Machine.plan", lambda device: Machine(1, 1, ("cuda:0",)))
    done = ablations_here(*arguments)
    assert "PlannedError" in done.stderr, done.stderr
    assert {one.setting.device for one in planned} == {"cuda:0"}
    if arguments[0] == "loops":
        assert [one.loop for one in planned] == ["trainer", "tensor", "tensor", "dataloader"]
        assert {one.recipe.precision for one in planned} == {"bf16"}
        return
    assert {one.memory_format for one in planned} == {"channels_last"}
    found = {(one.source, one.setting.precision, one.setting.compile) for one in planned}
    if "--roadmap" in arguments:
        assert found == {(source, "bf16", False) for source in ("ours", "torchvision", "timm")}
        assert len({one.name for one in planned}) == 17
    elif any("compile=" in one for one in arguments):
        assert found == {(source, "bf16", compiled) for source in ("ours", "timm") for compiled in (False, True)}
    else:
        assert found == {(s, p, False) for s in ("ours", "torchvision", "timm") for p in ("float32", "tf32")}


def test_all_that_only_a_gpu_shows_is_in_the_script() -> None:
    """The list of what was never run on a GPU."""
    text = "\n".join(map(" ".join, COMMANDS))
    for words in (
        "tests/test_cuda.py",
        *("bench --device cuda --threads 4 convnext_tiny", "bench --device cuda --threads 4 resnet50"),
        *("--precision bf16", "--memory-format channels_last", "compile=off,on", "precision=float32,tf32"),
        "--roadmap resnet50 --against torchvision,timm",
        *(f"--per-gpu {count}" for count in (1, 2, 4, 8)),
        "tests/gpu_graphs.py",
        "loops pocket",
        "train convnext_tiny --recipe paper_enhanced --data imagenet",
        "deterministic=true",
    ):
        assert words in text, words
    assert set(gpu_graphs.WAYS.values()) == {None, "default", "reduce-overhead"}
    published = Path(HOME / "tests/test_cuda.py").read_text(encoding="utf-8")
    assert "test_a_deterministic_run_resumes_to_the_bit" in published


STUB = r"""#!/usr/bin/env bash
case "$*" in
  *gpu_tables.py*) exec "$REAL" "$@" ;;
  *"--roadmap resnet50"*) echo "the roadmap's table" ;;
  *"--per-gpu 2"*) "$REAL" -c "$WRITE" "${@: -1}" ;;
  *"--per-gpu 4"*) echo "no GPU" >&2; exit 3 ;;
  *) echo "output of $*" ;;
esac
"""


WRITE = """
import json, pathlib, sys
for images in (3000, 1000):
    folder = pathlib.Path(sys.argv[1], "runs", str(images))
    folder.mkdir(parents=True)
    result = {"status": "done", "images_seen": images, "images_per_second": images / 2}
    (folder / "result.json").write_text(json.dumps(result))
"""


def test_tables_come_last_and_a_failed_step_stops_no_other(tmp_path: Path) -> None:
    for name, text in {"python": STUB, "nvidia-smi": "#!/bin/sh\necho one GPU\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHON": str(tmp_path / "python"), "REAL": sys.executable, "WRITE": WRITE}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    done = subprocess.run(["bash", str(SCRIPT), str(out)], capture_output=True, text=True, env=environment)
    steps, last = done.stdout.split("== Tables\n")
    assert done.returncode == 1 and "one GPU" in steps
    assert "819" in last and last.count("the roadmap's table") == 1 == steps.count("the roadmap's table")
    assert "loops pocket" in last and "gpu_pictures" not in last
    (four,) = [line for line in last.splitlines() if line.endswith("status 3")]
    assert four.startswith("the pocket study, 4 per GPU")
    assert sum(line.endswith("  fine") for line in last.splitlines()) == len(STEPS) - 1
    two = next(line for line in last.splitlines() if line.startswith("the pocket study, 2 per GPU"))
    runs, took, together, alone = two.split()[6:]
    assert (runs, alone) == ("2", "1,000") and together == f"{4000 / max(int(took), 1):,.0f}"
    again = subprocess.run(["bash", str(SCRIPT), str(out)], capture_output=True, text=True, env=environment)
    assert again.returncode == 2 and again.stdout == "" and "exists; name another folder" in again.stderr


@pytest.mark.slow
def test_its_own_programs_and_its_training_run_on_a_cpu(tmp_path: Path, fashion_dir: Path) -> None:
    """On small images, for few steps, uncompiled: what they do beside computing on a GPU."""
    gpu_pictures.main(str(tmp_path / "pictures"), "60")
    (train,) = [one for one in OURS if one[0] == "train"]
    changes = {"cuda:0": "cpu", "batch_size=128": "batch_size=8", "max_epochs=5": "max_epochs=0.5"}
    changes |= {train[train.index("--data-dir") + 1]: str(tmp_path / "pictures")}
    changes |= {train[train.index("--out") + 1]: str(tmp_path / "paper_enhanced"), "convnext_tiny": "pocket,width=4"}
    more = ("--set", "image_size=32", "--set", "workers=0", "--set", "evaluation_crop=1", "--debug")
    done = ablations_here(*(changes.get(one, one) for one in train), *more)
    assert done.returncode == 0, done.stderr
    assert len(gpu_tables.results(tmp_path / "paper_enhanced")) == 1
    with patch.multiple(gpu_graphs, STEPS=1, ROUNDS=1, WARMUP=1):
        data = load("fashion_mnist", fashion_dir, 32)
        found = gpu_graphs.measured("pocket,depths=1-1,width=4", data, "cpu", {"eager": None, "again": None})
    assert len(found) == 2 and min(found.values()) > 0


def test_its_pictures_are_a_dataset(tmp_path: Path) -> None:
    gpu_pictures.main(str(tmp_path), "20")
    done = ablations_here("data", "imagenet", "--data-dir", tmp_path)
    assert done.returncode == 0 and "20" in done.stdout, done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck here")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
