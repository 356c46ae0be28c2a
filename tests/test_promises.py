"""Small promises of the command line that no other file holds it to."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import yaml
from commands import ablations_here, command, environment, started
from PIL import Image

from ablations.cli import run_command
from ablations.machine import Machine, usable_cores
from ablations.store import read_json, write_json
from ablations.studies.older import thread_notices
from ablations.studies.run import RunConfig, locked, mark_failed
from ablations.training.checkpoint import checkpoints
from ablations.training_config import MAY_CHANGE, TrainingConfig
from modernize.models import design

HOME = Path(__file__).parent.parent
DESIGN = "pocket,depths=1-1,width=4"
SMALL = ("--data", "digits", "--set", "image_size=16", "--set", "batch_size=32", "--threads", "1", "--device", "cpu")
SWEEP = ("run", "sweep", "--base", DESIGN, "--flags", "kernel_size=3:5", *SMALL, "--jobs", "1")


# ---- other data


def tree(place: Path, images: int) -> Path:
    for part in ("train", "val"):
        for label in range(2):
            folder = place / part / str(label)
            folder.mkdir(parents=True)
            for index in range(images):
                Image.new("RGB", (16, 16), (100 * label, index, 0)).save(folder / f"{index}.png")
    return place


def test_a_run_on_other_data_is_refused_whether_it_is_finished_or_not(tmp_path: Path) -> None:
    one, other = tree(tmp_path / "one", 8), tree(tmp_path / "other", 9)
    small = ("--set", "image_size=16", "--set", "batch_size=4", "--set", "max_epochs=1", "--device", "cpu")
    arguments = ("train", DESIGN, "--data", "imagenet", *small, "--out", tmp_path / "run")
    assert ablations_here(*arguments, "--data-dir", one).returncode == 0
    before = (tmp_path / "run/result.json").read_bytes()
    again = ablations_here(*arguments, "--data-dir", one)
    assert again.returncode == 0 and "top-1" in again.stdout
    done = ablations_here(*arguments, "--data-dir", other)
    assert done.returncode == 2
    assert done.stderr == f"ablations: run {tmp_path / 'run'} was made with other data; choose another --out\n"
    assert (tmp_path / "run/result.json").read_bytes() == before
    (tmp_path / "run/result.json").unlink()
    done = ablations_here(*arguments, "--data-dir", other)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "was started with other data" in done.stderr
    assert ablations_here(*arguments, "--data-dir", one).returncode == 0
    assert read_json(tmp_path / "run/result.json")["weights_sha256"] == json.loads(before)["weights_sha256"]


# ---- who may call a run failed


def run_config() -> RunConfig:
    recipe = TrainingConfig(max_epochs=1, batch_size=32, learning_rate=1e-3)
    flags = design(DESIGN).flags()
    return RunConfig(row="r", label="r", flags=flags, recipe_name="r", recipe=recipe, data="digits", seed=0)


def test_a_run_that_another_process_has_taken_is_not_marked_failed(tmp_path: Path) -> None:
    hold = "import sys; from pathlib import Path; from ablations.studies.run import locked\n"
    hold += "with locked(Path(sys.argv[1])) as free: print(free, flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout and holder.stdout.readline() == "True\n"
    assert not mark_failed(run_config(), tmp_path, "its process ended")
    assert not (tmp_path / "result.json").exists()
    holder.communicate("")
    assert mark_failed(run_config(), tmp_path, "its process ended")
    assert read_json(tmp_path / "result.json")["reason"] == "its process ended"
    assert mark_failed(run_config(), tmp_path, "another reason")
    assert read_json(tmp_path / "result.json")["reason"] == "its process ended", "a result was written over"
    with locked(tmp_path) as free:
        assert free


# ---- what a worker's channel carries


def with_stray_words(tmp_path: Path, code: str, forked: bool = False) -> dict[str, str]:
    """An environment in which every Python runs this code first; workers are not forked while a thread runs."""
    (tmp_path / "site").mkdir()
    thread = "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    (tmp_path / "site/sitecustomize.py").write_text(
        f"import os, sys, threading, time\n{'' if forked else thread}{code}"
    )
    return {**environment(), "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{HOME}"}


def test_what_else_is_printed_on_a_workers_channel_does_no_harm(tmp_path: Path) -> None:
    words = ["no JSON at all", "42", "null", "[1, 2]", '{"a": 1}', '"start"', "", '{"event"']
    code = f"if 'ablations.launch.worker' in sys.orig_argv: print({chr(10).join(words)!r})"
    surroundings = with_stray_words(tmp_path, code)
    arguments = command(*SWEEP, "--set", "max_epochs=0.05", "--out", tmp_path / "study")
    done = subprocess.run(arguments, capture_output=True, text=True, env=surroundings, timeout=200)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert len(list((tmp_path / "study/runs").glob("*/result.json"))) == 2


def test_a_worker_that_dies_before_it_begins_is_quoted(tmp_path: Path) -> None:
    code = (
        "import os\nif 'ablations.launch.worker' in sys.orig_argv: os.write(1, b'no licence for this\\n'); os._exit(3)"
    )
    surroundings = with_stray_words(tmp_path, code)
    arguments = command(*SWEEP, "--out", tmp_path / "study")
    done = subprocess.run(arguments, capture_output=True, text=True, env=surroundings, timeout=200)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "a worker process ended with exit status 3: no licence for this" in done.stderr


# ---- run_all.sh


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The script in a checkout that is set up already: with this very Python."""
    home = tmp_path / "a checkout"
    (home / ".venv/bin").mkdir(parents=True)
    for name in ("run_all.sh", "constraints.txt", "pyproject.toml"):
        shutil.copy(HOME / name, home)
    for name, line in (("python", 'exec "$PYTHON_HERE" "$@"'), ("ablations", 'exec "$PYTHON_HERE" -m ablations "$@"')):
        (home / ".venv/bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (home / ".venv/bin" / name).chmod(0o755)
    sums = b"".join((home / name).read_bytes() for name in ("constraints.txt", "pyproject.toml"))
    cksum = subprocess.run(["cksum"], input=sums, capture_output=True, check=True).stdout.decode().strip()
    (home / ".venv/installed").write_text(f" {cksum}\n")
    return home


def run_all(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    surroundings = {**environment(), "PYTHON_HERE": sys.executable}
    surroundings["PYTHON"] = "/bin/false"  # should it want to set anything up
    process = [str(home / "run_all.sh"), *map(str, arguments)]
    return subprocess.run(process, cwd=home.parent, capture_output=True, text=True, env=surroundings, timeout=250)


def study_file(place: Path) -> Path:
    recipe = {"max_epochs": 0.05, "batch_size": 32, "learning_rate": 1e-3, "image_size": 16}
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    study = {"kind": "sweep", "base": DESIGN, "flags": {"kernel_size": [3, 5]}, "data": "digits"}
    (place / "my study.yaml").write_text(yaml.safe_dump({**study, "recipe": str(place / "recipe.yaml")}))
    return place / "my study.yaml"


def test_run_all_shows_a_dry_run_and_writes_nothing(checkout: Path, tmp_path: Path) -> None:
    before = sorted(checkout.rglob("*"))
    done = run_all(checkout, study_file(tmp_path), "--dry-run")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "  kernel_size=5  " in done.stdout and re.search(r"about \d+:\d\d", done.stdout)
    assert "top-1" not in done.stdout, "it went on to a report"
    assert sorted(checkout.rglob("*")) == before


@pytest.mark.parametrize("option", [("--out", "elsewhere"), ("--out=elsewhere",)])
def test_run_all_refuses_another_folder_before_it_does_anything(checkout: Path, option: tuple[str, ...]) -> None:
    (checkout / ".venv/installed").unlink()  # it would set up first, and fail
    done = run_all(checkout, "quick", *option)
    assert done.returncode == 2 and not done.stdout
    assert (
        done.stderr.count("\n") == 1
        and "results are stored in runs/STUDY; use ablations run for another folder" in done.stderr
    )


def test_run_all_trains_and_reports_in_runs(checkout: Path, tmp_path: Path) -> None:
    done = run_all(checkout, study_file(tmp_path), "--jobs", "1")
    assert done.returncode == 0, done.stderr
    folder = checkout / "runs/my study"
    assert len(list(folder.glob("runs/*/result.json"))) == 2 and (folder / "report").is_dir()
    assert run_all(checkout, study_file(tmp_path), "--seeds", "x").returncode == 2


# ---- Ctrl-C between runs


def first_interrupted(tmp_path: Path, code: str, forked: bool) -> Path:
    """Start a study whose workers run this code first; it interrupts the launcher. Return its folder, once it ended."""
    if forked:  # once, in the process that forks the workers
        when = "done = []\nos.register_at_fork(after_in_child=lambda: done or done.append(begin()))"
    else:
        when = "if 'ablations.launch.worker' in sys.orig_argv: begin()"
    code = f"def begin():\n{indent(code, '    ')}\n{when}\n"
    folder = tmp_path / "study"
    done = subprocess.run(
        command(*SWEEP, "--set", "max_epochs=0.1", "--out", folder),
        capture_output=True,
        text=True,
        env=with_stray_words(tmp_path, code, forked),
        timeout=200,
    )
    assert (done.returncode, done.stderr) == (130, "ablations: interrupted; rerun the command to resume\n"), done
    return folder


def test_after_ctrl_c_at_the_end_of_a_run_its_worker_starts_no_other(tmp_path: Path) -> None:
    ctrl_c = """
import os, signal, time
def hook(event, args):  # Ctrl-C at the very moment when a run's result is there
    if event == "os.rename" and str(args[1]).endswith("result.json"):
        came, handler = [], signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, lambda *args: came.append(handler(*args)))
        os.kill(os.getppid(), signal.SIGINT)
        launcher = os.getppid()
        while not came and os.getppid() == launcher:  # until the launcher has passed it on
            time.sleep(0.01)
sys.addaudithook(hook)
"""
    folder = first_interrupted(tmp_path, ctrl_c, forked=sys.platform == "linux")
    assert [path.name for path in (folder / "runs").iterdir()] == ["kernel_size=3-s0"]
    assert read_json(folder / "runs/kernel_size=3-s0/result.json")["status"] == "done"
    assert ablations_here(*SWEEP, "--set", "max_epochs=0.1", "--out", folder).returncode == 0
    assert len(list(folder.glob("runs/*/result.json"))) == 2


def test_a_worker_does_not_miss_a_ctrl_c_while_it_starts(tmp_path: Path) -> None:
    """Libraries catch any exception of what they try to import."""
    ctrl_c = """
import os, signal, time
try:
    launcher = os.getppid()
    os.kill(launcher, signal.SIGINT)
    while signal.SIGINT not in signal.sigpending() and os.getppid() == launcher:
        time.sleep(0.01)
except KeyboardInterrupt:
    pass
"""
    assert not list(first_interrupted(tmp_path, ctrl_c, forked=False).glob("runs/*/*"))


# ---- threads


def test_omp_num_threads_is_the_default_of_threads_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = usable_cores()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Machine.plan("cpu") == Machine(cores, 1, ("cpu",))
    assert Machine.plan("cpu", jobs=1) == Machine(1, cores, ("cpu",))
    for asked, threads in {"1": 1, "3": 3, "4,2": 4}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert Machine.plan("cpu") == Machine(max(cores // threads, 1), threads, ("cpu",))
        assert Machine.plan("cpu", jobs=2) == Machine(2, threads, ("cpu",))
        assert Machine.plan("cpu", threads=2).threads == 2
    assert thread_notices("cuda:0", 4, []) == []
    (said,) = thread_notices("cuda:0", 8, [])
    assert said.startswith("OMP_NUM_THREADS=4 is overridden: 8 threads per run")


def test_a_run_that_resumes_with_other_threads_says_so(tmp_path: Path) -> None:
    for name, threads in (("a", 2), ("b", 2), ("c", 1), ("done", 4)):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "environment.json", {"sessions": [{"threads": threads}]})
    (tmp_path / "done/result.json").write_text("{}")
    said = thread_notices("cpu", 1, tmp_path.iterdir())
    assert said == ["2 runs began with --threads 2; with --threads 1 the last bits of the weights may differ"]
    assert thread_notices("cpu", 2, [tmp_path / "a", tmp_path / "nothing yet"]) == []


# ---- what may change on the way

CHANGES: dict[str, str] = {
    "accumulation": "2",
    "workers": "1",
    "max_damaged": "0.5",
    "activation_checkpointing": "true",
    "checkpoint_seconds": "1000",
    "checkpoint_steps": "7",
    "checkpoint_every": "1",
}
REFUSED: dict[str, str] = {
    "max_epochs": "3",
    "batch_size": "64",
    "learning_rate": "0.1",
    "label_smoothing": "0.2",
    "precision": "bf16",
    "deterministic": "true",
    "ema_decay": "0.9",
    "channels_last": "false",
    "sync_batchnorm": "true",
}


def settings(changes: dict[str, str]) -> list[str]:
    return [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]


def stop_half_way(*arguments: str | Path, folder: Path) -> None:
    process = started(*arguments, "--set", "checkpoint_steps=1")
    deadline = time.monotonic() + 100
    while not checkpoints(folder / "checkpoints"):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 130 and not (folder / "result.json").exists()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line with which a command is refused; it is run in this process, which is quicker."""
    assert run_command([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.slow
def test_a_run_and_a_study_go_on_with_all_that_may_change_and_with_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(CHANGES) == set(MAY_CHANGE)
    one = ("train", DESIGN, *SMALL, "--set", "max_epochs=2", "--out", tmp_path / "run")
    study = (*SWEEP, "--set", "max_epochs=2", "--out", tmp_path / "study")
    run_of_study = tmp_path / "study/runs/kernel_size=3-s0"
    for arguments, folder in ((one, tmp_path / "run"), (study, run_of_study)):
        stop_half_way(*arguments, folder=folder)
    kept = (tmp_path / "study/study.yaml").read_bytes()
    for key, value in REFUSED.items():
        said = refused(capsys, *study, *settings({key: value}))
        assert re.search(rf"made with another configuration: recipes\.quick\.\w*{key[:6]}", said), said
        said = refused(capsys, *one, *settings({key: value}))
        assert re.search(rf"made with another configuration: recipe\.\w*{key[:6]}", said), said
    assert (tmp_path / "study/study.yaml").read_bytes() == kept
    for arguments, folder in ((one, tmp_path / "run"), (study, run_of_study)):
        done = ablations_here(*arguments, *settings(CHANGES))
        assert done.returncode == 0 and not done.stderr, done.stderr
        assert read_json(folder / "result.json")["status"] == "done"
        assert list(folder.glob("checkpoints/epoch-*.pt")), "checkpoint_every did not take effect"
    recipes = yaml.safe_load((tmp_path / "study/study.yaml").read_text())["recipes"]["quick"]
    of_run = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["recipe"]
    expected: dict[str, Any] = {key: yaml.safe_load(value) for key, value in CHANGES.items()}
    assert {key: recipes[key] for key in CHANGES} == {key: of_run[key] for key in CHANGES} == expected


# ---- a reader who leaves


def piped_into_head(*arguments: str | Path) -> tuple[int, str, str]:
    """A command's status and complaints, and the one line of its output that was read."""
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout and process.stderr
    line = process.stdout.readline()
    process.stdout.close()
    complaints = process.stderr.read()
    process.stderr.close()
    return process.wait(timeout=200), complaints, line


@pytest.mark.slow
def test_training_goes_on_when_the_reader_of_its_output_leaves(tmp_path: Path) -> None:
    status, complaints, line = piped_into_head(*SWEEP, "--set", "max_epochs=0.2", "--out", tmp_path / "study")
    assert (status, complaints) == (0, "") and line.startswith("sweep: ")
    results = [read_json(path) for path in (tmp_path / "study/runs").glob("*/result.json")]
    assert [result["status"] for result in results] == ["done", "done"]
    train = ("train", DESIGN, *SMALL, "--set", "max_epochs=1", "--out", tmp_path / "run")
    status, complaints, line = piped_into_head(*train)
    assert (status, complaints) == (0, "") and "started" in line
    assert read_json(tmp_path / "run/result.json")["status"] == "done"


@pytest.mark.parametrize("arguments", [("flags",), ("show", "convnext_tiny"), ("count", "--roadmap", "pocket")])
def test_a_table_whose_reader_leaves_is_no_failure(arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # gone from the start
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            command(*arguments), stdout=closed, stderr=subprocess.PIPE, text=True, env=environment(), timeout=100
        )
    assert (done.returncode, done.stderr) == (0, "")
