"""Working at runs: whoever finds one free takes it, alone or with the other processes of its group."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.studies.folder import run_folder
from ablations.studies.run import RunConfig, execute, finished, load_data, locked, wanted_of_data
from ablations.studies.schema import Study
from ablations.training.callbacks import Callbacks
from ablations.training.distributed import ALONE, Group

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from ablations.data.datasets import DataSet

WAIT = 0.5  # seconds between looks at runs that other processes hold


@dataclass(frozen=True)
class Place:
    """Where and how runs are carried out: the data, the device, the group of processes, and what is logged."""

    data_dir: Path
    device: str
    group: Group = ALONE
    tensorboard: bool = False


class StopFlag:
    """Set by SIGINT and SIGTERM; of a process with a launcher also by the launcher's end, else a second raises."""

    def __init__(self, launcher: int | None = None):
        self.signals = 0
        self.launcher = launcher

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals set the flag within."""
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, *_: object) -> None:
        self.signals += 1
        if self.launcher is None and self.signals > 1:
            raise KeyboardInterrupt

    def __call__(self) -> bool:
        return self.signals > 0 or (self.launcher is not None and os.getppid() != self.launcher)


def take(run: RunConfig, folder: Path, data: DataSet, place: Place, callbacks: Callbacks) -> dict[str, Any] | None:
    """Trains a run to its end where it is free; its result, or None where another process has it or has ended it.

    Raises what `execute` does.
    """
    group = place.group
    with contextlib.ExitStack() as held:
        free = group.by_main(lambda: held.enter_context(locked(folder)) and not finished(folder))
        if not free:
            return None
        callbacks.start(run.name)
        followed = TensorBoard(callbacks, folder) if place.tensorboard and group.main else callbacks
        result = execute(run, folder, data, place.device, followed, group)
        callbacks.end(result)
        return result


def work_through(study: Study, folder: Path, place: Place, callbacks: Callbacks) -> None:
    """Takes what is free of a study until every run has a result. Raises what `execute` does, Interrupted too."""
    from ablations.training.trainer import Interrupted

    loaded: dict[tuple, DataSet] = {}

    def data_of(run: RunConfig) -> DataSet:
        key = tuple(wanted_of_data(run).values())
        if key not in loaded:
            loaded[key] = load_data(run, place.data_dir)
        return loaded[key]

    def left() -> list[RunConfig]:
        return [run for run in study.runs if not finished(run_folder(folder, run))]

    while found := place.group.by_main(left):
        trained = [take(run, run_folder(folder, run), data_of(run), place, callbacks) for run in found]
        if not any(trained):
            if place.group.any(callbacks.stopping())[0]:
                raise Interrupted
            time.sleep(WAIT)


class TensorBoard(Callbacks):
    """Write the log for TensorBoard too, in the run's folder."""

    def __init__(self, callbacks: Callbacks, folder: Path):
        super().__init__(callbacks.stopping)
        self.callbacks, self.folder = callbacks, folder
        self.writer: SummaryWriter | None = None

    def warn(self, message: str) -> None:
        self.callbacks.warn(message)

    def log(self, line: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.callbacks.log(line)
        # What an earlier session wrote after its last checkpoint is hidden.
        self.writer = self.writer or SummaryWriter(str(self.folder / "tensorboard"), purge_step=line["step"])
        for name in ("loss", "top1", "learning_rate"):
            self.writer.add_scalar(f"training/{name}", line[name], line["step"])
        self.writer.add_scalar("training/images_per_second", line["images"] / max(line["seconds"], 1e-9), line["step"])
        self.writer.flush()
