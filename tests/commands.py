"""Runs the command line as a user does: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def ablations(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The finished command; `timeout` in seconds, 300 unless given."""
    options = {"timeout": 300, **options}
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=environment(), **options)


def started(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """The command, running."""
    return subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), **options
    )


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "ablations", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, **ONE_THREAD}
