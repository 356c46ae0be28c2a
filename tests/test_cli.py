"""The command line: what each command prints, and that every wrong request is one line and exit status 2."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from commands import ablations_here

import modernize
from ablations.recipes import load_recipe, recipe_names

COMMANDS = (
    "flags",
    "recipe",
    "show",
    "count",
    "compare",
    "bench",
    "loops",
    "data",
    "train",
    "run",
    "status",
    "report",
    "export",
    "pack",
)


def refused(*arguments: str | Path, cwd: Path) -> str:
    """The one line with which a wrong request is refused."""
    before = sorted(cwd.rglob("*"))
    done = ablations_here(*arguments, cwd=cwd)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert re.fullmatch(r"ablations: .*\n", done.stderr), done.stderr
    assert sorted(cwd.rglob("*")) == before, "something was left behind"
    return done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    assert name in ablations_here("--help").stdout
    done = ablations_here(name, "--help")
    assert done.returncode == 0 and f"Usage: ablations {name}" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, ablations.cli as c; c.run_command(['--help']); print(sorted(set(sys.modules) & {'torch', 'pandas', 'matplotlib', 'pydantic', 'yaml', 'rich', 'numpy'}))"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_training_imports_no_torchvision_unasked() -> None:
    """It takes as long to import as torch, in the command and once more in each of its processes."""
    import subprocess
    import sys

    modules = "ablations.bench, ablations.launch.pool, ablations.launch.worker"
    code = f"import sys, {modules}; print('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_each_command_has_its_help_on_one_line_of_80_columns() -> None:
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "ablations", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    lines = done.stdout.partition("Commands:\n")[2].splitlines()
    assert len(lines) == len(COMMANDS) and all(line.endswith(".") and "..." not in line for line in lines), lines


def test_launching_loads_neither_reports_nor_statistics() -> None:
    import subprocess
    import sys

    modules = "ablations.launch.pool, ablations.launch.worker, ablations.launch.in_process, ablations.launch.slurm"
    unwanted = "{'reports.statistics', 'reports.tables', 'scipy', 'matplotlib'}"
    code = f"import sys, {modules}; print(sorted({unwanted} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_status_and_compare_read_a_published_study() -> None:
    results = str(Path(__file__).parent.parent / "docs" / "results" / "first-edition" / "roadmap")
    assert "51 runs: 51 finished" in ablations_here("status", results).stdout
    done = ablations_here("compare", "pocket@kernel-7", "pocket@gelu", "--results", results)
    assert done.returncode == 0 and "top-1" in done.stdout and "not run" not in done.stdout, done.stdout


def test_flags_lists_every_flag() -> None:
    done = ablations_here("flags")
    assert done.returncode == 0
    for flag in modernize.FLAGS:
        assert flag.name in done.stdout


def test_recipe_lists_recipes_and_every_setting_of_one() -> None:
    listed = ablations_here("recipe").stdout
    assert all(f"\n{name} " in listed for name in recipe_names()) and "the paper" in listed
    said = ablations_here("recipe", "quick,mixup=0.8").stdout
    values = {line.split()[0]: line.split()[1] for line in said.splitlines()[1:] if not line.startswith(" ")}
    assert values["mixup"] == "0.8" and values["batch_size"] == "128" and values["precise_bn"] == "2048"
    shown = {key for key, value in load_recipe("quick,mixup=0.8") if value is not None}
    assert shown <= set(values) and "momentum" not in values, "only SGD has a momentum"
    refused = ablations_here("recipe", "quik")
    assert (refused.returncode, refused.stderr) == (
        2,
        "ablations: unknown recipe 'quik' (and no YAML file): did you mean 'quick'?\n",
    )


def test_show_sums_up_the_layers() -> None:
    done = ablations_here("show", "convnext_tiny")
    assert done.returncode == 0 and "28,589,128" in done.stdout and "4,455,531,264" in done.stdout
    assert "stages.0.blocks.0.residual.spatial" in done.stdout and "depthwise conv 7×7, 96→96" in done.stdout


@pytest.mark.parametrize("roadmap", ["resnet50", "resnet200"])
def test_count_gives_the_papers_gflops(roadmap: str) -> None:
    rows = json.loads(ablations_here("count", "--roadmap", roadmap, "--format", "json").stdout)
    assert [row["row"] for row in rows] == [row.name for row in modernize.roadmap(roadmap).rows]
    assert all(isinstance(row["macs"], int) and isinstance(row["params"], int) for row in rows)
    differ = {row["row"]: row for row in rows if f"{row['macs'] / 1e9:.2f}" != f"{row['paper_gflops']:.2f}"}
    assert set(differ) == ({"layer-norm", "separate-downsampling"} if roadmap == "resnet50" else set())
    assert all(row["note"] for row in differ.values())


@pytest.mark.parametrize("form", ["table", "csv", "markdown", "latex"])
def test_count_in_every_format(form: str) -> None:
    done = ablations_here("count", "convnext_tiny", "resnet50,kernel_size=7", "--format", form)
    assert done.returncode == 0
    assert "28589128" in done.stdout.replace(",", "") and "kernel" in done.stdout


def test_count_at_another_size() -> None:
    one, other = (
        json.loads(ablations_here("count", "resnet50", "--format", "json", "--image-size", size).stdout)[0]
        for size in ("224", "448")
    )
    assert one["params"] == other["params"] and other["macs"] > 3.9 * one["macs"]
    assert "paper_gflops" not in one


def test_images_need_not_be_square(tmp_path: Path) -> None:
    done = ablations_here("show", "pocket", "--image-size", "48x80", "--diagram", tmp_path / "pocket.svg")
    assert done.returncode == 0 and done.stdout.startswith("pocket, 1×48×80\n"), done.stderr
    assert "24×40" in done.stdout and "3×5" in done.stdout and "1²" in done.stdout
    done = ablations_here("count", "convnext_tiny", "--image-size", "96x64", "--format", "json")
    assert json.loads(done.stdout)[0]["macs"] == modernize.count("convnext_tiny", (96, 64)).macs
    done = ablations_here("compare", "pocket", "pocket@kernel-7", "--image-size", "48x80")
    assert "Counted for 1×48×80 images and 10 classes" in done.stdout


def test_data_says_where_it_lies(tmp_path: Path) -> None:
    done = ablations_here("data", "digits", cwd=tmp_path)
    assert done.returncode == 0
    assert "1438 training and 359 test images of 1×8×8 in 10 classes" in done.stdout


def test_wrong_requests_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("max_epochs: 1\nbatch_size: 8\nlearning_rat: 0.1\n")
    (tmp_path / "study.yaml").write_text("kind: roadmap\nbase: pockt\nrecipe: quick\n")
    (tmp_path / "broken.yaml").write_text("kind: [roadmap\n")
    digits = ("--data", "digits")
    for arguments, words in {
        ("train", "resnet50,kernel_size=4"): "kernel_size=4: must be odd; nearest valid values: 3 and 5",
        ("train", "resnet51"): "unknown design 'resnet51': did you mean 'resnet50'?",
        ("train", "resnet50@kernel-8"): "unknown row 'kernel-8'",
        ("train", "pocket", "--recipe", "recipe.yaml"): "recipe recipe.yaml: unknown key 'learning_rat': did you mean",
        (
            "train",
            "pocket",
            "--recipe",
            "quik",
        ): "unknown recipe 'quik' (and no YAML file): did you mean 'quick'?",
        ("train", "pocket", "--set", "epochs"): "write key=value",
        ("train", "pocket", "--set", "max_epochs=many"): "max_epochs",
        ("train", "pocket", "--data", "minst"): "unknown dataset 'minst'",
        ("train", "pocket", "--data", "folder", "--data-dir", "missing"): "no folder missing/train",
        ("train", "pocket", *digits, "--set", "batch_size=4096"): "nearest valid value: 1438",
        ("train", "pocket@separate-downsampling", *digits, "--set", "image_size=12"): "nearest valid value: 16",
        ("train", "pocket", "--device", "cuda:7", *digits): "cuda:7",
        ("run", "quik"): "unknown study 'quik' (and no YAML file or folder): did you mean 'quick'?",
        ("run", "missing.yaml"): "study missing.yaml: no such file",
        ("run", "study.yaml"): "base: unknown roadmap 'pockt': did you mean 'pocket'?",
        ("run", "broken.yaml"): "broken.yaml, line 2: not YAML",
        ("run", "quick", "--seeds", "a"): "--seeds a",
        ("run", "quick", "--seeds", "0,0"): "list each once",
        ("run", "quick", "--jobs", "0"): "--jobs",
        ("count",): "give designs",
        ("count", "--roadmap", "resnet5"): "unknown roadmap 'resnet5'",
        ("count", "convnext_tiny", "--image-size", "16"): "nearest valid value: 32",
        ("count", "convnext_tiny", "--image-size", "16x640"): "image_size=16x640 is too small for stem_stride=4",
        ("show", "pocket", "--image-size", "32x"): "'32x' must be an integer, or height and width, such as 384x640",
        ("show", "pocket", "--image-size", "1x2x3"): "'1x2x3' must be an integer, or height and width",
        ("show", "pocket", "--image-size", "32x010"): "'010' must be written as a plain decimal number",
        ("compare", "pocket", "pocket", "--image-size", "0x32"): "0 is not in the range",
        ("bench", "pocket", "--image-size", "32x64"): "'32x64' must be an integer",
        ("count", "torchvision:vit_b_16", "--image-size", "384x640"): "takes square images only, not 384x640",
        ("status", "missing"): "has no study.yaml",
        ("report", "missing"): "has no study.yaml",
        ("data", "mnits"): "unknown dataset",
        ("trian",): "No such command",
        ("count", "--rodmap", "x"): "--rodmap",
    }.items():
        assert words in refused(*arguments, cwd=tmp_path), arguments


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = ablations_here("train", "resnet51", "--debug", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" in done.stderr


def test_a_closed_pipe_is_no_error() -> None:
    import subprocess

    from commands import command

    with subprocess.Popen(command("show", "resnet200"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0 and process.stderr.read() == b""
