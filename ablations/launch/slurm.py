"""Submit runs as jobs of a Slurm cluster, or run the same jobs on this machine, and find them again."""

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

from ablations.errors import RequestError, RunError, writing
from ablations.launch.estimate import describe_runs
from ablations.launch.job import Job
from ablations.launch.session import Session
from ablations.launch.signals import STOP, handled
from ablations.studies.folder import run_folder
from ablations.studies.run import finished
from ablations.studies.schema import Study
from ablations.studies.slurm_options import Cluster, minutes

if TYPE_CHECKING:
    import submitit

SIGNAL_SECONDS = 120  # a job gets a signal this long before its time limit: time for a step and a checkpoint
COMMAND_SECONDS = 15  # timeout of the cluster's own commands
AT_ONCE = 256  # jobs of a study that run at the same time on a cluster, by default
ALWAYS = 10_000  # requeues after a time limit


def check_here(study: Study, jobs: int) -> None:
    """Raise RequestError if this machine cannot give so many runs at once what they ask for."""
    asked = study.cluster or Cluster()
    if asked.nodes > 1:
        raise RequestError(f"cluster: nodes={asked.nodes}: --cluster local uses this machine; the valid value is 1")
    if asked.gpus:
        gpus = len(_gpus())
        if asked.gpus * jobs > gpus:
            raise RequestError(f"cluster: gpus={asked.gpus}: {jobs} runs at once, but this machine has {gpus} GPUs")


def check_slurm() -> None:
    """Raises RequestError where there is no Slurm."""
    if not (shutil.which("sbatch") and shutil.which("srun")):
        raise RequestError("--cluster slurm: there is no sbatch on this machine; --cluster local needs none")


def describe_plan(session: Session, kind: str, jobs: int) -> str:
    """Describe the runs and what their jobs ask for."""
    asked = session.study.cluster or Cluster()
    tasks = asked.nodes * asked.processes_each
    wanted = [f"{key} {value}" for key, value in asked.model_dump(exclude_defaults=True).items()]
    requests = f"one job per run on {kind}, {jobs} at once, {tasks} processes each: {', '.join(wanted) or 'defaults'}"
    return "\n".join([*describe_runs(session.study, session.load), requests])


def run_study(session: Session, kind: str, jobs: int) -> int:
    """Submit the unfinished runs of a study as jobs, at most `jobs` at once; return how many were submitted.

    With kind `local` the jobs run on this machine, and this waits for them. Raises RequestError if the cluster refuses
    them, RunError if files cannot be written or a job on this machine crashed.
    """
    asked = session.study.cluster or Cluster()
    with session.opened():
        return _run_here(asked, session, jobs) if kind == "local" else _submit(asked, session, jobs)


def _unfinished(asked: Cluster, session: Session) -> list[Job]:
    """Return a job per run that is neither finished nor in the queue."""
    folder, data_dir = session.folder.resolve(), session.data_dir.resolve()
    waiting = in_queue(folder)
    return [
        Job(folder, run.name, data_dir, on_gpu=asked.gpus > 0, threads=asked.cpus, tensorboard=session.tensorboard)
        for run in session.study.runs
        if not finished(run_folder(folder, run)) and run.name not in waiting
    ]


def _submit(asked: Cluster, session: Session, jobs: int) -> int:
    """Submit the unfinished runs as one array of jobs; return their number."""
    place = session.folder.resolve() / "cluster"
    with writing(f"--cluster slurm: {place}"):
        place.mkdir(exist_ok=True)
        with FileLock(place / ".lock"):  # of two commands at the same time, the second finds the first's jobs
            if work := _unfinished(asked, session):
                submitted = _submit_array(_executor(asked, session.study, place, jobs), place, work)
                _record(place.parent, dict(zip((job.run for job in work), submitted, strict=True)))
    return len(work)


def _executor(asked: Cluster, study: Study, place: Path, jobs: int) -> submitit.AutoExecutor:
    import submitit

    executor = submitit.AutoExecutor(place, cluster="slurm", slurm_max_num_timeout=ALWAYS)
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
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS)
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


def _run_here(asked: Cluster, session: Session, at_once: int) -> int:
    """Run jobs on this machine, wait for them, and return their number; raises RunError if one crashed."""
    import submitit

    folder, work = session.folder.resolve(), _unfinished(asked, session)
    executor = submitit.LocalExecutor(folder / "cluster", max_num_timeout=ALWAYS, python=_after(asked.setup))
    executor.update_parameters(
        timeout_min=minutes(asked.time),
        tasks_per_node=asked.processes_each,
        gpus_per_node=asked.gpus,
        stderr_to_stdout=True,
    )
    visible = _gpus() if asked.gpus else []
    waiting, broken = list(work), []
    running: dict[Any, _Started] = {}
    stops: list[int] = []
    with handled(lambda number, _: stops.append(number), *STOP):
        try:
            while running or (waiting and not stops):
                while waiting and len(running) < at_once and not stops:
                    job = waiting.pop(0)
                    gpus = free_gpus(visible, (begun.gpus for begun in running.values()), asked.gpus)
                    executor.update_parameters(visible_gpus=gpus)
                    begun = _Started(job, gpus, _step(job))
                    # Ctrl-C reaches the whole terminal, but only this process stops the job.
                    with handled(signal.SIG_IGN, signal.SIGINT):
                        running[executor.submit(job)] = begun
                if stops:
                    for one in running:
                        one._process.send_signal(signal.SIGTERM)  # its controller forwards it
                for one in [one for one in running if one.done()]:
                    begun = running.pop(one)
                    if _goes_on(one, begun) and not stops:
                        waiting.insert(0, begun.job)
                    elif (error := one.exception()) is not None:
                        broken.append(f"{begun.job.run}: {_last_line(error)}")
                time.sleep(0.2)
        finally:
            for one in running:
                one._process.terminate()
    if stops:
        raise KeyboardInterrupt
    if broken:
        raise RunError(f"--cluster local: {broken[0]}; its output is in {folder / 'cluster'}")
    return len(work)


def _after(setup: Sequence[str]) -> str:
    """How a task starts Python: after these shell lines, and in the shell's place, so that signals reach it.

    With submitit's own setup they would reach the shell alone.
    """
    if not setup:
        return shlex.quote(sys.executable)
    return shlex.join(["bash", "-ec", "\n".join([*setup, 'exec "$0" "$@"']), sys.executable])


def _last_line(error: Exception) -> str:
    """Return the last line of a job's traceback."""
    lines = [line.strip() for line in str(error).splitlines()]
    return [line for line in lines if line and not line.startswith(("---", "- ", "You can check"))][-1]
