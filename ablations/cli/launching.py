"""Launch a study's runs, here or as jobs, or only describe them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ablations.errors import RequestError, writing
from ablations.streams import say
from ablations.training.distributed import is_main, processes

if TYPE_CHECKING:
    from ablations.launch.session import Session


def run_here(session: Session, dry_run: bool, *, device: str, threads: int | None, **in_parallel: int | None) -> int:
    """Run a study on this machine, or only describe it; return the exit status."""
    from ablations.machine import Machine

    machine = Machine.plan(device, threads=threads, **in_parallel)
    if machine.devices == ("cpu",):
        from ablations.training.gpu_arithmetic import check_arithmetic

        for recipe in session.study.recipes.values():
            check_arithmetic("cpu", recipe.precision)
    if dry_run:
        from ablations.launch.estimate import describe_plan

        if is_main():
            start = time.process_time()  # this process has loaded what a worker does
            click.echo(describe_plan(session, machine, processes(), start))
        return 0

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

    return _run_stages(session, launch)


def run_jobs(session: Session, dry_run: bool, kind: str, jobs: int | None) -> int:
    """Run a study as jobs, or only describe them; return the exit status."""
    from ablations.launch import slurm

    jobs = jobs or (slurm.AT_ONCE if kind == "slurm" else 1)
    if kind == "local":
        slurm.check_here(session.study, jobs)
        if (text := slurm.ignored_here(session.study)) is not None:
            say(f"{session.study.name}: {text}")
    if dry_run:
        click.echo(slurm.describe_plan(session, kind, jobs))
        return 0
    if kind == "slurm":
        slurm.check_slurm()

    def launch(session: Session) -> int:
        count = slurm.run_study(session, kind, jobs)
        total = len(session.study.runs)
        say(f"{session.study.name}: {count} of {total} runs submitted; ablations status {session.folder}")
        return _report_failures(session) if kind == "local" else 0

    return _run_stages(session, launch)


def _run_stages(session: Session, launch: Callable[[Session], int]) -> int:
    """Run a study, then the seeds that its precision turns out to need; return the last exit status."""
    from ablations.recipes import newer_settings
    from ablations.studies.folder import open_folder, planned, read_study, run_folder
    from ablations.studies.older import older_batch, older_versions
    from ablations.studies.precision import add_needed_seeds, describe_power, describe_precision, further_look

    study = session.study
    few = len(study.seeds) < 3 and study.precision is None
    with writing(f"study folder {session.folder}"):
        whole = planned(study, session.folder)
        before = read_study(session.folder) if (session.folder / "study.yaml").exists() else whole
    look = further_look(before, whole)
    for words in filter(None, [look, describe_power(whole) if few or look else None]) if is_main() else ():
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
    while True:
        status = launch(session)
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
