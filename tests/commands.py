"""Runs the command line as a user does, in a process of its own, or in this one, which has imported torch already."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from ablations.cli import run_command

ONE_THREAD = {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
# The explorer of a page has the costs of thousands of designs, which takes seconds; test_page.py has them all.
FEW_DESIGNS = mock.patch("reports.page.explorer.MOST_BODIES", 600)
# PNG and PDF take most of the time of a report; test_report_command.py and test_reports.py write them.
SVG_ALONE = mock.patch("reports.write.FIGURES", ("svg",))
# How long a step takes is not what tests of dry runs are about.
ONE_STEP = mock.patch("ablations.launch.estimate.STEPS", 1)


def ablations(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The finished command; `timeout` in seconds, 300 unless given."""
    options = {"timeout": 300, **options}
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=environment(), **options)


def ablations_here(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command, run in this process: for one that trains nothing, seconds faster than in its own.

    A report has its figures as SVG alone, unless --format asks for others.
    """
    output, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd or Path.cwd()),
        mock.patch.dict(os.environ, ONE_THREAD),
        FEW_DESIGNS,
        ONE_STEP,
        contextlib.nullcontext() if "--format" in arguments else SVG_ALONE,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        status = run_command([*map(str, arguments)])
    return subprocess.CompletedProcess(arguments, status, output.getvalue(), errors.getvalue())


def started(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """The command, running."""
    return subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), **options
    )


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "ablations", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, **ONE_THREAD}
