"""A real Slurm of one node, for as long as tests need it."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

UP = Path(__file__).parent / "slurm-up"
# Stops the cluster should the tests be killed.
GUARD = 'while kill -0 "$1" 2>/dev/null; do sleep 1; done; bash "$2" --down "$3"; rm -rf "$3"'


@contextmanager
def one_node() -> Iterator[None]:
    """Slurm's commands reach it within. Skips where it cannot start, saying why; fails where CI=true."""
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        guarded = ["bash", "-c", GUARD, "guard", str(os.getpid()), str(UP), folder]
        guard = subprocess.Popen(guarded, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            started = subprocess.run(["bash", UP, folder], capture_output=True, text=True, timeout=600)
            problem = None if started.returncode == 0 else (started.stderr.strip() or "no reason").splitlines()[-1]
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        if problem is not None:
            guard.kill()
            guard.wait()
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"Slurm does not start here: {problem}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", f"{Path(folder).resolve()}/slurm.conf")
            try:
                yield
            finally:
                subprocess.run(["bash", UP, "--down", folder], capture_output=True, timeout=120, check=True)
                guard.kill()
                guard.wait()


def ask(*command: str) -> str:
    """What a command of Slurm's answers."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def queue() -> dict[str, str]:
    """The state of each job in the queue, by number: 12 or, of an array, 12_3."""
    return dict(line.split() for line in ask("squeue", "-h", "-r", "-o", "%i %T").splitlines())


def emptied(seconds: float = 60) -> None:
    """Waits for the last job to leave the queue."""
    deadline = time.monotonic() + seconds
    while left := queue():
        assert time.monotonic() < deadline, f"still in the queue: {left}"
        time.sleep(0.2)
