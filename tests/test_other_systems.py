"""The commands work on other systems: macOS, Windows, containers, and Pythons that do not fork.

Each test takes away what such a system lacks. None can show that a real one works.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import environment
from joblib.externals.loky.backend import context as loky

from ablations import Trainer, TrainingConfig
from ablations.bench import Setting
from ablations.data.batches import MicroBatch
from ablations.data.datasets import load
from ablations.data.loader import Feeds, feeds
from ablations.errors import RequestError
from ablations.launch.in_process import share_cores
from ablations.machine import Machine, cores_in_words, usable_cores
from ablations.studies.folder import open_folder
from ablations.studies.load import load_study

HOME = Path(__file__).parent.parent
QUICK = TrainingConfig(max_epochs=1, batch_size=2, learning_rate=1e-3, weight_decay=0)
SMALL = "pocket,depths=1-1,width=4"


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """A file with datasets of its own classes, one of which is in a file beside it."""
    (tmp_path / "rows_of_mine.py").write_text(
        "class Rows:\n"
        "    def __init__(self, make): self.make = make\n"
        "    def __len__(self): return 24\n"
        "    def __getitem__(self, row): return self.make(row)\n"
    )
    (tmp_path / "my_data.py").write_text(
        "from dataclasses import dataclass\n"
        "from multiprocessing import current_process\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from PIL import Image\n\n"
        "@dataclass\n"
        "class Noise:\n"
        "    seed: int\n"
        "    def __call__(self, row):\n"
        "        Path(__file__).with_name(current_process().name).touch()\n"
        "        random = np.random.default_rng([self.seed, row])\n"
        "        return Image.fromarray(random.integers(0, 255, (18, 20, 3), dtype=np.uint8))\n"
        "    def __len__(self): return 24\n"
        "    def __getitem__(self, row): return self(row), row % 2\n\n"
        "def pairs():\n"
        "    return Noise(0), Noise(1)\n\n"
        "def columns():\n"
        "    from rows_of_mine import Rows\n"
        "    labels = [row % 2 for row in range(24)]\n"
        "    return (Rows(Noise(0)), labels), (Rows(Noise(1)), labels)\n\n"
        "def local():\n"
        "    class Hidden(Noise): pass\n"
        "    return Hidden(0), Hidden(1)\n"
    )
    return tmp_path / "my_data.py"


def python(cwd: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a Python of its own in a folder, whose modules it finds, and the tests'."""
    surroundings = {**environment(), "PYTHONPATH": os.pathsep.join(map(str, (cwd, HOME, HOME / "tests")))}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=surroundings, timeout=300)


def commands(*lines: str) -> str:
    """The code that runs commands, and prints the exit status of each behind its output."""
    run = "from ablations.cli import run_command\n"
    return run + "\n".join(f"print('status', run_command({line.split()}), flush=True)" for line in lines)


# ---- macOS


@pytest.mark.slow
def test_train_run_bench_and_report_work_without_what_linux_alone_has(own_data: Path) -> None:
    place = own_data.parent
    (place / "sitecustomize.py").write_text("import as_macos\n")
    few = "--set batch_size=12 --set max_epochs=1 --set image_size=16 --threads 1"
    loaded = "--set workers=1 --set trivialaugment=true --set precise_bn=null"
    each = (
        f"train {SMALL} --data my_data.py:pairs {few} {loaded} --out run",
        f"run sweep --base {SMALL} --flags norm=ln --data digits --seeds 0 --jobs 1 {few} "
        "--set max_epochs=0.02 --out study",
        f"bench {SMALL} --batch-size 2 --image-size 16 --repeats 1 --threads 1 --format csv",
        "status study",
        "report study --format table,csv,svg",
    )
    quick = "import sys, ablations.bench\nmeasure = sys.modules['ablations.bench.measure']\n"
    quick += "measure.ROUND_SECONDS, measure.PEAK_SIZE['cpu'] = 0.01, 128\n"
    done = python(place, "-c", quick + commands(*each))
    assert re.findall(r"^status (\d+)$", done.stdout, re.MULTILINE) == ["0"] * len(each), done.stdout + done.stderr
    assert list(place.glob("Process-*")), "no other process has loaded images"
    assert (place / "run/result.json").exists() and (place / "study/runs/norm=ln-s0/result.json").exists()
    assert (place / "study/report/figures").is_dir()
    (speeds,) = csv.DictReader(re.findall(r"(?m)^label,.*\n.*$", done.stdout)[0].splitlines())
    assert 1 <= float(speeds["inference_memory_mb"]) <= float(speeds["train_memory_mb"]) < 1000, "MB"


def test_rows_whose_names_differ_in_case_alone_are_refused_on_a_disk_that_ignores_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study("grid", {"base": SMALL, "flags": {"norm": ["bn", "ln"]}, "data": "digits"}, {})
    rows = [row.model_copy(update={"row": name}) for row, name in zip(study.rows, ("Mine", "mine"), strict=True)]
    study = study.model_copy(update={"rows": rows})
    assert open_folder(study, tmp_path / "of Linux").rows == rows
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path, **_: exists(path) or exists(path.with_name(path.name.lower())))
    with pytest.raises(RequestError, match=r"its disk ignores case, so the rows 'Mine' and 'mine' would share folders"):
        open_folder(study, tmp_path / "of macos")
    assert not (tmp_path / "of macos/study.yaml").exists()


@pytest.mark.slow
def test_the_example_of_the_python_api_works_where_processes_are_spawned(tmp_path: Path) -> None:
    page = (HOME / "docs/python.md").read_text(encoding="utf-8")
    (code,) = (one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "Trainer(" in one)
    assert 'if __name__ == "__main__":' in code
    (tmp_path / "example.py").write_text(code.replace("batch_size=16,", "batch_size=16, workers=1,"))
    (tmp_path / "sitecustomize.py").write_text("import as_macos\n")
    done = python(tmp_path, "example.py")
    assert done.returncode == 0 and len(done.stdout.split()) == 2, done.stderr


# ---- Processes that load images: spawned (macOS), or of a server (Python 3.14 on Linux)


@pytest.fixture(params=["spawn", "forkserver"])
def start_method(request: pytest.FixtureRequest) -> Iterator[str]:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def feeds_of(file: Path, function: str, workers: int) -> Feeds:
    """The batches of a dataset of the user's, with every random transform that the recipes have."""
    data = load(f"{file}:{function}", file.parent, image_size=16, as_they_are=True)
    random: dict[str, Any] = {"crop_scale": (0.5, 1), "horizontal_flip": True, "erasing": 0.5}
    random |= {"randaugment": 9, "randaugment_std": 0.5, "workers": workers, "image_size": 16}
    config = TrainingConfig(max_epochs=1, batch_size=8, learning_rate=1e-3, weight_decay=0, **random)
    return feeds(data.train, data.test, config, torch.device("cpu"))


def test_images_are_the_same_however_the_processes_that_load_them_start(own_data: Path, start_method: str) -> None:
    function = {"spawn": "columns", "forkserver": "pairs"}[start_method]
    micro_batches = [MicroBatch(0, step, 0, torch.arange(8) + 8 * step, None) for step in range(3)]
    here, there = (
        list(feeds_of(own_data, function, workers).train.training(micro_batches, QUICK, 5)) for workers in (0, 1)
    )
    assert len(here) == 3 and here[0].images.std() > 0.1
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def test_a_dataset_that_cannot_be_sent_is_one_line(own_data: Path, start_method: str) -> None:
    with pytest.raises(RequestError) as caught:
        list(feeds_of(own_data, "local", 1).test.evaluation(torch.arange(4), 4))
    message = str(caught.value)
    assert message.startswith("the dataset cannot be sent to the processes that load images (") and "Hidden" in message
    assert message.endswith("define its classes and functions at the top level of a file, or set workers=0")
    assert "\n" not in message


# ---- Containers and shared machines


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({}, 64),
    ],
    ids=str,
)
def test_a_containers_quota_bounds_jobs_and_threads(
    files: dict[str, str], cores: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A machine of 64 cores, whose container may use fewer: as many runs and threads as it may use."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    exists = os.path.exists

    def moved(path: Any) -> Any:
        return str(path).replace("/sys/fs/cgroup", str(tmp_path)) if isinstance(path, str) else path

    monkeypatch.setattr("os.path.exists", lambda path: exists(moved(path)))
    monkeypatch.setattr(loky, "open", lambda path, *rest: open(moved(path), *rest), raising=False)  # noqa: SIM115, PTH123
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    assert usable_cores() == cores
    assert cores_in_words() == ("64 cores" if cores == 64 else f"{cores} of 64 cores")
    assert Machine.plan("cpu") == Machine(cores, 1, ("cpu",))
    assert Machine.plan("cpu", jobs=2).threads == max(cores // 2, 1)
    assert Setting().with_threads().threads == cores
    with monkeypatch.context() as patch:
        patch.setattr("torch.set_num_threads", lambda number: None)
        assert share_cores("cpu", None) == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_the_cores_of_a_job_scheduler_bound_jobs_and_threads() -> None:
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    try:
        assert usable_cores() == 1 and Machine.plan("cpu", threads=1).jobs == 1
    finally:
        os.sched_setaffinity(0, mine)


# ---- Devices of Apple


@pytest.mark.filterwarnings("ignore:(the test set|training ends)")
def test_apples_gpu_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    model, data = torch.nn.Linear(1, 2), torch.utils.data.TensorDataset(torch.zeros(4, 1), torch.zeros(4).long())
    for device in ("mps", "mps:0", torch.device("mps")):
        with pytest.raises(ValueError, match=r"^device='mps(:0)?': not supported: it has no float64.*choose cpu$"):
            Trainer(model, data, data, QUICK, device=device)
    with pytest.raises(RequestError, match=r"^device mps: not supported: it has no float64.*choose cpu$"):
        Machine.plan("mps")
    if not torch.cuda.is_available():
        assert Machine.plan("auto").devices == ("cpu",)
        assert Trainer(model, data, data, QUICK, device="auto").device.type == "cpu"


# ---- Windows


def test_windows_counts_shows_and_reports_and_refuses_to_train(tmp_path: Path) -> None:
    study = HOME / "docs/results/first-edition/recipes"
    works = (
        "flags",
        f"show {SMALL}",
        f"count {SMALL} resnet50",
        f"compare {SMALL} pocket@grn",
        "data digits",
        f"run one-in --base {SMALL} --data digits --seeds 0 --dry-run",
        f"status {study}",
        f"report {study} --to report --format table,csv,markdown,latex,svg",
        f"pack {study} --to study.zip",
    )
    trains = (f"train {SMALL} --data digits", f"run sweep --base {SMALL} --flags norm=ln --data digits", "bench pocket")
    # Other packages have code of their own for Windows, which is not tried.
    others = "import asyncio, click, filelock, fvcore.nn, joblib, matplotlib.pyplot, multiprocessing, pandas"
    others += "\nimport pydantic, rich.live, scipy.stats, sklearn.datasets, submitit, torch, torchvision, yaml, jinja2"
    others += "\nimport matplotlib.backends.backend_svg, matplotlib.backends.backend_agg, pyDOE3, statistics, zipfile"
    code = f"{others}\nimport as_windows\nas_windows.take_unix_away()\n{commands(*works, *trains)}"
    code += "\nimport ablations.launch.job, ablations.launch.slurm, ablations.launch.pool, ablations.bench"
    done = python(tmp_path, "-X", "warn_default_encoding", "-W", "ignore", "-c", code)
    statuses = re.findall(r"^status (\d+)$", done.stdout, re.MULTILINE)
    assert statuses == ["0"] * len(works) + ["2"] * len(trains), done.stdout[-3000:] + done.stderr
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("ablations: ")]
    assert lines == ["ablations: training needs Linux or macOS; on Windows use WSL2"] * len(trains)
    assert (tmp_path / "report/tables/recipes.csv").exists() and not (tmp_path / "runs").exists()


# ---- Shells


def test_run_all_needs_a_posix_shell_alone() -> None:
    """macOS has bash 3.2 and BSD's tools. On Debian and Ubuntu `sh` is dash, which has no extensions of bash."""
    text = (HOME / "run_all.sh").read_text(encoding="utf-8")
    assert text.startswith("#!/bin/sh\n")
    done = subprocess.run(["sh", HOME / "run_all.sh", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "./run_all.sh STUDY" in done.stdout, done.stderr
    for of_bash in (
        "BASH_",
        "[[",
        "pipefail",
        "mapfile",
        "declare",
        "local ",
        "${@:",
        "|&",
        "&>",
        "<(",
        "=(",
        "^^}",
        ",,}",
    ):
        assert of_bash not in text, of_bash
    # The tools that it starts: those of POSIX, with options of POSIX.
    started = set(
        re.findall(r"\b(sed|awk|readlink|realpath|date|stat|mktemp|nproc|grep -\w+|cksum|basename|dirname)\b", text)
    )
    assert started == {"grep -qsxF", "cksum", "basename", "dirname"}
