"""The wheel, installed into an environment of its own, counts, trains and reports from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

HOME = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_installed_wheel_counts_trains_and_reports(tmp_path: Path) -> None:
    """The wheel's own environment sees this one's packages, but not this checkout."""
    source, place = tmp_path / "source", tmp_path / "elsewhere"
    place.mkdir()
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=HOME, capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((HOME / name).read_bytes())
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"{package}/py.typed" for package in ("modernize", "ablations", "reports")} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]

    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", wheel, cwd=tmp_path)
    (packages,) = (path for path in map(Path, sys.path) if (path / "torch").is_dir())
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip())
    (site / "dependencies.pth").write_text(f"{packages}\n")

    where = run(python, "-c", "import ablations, modernize, reports; print(ablations.__file__)", cwd=place)
    assert Path(where.strip()).is_relative_to(site)
    ablations = tmp_path / "venv/bin/ablations"
    assert "4.46" in run(ablations, "count", "convnext_tiny", cwd=place)
    study = ("run", "sweep", "--base", "pocket", "--flags", "kernel_size=3:7", "--data", "digits")
    run(ablations, *study, "--budget", "256images", "--set", "batch_size=32", "--seeds", "0,1", cwd=place)
    assert "kernel_size=7" in run(ablations, "report", "runs/sweep", cwd=place)
    assert (place / "runs/sweep/report/index.html").exists()
