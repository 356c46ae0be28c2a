"""Studies on clusters: a real Slurm of one node, and this machine by the same path."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import slurm
import yaml
from commands import ablations, ablations_here, started
from hypothesis import given
from hypothesis import strategies as st

from ablations.cli import run_command
from ablations.errors import RequestError
from ablations.launch.job import Job
from ablations.launch.slurm import arrays, free_gpus, largest_array
from ablations.machine import usable_cores
from ablations.store import read_json, read_log
from ablations.studies.folder import open_folder, read_study
from ablations.studies.load import load_study
from ablations.studies.run import locked
from ablations.studies.schema import Study
from ablations.studies.slurm_options import minutes
from ablations.training.checkpoint import checkpoints

pytestmark = pytest.mark.slow  # minutes of waiting for queues, though little work

SETTINGS = ("--data", "digits", "--set", "image_size=16", "--set", "batch_size=32")
BASE = ("grid", "--base", "pocket@separate-downsampling,depths=1-1,width=4", *SETTINGS)
FOUR = (*BASE, "--flags", "norm=bn:ln,activation=relu:gelu", "--set", "max_epochs=2")
# One run of some seconds, so that there is a half-way. What it writes by itself comes after each epoch of 44 steps.
LONG = (*BASE, "--flags", "norm=ln", "--set", "max_epochs=10", "--set", "checkpoint_steps=44")
RARELY = (*LONG[:-1], "checkpoint_steps=100000")  # the same, without checkpoints of its own
RUN = "norm=ln-s0"


def here(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The finished command, in this process: it starts at once."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_command([*map(str, arguments)])
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def until(condition: Callable[[], Any], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def exact(folder: Path) -> dict[str, tuple[Any, ...]]:
    """What must not depend on where and how a study's runs were carried out."""
    found = {path.parent.name: read_json(path) for path in (folder / "runs").glob("*/result.json")}
    return {name: (one["status"], one["top1"], one["loss"], one["weights_sha256"]) for name, one in found.items()}


def sessions(folder: Path) -> list[dict[str, Any]]:
    return read_json(folder / "environment.json")["sessions"]


def half_way(run: Path) -> None:
    """Waits for a checkpoint beyond the first line of the log."""
    until(lambda: len(checkpoints(run / "checkpoints")) == 2)
    assert not (run / "result.json").exists(), "it ended before anything could be done to it"


def outputs(folder: Path) -> str:
    """All that a study's jobs printed."""
    return "".join(path.read_text() for path in sorted((folder / "cluster").glob("*_log.out")))


def went_on(folder: Path, run: str, expected: Path) -> None:
    """Checks that a run of two sessions took up its checkpoint, and ended as the one that was never stopped."""
    assert len(sessions(folder / "runs" / run)) == 2
    assert outputs(folder).count(f"{run}: started") == 2
    assert outputs(folder).count(f"{run}: step 50 of") == 1, "it started anew"
    keys = ("step", "loss", "learning_rate")
    logs = [[[line[key] for key in keys] for line in read_log(at / "runs" / run)] for at in (folder, expected)]
    assert logs[0] == logs[1]
    seconds = [line["seconds"] for line in read_log(folder / "runs" / run)]
    assert seconds == sorted(seconds)
    assert exact(folder) == exact(expected)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of four runs, one after the other on this machine."""
    folder = tmp_path_factory.mktemp("four") / "study"
    done = ablations_here("run", *FOUR, "--out", folder, "--jobs", "1", "--threads", "1", "--device", "cpu")
    assert done.returncode == 0 and len(exact(folder)) == 4, done.stderr
    return folder


def long_study() -> Study:
    """The study of one long run."""
    changes = {"base": LONG[2], "data": "digits", "flags": {"norm": ["ln"]}}
    settings = dict(value.split("=") for flag, value in itertools.pairwise(LONG) if flag == "--set")
    return load_study("grid", changes, settings)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of one long run, never stopped, on this machine."""
    folder = tmp_path_factory.mktemp("long") / "study"
    done = ablations_here("run", *LONG, "--out", folder, "--jobs", "1", "--threads", "1", "--device", "cpu")
    assert done.returncode == 0 and exact(folder).keys() == {RUN}, done.stderr
    return folder


# ---- Slurm

in_one_worker = pytest.mark.xdist_group("slurm")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Slurm of one node."""
    with slurm.one_node():
        yield


@pytest.fixture
def idle(cluster: None) -> Iterator[None]:
    """Slurm with nothing to do, before and after."""
    yield
    for job in slurm.queue():
        subprocess.run(["scancel", job], capture_output=True)
    slurm.emptied()


def submitted(*arguments: str | Path, count: int = 1) -> None:
    """Submits a study with `ablations run`, which says so in a line and is done."""
    done = here("run", *arguments, "--cluster", "slurm")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert f": {count} of " in done.stdout.splitlines()[-1] and done.stdout.count("\n") <= 2, done.stdout


@in_one_worker
def test_four_runs_as_an_array_of_jobs_give_what_they_give_here(tmp_path: Path, idle: None, four: Path) -> None:
    folder = tmp_path / "study"
    assert subprocess.run(["sacct"], capture_output=True).returncode != 0, "this cluster has accounting"
    submitted(*FOUR, "--out", folder, "--jobs", "2", count=4)
    queued = slurm.queue()
    assert len(queued) == 4 and {job.rpartition("_")[2] for job in queued} == {"0", "1", "2", "3"}
    submitted(*FOUR, "--out", folder, "--jobs", "2", count=0)
    assert slurm.queue().keys() <= queued.keys(), "a run was submitted twice"
    until(lambda: any((folder / "runs").glob("*/config.yaml")))
    for asked in ("status", "report"):
        begun = time.monotonic()
        done = here(asked, folder)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert time.monotonic() - begun < 20
        assert asked == "report" or re.search(r"queue: .*(\d running|\d pending \(JobArray|no jobs)", done.stdout)
    slurm.emptied(200)
    assert exact(folder) == exact(four), outputs(folder)
    assert all(len(sessions(run)) == 1 for run in (folder / "runs").iterdir())
    assert "Slurm queue: no jobs" in here("status", folder).stdout


@in_one_worker
def test_a_run_requeued_half_way_goes_on_from_its_checkpoint(tmp_path: Path, idle: None, long: Path) -> None:
    folder = tmp_path / "study"
    submitted(*LONG, "--out", folder)
    half_way(folder / "runs" / RUN)
    (job,) = slurm.queue()
    slurm.ask("scontrol", "requeue", job)
    until(lambda: slurm.queue().get(job) == "PENDING")
    slurm.emptied(200)
    went_on(folder, RUN, long)


@in_one_worker
def test_a_run_that_makes_way_for_an_urgent_job_goes_on_after_it(tmp_path: Path, idle: None, long: Path) -> None:
    folder = tmp_path / "study"
    submitted(*RARELY, "--out", folder, "--partition", "debug", "--time", "90")
    until(lambda: read_log(folder / "runs" / RUN))
    cpus = slurm.ask("sinfo", "-h", "-o", "%c").split()[0].rstrip("+")
    slurm.ask("sbatch", "-p", "urgent", "-c", cpus, "-o", "/dev/null", "--wrap", "sleep 2")
    slurm.emptied(200)
    assert "this job is preempted" in outputs(folder)
    went_on(folder, RUN, long)


@in_one_worker
def test_a_run_out_of_time_is_requeued_and_goes_on(tmp_path: Path, idle: None, long: Path) -> None:
    """With limits of 10 minutes or less submitit takes every SIGUSR2 for the one that Slurm sends before the limit."""
    folder = tmp_path / "study"
    submitted(*RARELY, "--out", folder, "--time", "0-0:03")
    (script,) = (folder / "cluster").glob("*_submission.sh")
    asked = script.read_text().split()
    assert "--time=3" in asked and "--signal=USR2@60" in asked
    until(lambda: read_log(folder / "runs" / RUN))
    (job,) = slurm.queue()
    slurm.ask("scancel", "--signal=USR2", job)
    slurm.emptied(200)
    assert "this job is timed-out" in outputs(folder)
    went_on(folder, RUN, long)


@in_one_worker
def test_a_cancelled_run_writes_a_checkpoint_and_the_same_command_goes_on(
    tmp_path: Path, idle: None, long: Path
) -> None:
    folder = tmp_path / "study"
    arguments = (*RARELY, "--out", folder)
    submitted(*arguments)
    until(lambda: read_log(folder / "runs" / RUN))
    (job,) = slurm.queue()
    slurm.ask("scancel", job)
    slurm.emptied()
    assert len(checkpoints(folder / "runs" / RUN / "checkpoints")) == 1
    assert "0 finished, 0 running, 1 interrupted" in here("status", folder).stdout
    submitted(*arguments)
    slurm.emptied(200)
    went_on(folder, RUN, long)


@in_one_worker
def test_a_run_of_two_processes_is_one_job_of_two_tasks(tmp_path: Path, idle: None, long: Path) -> None:
    if usable_cores() < 2:
        pytest.skip("one CPU: there is no room for two tasks")
    folder = tmp_path / "study"
    submitted(*LONG, "--out", folder, "--processes", "2")
    half_way(folder / "runs" / RUN)
    (job,) = slurm.queue()
    slurm.ask("scancel", "--signal=USR2", job)  # reaches both tasks, and one requeues
    slurm.emptied(200)
    assert [session["processes"] for session in sessions(folder / "runs" / RUN)] == [2, 2], outputs(folder)
    found, expected = (read_json(place / "runs" / RUN / "result.json") for place in (folder, long))
    assert found["images_seen"] == expected["images_seen"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    assert (folder / "runs" / RUN / "result.json").stat().st_size > 0 and outputs(folder).count(": done ") == 1


@in_one_worker
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--partition", "nowhere"), r"invalid partition.*\(partitions: debug, urgent\)"),
        (("--cpus", "5000"), "[Mm]ore processors requested than permitted|node configuration is not available"),
        (("--constraint", "moonlight"), "Invalid feature"),
        (("--memory", "1000000"), "[Mm]emory|node configuration is not available"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_refused_submission_is_one_line_and_leaves_nothing(
    tmp_path: Path, idle: None, asked: tuple[str, ...], words: str
) -> None:
    for study, folder in ((FOUR, tmp_path / "array"), (LONG, tmp_path / "one job")):
        done = here("run", *study, "--out", folder, "--cluster", "slurm", *asked)
        assert done.returncode == 2 and "submitted" not in done.stdout and done.stderr.count("\n") == 1, done.stderr
        assert re.match(f"ablations: --cluster slurm: .*({words})", done.stderr), done.stderr
        assert [path.name for path in folder.glob("cluster/*")] in ([], [".lock"])
    assert not slurm.queue()


@in_one_worker
def test_of_two_commands_at_once_each_run_is_submitted_by_one(tmp_path: Path, idle: None) -> None:
    command = ("run", *FOUR, "--out", tmp_path / "study", "--cluster", "slurm", "--jobs", "1")
    both = [started(*command)]
    until(lambda: (tmp_path / "study" / "study.yaml").exists() or both[0].poll() is not None)
    both.append(started(*command))
    said = [process.communicate(timeout=100) for process in both]
    assert all(process.returncode == 0 and err == "" for process, (_, err) in zip(both, said, strict=True)), said
    assert sum(map(int, re.findall(r": (\d) of 4 runs submitted", "".join(out for out, _ in said)))) == 4, said


@pytest.fixture
def arrays_of_three(idle: None) -> Iterator[None]:
    """Slurm with arrays of three jobs at most."""
    conf = Path(os.environ["SLURM_CONF"])
    before = conf.read_text()
    conf.write_text(f"{before}MaxArraySize=3\n")
    slurm.ask("scontrol", "reconfigure")
    until(lambda: largest_array() == 3)
    yield
    conf.write_text(before)
    slurm.ask("scontrol", "reconfigure")


@in_one_worker
def test_more_runs_than_an_array_may_have_are_several_arrays(
    tmp_path: Path, arrays_of_three: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submitted from within an allocation, whose variables would contradict those of the jobs."""
    for name in ("SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU", "SLURM_NTASKS", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "7")
    folder = tmp_path / "the lab's study, 50%"
    study: tuple[str | Path, ...] = (*FOUR[:-1], "max_epochs=1", "--seeds", "0,1", "--jobs", "2", "--memory", "0.5")
    study += ("--out", folder)
    submitted(*study, count=8)
    queued = slurm.queue()
    assert sorted(Counter(job.partition("_")[0] for job in queued).values()) == [2, 3, 3]
    submitted(*study, count=0)
    status = here("status", folder).stdout
    assert set(re.findall(r"\d+", status.partition("scancel ")[2])) == {job.partition("_")[0] for job in queued}
    most = 0
    until(lambda: len(slurm.queue()) < 8)
    deadline = time.monotonic() + 300
    while states := slurm.queue():
        most = max(most, Counter(states.values())["RUNNING"])
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert most <= 2 and len(exact(folder)) == 8, outputs(folder)


@in_one_worker
@pytest.mark.parametrize("time", ["7", "7:01", "1:02:03", "2-3", "2-3:04", "2-03:04:05", "0:30", "100:00:00"])
def test_slurm_itself_reads_a_time_as_we_do(idle: None, time: str) -> None:
    said = slurm.ask("sbatch", "--hold", "-o", "/dev/null", "-t", time, "--wrap", "true")
    (found,) = re.findall(r"TimeLimit=(\S+)", slurm.ask("scontrol", "show", "job", said.split()[-1]))
    days, _, clock = found.rpartition("-")
    hours, mins, seconds = map(int, clock.split(":"))
    assert seconds == 0 and minutes(time) == (int(days or 0) * 24 + hours) * 60 + mins


# ---- what is asked of a cluster


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_each_of_slurms_formats_is_read_in_minutes_and_a_minute_begun_counts(d: int, h: int, m: int, s: int) -> None:
    begun = s > 0
    assert minutes(m) == minutes(f"{m}") == m
    assert minutes(f"{m}:{s:02}") == m + begun
    assert minutes(f"{h}:{m:02}:{s:02}") == 60 * h + m + begun
    assert minutes(f"{d}-{h}") == 1440 * d + 60 * h
    assert minutes(f"{d}-{h}:{m:02}") == 1440 * d + 60 * h + m
    assert minutes(f"{d}-{h:02}:{m:02}:{s:02}") == 1440 * d + 60 * h + m + begun


@given(st.from_regex(r"[0-9:\-a-z. ]{0,12}", fullmatch=True))
def test_what_is_no_format_of_slurms_is_no_time(text: str) -> None:
    formats = (r"\d+", r"\d+:\d+", r"\d+:\d+:\d+", r"\d+-\d+", r"\d+-\d+:\d+", r"\d+-\d+:\d+:\d+")
    if not any(re.fullmatch(form, text) for form in formats):
        assert minutes(text) == 0


@given(st.integers(0, 3000), st.integers(1, 1200), st.integers(1, 300))
def test_arrays_have_every_job_once_and_run_no_more_at_once_than_asked(runs: int, largest: int, jobs: int) -> None:
    work: list[Any] = [SimpleNamespace(number=number) for number in range(runs)]
    found = arrays(work, largest, jobs)
    assert [one.number for array in found for one in array.work] == list(range(runs))  # type: ignore[attr-defined]
    assert all(0 < len(array.work) <= largest and array.at_once > 0 for array in found)
    lanes = {array.lane: array.at_once for array in found}
    assert all(array.at_once == lanes[array.lane] for array in found)
    assert sum(lanes.values()) == (jobs if runs else 0)
    assert max(map(len, (array.work for array in found)), default=0) - runs / max(len(found), 1) < 1


def test_what_accounting_allows_is_submitted_and_the_rest_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"id": "me\n", "sacctmgr": "|\n4|20\n", "squeue": "7_0\n", "scontrol": "MaxArraySize            = 2\n"}
    sent: list[int] = []

    def submit(executor: Any, place: Path, work: Sequence[Job]) -> list[str]:
        sent.append(len(work))
        return [f"{len(sent)}_{number}" for number in range(len(work))]

    monkeypatch.setattr("ablations.launch.slurm.check_slurm", lambda: None)
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("ablations.launch.slurm._ask", lambda *command: answers.get(command[0]))
    monkeypatch.setattr("ablations.launch.slurm._submit_array", submit)
    done = here("run", *FOUR, "--out", tmp_path / "study", "--cluster", "slurm")
    assert done.returncode == 1 and sent == [1, 2]
    assert done.stderr.startswith(
        "ablations: --cluster slurm: the cluster takes 3 more jobs of yours; 3 of 4 runs subm"
    )
    assert len(json.loads((tmp_path / "study/cluster/jobs.json").read_text())) == 3


def test_an_array_that_is_refused_after_others_is_one_line_and_the_others_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []

    def submit(executor: Any, place: Path, work: Sequence[Job]) -> list[str]:
        sent.append(len(work))
        if len(sent) == 2:
            raise RequestError("--cluster slurm: Job violates accounting/QOS policy")
        return [f"5_{number}" for number in range(len(work))]

    monkeypatch.setattr("ablations.launch.slurm.check_slurm", lambda: None)
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("ablations.launch.slurm._ask", lambda *command: None)
    monkeypatch.setattr("ablations.launch.slurm.largest_array", lambda: 3)
    monkeypatch.setattr("ablations.launch.slurm._submit_array", submit)
    done = here("run", *FOUR, "--out", tmp_path / "study", "--cluster", "slurm")
    assert done.returncode == 1 and done.stderr == (
        "ablations: --cluster slurm: Job violates accounting/QOS policy; 2 of 4 runs submitted: rerun the command when "
        "jobs have finished\n"
    )
    assert set(json.loads((tmp_path / "study/cluster/jobs.json").read_text()).values()) == {"5_0", "5_1"}


def test_keys_of_the_block_that_only_slurm_has_are_said_on_this_machine(tmp_path: Path) -> None:
    block = "  partition: long\n  memory: 16\n  options: {qos: low}\n  time: 5\n"
    done = asking(tmp_path, block, "--cluster", "local")
    assert (done.returncode, done.stderr) == (0, "")
    words = "cluster: partition=long, memory=16.0, options={'qos': 'low'}: only for Slurm; --cluster local ignores it\n"
    assert words in done.stdout
    assert "ignores" not in asking(tmp_path, block, "--cluster", "slurm").stdout
    assert "ignores" not in asking(tmp_path, "  time: 5\n", "--cluster", "local").stdout


def test_a_folder_whose_name_slurm_would_change_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.launch.slurm.check_slurm", lambda: None)
    done = here("run", *LONG, "--out", tmp_path / "of%job", "--cluster", "slurm")
    assert done.returncode == 2 and "Slurm replaces '%j' in file names; choose another --out" in done.stderr


def asking(tmp_path: Path, block: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """A dry run of a study whose file has these lines under `cluster:`."""
    study = {"kind": "grid", "base": BASE[2], "flags": {"norm": ["bn", "ln"]}, "data": "digits"}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study) + "cluster:\n" + block)
    return here("run", tmp_path / "study.yaml", "--set", "image_size=16", "--dry-run", *flags)


def test_flags_stand_over_the_files_block_key_by_key(tmp_path: Path) -> None:
    block = "  partition: long\n  time: 12:30:00\n  memory: 16\n  options: {qos: low}\n"
    done = asking(tmp_path, block, "--cluster", "slurm", "--partition", "short", "--cpus", "4", "--jobs", "3")
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("one job per run on slurm, 3 at once")
    wanted = last.partition(": ")[2]
    assert set(wanted.split(", ")) == {
        "partition short", "time 12:30:00", "memory 16.0", "options {'qos': 'low'}", "cpus 4",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("block", "flags", "words"),
    [
        ("  partitoin: x\n", ("--cluster", "local"), "unknown key 'cluster.partitoin'"),
        (
            "  time: soon\n",
            ("--cluster", "local"),
            "'soon' is not a time; write minutes, or days-hours:minutes:seconds",
        ),
        ("  time: 0\n", ("--cluster", "local"), "0 is not a time"),
        ("  nodes: 0\n", ("--cluster", "local"), "cluster.nodes=0"),
        ("  cpus: 1\n", ("--cluster", "local", "--time", "1:2:3:4"), "'1:2:3:4' is not a time"),
        ("  time: yes\n", ("--cluster", "slurm"), "'yes' is not a time"),
        ("  time: 800-0\n", ("--cluster", "slurm"), "'800-0' is longer than a year"),
        ("  memory: .inf\n", ("--cluster", "slurm"), "cluster.memory=inf"),
        ("  memory: yes\n", ("--cluster", "slurm"), "cluster.memory='yes': must be a valid number"),
        (
            "  cpus: 1\n",
            ("--cluster", "slurm", "--memory", "nan"),
            "Invalid value for '--memory': 'nan' must be a number",
        ),
        ("  cpus: 1\n", ("--cluster", "slurm", "--partition", ""), "cluster.partition=''"),
        ("  options: {job_name: x}\n", ("--cluster", "slurm"), "cluster.options: job_name: every job sets it"),
        ("  options: {ntasks: 2}\n", ("--cluster", "slurm"), "cluster.options: ntasks: write it as cluster.processes"),
        ("  gpus: 2\n", ("--cluster", "slurm", "--processes", "4"), "processes=4: each needs a GPU"),
        ("  cpus: 1\n", ("--partition", "debug"), "--partition: only with --cluster slurm or --cluster local"),
        ("  processes: 3\n", ("--cluster", "local", "--set", "batch_size=32"), "is not divisible by 3 processes"),
    ],
)
def test_what_cannot_be_asked_is_one_line(tmp_path: Path, block: str, flags: tuple[str, ...], words: str) -> None:
    done = asking(tmp_path, block, *flags)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and words in done.stderr, done.stderr


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--nodes", "2"), "nodes=2: --cluster local uses this machine"),
        (("--gpus", "8", "--jobs", "9"), "gpus=8: 9 runs at once, but this machine has "),
        (("--partition", "debug"), "--partition: only with --cluster slurm"),
        (("--memory", "4"), "--memory: only with --cluster slurm"),
        (("--constraint", "moonlight"), "--constraint: only with --cluster slurm"),
        (("--device", "cpu"), "--device: not with --cluster; --gpus and --cpus set"),
        (("--threads", "1"), "--threads: not with --cluster"),
        (("--per-gpu", "2"), "--per-gpu: not with --cluster"),
    ],
)
def test_what_this_machine_cannot_give_a_job_is_one_line(
    tmp_path: Path, asked: tuple[str, ...], words: str, dry: tuple[str, ...]
) -> None:
    done = here("run", *LONG, "--out", tmp_path / "study", "--cluster", "local", *asked, *dry)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and words in done.stderr, done.stderr
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("kind", ["local", "slurm"])
def test_torchrun_has_no_business_with_a_clusters_jobs(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    done = here("run", *LONG, "--out", tmp_path / "study", "--cluster", kind)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ablations: --cluster: not under torchrun; each job starts its own processes\n"
    assert not (tmp_path / "study").exists()


def test_a_full_disk_is_no_refusal_and_what_others_wrote_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(command: list[str]) -> str:
        (tmp_path / "study" / "cluster" / "7_0_log.out").write_text("another job's")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ablations.launch.slurm.check_slurm", lambda: None)
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("submitit.core.utils.CommandFunction.__call__", full)
    done = here("run", *FOUR, "--out", tmp_path / "study", "--cluster", "slurm")
    assert done.returncode == 1 and "submitted" not in done.stdout and done.stderr.count("\n") == 1, done.stderr
    assert "No space left on device" in done.stderr and str(tmp_path / "study" / "cluster") in done.stderr
    assert {path.name for path in (tmp_path / "study" / "cluster").iterdir()} <= {".lock", "7_0_log.out"}


def test_without_sbatch_slurm_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    command = ("run", *LONG, "--out", tmp_path / "study", "--cluster", "slurm")
    assert here(*command, "--dry-run").returncode == 0
    done = here(*command)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "sbatch not found; use --cluster local" in done.stderr
    assert not (tmp_path / "study").exists()


# ---- this machine, by the same path


@pytest.fixture
def signals() -> Iterator[None]:
    """Puts back what a job does on signals."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_a_job_told_to_leave_while_it_waits_for_its_run_is_requeued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: None
) -> None:
    open_folder(long_study(), tmp_path / "study")
    requeued: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, _: requeued.append(number))  # as submitit's
    monkeypatch.setattr("ablations.launch.job._tell_torch_of_tasks", lambda: None)
    monkeypatch.setattr("time.sleep", lambda _: signal.raise_signal(signal.SIGUSR2))
    job = Job(tmp_path / "study", RUN, Path("unused"), on_gpu=False, threads=1, tensorboard=False)
    with locked(tmp_path / "study" / "runs" / RUN):
        job()
    assert requeued == [signal.SIGUSR2]


def jobs_of(folder: Path) -> dict[int, str]:
    """The command lines of the processes that a study's jobs have running, by number."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(folder / "cluster").encode() in words:
                found[int(entry.name)] = shlex.join(word.decode() for word in words)
    return found


@pytest.mark.linux
def test_jobs_of_this_machine_give_what_runs_give(tmp_path: Path, four: Path) -> None:
    folder = tmp_path / "study"
    done = ablations("run", *FOUR, "--out", folder, "--cluster", "local", "--jobs", "2")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr + outputs(folder)
    assert "4 of 4 runs submitted" in done.stdout
    assert exact(folder) == exact(four)
    again = here("run", *FOUR, "--out", folder, "--cluster", "local", "--jobs", "2")
    assert again.returncode == 0 and "0 of 4 runs submitted" in again.stdout
    assert not jobs_of(folder)


@pytest.mark.linux
@pytest.mark.parametrize("asked", [("setup",), ("--processes", "2")], ids=["setup", "two processes"])
def test_ctrl_c_stops_jobs_at_a_checkpoint_and_the_same_command_goes_on(
    tmp_path: Path, asked: tuple[str, ...], long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "study"
    arguments: tuple[str | Path, ...] = ("run", *RARELY, "--out", folder, "--cluster", "local")
    if asked == ("setup",):
        study = {
            "kind": "grid",
            "base": BASE[2],
            "flags": {"norm": ["ln"]},
            "cluster": {"setup": ["export TOLD='a b'"]},
        }
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
        place = LONG.index("--flags")
        arguments = (
            "run",
            tmp_path / "study.yaml",
            *RARELY[3:place],
            *RARELY[place + 2 :],
            *arguments[len(LONG) + 1 :],
        )
    else:
        arguments += asked
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # this machine may itself be a job of Slurm's
    process = started(*arguments, start_new_session=True)
    until(lambda: read_log(folder / "runs" / RUN) or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert err == "ablations: interrupted; rerun the command to resume\n"
    until(lambda: not jobs_of(folder), 5)
    assert len(checkpoints(folder / "runs" / RUN / "checkpoints")) == 1
    done = ablations(*arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    if asked == ("--processes", "2"):
        found, expected = (read_json(place / "runs" / RUN / "result.json") for place in (folder, long))
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        assert [session["processes"] for session in sessions(folder / "runs" / RUN)] == [2, 2]
    else:
        went_on(folder, RUN, long)


@pytest.mark.linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_that_was_killed_is_started_again_and_goes_on(tmp_path: Path, long: Path, number: int) -> None:
    """As is one out of time for the sixth time, after which submitit gives up."""
    folder = tmp_path / "study"
    process = started("run", *LONG, "--out", folder, "--cluster", "local")

    def tasks() -> list[int]:
        return [pid for pid, words in jobs_of(folder).items() if "submitit.core._submit" in words]

    if number == signal.SIGTERM:  # before its first log line, too
        until(lambda: tasks() or process.poll() is not None)
        os.kill(tasks()[0], number)
    half_way(folder / "runs" / RUN)
    (task,) = tasks()
    os.kill(task, number)
    out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, ""), out + err
    went_on(folder, RUN, long)


@given(st.integers(1, 3), st.lists(st.booleans(), max_size=12), st.integers(0, 9))
def test_no_gpu_is_given_to_two_jobs_and_none_lies_idle(each: int, ends: list[bool], first: int) -> None:
    there = list(range(first, first + 3 * each))
    taken: list[list[int]] = []
    for end in ends:
        if end and taken:
            taken.pop(0)
        elif len(taken) < 3:
            taken.append(free_gpus(there, taken, each))
        given_out = [gpu for gpus in taken for gpu in gpus]
        assert len(given_out) == len(set(given_out)) == each * len(taken) and set(given_out) <= set(there)


@pytest.mark.linux
def test_a_job_that_breaks_is_one_line_and_the_others_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    blocked = folder / "runs/norm=bn,activation=relu-s0/checkpoints"
    process = started("run", *FOUR, "--out", folder, "--cluster", "local")
    until(lambda: (folder / "study.yaml").exists() or process.poll() is not None)
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("in the way")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 1 and err.count("\n") == 1, out + err
    assert err.startswith("ablations: --cluster local: norm=bn,activation=relu-s0: ") and "Traceback" not in err
    assert "cannot be written" in err and str(folder / "cluster") in err
    assert len(exact(folder)) == 3
    assert read_study(folder).name == "grid" and not jobs_of(folder)
