"""Weights & Biases: its offline files are read back, and a small server stands for its own. Failures change no run."""

from __future__ import annotations

import json
import os
import pty
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from commands import ablations, command, environment
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # made at import
from wandb_server import serving

from ablations.cli import run_command
from ablations.data.datasets import load
from ablations.launch import loggers
from ablations.launch.claim import Place, take
from ablations.recipes import TrainingConfig
from ablations.store import read_log
from ablations.studies.run import RunConfig
from ablations.training.callbacks import NullCallbacks
from ablations.training.trainer import Interrupted
from modernize.models import design

DIGITS = load("digits", Path("unused"))
PLACE = Place("cpu", wandb=True)


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Log offline, as somebody without an account; the next test reads its own settings."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    wandb.teardown()
    yield
    wandb.teardown()


@dataclass
class Session:
    """What one offline file of W&B says of a run."""

    id: str = ""
    name: str = ""
    group: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit: int | None = None


def records(path: Path) -> Iterator[Record]:
    """Read a file of W&B: a log of LevelDB behind a header of 7 bytes, in blocks of 32 KiB."""
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # complete, or its last part
            yield Record.FromString(record)
            record = b""


def sessions(folder: Path) -> list[Session]:
    """Wait until W&B's process has written the last of a run's sessions, and return all, the first one first."""
    until = time.monotonic() + 30
    while not (found := written(folder)) or found[-1].exit is None:
        assert time.monotonic() < until, found
        time.sleep(0.1)
    return found


def written(folder: Path) -> list[Session]:
    """Read what has been written of a run's offline sessions."""
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        session = Session()
        for record in records(path):
            if record.HasField("run"):
                run = record.run
                session.id, session.name, session.group = run.run_id, run.display_name, run.run_group
                session.project = run.project
                session.config |= {item.key: json.loads(item.value_json) for item in run.config.update}
            elif record.HasField("history"):
                items = record.history.item
                session.history.append({".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
            elif record.HasField("summary"):
                session.summary |= {item.key: json.loads(item.value_json) for item in record.summary.update}
            elif record.HasField("exit"):
                session.exit = record.exit.exit_code
        found.append(session)
    return found


def run_of(seed: int = 0) -> RunConfig:
    flags = design("pocket@separate-downsampling,depths=1,width=4,stem_stride=1").flags()
    recipe = TrainingConfig(max_epochs=3, batch_size=32, learning_rate=4e-3, checkpoint_steps=60)
    return RunConfig(row="r", label="r", flags=flags, recipe_name="r", recipe=recipe, data="digits", seed=seed)


class At(NullCallbacks):
    """Do something after a number of training steps, and keep the warnings."""

    def __init__(self, steps: int, then: Any = lambda: False):
        self.steps, self.then, self.warnings = steps, then, list[str]()
        super().__init__(self.count)

    def count(self) -> bool:
        self.steps -= 1
        return self.steps == 0 and bool(self.then())

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The checksum of the weights of `run_of()`, trained without W&B."""
    torch.set_num_threads(1)
    result = take(run_of(), tmp_path_factory.mktemp("plain"), DIGITS, Place("cpu"), NullCallbacks())
    assert result
    return result["weights_sha256"]


def test_an_interrupted_run_goes_on_as_the_same_run_of_wandb(tmp_path: Path, weights: str) -> None:
    """Three sessions: without W&B up to step 55, then to step 105, then to the end."""
    for steps, place in ((55, Place("cpu")), (50, PLACE)):
        with pytest.raises(Interrupted):
            take(run_of(), tmp_path, DIGITS, place, At(steps, lambda: True), "my study")
    result = take(run_of(), tmp_path, DIGITS, PLACE, NullCallbacks(), "my study")
    assert result and result["weights_sha256"] == weights
    second, third = sessions(tmp_path)
    assert (second.id, second.exit, third.id, third.exit) == (third.id, loggers.INTERRUPTED, second.id, 0)
    assert (third.name, third.group, third.project) == ("r-s0", "my study", loggers.PROJECT)
    assert {key: third.config[key] for key in run_of().model_dump()} == run_of().model_dump(mode="json")
    # each has all of the run so far, whichever of them is synced last
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines] == [50, 100, 132]
    for session, count in ((second, 2), (third, 3)):
        for line, logged in zip(lines[:count], session.history, strict=True):
            assert logged["_step"] == line["step"]
            assert {name: logged[name] for name in loggers.scalars(line)} == loggers.scalars(line)
    for name in ("status", "top1", "loss", "train_top1", "params", "macs", "weights_sha256"):
        assert third.summary[name] == result[name]
    assert "status" not in second.summary


def test_a_resumed_run_is_one_run_on_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    """The first session dies after step 105, with a checkpoint at step 60: step 100 comes twice."""
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
    with serving() as (address, kept):
        monkeypatch.setenv("WANDB_BASE_URL", address)
        with pytest.raises(Died):
            take(run_of(), tmp_path, DIGITS, PLACE, At(105, die), "my study")
        (run,) = kept.values()
        assert (run.steps, run.exit) == ([50, 100], loggers.INTERRUPTED)
        callbacks = At(0)
        result = take(run_of(), tmp_path, DIGITS, PLACE, callbacks, "my study")
        assert result and result["weights_sha256"] == weights
        assert not callbacks.warnings
        assert list(kept.values()) == [run]
        assert (run.steps, run.exit, run.group) == ([50, 100, 132], 0, "my study")
        assert json.loads(run.summary)["top1"] == result["top1"]


class Died(BaseException):
    """Stands for the death of the process, but for W&B's."""


def die() -> None:
    raise Died


def test_a_failed_run_failed_in_wandb_too(tmp_path: Path) -> None:
    run = run_of().model_copy(update={"recipe": run_of().recipe.model_copy(update={"learning_rate": 1e30})})
    result = take(run, tmp_path, DIGITS, PLACE, NullCallbacks())
    assert result and result["status"] == "failed"
    (session,) = sessions(tmp_path)
    assert (session.exit, session.summary["status"], session.summary["reason"]) == (1, "failed", result["reason"])
    assert session.group == ""


@pytest.mark.slow
def test_workers_in_parallel_log_a_run_each_in_the_studys_group(tmp_path: Path) -> None:
    arguments = ["--base", "pocket,width=4,depths=1", "--flags", "norm=bn:ln", "--data", "digits", "--seeds", "0"]
    arguments += ["--budget", "1epochs", "--set", "image_size=8", "--set", "checkpoint_steps=100", "--jobs", "2"]
    done = ablations("run", "sweep", *arguments, "--device", "cpu", "--wandb", "--out", tmp_path / "study")
    assert done.returncode == 0, done.stderr
    assert "W&B: project modernize-convnets; offline, in the runs' folders: upload with wandb sync" in done.stdout
    assert "not logged" not in done.stdout + done.stderr
    folders = sorted((tmp_path / "study/runs").iterdir())
    found = {folder.name: sessions(folder) for folder in folders}
    assert len(found) == 2
    assert {session.name for (session,) in found.values()} == set(found)
    assert {session.group for (session,) in found.values()} == {"sweep"}
    assert len({session.id for (session,) in found.values()}) == 2
    for folder in folders:
        (session,) = found[folder.name]
        assert session.summary["top1"] == json.loads((folder / "result.json").read_text())["top1"]


@pytest.mark.linux
def test_the_death_of_wandbs_process_changes_no_run(tmp_path: Path, weights: str) -> None:
    callbacks = At(75, kill_wandb)
    result = take(run_of(), tmp_path / "first", DIGITS, PLACE, callbacks)
    assert result and result["weights_sha256"] == weights
    (warning,) = callbacks.warnings
    assert warning.startswith("r-s0: warning: not logged to W&B: ")
    assert take(run_of(1), tmp_path / "second", DIGITS, PLACE, NullCallbacks())
    assert [len(session.history) for session in sessions(tmp_path / "second")] == [3]


def kill_wandb() -> bool:
    """Kill the child processes of this one that are W&B's."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            mine = parent == os.getpid() and "wandb-core" in (process / "cmdline").read_text()
        except OSError:  # it has ended
            continue
        if mine:
            os.kill(int(process.name), signal.SIGKILL)
    return False


def test_a_file_in_wandbs_way_changes_no_run(tmp_path: Path, weights: str) -> None:
    (tmp_path / "wandb").touch()
    callbacks = At(0)
    result = take(run_of(), tmp_path, DIGITS, PLACE, callbacks)
    assert result and result["weights_sha256"] == weights
    (warning,) = callbacks.warnings
    assert "not logged to W&B" in warning and "\n" not in warning


def test_a_run_is_logged_offline_if_the_server_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
    monkeypatch.setattr(loggers, "INIT_SECONDS", 1)
    callbacks = At(0)
    result = take(run_of(), tmp_path, DIGITS, PLACE, callbacks)
    assert result and result["weights_sha256"] == weights
    (warning,) = callbacks.warnings
    assert warning.startswith("r-s0: warning: logged offline: W&B: ")
    (session,) = sessions(tmp_path)
    assert ([line["_step"] for line in session.history], session.exit) == ([50, 100, 132], 0)


def test_disabled_wandb_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    callbacks = At(0)
    assert take(run_of(), tmp_path, DIGITS, PLACE, callbacks)
    assert not callbacks.warnings and not (tmp_path / "wandb").exists()


def test_files_go_where_wandb_dir_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "mine"))
    assert take(run_of(), tmp_path / "run", DIGITS, PLACE, NullCallbacks())
    assert len(sessions(tmp_path / "mine")) == 1 and not (tmp_path / "run/wandb").exists()


def test_no_account_is_one_line_and_never_a_prompt(tmp_path: Path) -> None:
    """On a terminal, where wandb would ask for a key."""
    ours, theirs = pty.openpty()
    asked = command("train", "pocket", "--data", "digits", "--wandb", "--out", "run")
    options: dict[str, Any] = {"stdin": theirs, "stderr": theirs, "stdout": theirs, "cwd": tmp_path, "timeout": 60}
    done = subprocess.run(asked, env={**environment(), "WANDB_MODE": "online", "PYTHONPATH": path()}, **options)
    said = os.read(ours, 10_000).decode()
    assert done.returncode == 2
    assert said.count("\n") == 1, said
    assert said.startswith("ablations: --wandb: No API key configured.")
    assert said.endswith("run wandb login, or set WANDB_MODE=offline\r\n")
    assert not (tmp_path / "run").exists()


def path() -> str:
    return os.pathsep.join(filter(None, sys.path))


@pytest.mark.parametrize("asked", [["train", "pocket"], ["run", "quick"]])
def test_wandb_that_is_not_installed_is_one_line(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not there
    monkeypatch.chdir(tmp_path)
    assert run_command([*asked, "--data", "digits", "--wandb"]) == 2
    said = capsys.readouterr().err
    assert said == "ablations: --wandb: not installed; run pip install 'modernize-convnets[wandb]'\n"
    assert list(tmp_path.iterdir()) == []
