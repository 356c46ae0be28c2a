"""What goes wrong in a week of training, provoked for real: nothing that was finished is lost, the rest goes on."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import pytest
import victims
import yaml
from commands import ablations, ablations_here, started

from ablations.store import read_json
from ablations.training.checkpoint import checkpoints

pytestmark = pytest.mark.xdist_group("faults")  # in one process, which trains what they compare with once
KILLS = 12
SMALL = ("--data", "digits", "--set", "image_size=16", "--set", "batch_size=32", "--threads", "1")
# Four runs of a second or two each, all under one recipe.
GRID = ("grid", "--base", "pocket,depths=1-1,width=4", "--flags", "norm=bn:ln,activation=relu:gelu", *SMALL)


def result(folder: Path, run: str) -> dict[str, Any]:
    return read_json(folder / "runs" / run / "result.json")


def sessions(run: Path) -> int:
    """How often a run was begun or resumed."""
    try:
        return len(read_json(run / "environment.json")["sessions"])
    except FileNotFoundError:
        return 0


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: read_json(path) for path in (folder / "runs").glob("*/result.json")}


def exact(found: dict[str, dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """What must not depend on when and how often a study was stopped."""
    return {name: (one["top1"], one["loss"], one["weights_sha256"]) for name, one in found.items()}


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def workers(process: subprocess.Popen[str] | None = None) -> list[int]:
    """The worker processes of a running study, or of one that runs in this process."""
    pid = process.pid if process else os.getpid()
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            forked = pid != os.getpid() and os.getsid(int(child)) == int(child)
            if forked or b"ablations.launch.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


@contextmanager
def meanwhile(do: Callable[[], None]) -> Iterator[None]:
    """Do something in another thread, while a study runs in this one."""
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(do)
        yield
        doing.result(timeout=60)


def command_line(file: Path) -> bytes:
    """What a process was started with; nothing if it has just ended."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def state(pid: int) -> str:
    """A process as the kernel sees it: R runs, S sleeps, D waits for a disk, T stopped, Z ended, nothing for gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def alive(pid: int) -> bool:
    return state(pid) not in ("Z", "")


def is_among(number: signal.Signals, which: str, pid: int) -> bool:
    """Whether a signal is among those a process catches (SigCgt), or among those that wait for it (ShdPnd)."""
    found = re.search(rf"{which}:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return bool(int(found[1], 16) >> (number - 1) & 1)


def stop(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The results of the study, never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    done = ablations_here("run", *GRID, "--set", "max_epochs=2", "--out", folder, "--jobs", "1", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert len(results(folder)) == 4
    return results(folder)


@pytest.mark.slow
def test_killed_at_random_instants_and_resumed_it_is_the_run_that_never_stopped(tmp_path: Path) -> None:
    context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload(
        ["victims", "ablations.training.trainer", "ablations.data.batches", "sklearn.datasets"]
    )

    def begin(folder: Path) -> Any:
        process = context.Process(target=victims.train, args=(folder,))
        process.start()
        return process

    for name in ("first", "whole"):  # the first takes the server's start, too
        (tmp_path / name).mkdir()
        begun = time.monotonic()
        begin(tmp_path / name).join()
        lasts = time.monotonic() - begun
    expected = read_json(tmp_path / "whole/result.json")
    assert expected["weights_sha256"] == read_json(tmp_path / "first/result.json")["weights_sha256"]
    chance, kills, resumed, torn = random.Random(0), 0, 0, 0
    for attempt in itertools.count():
        if kills >= KILLS and (resumed >= KILLS // 4 or kills >= 3 * KILLS):  # on a busy machine many come too early
            break
        folder = tmp_path / f"killed-{attempt}"
        folder.mkdir()
        while not (folder / "result.json").exists():
            process = begin(folder)
            process.join(chance.uniform(0.1, lasts))
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                kills += 1
                resumed += bool(checkpoints(folder / "checkpoints"))
                torn += any(folder.rglob(".step-*.tmp"))
        found = read_json(folder / "result.json")
        for key in ("weights_sha256", "top1", "loss"):
            assert found[key] == expected[key]
        assert not [*folder.rglob("*.tmp")]
        steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
        assert steps == [50, 88]
    assert resumed >= KILLS // 4, "too few kills came after the first checkpoint to show anything"
    print(f"{kills} kills, {resumed} of them after a checkpoint, {torn} while one was being written")


@pytest.mark.slow
@pytest.mark.linux
def test_a_study_killed_whole_goes_on_where_it_was(tmp_path: Path, whole: dict[str, dict[str, Any]]) -> None:
    folder = tmp_path / "study"
    arguments = ("run", *GRID, "--set", "max_epochs=2", "--out", folder, "--jobs", "2", "--device", "cpu")
    process = started(*arguments, start_new_session=True)
    until(lambda: len(results(folder)) >= 1)
    orphans = workers(process)
    process.kill()
    process.communicate()
    until(lambda: not any(map(alive, orphans)), 30)  # workers notice that their launcher is gone
    before = {name: (folder / "runs" / name / "result.json").stat().st_mtime_ns for name in results(folder)}
    assert len(before) < 4
    assert ablations_here(*arguments).returncode == 0
    assert exact(results(folder)) == exact(whole)
    for name, written in before.items():
        assert (folder / "runs" / name / "result.json").stat().st_mtime_ns == written, "a finished run was touched"


@pytest.mark.linux
def test_ctrl_c_writes_checkpoints_and_a_second_one_stops_at_once(
    tmp_path: Path, whole: dict[str, dict[str, Any]]
) -> None:
    folder = tmp_path / "study"
    arguments = ("run", *GRID, "--set", "max_epochs=2", "--out", folder, "--jobs", "1", "--device", "cpu")
    process = started(*arguments)
    until(lambda: (folder / "runs/norm=bn,activation=relu-s0/log.jsonl").exists())
    status, _, err = stop(process)
    assert status == 130 and err.strip() == "ablations: interrupted; rerun the command to resume"
    left = [run for run in (folder / "runs").iterdir() if not (run / "result.json").exists()]
    assert all(checkpoints(run / "checkpoints") for run in left if (run / "log.jsonl").exists())
    process = started(*arguments)
    until(lambda: workers(process))
    (worker,) = workers(process)
    assert b"ablations.launch.worker" not in command_line(Path(f"/proc/{worker}/cmdline")), "it does not share memory"
    until(lambda: is_among(signal.SIGINT, "SigCgt", worker))
    os.kill(worker, signal.SIGSTOP)  # so that it cannot end by itself
    until(lambda: state(worker) == "T")  # while it waits for the disk it has not stopped, and takes a SIGINT first
    process.send_signal(signal.SIGINT)
    until(lambda: is_among(signal.SIGINT, "ShdPnd", worker))
    assert stop(process)[0] == 130
    until(lambda: not alive(worker))
    assert ablations_here(*arguments).returncode == 0
    assert exact(results(folder)) == exact(whole)


@pytest.mark.slow
def test_one_run_interrupted_goes_on(tmp_path: Path) -> None:
    arguments = ("train", "pocket,depths=1-1,width=4", *SMALL, "--set", "max_epochs=4")
    assert ablations(*arguments, "--out", tmp_path / "whole").returncode == 0
    process = started(*arguments, "--out", tmp_path / "stopped")
    until(lambda: (tmp_path / "stopped/log.jsonl").exists() or process.poll() is not None)
    until(lambda: (tmp_path / "stopped/log.jsonl").read_text() or process.poll() is not None)
    status, _, _ = stop(process)
    assert status == 130 and checkpoints(tmp_path / "stopped/checkpoints")
    assert ablations(*arguments, "--out", tmp_path / "stopped").returncode == 0
    one, other = (read_json(tmp_path / name / "result.json") for name in ("whole", "stopped"))
    assert one["weights_sha256"] == other["weights_sha256"]
    assert sessions(tmp_path / "stopped") == 2


def test_two_runners_share_the_work(tmp_path: Path, whole: dict[str, dict[str, Any]]) -> None:
    folder = tmp_path / "study"
    arguments = ("run", *GRID, "--set", "max_epochs=2", "--out", folder, "--jobs", "1", "--device", "cpu")
    first, second = started(*arguments), started(*arguments)
    outputs = [process.communicate(timeout=200) for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    assert exact(results(folder)) == exact(whole)
    for run in (folder / "runs").iterdir():
        assert sessions(run) == 1, "a run was trained twice"
    ends = [sum("top-1" in line for line in out.splitlines()) for out, _ in outputs]
    assert sum(ends) == 4


def test_a_run_that_diverges_is_marked_and_the_others_go_on(tmp_path: Path) -> None:
    base = {"max_epochs": 2, "batch_size": 32, "image_size": 16}
    (tmp_path / "wild.yaml").write_text(yaml.safe_dump({**base, "optimizer": "sgd", "learning_rate": 1e30}))
    (tmp_path / "tame.yaml").write_text(yaml.safe_dump({**base, "learning_rate": 1e-3}))
    recipes = f"{tmp_path}/wild.yaml,{tmp_path}/tame.yaml"
    arguments: tuple[str, ...] = ("run", "recipes", "--base", "pocket,depths=1-1,width=4", "--recipes", recipes)
    arguments += ("--data", "digits", "--threads", "1")
    done = ablations_here(*arguments, "--out", tmp_path / "study", "--jobs", "1")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "run wild-s0 failed: the loss is" in done.stderr
    assert result(tmp_path / "study", "tame-s0")["status"] == "done"
    again = ablations_here(*arguments, "--out", tmp_path / "study", "--jobs", "1")
    assert again.returncode == 1 and "2 finished" in again.stdout
    assert "1 finished, 0 running, 0 interrupted, 1 failed" in ablations_here("status", tmp_path / "study").stdout
    report = ablations_here("report", tmp_path / "study")
    assert report.returncode == 0 and "failed" in report.stdout and "the loss is" in report.stdout


@pytest.mark.linux
def test_whoever_ends_a_worker_another_resumes_its_run_and_after_two_kills_the_run_has_failed(
    tmp_path: Path, whole: dict[str, dict[str, Any]]
) -> None:
    folder = tmp_path / "study"
    arguments = ("run", *GRID, "--set", "max_epochs=2", "--out", folder, "--jobs", "1", "--device", "cpu")
    run = folder / "runs/norm=bn,activation=relu-s0"

    def end_workers() -> None:
        for count, number in enumerate((signal.SIGTERM, signal.SIGKILL, signal.SIGKILL), start=1):
            until(lambda count=count: sessions(run) == count, 200)  # type: ignore[misc]
            os.kill(workers()[0], number)

    with meanwhile(end_workers):
        done = ablations_here(*arguments)
    assert done.returncode == 1
    killed = "its process was killed by SIGKILL (possibly out of memory)"
    for cause in ("its process was stopped by a signal", killed):
        assert f"{run.name}: {cause}; another resumes it\n" in done.stdout
    assert done.stderr == f"ablations: run {run.name} failed: {killed}, 2 times\n"
    assert sorted(one["status"] for one in results(folder).values()) == ["done", "done", "done", "failed"]
    assert ablations_here(*arguments, "--retry-failed").returncode == 0
    assert exact(results(folder)) == exact(whole), "it was not resumed to the bit"


@pytest.mark.linux
def test_a_study_whose_workers_all_end_before_they_finish_a_run_ends_with_1_and_what_is_left(tmp_path: Path) -> None:
    ended: list[int] = []

    def end_workers() -> None:
        while len(ended) < 3:
            until(lambda: set(workers()) - {*ended}, 200)
            (worker,) = set(workers()) - {*ended}
            ended.append(worker)
            os.kill(worker, signal.SIGKILL)  # while it starts

    with meanwhile(end_workers):
        done = ablations_here("run", *GRID, "--out", tmp_path / "study", "--jobs", "1", "--device", "cpu")
    assert done.returncode == 1 and not results(tmp_path / "study")
    assert done.stderr == (
        "ablations: cpu: 3 worker processes in a row ended without a finished run; the last was killed by SIGKILL "
        "(possibly out of memory); 4 of 4 runs are left: rerun to resume\n"
    )


LEAVING = """
import os, signal, sys, time
import torch

def die(status):  # and leave a process behind that holds what this one has open
    if os.fork():
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(300)

class Leaving(torch.nn.Linear):
    def __init__(self, leave, classes):
        super().__init__(64, classes)
        self.leave = leave

    def forward(self, images):
        if self.training and len(images) > 2:  # not while the launcher counts it
            {"": int, "sys": sys.exit, "os": os._exit, "die": die}[self.leave](0)
        return super().forward(images.flatten(1)[:, :64])

def net(num_classes, in_channels, leave=""):
    return Leaving(leave, num_classes)
"""


def test_a_network_that_ends_its_process_with_0_has_failed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LEAVING)
    net = f"{tmp_path / 'mine.py'}:net"
    listed = ("run", "designs", "--designs", f"{net}(leave=os),{net}(leave=sys),{net}")
    once = ("--set", "max_epochs=0.1", "--set", "precise_bn=null", "--jobs", "1", "--device", "cpu")
    done = ablations_here(*listed, *SMALL, *once, "--out", tmp_path / "study")
    assert done.returncode == 1, done
    assert [line.partition(" failed: ")[2] for line in done.stderr.splitlines()] == [
        "its process ended with exit status 0",
        "SystemExit: 0",
    ]
    assert len(results(tmp_path / "study")) == 3


@pytest.mark.slow
@pytest.mark.linux
def test_a_worker_that_is_killed_leaves_no_process_behind_for_which_its_study_would_wait(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LEAVING)
    listed = ("run", "designs", "--designs", f"{tmp_path / 'mine.py'}:net(leave=die),{tmp_path / 'mine.py'}:net")
    once = ("--set", "max_epochs=0.1", "--set", "precise_bn=null", "--jobs", "1", "--device", "cpu")
    begin = time.monotonic()
    done = ablations_here(*listed, *SMALL, *once, "--out", tmp_path / "study")
    assert time.monotonic() - begin < 200 and done.returncode == 1
    assert done.stderr.endswith("failed: its process was killed by SIGKILL (possibly out of memory), 2 times\n")
    assert len(results(tmp_path / "study")) == 2
    started_here = f"--launcher={os.getpid()}".encode()
    left = [one for one in Path("/proc").glob("[0-9]*/cmdline") if started_here in command_line(one)]
    assert not left


def test_a_run_that_breaks_says_where(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    arguments = ("run", *GRID, "--set", "max_epochs=1", "--out", folder, "--jobs", "1", "--device", "cpu")
    assert ablations_here(*arguments, "--dry-run").returncode == 0
    blocked = folder / "runs" / "norm=bn,activation=relu-s0" / "checkpoints"
    process = started(*arguments)
    until(lambda: blocked.parent.is_dir())
    assert stop(process, signal.SIGTERM)[0] == 130
    shutil.rmtree(blocked, ignore_errors=True)
    blocked.write_text("in the way")
    done = ablations_here(*arguments)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr and "Traceback" not in done.stderr


@contextmanager
def tmpfs(folder: Path, kib: int) -> Iterator[Path]:
    """A small file system, which another process unmounts also if this one is killed."""
    folder.mkdir()
    script = 'mount -t tmpfs -o "size=$1k" tmpfs "$0" && echo mounted && cat && umount -l "$0"'  # cat waits for the end
    command = ["sh", "-c", script, str(folder), str(kib)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True) as mounting:
        assert mounting.stdout and mounting.stdin
        if not mounting.stdout.readline():
            pytest.skip("mounting a small file system is not allowed here")
        yield folder
        mounting.stdin.close()
    assert mounting.returncode == 0 and not folder.is_mount()


def test_a_full_disk_is_one_line_and_earlier_results_are_whole(
    tmp_path: Path, whole: dict[str, dict[str, Any]]
) -> None:
    with tmpfs(tmp_path / "small", 700) as disk:
        arguments = ("run", *GRID, "--set", "max_epochs=2", "--out", disk / "study", "--jobs", "1", "--device", "cpu")
        ballast = disk / "ballast"
        process = started(*arguments)
        until(lambda: len(results(disk / "study")) == 1)
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(1024))
        out, err = process.communicate(timeout=120)
        assert process.returncode == 1 and err.count("\n") == 1, out + err
        assert "No space left on device" in err and "Traceback" not in err
        kept = results(disk / "study")
        assert 1 <= len(kept) < 4 and all(one["status"] == "done" for one in kept.values())
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        assert ablations_here(*arguments).returncode == 0
        assert exact(results(disk / "study")) == exact(whole)


def test_a_file_size_limit_is_one_line_too(tmp_path: Path) -> None:
    arguments = ("train", "pocket,depths=1-1,width=8", *SMALL, "--out", tmp_path / "run")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = ablations(*arguments, "--set", "checkpoint_steps=5", preexec_fn=limit)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "cannot be written (File too large)" in done.stderr
    assert not [path for path in (tmp_path / "run").rglob("*") if path.name.startswith(".step")]


def test_a_run_folder_deleted_meanwhile_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    process = started("run", *GRID, "--set", "max_epochs=40", "--out", folder, "--jobs", "1", "--device", "cpu")
    gone = folder / "runs" / "norm=bn,activation=relu-s0"
    until(lambda: (gone / "log.jsonl").exists())
    shutil.rmtree(gone)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and err.count("\n") == 1
    assert str(gone) in err and "Traceback" not in err


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for arguments in (("run", *GRID), ("train", "pocket", *SMALL)):
        done = ablations_here(*arguments, "--out", tmp_path / "file" / "study")
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert "Not a directory" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_lost_or_altered_result_is_made_again_from_the_last_checkpoint(
    tmp_path: Path, whole: dict[str, dict[str, Any]]
) -> None:
    folder = tmp_path / "study"
    arguments = ("run", *GRID, "--set", "max_epochs=2", "--out", folder, "--jobs", "1", "--device", "cpu")
    assert ablations_here(*arguments).returncode == 0
    (folder / "runs/norm=bn,activation=relu-s0/result.json").unlink()
    altered = folder / "runs/norm=ln,activation=gelu-s0/result.json"
    altered.write_text(altered.read_text().replace('"top1": ', '"top1": 1'))
    done = ablations_here(*arguments)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "result.json is corrupt" in done.stderr
    assert ablations_here(*arguments, "--retry-failed").returncode == 0
    assert exact(results(folder)) == exact(whole)


def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(
    tmp_path: Path, whole: dict[str, dict[str, Any]]
) -> None:
    folder = tmp_path / "study"
    arguments = ("run", *GRID, "--set", "max_epochs=2", "--set", "checkpoint_steps=5", "--out", folder, "--jobs", "1")
    process = started(*arguments)
    run = folder / "runs/norm=bn,activation=relu-s0"
    until(lambda: len(checkpoints(run / "checkpoints")) == 2)
    stop(process, signal.SIGINT)
    newest = checkpoints(run / "checkpoints")[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    done = ablations_here(*arguments)
    assert done.returncode == 0 and done.stderr == ""
    assert f"{newest} is corrupt: its checksum does not match; the previous checkpoint is used" in done.stdout
    assert exact(results(folder)) == exact(whole)


@pytest.mark.linux
def test_workers_that_lose_their_launcher_while_they_start_stop(tmp_path: Path) -> None:
    process = started("run", *GRID, "--set", "max_epochs=60", "--out", tmp_path / "study", "--jobs", "1")
    until(lambda: workers(process))
    orphans = workers(process)
    process.kill()
    process.communicate()
    until(lambda: not any(map(alive, orphans)), 30)
    assert not results(tmp_path / "study")


def test_what_lies_in_the_current_folder_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit(3)")
    arguments = ("run", *GRID, "--set", "max_epochs=0.1", "--out", "study", "--jobs", "1")
    import sys

    done = subprocess.run(
        [str(Path(sys.executable).parent / "ablations"), *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_file_in_place_of_a_run_is_one_line(tmp_path: Path) -> None:
    arguments = ("run", *GRID, "--set", "max_epochs=0.1", "--out", tmp_path / "study", "--jobs", "1")
    assert ablations_here(*arguments).returncode == 0
    run = tmp_path / "study/runs/norm=bn,activation=relu-s0"
    shutil.rmtree(run)
    run.write_text("in the way")
    done = ablations_here(*arguments)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_a_damaged_prediction_file_is_not_used(tmp_path: Path) -> None:
    arguments = ("run", *GRID, "--set", "max_epochs=0.1", "--out", tmp_path / "study", "--jobs", "1")
    assert ablations_here(*arguments).returncode == 0
    for path in (tmp_path / "study/runs").glob("*/predictions.npz"):
        path.write_bytes(b"")
    done = ablations_here("report", tmp_path / "study")
    assert done.returncode == 0 and "not tested: one seed" in done.stdout
