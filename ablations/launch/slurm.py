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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ablations.errors import RequestError, RunError, writing
from ablations.launch.job import Job
from ablations.launch.session import Session
from ablations.launch.signals import handled
from ablations.machine import STOP
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
FRUITLESS = 3  # starts of a job on this machine that signals end before a log line, after which it is given up
_SETTINGS = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_UMASK", "SLURM_EXIT_ERROR")


def check_here(study: Study, jobs: int) -> None:
    """Raise RequestError if this machine lacks the nodes or GPUs for that many runs at once."""
    cluster = study.cluster or Cluster()
    if cluster.nodes > 1:
        raise RequestError(f"cluster: nodes={cluster.nodes}: --cluster local uses this machine; the valid value is 1")
    if cluster.gpus:
        gpus = len(_gpus())
        if cluster.gpus * jobs > gpus:
            raise RequestError(f"cluster: gpus={cluster.gpus}: {jobs} runs at once, but this machine has {gpus} GPUs")


def ignored_here(study: Study) -> str | None:
    """Describe what the study's `cluster` block asks for that only Slurm can give; None if nothing."""
    given = (study.cluster or Cluster()).model_dump(include={"partition", "constraint", "memory", "options"})
    wanted = [f"{key}={value}" for key, value in given.items() if value]
    return f"cluster: {', '.join(wanted)}: only for Slurm; --cluster local ignores it" if wanted else None


def check_slurm() -> None:
    """Raise RequestError if Slurm is not installed."""
    if not (shutil.which("sbatch") and shutil.which("srun")):
        raise RequestError("--cluster slurm: sbatch not found; use --cluster local")


def describe_plan(session: Session, kind: str, jobs: int) -> str:
    """Describe the runs and what their jobs ask for."""
    from ablations.launch.estimate import describe_runs

    return "\n".join([*describe_runs(session), describe_jobs(session.study, kind, jobs)])


def describe_jobs(study: Study, kind: str, jobs: int) -> str:
    """Describe what the jobs of a study ask for."""
    cluster = study.cluster or Cluster()
    tasks = cluster.nodes * cluster.processes_each
    wanted = [f"{key} {value}" for key, value in cluster.model_dump(exclude_defaults=True).items()]
    return f"one job per run on {kind}, {jobs} at once, {tasks} processes each: {', '.join(wanted) or 'defaults'}"


def run_study(session: Session, kind: str, jobs: int) -> int:
    """Submit the unfinished runs of a study as jobs, at most `jobs` at once; return how many were submitted.

    With kind `local` the jobs run on this machine, and this waits for them. Raises RequestError if the cluster refuses
    them, RunError if files cannot be written or a job on this machine crashed.
    """
    cluster = session.study.cluster or Cluster()
    with session.opened():
        return _run_here(cluster, session, jobs) if kind == "local" else _submit(cluster, session, jobs)


def _unfinished(cluster: Cluster, session: Session) -> list[Job]:
    """Return a job per run that is neither finished nor in the queue."""
    folder, data_dir = session.folder.resolve(), session.data_dir.resolve()
    waiting = in_queue(folder)
    return [
        Job(
            folder,
            run.name,
            data_dir,
            on_gpu=cluster.gpus > 0,
            threads=cluster.cpus,
            tensorboard=session.tensorboard,
            wandb=session.wandb,
        )
        for run in session.study.runs
        if not finished(run_folder(folder, run)) and run.name not in waiting
    ]


def _submit(cluster: Cluster, session: Session, jobs: int) -> int:
    """Submit the unfinished runs as arrays of jobs; return their number."""
    place = session.folder.resolve() / "cluster"
    if pattern := re.search(r"%\d*[A-Za-z%]|[\\\n]", str(place)):
        raise RequestError(
            f"--cluster slurm: {place}: Slurm replaces {pattern[0]!r} in file names; choose another --out"
        )
    with writing(f"--cluster slurm: {place}"):
        place.mkdir(exist_ok=True)
        with FileLock(place / ".lock"):  # of two commands at the same time, the second finds the first's jobs
            work = _unfinished(cluster, session)
            room = _room(cluster)
            done = 0
            last: dict[int, str] = {}  # the last array of each lane
            for array in arrays(work[:room], largest_array(), jobs):
                executor = _executor(cluster, session.study, place, array.at_once, last.get(array.lane))
                try:
                    submitted = _submit_array(executor, place, array.work)
                except RequestError as error:
                    if not done:
                        raise
                    raise _refused(done, len(work), str(error)) from None
                _record(place.parent, dict(zip((job.run for job in array.work), submitted, strict=True)))
                last[array.lane] = submitted[0].partition("_")[0]
                done += len(array.work)
    if done < len(work):
        raise _refused(done, len(work), f"--cluster slurm: the cluster takes {room} more jobs of yours")
    return done


def _refused(done: int, wanted: int, reason: str) -> RunError:
    return RunError(f"{reason}; {done} of {wanted} runs submitted: rerun the command when jobs have finished")


@dataclass(frozen=True)
class Array:
    """Jobs submitted as one array: at most `at_once` run at the same time, after the previous array of the lane."""

    work: Sequence[Job]
    at_once: int
    lane: int


def arrays(work: Sequence[Job], largest: int, jobs: int) -> list[Array]:
    """Split jobs into arrays of about the same size, at most `largest`, that run at most `jobs` at once together.

    Arrays have limits of their own, so they are spread over lanes that share `jobs`; the arrays of a lane run one after
    the other.
    """
    count = -(-len(work) // largest)
    lanes = min(jobs, count)
    ends = [len(work) * number // count for number in range(1, count + 1)]
    return [
        Array(work[start:end], jobs // lanes + (number % lanes < jobs % lanes), number % lanes)
        for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]


def largest_array() -> int:
    """Return the number of jobs that one array may have on the cluster, which allows 1001 by default."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config") or "", re.MULTILINE)
    return max(int(match[1]), 1) if match else 1001


def _room(cluster: Cluster) -> int | None:
    """Return how many more jobs the cluster's accounting lets this user submit; None without a limit that is known."""
    user = _ask("id", "-un") or ""
    limits = _ask("sacctmgr", "-nP", "show", "assoc", f"user={user.strip()}", "format=MaxSubmitJobs,GrpSubmitJobs")
    if isinstance(qos := cluster.options.get("qos"), str):
        own = _ask("sacctmgr", "-nP", "show", "qos", qos, "format=MaxSubmitJobsPerUser,GrpSubmitJobs")
        limits = f"{limits or ''}\n{own or ''}"
    known = [int(limit) for limit in re.split(r"[|\s]+", limits or "") if limit.isdigit()]
    if not known:
        return None
    queued = _ask("squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i") or ""
    return max(min(known) - len(queued.split()), 0)


def _executor(
    cluster: Cluster, study: Study, place: Path, at_once: int, after: str | None = None
) -> submitit.AutoExecutor:
    """Make what submits an array of which `at_once` jobs run at the same time, once the array `after` has ended."""
    import submitit

    further = dict(cluster.options)
    if after is not None:
        further["dependency"] = ",".join(filter(None, [str(further.get("dependency", "")), f"afterany:{after}"]))
    executor = submitit.AutoExecutor(place, cluster="slurm", slurm_max_num_timeout=ALWAYS)
    limit = minutes(cluster.time)
    options: dict[str, Any] = {
        "name": "".join(letter if letter.isalnum() else "-" for letter in study.name),
        "timeout_min": limit,
        "nodes": cluster.nodes,
        "tasks_per_node": cluster.processes_each,
        "cpus_per_task": cluster.cpus,
        "stderr_to_stdout": True,
        "slurm_array_parallelism": at_once,
        "slurm_signal_delay_s": min(SIGNAL_SECONDS, limit * 20),
        "slurm_partition": cluster.partition,
        "slurm_constraint": cluster.constraint,
        "slurm_setup": cluster.setup or None,
        "slurm_srun_args": ["--kill-on-bad-exit=1"],  # other processes would wait for one that died
        "slurm_additional_parameters": further or None,
        "gpus_per_node": cluster.gpus or None,
        "mem_gb": cluster.memory,
    }
    executor.update_parameters(**{key: value for key, value in options.items() if value is not None})
    return executor


def _submit_array(executor: submitit.AutoExecutor, folder: Path, work: Sequence[Job]) -> list[str]:
    """Submit jobs as one array; return their numbers. Raises RequestError with the cluster's message."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    before = _unsubmitted(folder)
    try:
        # sbatch's message is reported below
        with contextlib.redirect_stderr(io.StringIO()), _outside_of_jobs(), executor.batch():
            jobs = [executor.submit(job) for job in work]
    except (FailedJobError, FailedSubmissionError, subprocess.SubprocessError, OSError) as error:
        for path in _unsubmitted(folder) - before:
            with contextlib.suppress(OSError):
                path.unlink()
        if isinstance(error, OSError):
            raise
        raise RequestError(f"--cluster slurm: {_message(error)}{_partitions()}") from None
    return [job.job_id for job in jobs]


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables of a job or an interactive allocation; the jobs would get them and contradict themselves."""
    own = {name: value for name, value in os.environ.items() if name.startswith("SLURM_") and name not in _SETTINGS}
    for name in own:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(own)


def _unsubmitted(folder: Path) -> set[Path]:
    """List the files that submitit wrote for jobs without a number."""
    return {
        path for path in folder.iterdir() if re.fullmatch(r"[0-9a-f]{32}\.pkl|\.submission_file_\w+\.sh", path.name)
    }


def _message(error: Exception) -> str:
    """Return sbatch's message on one line."""
    output = getattr(error, "stderr", None) or str(error)
    output = output.decode(errors="replace") if isinstance(output, bytes) else output
    lines = [line.strip() for line in output.splitlines() if "error" in line.lower()] or output.split("\n")[:1]
    return "; ".join(dict.fromkeys(line.removeprefix("sbatch: error: ") for line in lines))


def _partitions() -> str:
    """List the cluster's partitions, if it has sinfo."""
    names = sorted(set((_ask("sinfo", "-h", "-o", "%R") or "").split()))
    return f" (partitions: {', '.join(names)})" if names else ""


def _ask(*command: str) -> str | None:
    """Return the output of a cluster command; None if it is missing, fails or times out."""
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


# ---- what was submitted


def _record(folder: Path, submitted: dict[str, str]) -> None:
    """Record the job of each submitted run."""
    from ablations.store import write_bytes

    known = _recorded(folder) | submitted
    (folder / "cluster").mkdir(exist_ok=True)
    write_bytes(folder / "cluster" / "jobs.json", (json.dumps(known, indent=1) + "\n").encode())


def _recorded(folder: Path) -> dict[str, str]:
    """Return the last submitted job of each run."""
    try:
        return json.loads((folder / "cluster" / "jobs.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def in_queue(folder: Path) -> dict[str, str]:
    """Return Slurm's state and reason for each run in the queue; empty if Slurm does not answer."""
    jobs = _recorded(folder)
    answer = _ask("squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i %T %r") if jobs else None
    states = {}
    for line in (answer or "").splitlines():
        job, state, reason = (line.split(maxsplit=2) + [""] * 3)[:3]
        states[job] = state.lower() + (f" ({reason})" if reason not in ("", "None") else "")
    return {run: states[job] for run, job in jobs.items() if job in states}


def describe_queue(folder: Path) -> str | None:
    """Count a study's jobs in the queue by state; None if none were ever submitted."""
    if not _recorded(folder):
        return None
    states, jobs = in_queue(folder), _recorded(folder)
    counts = Counter(states.values())
    numbers = dict.fromkeys(jobs[run].partition("_")[0] for run in states)
    cancel = f"; to cancel them: scancel {' '.join(numbers)}" if numbers else ""
    return f"Slurm queue: {', '.join(f'{n} {state}' for state, n in counts.items()) or 'no jobs'}{cancel}"


# ---- jobs of this machine


def _gpus() -> list[int]:
    """Return the indices of the GPUs that this process may use; raises RequestError if they are not numbers."""
    import torch

    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        return [int(number) for number in visible.split(",")[:count]] if visible else list(range(count))
    except ValueError:
        raise RequestError(f"CUDA_VISIBLE_DEVICES={visible}: --cluster local needs GPU indices, such as 0,1") from None


def free_gpus(visible: Sequence[int], taken: Iterable[Sequence[int]], count: int) -> list[int]:
    """Return the first `count` GPUs that no job has taken."""
    busy = set(itertools.chain.from_iterable(taken))
    return [gpu for gpu in visible if gpu not in busy][:count]


@dataclass(frozen=True)
class _Started:
    """A job on this machine, its GPUs, and the training step of its run when it started."""

    job: Job
    gpus: Sequence[int]
    step: int


def _step(job: Job) -> int:
    """Return the last logged training step of a job's run."""
    from ablations.store import read_log

    log = read_log(job.study / "runs" / job.run)
    return log[-1]["step"] if log else 0


def _unfinished_without_error(ended: Any, job: Job) -> bool:
    """Whether a job was killed or stopped by a signal before its run had a result."""
    if finished(job.study / "runs" / job.run):
        return False
    return not ended.task(0).paths.result_pickle.exists() or ended.exception() is None


def _run_here(cluster: Cluster, session: Session, at_once: int) -> int:
    """Run jobs on this machine, wait for them, and return their number; raises RunError if one crashed."""
    import submitit

    folder, work = session.folder.resolve(), _unfinished(cluster, session)
    executor = submitit.LocalExecutor(folder / "cluster", max_num_timeout=ALWAYS, python=_after(cluster.setup))
    executor.update_parameters(
        timeout_min=minutes(cluster.time),
        tasks_per_node=cluster.processes_each,
        gpus_per_node=cluster.gpus,
        stderr_to_stdout=True,
    )
    visible = _gpus() if cluster.gpus else []
    waiting, broken = list(work), []
    running: dict[Any, _Started] = {}
    fruitless: Counter[str] = Counter()  # by run, starts in a row that a signal ended before a log line
    stops: list[int] = []
    with handled(lambda number, _: stops.append(number), *STOP):
        try:
            while running or (waiting and not stops):
                while waiting and len(running) < at_once and not stops:
                    job = waiting.pop(0)
                    gpus = free_gpus(visible, (begun.gpus for begun in running.values()), cluster.gpus)
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
                    ended_early = _unfinished_without_error(one, begun.job)
                    run = begun.job.run
                    fruitless[run] = 0 if _step(begun.job) > begun.step else fruitless[run] + 1
                    if ended_early and fruitless[run] < FRUITLESS and not stops:  # submitit does so six times only
                        waiting.insert(0, begun.job)
                    elif (error := one.exception()) is not None:
                        broken.append(f"{run}: {_last_line(error)}")
                    elif ended_early:
                        broken.append(f"{run}: stopped by a signal; rerun to resume")
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
    """Return the command that starts Python after the setup lines.

    Python replaces the shell, so that signals reach it; submitit's own setup would keep the shell.
    """
    if not setup:
        return shlex.quote(sys.executable)
    return shlex.join(["bash", "-ec", "\n".join([*setup, 'exec "$0" "$@"']), sys.executable])


def _last_line(error: Exception) -> str:
    """Return the last line of a job's traceback."""
    lines = [line.strip() for line in str(error).splitlines()]
    return [line for line in lines if line and not line.startswith(("---", "- ", "You can check"))][-1]
