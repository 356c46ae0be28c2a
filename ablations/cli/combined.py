"""Run a study of several studies, one after the other, and print what they say together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ablations.cli.launching import Launcher, open_study, run_stages
from ablations.errors import RequestError, RunError, one_line
from ablations.streams import say
from ablations.training.distributed import is_main

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
    launcher: Callable[[], Launcher],
    dry_run: bool,
) -> int:
    """Run each study in its folder, then print the combined table, or only describe all; return the exit status.

    `checked` returns the session of a study that fits its data. Nothing is trained, nor written, before all studies are
    checked. Raises KeyboardInterrupt once an interrupted study has stopped; no other is then begun.
    """
    from ablations.studies.combined import check_folder, open_combined

    found = {name: _fresh(checked(one, folder / name)) for name, one in study.studies.items()}
    way = launcher()
    for session in found.values():
        way.check(session, dry_run)
    study = replace(study, studies={name: session.study for name, session in found.items()})
    check_folder(study, folder)
    if dry_run:
        if is_main():
            _describe(study, found, way)
        return 0
    open_combined(study, folder)
    found = {name: open_study(session, one_of_several=True) for name, session in found.items()}
    status = 0
    for number, (name, session) in enumerate(found.items(), 1):
        if is_main():
            say(f"{study.name}: study {number} of {len(found)}: {name}")
        try:
            status = max(status, run_stages(_fresh(session), way))
        except RunError as error:  # the others go on
            if is_main():
                click.echo(one_line(f"ablations: {name}: {error}"), err=True)
            status = 1
    if is_main():
        print_combined(folder)
    return status


def _fresh(session: Session) -> Session:
    """Return a session that has loaded no data: of several studies, only one at a time holds its images in memory."""
    from ablations.launch.claim import data_loader

    return replace(session, load=data_loader(session.data_dir))


def _describe(study: CombinedStudy, sessions: Mapping[str, Session], launcher: Launcher) -> None:
    """Print what each study would train, and the time of all."""
    from ablations.launch.estimate import describe_briefly

    for session in sessions.values():
        click.echo("\n".join(describe_briefly(session)))
    runs = sum(len(one.runs) for one in study.studies.values())
    click.echo(f"{study.name}: {len(sessions)} studies, {runs} runs")
    click.echo(launcher.total(_fresh(session) for session in sessions.values()))


def print_combined(folder: Path) -> None:
    """Print the table of a combined study's folder."""
