"""What every launcher shares: how a study starts and ends, and how its runs appear on the display."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.errors import writing
from ablations.progress import Display, Screen
from ablations.studies.folder import open_folder, run_folder
from ablations.studies.results import forget_failures, update_results
from ablations.studies.run import finished
from ablations.studies.schema import Study
from ablations.training.callbacks import Callbacks

if TYPE_CHECKING:
    from ablations.data.datasets import DataSet


@dataclass(frozen=True)
class Session:
    """A study to be run in a folder; `datasets` holds the dataset of each run, by the run's name."""

    study: Study
    folder: Path
    data_dir: Path
    datasets: Mapping[str, DataSet]
    retry_failed: bool = False
    tensorboard: bool = False

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
            update_results(self.study, self.folder)

    def display(self, ended: set[str], how: str, quiet: bool = False) -> Display:
        """Print what is going to run and return the display of its progress, weighted by MACs."""
        work = {
            run.name: float(run.cost(self.datasets[run.name])[1] * run.images(self.datasets[run.name]))
            for run in self.study.runs
        }
        display = Display(Screen(quiet=quiet), work, ended)
        display.say(f"{self.study.name}: {len(work)} runs, {len(ended)} finished; {how}; folder {self.folder}")
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
        self.display.say(message)
