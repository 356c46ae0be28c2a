"""Run a study of several studies, one after the other, and print what they say together."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ablations.cli.launching import Launcher, open_study, run_stages
from ablations.errors import RequestError, RunError, one_line
from ablations.launch.signals import handled
from ablations.streams import say
from ablations.training.distributed import is_main, processes

if TYPE_CHECKING:
    from ablations.launch.session import Session
    from ablations.studies.combined import CombinedStudy
    from ablations.studies.schema import Study


def find_combined(
    name: str, out: Path | None, changes: Mapping[str, Any], settings: Mapping[str, str]
) -> tuple[CombinedStudy, Path]:
    """Load a combined study; return it and its folder. Raises RequestError."""
    from ablations.studies.combined import STORED, is_combined_folder, load_combined
    from ablations.studies.load import is_folder, refuse_two_meanings

    if out is None:
        refuse_two_meanings(name)
    stored = Path(name)
    if stored.name == STORED and is_combined_folder(stored.parent) and out in (None, stored.parent):
        name = str(stored.parent)
    study = load_combined(name, changes, settings)
    if is_folder(name):
        refuse_another_folder(name, out, STORED)
        return study, Path(name)
    return study, out or Path("runs") / study.name


def refuse_another_folder(name: str, out: Path | None, stored: str) -> None:
    """Raise RequestError if a study is to be resumed in another folder than its own, which has the file `stored`."""
    if out not in (None, Path(name)):
        raise RequestError(
            f"--out {out}: the study stays in its folder {name}; remove --out, or begin it anew there with "
            f"ablations run {Path(name) / stored} --out {out}"
        )


def run_combined(
    study: CombinedStudy,
    folder: Path,
    checked: Callable[[Study, Path], Session],
    launcher: Launcher,
    dry_run: bool,
) -> int:
    """Run each study in its folder, then print the combined table, or only describe all; return the exit status.

    `checked` returns the session of a study that fits its data. Nothing is trained, nor written, before all studies are
    checked. Raises KeyboardInterrupt once an interrupted study has stopped; no other is then begun.
    """
    from ablations.studies.combined import check_folder, check_place, open_combined

    check_place(study, folder)
    sessions = [_fresh(checked(one, folder / name)) for name, one in study.studies.items()]
    for session in sessions:
        launcher.check(session, dry_run)
    study = replace(study, studies={name: one.study for name, one in zip(study.studies, sessions, strict=True)})
    check_folder(study, folder)
    if dry_run:
        if is_main():
            _describe(study.name, sessions, launcher)
        return 0
    open_combined(study, folder)
    opened = [open_study(session, one_of_several=True) for session in sessions]
    with handled(signal.default_int_handler, signal.SIGTERM):  # between studies, too
        statuses = []
        for number, session in enumerate(opened, 1):
            if is_main():
                say(f"{study.name}: study {number} of {len(opened)}: {session.study.name}")
            statuses.append(_run(session, launcher))
    if is_main():
        _print_table(study.name, folder)
    return max(statuses)


def _run(session: Session, launcher: Launcher) -> int:
    """Run one of several studies; return the exit status, also if it had to be given up, as the others go on."""
    try:
        return run_stages(_fresh(session), launcher)
    except RunError as error:
        if processes() > 1:  # one of them has ended, and the next study would wait for it
            raise
        click.echo(one_line(f"ablations: {session.study.name}: {error}"), err=True)
        return 1


def _fresh(session: Session) -> Session:
    """Return a session that has loaded no data: of several studies, only one at a time holds its images in memory."""
    from ablations.launch.claim import data_loader

    return replace(session, load=data_loader(session.data_dir))


def _describe(name: str, sessions: Sequence[Session], launcher: Launcher) -> None:
    """Print what each study would train, and the time of all."""
    from ablations.launch.estimate import describe_briefly
    from ablations.studies.folder import planned

    for session in sessions:
        click.echo("\n".join(describe_briefly(session)))
    runs = sum(len(planned(session.study, session.folder).runs) for session in sessions)
    click.echo(f"{name}: {len(sessions)} studies, {runs} runs")
    click.echo(launcher.total(map(_fresh, sessions)))


def _print_table(name: str, folder: Path) -> None:
    """Print the means over the studies of a folder, unless no run has finished yet, as just after submitting jobs."""
    from ablations.cli.output import print_table
    from ablations.combined_reporting import combined_report
    from ablations.studies.combined import read_combined
    from reports.errors import ReportError
    from reports.view import View

    try:
        found = combined_report(read_combined(folder), View(title=name))
    except ReportError as error:
        say(f"{name}: no means over the studies: {one_line(error)}")
        return
    if (found.runs["status"] == "done").any():
        click.echo()
        print_table(found.tables[0])
