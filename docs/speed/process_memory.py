"""The memory that a command and the processes it starts take while it runs, on Linux."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

INTERVAL = 1.0  # seconds between samples, which take time of their own; shorter peaks may be missed


@dataclass
class Peaks:
    """Peaks of a command's memory (MB); None if not measured.

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
        if not processes:  # the command has ended
            return
        workers = [memory for process, memory in processes.items() if process != command]
        self.together = max(self.together or 0, sum(pss for pss, _ in processes.values()))
        if workers:
            self.worker_pss = max(self.worker_pss or 0, *(pss for pss, _ in workers))
            self.worker_rss = max(self.worker_rss or 0, *(rss for _, rss in workers))


def run_measured(
    line: Sequence[str], cwd: Path, environment: Mapping[str, str]
) -> tuple[subprocess.CompletedProcess[str], Peaks]:
    """Run a command; return it with the peaks of its memory."""
    peaks, ended = Peaks(), threading.Event()
    with subprocess.Popen(
        line, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:

        def watch() -> None:
            while not ended.wait(INTERVAL):
                peaks.note(process.pid, memory_of(descendants(process.pid)))

        watching = threading.Thread(target=watch)
        if sys.platform == "linux":
            watching.start()
        try:
            output, errors = process.communicate()
        except BaseException:  # such as Ctrl-C: the command stops its workers
            process.terminate()
            raise
        finally:
            ended.set()
            if sys.platform == "linux":
                watching.join()
    return subprocess.CompletedProcess(line, process.returncode, output, errors), peaks


def descendants(process: int) -> list[int]:
    """Return the ids of a process and of all processes below it; a study's workers have sessions of their own."""
    children: dict[int, list[int]] = defaultdict(list)
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            children[parent].append(int(place.name))
    found = [process]
    for one in found:
        found += children[one]
    return found


def memory_of(processes: Sequence[int]) -> dict[int, tuple[float, float]]:
    """Return PSS and RSS (MB) of those of these processes that run, by their ids."""
    found = {}
    for process in processes:
        with suppress(OSError):
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
            kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
            found[process] = (kilobytes["Pss"] / 1024, kilobytes["Rss"] / 1024)
    return found
