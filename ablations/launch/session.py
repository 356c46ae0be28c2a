"""What every launcher shares: how a study starts and ends, and how its runs appear on the display."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.errors import RequestError, writing
from ablations.progress import Display, progress_console
from ablations.studies.folder import open_folder, read_study, run_folder
from ablations.studies.results import forget_failures, update_results
from ablations.studies.run import RunConfig, finished
from ablations.studies.schema import Study
from ablations.training.callbacks import Callbacks

if TYPE_CHECKING:
    from ablations.data.datasets import DataSet


@dataclass(frozen=True)
class Session:
    """A study to be run in a folder; `load` returns a run's dataset."""

    study: Study
    folder: Path
    data_dir: Path
    load: Callable[[RunConfig], DataSet]
    retry_failed: bool = False
    tensorboard: bool = False
    wandb: bool = False

    @contextmanager
    def opened(self) -> Iterator[set[str]]:
        """Open the study's folder and yield the names of its finished runs; write `results.csv` at the end.

        Raises RequestError if the folder is another study's, RunError if it cannot be written.
        """
        with writing(f"study {self.folder}"):
            open_folder(self.study, self.folder)
            if self.retry_failed:
                forget_failures(self.study, self.folder)
        try:
            yield {run.name for run in self.study.runs if finished(run_folder(self.folder, run))}
        finally:
            with suppress(RequestError):  # the folder is gone, or its study cannot be read: another error says so
                update_results(read_study(self.folder), self.folder)  # a study may have been extended meanwhile

    def display(self, ended: set[str], how: str, quiet: bool = False) -> Display:
        """Print what is going to run and return the display of its progress, weighted by MACs."""
        work = {}
        for run in self.study.runs:
            data = self.load(run)
            work[run.name] = float(run.cost(data, training=True).macs * run.images(data))
        display = Display(progress_console(quiet), work, ended)
        display.print(f"{self.study.name}: {len(work)} runs, {len(ended)} finished; {how}; folder {self.folder}")
        if self.study.weights is not None:
            display.print(f"{self.study.name}: all runs start from {self.study.weights}")
        return display


class DisplayCallbacks(Callbacks):
    """Show the runs of one process on the display."""

    def __init__(self, display: Display, stopping: Callable[[], bool] = lambda: False):
        super().__init__(stopping)
        self.display = display
        self.run: str | None = None

    def start(self, run: str) -> None:
        self.run = run
        self.display.start(run)

    def log(self, line: dict[str, Any]) -> None:
        self.display.log(self.run or "", line)

    def end(self, result: dict[str, Any]) -> None:
        self.display.end(self.run or "", result)
        self.run = None

    def warn(self, message: str) -> None:
        self.display.print(message)
