"""`tests/gpu.sh` needs a GPU, and does not rot without one: its commands parse, its files exist, it ends in time."""

from __future__ import annotations

import os
import py_compile
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import gpu_pictures
import pytest
from commands import ablations_here

from ablations.cli.main import cli
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


@pytest.mark.parametrize("command", [command for _, command in STEPS], ids=" ".join)
def test_each_command_parses_here(command: list[str]) -> None:
    if command[0] == "env":
        command = command[2:]
    assert command[0] == "python"
    if command[1:3] == ["-m", "ablations"]:
        name, *arguments = command[3:]
        made = cli.get_command(click.Context(cli), name)
        assert made is not None
        parameters = made.make_context(name, arguments).params  # as the command line parses and checks them
        if name == "train":
            settings = dict(one.split("=", 1) for one in command if "=" in one and not one.startswith("-"))
            load_recipe(parameters["recipe"], settings)
    else:
        files = [one for one in command if one.endswith(".py")]
        assert files and all(py_compile.compile(str(HOME / one), doraise=True) for one in files)


def test_its_pictures_are_a_dataset(tmp_path: Path) -> None:
    gpu_pictures.main(str(tmp_path), "20")
    done = ablations_here("data", "imagenet", "--data-dir", tmp_path)
    assert done.returncode == 0 and "20" in done.stdout, done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck here")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
