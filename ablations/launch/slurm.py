"""Runs as jobs of a Slurm cluster, or of this machine by the same path: submitted, requeued and found again."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ablations.errors import RequestError, RunError
from ablations.studies.folder import run_folder
from ablations.studies.run import finished
from ablations.studies.schema import Study
from ablations.studies.slurm_options import Cluster, minutes
from ablations.training.callbacks import Callbacks, NullCallbacks

if TYPE_CHECKING:
    import submitit

SIGNAL_SECONDS = 120  # before a time limit, a job is told: time for a step and a checkpoint
PATIENCE = 600  # seconds a job that was told to end holds still for, to be killed or requeued
ASKED_SECONDS = 15  # for an answer of the cluster's own commands
ALWAYS = 10_000  # requeues after a time limit


@dataclass(frozen=True)
class Job:
    """One run of a study, carried out wherever this is called: in each task of a cluster's job."""

    study: Path
    run: str
    data_dir: Path
    on_gpu: bool
    threads: int
    tensorboard: bool

    def __call__(self) -> str:
        """Trains the run to its end and returns its status; told to leave, writes a checkpoint and is requeued."""
        from ablations.launch.claim import WAIT, Place, take
        from ablations.launch.in_process import own_device
        from ablations.machine import prepare_process
        from ablations.studies.folder import read_study
        from ablations.studies.run import load_data, read_state
        from ablations.training.distributed import joined
        from ablations.training.trainer import Interrupted

        _tell_torch_of_tasks()
        prepare_process(self.threads)
        device = own_device("cuda" if self.on_gpu else "cpu")
        run = {run.name: run for run in read_study(self.study).runs}[self.run]
        folder = run_folder(self.study, run)
        told = Told()
        try:
            with joined(device) as group:
                place = Place(self.data_dir, device, group, self.tensorboard)
                data = load_data(run, self.data_dir)
                callbacks = Log(told) if group.main else NullCallbacks(told)
                while take(run, folder, data, place, callbacks) is None:
                    if group.by_main(lambda: finished(folder)):
                        break
                    if group.any(told())[0]:
                        raise Interrupted
                    time.sleep(WAIT)  # an earlier start of this job may not be quite dead
        except Interrupted:
            told.leave()
        return read_state(folder).status

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What submitit puts in the queue again: the same job, which goes on from the run's folder."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class Told:
    """What the cluster has told a job: to leave, being preempted or out of time, or that it is about to be ended."""

    def __init__(self) -> None:
        self.leaving = self.ending = False
        self.requeue: Any = signal.getsignal(signal.SIGUSR2)  # submitit's
        signal.signal(signal.SIGUSR2, self._on_leave)
        signal.signal(signal.SIGTERM, self._on_end)

    def __call__(self) -> bool:
        return self.leaving or self.ending

    def _on_leave(self, *_: object) -> None:
        self.leaving = True

    def _on_end(self, *_: object) -> None:
        self.ending = True

    def leave(self) -> None:
        """Has the job requeued; on Slurm one that was cancelled, or is preempted without a word, holds still."""
        if self.leaving:
            self.requeue(signal.SIGUSR2, None)
        if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":  # this machine may itself be a job of Slurm's
            time.sleep(PATIENCE)  # ending by itself, it would not be requeued


class Log(Callbacks):
    """Print a job's progress to its output, which submitit keeps."""

    def start(self, run: str) -> None:
        self.run = run
        self.warn("started")

    def log(self, line: dict[str, Any]) -> None:
        self.warn(f"step {line['step']} of {line['steps']}, loss {line['loss']:.4f}")

    def end(self, result: dict[str, Any]) -> None:
        self.warn(f"{result['status']} {result.get('top1', result.get('reason'))}")

    def warn(self, message: str) -> None:
        print(f"{self.run}: {message}", flush=True)


def _tell_torch_of_tasks() -> None:
    """Gives torch what torchrun would have, in a job of several tasks."""
    import submitit

    if submitit.JobEnvironment().num_tasks > 1:
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def check_here(asked: Cluster, jobs: int) -> None:
    """Raises RequestError where this machine cannot give so many runs at once what they ask for."""
    if asked.nodes > 1:
        raise RequestError(f"cluster: nodes={asked.nodes}: --cluster local is this machine; the right value is 1")
    if asked.gpus:
        there = len(_gpus())
        if asked.gpus * jobs > there:
            raise RequestError(f"cluster: gpus={asked.gpus}: {jobs} runs at once; this machine has {there} GPUs")


def check_slurm() -> None:
    """Raises RequestError where there is no Slurm."""
    if not (shutil.which("sbatch") and shutil.which("srun")):
        raise RequestError("--cluster slurm: there is no sbatch on this machine; --cluster local needs none")


def describe_jobs(asked: Cluster, kind: str, jobs: int) -> str:
    """What each run asks for, in a line."""
    tasks = asked.nodes * asked.processes_each
    wanted = [f"{key} {value}" for key, value in asked.model_dump(exclude_defaults=True).items()]
    return f"one job a run on {kind}, {jobs} at once, {tasks} processes each: {', '.join(wanted) or 'nothing special'}"


def submit(study: Study, folder: Path, data_dir: Path, kind: str, jobs: int, tensorboard: bool) -> list[str]:
    """Submits the runs that are neither done nor in the queue, as one array of jobs; the names of those submitted.

    With `local` the jobs run on this machine, `jobs` at once, and are waited for. Raises RequestError where the cluster
    refuses, RunError where files cannot be written or a job of this machine broke.
    """
    asked = study.cluster or Cluster()
    place, data_dir = folder.resolve(), data_dir.resolve()

    def left() -> list[Job]:
        waiting = set(in_queue(place))
        names = [run.name for run in study.runs if not finished(run_folder(place, run)) and run.name not in waiting]
        return [Job(place, name, data_dir, asked.gpus > 0, asked.cpus, tensorboard) for name in names]

    if kind == "local":
        work = left()
        _run_here(asked, place, work, jobs)
        return [job.run for job in work]
    try:
        (place / "cluster").mkdir(exist_ok=True)
        with FileLock(place / "cluster" / ".lock"):  # of two commands at once, the second finds the first's jobs
            if work := left():
                submitted = _submit_array(_executor(asked, study, place, jobs), place / "cluster", work)
                _record(place, dict(zip((job.run for job in work), submitted, strict=True)))
    except OSError as error:
        raise RunError(f"--cluster slurm: {place / 'cluster'}: {error.strerror or error}") from error
    return [job.run for job in work]


def _executor(asked: Cluster, study: Study, folder: Path, jobs: int) -> submitit.AutoExecutor:
    import submitit

    executor = submitit.AutoExecutor(folder / "cluster", cluster="slurm", slurm_max_num_timeout=ALWAYS)
    limit = minutes(asked.time)
    options: dict[str, Any] = {
        "name": "".join(letter if letter.isalnum() else "-" for letter in study.name),
        "timeout_min": limit,
        "nodes": asked.nodes,
        "tasks_per_node": asked.processes_each,
        "cpus_per_task": asked.cpus,
        "stderr_to_stdout": True,
        "slurm_array_parallelism": jobs,
        "slurm_signal_delay_s": min(SIGNAL_SECONDS, limit * 20),
        "slurm_partition": asked.partition,
        "slurm_constraint": asked.constraint,
        "slurm_setup": asked.setup or None,
        "slurm_srun_args": ["--kill-on-bad-exit=1"],  # the others would wait for a process that died
        "slurm_additional_parameters": asked.options or None,
        "gpus_per_node": asked.gpus or None,
        "mem_gb": asked.memory,
    }
    executor.update_parameters(**{key: value for key, value in options.items() if value is not None})
    return executor


def _submit_array(executor: submitit.AutoExecutor, folder: Path, work: Sequence[Job]) -> list[str]:
    """Submits jobs as one array; their numbers. Raises RequestError with the cluster's own words."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    before = _unsubmitted(folder)
    try:
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():  # what sbatch says is said below
            jobs = [executor.submit(job) for job in work]
    except (FailedJobError, FailedSubmissionError, subprocess.SubprocessError, OSError) as error:
        for path in _unsubmitted(folder) - before:
            with contextlib.suppress(OSError):
                path.unlink()
        if isinstance(error, OSError):
            raise
        raise RequestError(f"--cluster slurm: {_words(error)}{_partitions()}") from None
    return [job.job_id for job in jobs]


def _unsubmitted(folder: Path) -> set[Path]:
    """What submitit wrote for jobs that have no number."""
    return {
        path for path in folder.iterdir() if re.fullmatch(r"[0-9a-f]{32}\.pkl|\.submission_file_\w+\.sh", path.name)
    }


def _words(error: Exception) -> str:
    """What sbatch said, on one line."""
    said = getattr(error, "stderr", None) or str(error)
    said = said.decode(errors="replace") if isinstance(said, bytes) else said
    lines = [line.strip() for line in said.splitlines() if "error" in line.lower()] or said.split("\n")[:1]
    return "; ".join(dict.fromkeys(line.removeprefix("sbatch: error: ") for line in lines))


def _partitions() -> str:
    """The partitions there are, where the cluster says."""
    found = sorted(set((_ask("sinfo", "-h", "-o", "%R") or "").split()))
    return f" (its partitions: {', '.join(found)})" if found else ""


def _ask(*command: str) -> str | None:
    """What a command of the cluster answers, or None where it is missing, fails or does not answer in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASKED_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


# ---- what was submitted


def _record(folder: Path, submitted: dict[str, str]) -> None:
    """Keeps which job is which run's, for those that ask later."""
    from ablations.store import write_bytes

    known = _recorded(folder) | submitted
    (folder / "cluster").mkdir(exist_ok=True)
    write_bytes(folder / "cluster" / "jobs.json", (json.dumps(known, indent=1) + "\n").encode())


def _recorded(folder: Path) -> dict[str, str]:
    """The job last submitted for each run."""
    try:
        return json.loads((folder / "cluster" / "jobs.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def in_queue(folder: Path) -> dict[str, str]:
    """The state, in Slurm's words and with its reason, of each run in the queue; none where that cannot be asked."""
    jobs = _recorded(folder)
    answer = _ask("squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i %T %r") if jobs else None
    states = {}
    for line in (answer or "").splitlines():
        job, state, reason = (line.split(maxsplit=2) + [""] * 3)[:3]
        states[job] = state.lower() + (f" ({reason})" if reason not in ("", "None") else "")
    return {run: states[job] for run, job in jobs.items() if job in states}


def describe_queue(folder: Path) -> str | None:
    """How many of a study's jobs the cluster has, by state; None where none were ever submitted."""
    if not _recorded(folder):
        return None
    counts = Counter(in_queue(folder).values())
    return f"in the cluster's queue: {', '.join(f'{n} {state}' for state, n in counts.items()) or 'no jobs'}"


# ---- jobs of this machine


def _gpus() -> list[int]:
    """The numbers of the GPUs that this process may use; raises RequestError where they go by other names."""
    import torch

    there, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        return [int(number) for number in visible.split(",")[:there]] if visible else list(range(there))
    except ValueError:
        raise RequestError(f"CUDA_VISIBLE_DEVICES={visible}: --cluster local takes numbers, such as 0,1") from None


def free_gpus(there: Sequence[int], taken: Iterable[Sequence[int]], count: int) -> list[int]:
    """The first so many of the GPUs that are there and that nobody has taken."""
    busy = set(itertools.chain.from_iterable(taken))
    return [gpu for gpu in there if gpu not in busy][:count]


@dataclass(frozen=True)
class _Started:
    """A job of this machine, the GPUs it has, and how far its run was when it started."""

    job: Job
    gpus: Sequence[int]
    step: int


def _step(job: Job) -> int:
    """How far a job's run has come, by its log."""
    from ablations.store import read_log

    log = read_log(job.study / "runs" / job.run)
    return log[-1]["step"] if log else 0


def _goes_on(ended: Any, begun: _Started) -> bool:
    """Whether a job that ended without a word got on: submitit starts one that is out of time six times, not more."""
    unfinished = not finished(begun.job.study / "runs" / begun.job.run)
    return unfinished and not ended.task(0).paths.result_pickle.exists() and _step(begun.job) > begun.step


def _run_here(asked: Cluster, folder: Path, work: Sequence[Job], at_once: int) -> None:
    """Runs jobs on this machine, so many at once, and waits for them; raises RunError where one broke."""
    import submitit

    executor = submitit.LocalExecutor(folder / "cluster", max_num_timeout=ALWAYS, python=_after(asked.setup))
    executor.update_parameters(
        timeout_min=minutes(asked.time),
        tasks_per_node=asked.processes_each,
        gpus_per_node=asked.gpus,
        stderr_to_stdout=True,
    )
    there = _gpus() if asked.gpus else []
    waiting, broken = list(work), []
    running: dict[Any, _Started] = {}
    asked_to_stop: list[int] = []
    previous = {number: signal.signal(number, lambda number, _: asked_to_stop.append(number)) for number in _STOPS}
    try:
        while running or (waiting and not asked_to_stop):
            while waiting and len(running) < at_once and not asked_to_stop:
                job = waiting.pop(0)
                gpus = free_gpus(there, (begun.gpus for begun in running.values()), asked.gpus)
                executor.update_parameters(visible_gpus=gpus)
                begun = _Started(job, gpus, _step(job))
                running[_submit_deaf(executor, job)] = begun
            if asked_to_stop:
                for one in running:
                    one._process.send_signal(signal.SIGTERM)  # its controller hands it on
            for one in [one for one in running if one.done()]:
                begun = running.pop(one)
                if _goes_on(one, begun) and not asked_to_stop:
                    waiting.insert(0, begun.job)
                elif (error := one.exception()) is not None:
                    broken.append(f"{begun.job.run}: {_last_word(error)}")
            time.sleep(0.2)
    finally:
        for one in running:
            one._process.terminate()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if asked_to_stop:
        raise KeyboardInterrupt
    if broken:
        raise RunError(f"--cluster local: {broken[0]}; its output is in {folder / 'cluster'}")


def _after(setup: Sequence[str]) -> str:
    """How a task starts Python: after these shell lines, and in the shell's place, so that signals reach it.

    With submitit's own setup they would reach the shell alone.
    """
    if not setup:
        return shlex.quote(sys.executable)
    return shlex.join(["bash", "-ec", "\n".join([*setup, 'exec "$0" "$@"']), sys.executable])


def _last_word(error: Exception) -> str:
    """What a job's traceback ends with."""
    lines = [line.strip() for line in str(error).splitlines()]
    return [line for line in lines if line and not line.startswith(("---", "- ", "You can check"))][-1]


_STOPS = (signal.SIGINT, signal.SIGTERM)


def _submit_deaf(executor: submitit.LocalExecutor, job: Job) -> Any:
    """Starts a job that does not hear Ctrl-C, which reaches the whole terminal: it is told to stop by this process."""
    listening = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return executor.submit(job)
    finally:
        signal.signal(signal.SIGINT, listening)
