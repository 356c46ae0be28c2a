"""Launch a study's runs, here or as jobs, or only describe them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from ablations.errors import RequestError, writing
from ablations.streams import say
from ablations.training.distributed import is_main, processes

if TYPE_CHECKING:
    from ablations.launch.session import Session


@dataclass(frozen=True)
class Launcher:
    """A way to train a study's runs.

    Attributes:
        check: Raises RequestError if it cannot train a study, or, unless it is only planned, cannot train here at all.
        plan: Describes what it would train.
        total: Describes the time, or the jobs, of several studies.
        launch: Trains what is left of an opened study; returns the exit status.
    """

    check: Callable[[Session, bool], None]
    plan: Callable[[Session], str]
    total: Callable[[Iterable[Session]], str]
    launch: Callable[[Session], int]


def here(device: str, *, threads: int | None, **in_parallel: int | None) -> Launcher:
    """Return the launcher of this machine; raises RequestError if it lacks what is asked for."""
    from ablations.machine import Machine

    machine = Machine.plan(device, threads=threads, **in_parallel)

    def check(session: Session, dry_run: bool) -> None:
        if machine.devices == ("cpu",):
            from ablations.training.gpu_arithmetic import check_arithmetic

            for recipe in session.study.recipes.values():
                check_arithmetic("cpu", recipe.precision)

    def plan(session: Session) -> str:
        from ablations.launch.estimate import describe_plan

        return describe_plan(session, machine, processes(), time.process_time())  # it has loaded what a worker does

    def total(sessions: Iterable[Session]) -> str:
        from ablations.launch.estimate import describe_time, estimate_time

        start = time.process_time()
        return describe_time(
            [estimate_time(one, machine, processes()) for one in sessions], machine, processes(), start
        )

    def launch(session: Session) -> int:
        if processes() > 1:
            from ablations.launch.in_process import run_together

            run_together(session, device, threads)
        else:
            from ablations.launch.pool import run_study
            from ablations.studies.folder import run_folder
            from ablations.studies.older import thread_notices

            folders = (run_folder(session.folder, run) for run in session.study.runs)
            for notice in thread_notices(machine.devices[0], machine.threads, folders):
                say(f"{session.study.name}: {notice}")
            run_study(session, machine)
        return _report_failures(session)

    return Launcher(check, plan, total, launch)


def as_jobs(kind: str, jobs: int | None) -> Launcher:
    """Return the launcher of jobs, on Slurm or on this machine."""
    from ablations.launch import slurm

    at_once = jobs or (slurm.AT_ONCE if kind == "slurm" else 1)

    def check(session: Session, dry_run: bool) -> None:
        if kind == "local":
            slurm.check_here(session.study, at_once)
            if (text := slurm.ignored_here(session.study)) is not None:
                say(f"{session.study.name}: {text}")
        elif not dry_run:
            slurm.check_slurm()

    def total(sessions: Iterable[Session]) -> str:
        return "\n".join(dict.fromkeys(slurm.describe_jobs(one.study, kind, at_once) for one in sessions))

    def launch(session: Session) -> int:
        count = slurm.run_study(session, kind, at_once)
        total = len(session.study.runs)
        say(f"{session.study.name}: {count} of {total} runs submitted; ablations status {session.folder}")
        return _report_failures(session) if kind == "local" else 0

    return Launcher(check, lambda session: slurm.describe_plan(session, kind, at_once), total, launch)


def run_study(session: Session, launcher: Launcher, dry_run: bool) -> int:
    """Run a study, or only describe it; return the exit status."""
    launcher.check(session, dry_run)
    if dry_run:
        if is_main():
            click.echo(launcher.plan(session))
        return 0
    return run_stages(open_study(session), launcher)


def open_study(session: Session, one_of_several: bool = False) -> Session:
    """Open a study's folder, printing what becomes of the request; return the session with what the folder holds."""
    from ablations.recipes import newer_settings
    from ablations.studies.folder import open_folder, planned, read_study, run_folder
    from ablations.studies.older import older_batch, older_versions
    from ablations.studies.precision import describe_power, further_look

    study = session.study
    few = len(study.seeds) < 3 and study.precision is None and not one_of_several  # whose mean has verdicts of its own
    with writing(f"study folder {session.folder}"):
        whole = planned(study, session.folder)
        before = read_study(session.folder) if (session.folder / "study.yaml").exists() else whole
    look = further_look(before, whole)
    power = describe_power(whole) if few or (look and not one_of_several) else None
    for words in filter(None, [look, power]) if is_main() else ():
        say(f"{study.name}: {words}")
    session = replace(session, study=open_folder(study, session.folder))
    if is_main():
        opened = session.study.recipes  # under the names that the folder gives them
        pairs = [(name, recipe, opened[name]) for name, recipe in study.recipes.items() if name in opened]
        newer = sorted(filter(None, {newer_settings(*pair) for _, *pair in pairs}))
        for older in (*newer, *filter(None, (older_batch(*pair) for pair in pairs))):
            say(f"{study.name}: {older}")
        for row in session.study.rows:
            if row.same_as:
                say(f"{study.name}: {row.row} has the design and recipe of {row.same_as}, so they share their runs")
        for older in older_versions(run_folder(session.folder, run) for run in session.study.runs):
            say(f"{study.name}: {older}")
    return session


def run_stages(session: Session, launcher: Launcher) -> int:
    """Run an opened study, then the seeds that its precision turns out to need; return the last exit status."""
    from ablations.studies.precision import add_needed_seeds, describe_precision

    while True:
        status = launcher.launch(session)
        enlarged = add_needed_seeds(session.folder)
        if is_main() and enlarged.stages != session.study.stages and (text := describe_precision(enlarged)):
            say(f"{enlarged.name}: {text}")
        if enlarged.runs == session.study.runs:
            return status
        session = replace(session, study=enlarged, retry_failed=False)


def check_launcher(kind: str | None, jobs: int | None, options: list[str], resources: dict[str, Any]) -> None:
    """Raise RequestError for an option that the chosen way of launching does not support."""
    if kind is None:
        if resources:
            raise RequestError(f"--{next(iter(resources))}: only with --cluster slurm or --cluster local")
        if processes() > 1 and (jobs or "per-gpu" in options):
            raise RequestError("--jobs and --per-gpu: not under torchrun, where all processes train each run together")
        return
    if processes() > 1:
        raise RequestError("--cluster: not under torchrun; each job starts its own processes")
    if options:
        raise RequestError(f"--{options[0]}: not with --cluster; --gpus and --cpus set what each job has")
    for option in ("partition", "constraint", "memory"):
        if kind == "local" and option in resources:
            raise RequestError(f"--{option}: only with --cluster slurm")


def _report_failures(session: Session) -> int:
    """Print which runs failed; return the exit status."""
    from ablations.studies.results import failures

    failed = failures(session.study, session.folder)
    for run, reason in failed:
        if is_main():
            click.echo(f"ablations: run {run} failed: {reason}", err=True)
    return 1 if failed else 0
