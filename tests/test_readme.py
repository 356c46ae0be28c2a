"""Every command and the Python of the README run as written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from commands import environment
from PIL import Image
from pydantic import TypeAdapter

from ablations.bench import Bench, table_rows
from ablations.recipes import load_recipe
from ablations.studies.folder import open_folder
from ablations.studies.load import load_study
from reports.render import markdown
from reports.speed import speed_table

HOME = Path(__file__).parent.parent
README = (HOME / "README.md").read_text(encoding="utf-8")
OURS = ("ablations ", "torchrun ")
COMMANDS = [re.split(r"\s+# ", line[2:])[0] for line in README.splitlines() if line.startswith("$ ")]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run_all(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HOME / "run_all.sh", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def run_module(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, env=environment())


def test_the_commands_are_found() -> None:
    assert COMMANDS[:2] == ["./run_all.sh", "./run_all.sh test"]
    assert not any("#" in command for command in COMMANDS), "what a line says of its command is no part of it"
    assert len(COMMANDS) > 10 and all(command.startswith(("./run_all.sh", *OURS)) for command in COMMANDS)
    for words in ("--set accumulation=32", "torchrun --standalone --nproc-per-node 8", "--cluster slurm"):
        assert any(words in command and "run imagenet " in command and "--dry-run" in command for command in COMMANDS)


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In ImageNet's place a tree large enough for the paper's batches: one image under many names."""
    place = tmp_path_factory.mktemp("tree")
    Image.new("RGB", (40, 36), (180, 40, 40)).save(place / "image.jpg")
    for part, images in (("train", 1_100), ("val", 10)):
        for label in range(4):
            folder = place / part / f"n{label:08d}"
            folder.mkdir(parents=True)
            for index in range(images):
                (folder / f"{index}.JPEG").hardlink_to(place / "image.jpg")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("ablations bench")])
def test_a_bench_runs_as_written(command: str, tmp_path: Path) -> None:
    """But for the time it takes: one turn each, and networks of full size on small images."""
    if "runs/quick" in command:
        open_folder(load_study("quick", {}, {}), tmp_path / "runs/quick")
    arguments = [*shlex.split(command)[1:], "--repeats", "1", "--warmup", "0", "--threads", "1"]
    if "--against" in command:
        arguments += ["--image-size", "64", "--batch-size", "2"]
    done = run_module("ablations", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "images/s" in done.stdout or "im/s" in done.stdout


@pytest.mark.parametrize(
    "command",
    [command for command in COMMANDS if command.startswith(OURS) and not command.startswith("ablations bench")],
)
def test_a_command_runs_as_written(command: str, tmp_path: Path, fashion_dir: Path, imagenet: Path) -> None:
    (tmp_path / "imagenet").symlink_to(imagenet)
    program, *arguments = shlex.split(command)
    if arguments[0] == "run" and "--data-dir" not in arguments:
        arguments += ["--data-dir", str(fashion_dir)]
    module = {"ablations": "ablations", "torchrun": "torch.distributed.run"}[program]
    done = run_module(module, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout and not done.stderr
    if "--dry-run" in arguments:
        cluster = "--cluster" in arguments
        assert re.search(r"one job a run on slurm" if cluster else r"about \d+:\d\d", done.stdout)
        assert list(tmp_path.iterdir()) == [tmp_path / "imagenet"], "a dry run writes nothing"


@pytest.mark.parametrize(
    ("study", "rows", "recipes", "data"),
    [
        ("imagenet", 17, ["paper_original", "paper_enhanced"], "imagenet"),
        ("imagenet_resnet200", 17, ["paper_original", "paper_enhanced_b"], "imagenet"),
        ("desk", 17, ["desk_original", "desk_enhanced"], "fashion_mnist"),
    ],
)
def test_a_shipped_study_is_the_roadmap_under_the_recipes_it_names(
    study: str, rows: int, recipes: list[str], data: str
) -> None:
    found = load_study(study, {}, {})
    seeds = [0] if study == "imagenet_resnet200" else [0, 1, 2]  # as the paper
    assert (found.kind, found.data, found.seeds) == ("roadmap", data, seeds)
    assert [row.recipe for row in found.rows] == [recipes[0]] + [recipes[1]] * (rows - 1)
    assert found.recipes == {recipe: load_recipe(recipe) for recipe in recipes}


@pytest.mark.parametrize("code", PYTHON)
def test_the_python_runs_as_written(code: str) -> None:
    names: dict[str, Any] = {}
    exec(code, names)
    if "cost" in names:
        assert names["cost"].params == 28_589_128
        assert len(names["steps"]) == 17
    else:
        assert names["result"].images_seen == 2 * 64


def test_both_libraries_are_shown() -> None:
    assert len(PYTHON) == 2 and "modernize.build(" in PYTHON[1] and "Trainer(" in PYTHON[0]


def speeds(*names: str) -> str:
    """The table of what docs/speed keeps under these names, and its legend, in Markdown."""
    rows = []
    for name in names:
        bench = TypeAdapter(Bench).validate_json((HOME / f"docs/speed/{name}.json").read_bytes())
        rows += table_rows(bench)
    return markdown(speed_table(rows, "")).split("\n\n", 1)[1].strip()


def growth() -> str:
    """The table of how cost grows, without the legend."""
    return speeds("batch", "image", "depth", "jobs").split("\n\n")[0].replace("pocket@separate-downsampling", "END")


def runner() -> str:
    """What docs/speed keeps of runs, bare steps and plain scripts, in words."""
    bare, plain = (pd.read_csv(HOME / f"docs/speed/{name}.csv") for name in ("runner", "plain"))
    assert len(bare) == len(plain) == 17
    bares, plains = bare["ratio"], plain["run"] / plain["plain"]
    in_all = (1 / plain["plain"]).sum() / (1 / plain["run"]).sum()
    return (
        f"at {bares.min():.2f} to {bares.max():.2f} of the bare step's speed by processor time (median "
        f"{bares.median():.2f}) and at {plains.min():.2f} to {plains.max():.2f} times that of a plain script (median "
        f"{plains.median():.2f}; all 17 together {in_all:.2f})"
    )


def test_the_speeds_are_those_that_were_measured() -> None:
    assert speeds("convnext_tiny", "resnet50") in README
    assert growth() in README
    assert runner() in " ".join(README.split())


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (HOME / link).exists(), link


def test_run_all_explains_itself_from_any_folder(tmp_path: Path) -> None:
    done = run_all("--help", cwd=tmp_path)
    assert done.returncode == 0 and "./run_all.sh STUDY" in done.stdout


def test_run_all_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    done = run_all("--tset", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""
