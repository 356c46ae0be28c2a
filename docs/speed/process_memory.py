"""The memory that a command and the processes it starts take while it runs, on Linux."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

INTERVAL = 0.25  # seconds between samples, so shorter peaks may be missed


@dataclass
class Peaks:
    """Peaks of a command's memory (MB); None where the system does not tell.

    Attributes:
        together: PSS of all its processes: a page that several share counts once.
        worker_pss: PSS of the largest process that it started.
        worker_rss: RSS of the largest process that it started: every page, shared or not.
    """

    together: float | None = None
    worker_pss: float | None = None
    worker_rss: float | None = None

    def note(self, command: int, processes: Mapping[int, tuple[float, float]]) -> None:
        """Raise the peaks to a sample: (PSS, RSS) of each process of `command` by its id."""
        workers = [memory for process, memory in processes.items() if process != command]
        self.together = max(self.together or 0, sum(pss for pss, _ in processes.values()))
        if workers:
            self.worker_pss = max(self.worker_pss or 0, *(pss for pss, _ in workers))
            self.worker_rss = max(self.worker_rss or 0, *(rss for _, rss in workers))


def run_measured(
    line: Sequence[str], cwd: Path, environment: Mapping[str, str]
) -> tuple[subprocess.CompletedProcess[str], Peaks]:
    """Run a command in a session of its own; return it with the peaks of its memory."""
    peaks = Peaks()
    with subprocess.Popen(
        line,
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(INTERVAL):
                peaks.note(process.pid, memory_of(process.pid))

        watching = threading.Thread(target=watch)
        if sys.platform == "linux":
            watching.start()
        output, errors = process.communicate()
        ended.set()
        if sys.platform == "linux":
            watching.join()
    return subprocess.CompletedProcess(line, process.returncode, output, errors), peaks


def memory_of(session: int) -> dict[int, tuple[float, float]]:
    """Return PSS and RSS (MB) of every process of a session, by its id."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if os.getsid(int(place.name)) == session:
                text = (place / "smaps_rollup").read_text()
                kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
                found[int(place.name)] = (kilobytes["Pss"] / 1024, kilobytes["Rss"] / 1024)
    return found
