"""Every command and the Python of the README run as written."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from commands import ablations

from reports.render import markdown
from reports.tables import roadmap_table

HOME = Path(__file__).parent.parent
README = (HOME / "README.md").read_text(encoding="utf-8")
COMMANDS = [line[2:].partition("  #")[0].strip() for line in README.splitlines() if line.startswith("$ ")]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run_all(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HOME / "run_all.sh", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_the_commands_are_found() -> None:
    assert COMMANDS[:2] == ["./run_all.sh", "./run_all.sh test"]
    assert len(COMMANDS) > 10 and all(command.startswith(("./run_all.sh", "ablations ")) for command in COMMANDS)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("ablations ")])
def test_a_command_runs_as_written(command: str, tmp_path: Path, fashion_dir: Path) -> None:
    arguments = shlex.split(command)[1:]
    if arguments[0] == "run":
        arguments += ["--data-dir", str(fashion_dir)]
    done = ablations(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout and not done.stderr
    if "--dry-run" in arguments:
        assert re.search(r"about \d+:\d\d", done.stdout) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", PYTHON)
def test_the_python_runs_as_written(code: str) -> None:
    names: dict[str, object] = {}
    exec(code, names)
    assert getattr(names["cost"], "params") == 28_589_128  # noqa: B009 - mypy sees an object
    assert len(names["steps"]) == 17  # type: ignore[arg-type]


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (HOME / link).exists(), link


def test_run_all_explains_itself_from_any_folder(tmp_path: Path) -> None:
    done = run_all("--help", cwd=tmp_path)
    assert done.returncode == 0 and "./run_all.sh STUDY" in done.stdout


def test_run_all_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    done = run_all("--tset", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""


def test_the_table_is_that_of_the_published_results() -> None:
    runs = pd.read_csv(HOME / "docs/quick/results.csv")
    shown = markdown(roadmap_table(runs, "pocket")).split("\n\n", 1)[1].strip()
    assert shown in README
    assert (runs["status"] == "done").all() and (runs["top1"] > 50).all()
