"""Working at runs: whoever finds one free takes it, alone or with the other processes of its group."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ablations.studies.folder import run_folder
from ablations.studies.run import Bystanders, RunConfig, execute, finished, load_data, locked, wanted_of_data
from ablations.studies.schema import Study
from ablations.training.distributed import ALONE, Group

if TYPE_CHECKING:
    from ablations.data.datasets import DataSet

WAIT = 0.5  # seconds between looks at runs that other processes hold


class Audience(Protocol):
    """Who follows runs: a display, or a launcher in another process."""

    def start(self, run: str) -> None: ...

    def log(self, run: str, line: dict[str, Any]) -> None: ...

    def end(self, run: str, result: dict[str, Any]) -> None: ...

    def say(self, words: str) -> None: ...


class Nobody:
    """The audience of a group's other processes: rank 0 has told it already."""

    def start(self, run: str) -> None: ...

    def log(self, run: str, line: dict[str, Any]) -> None: ...

    def end(self, run: str, result: dict[str, Any]) -> None: ...

    def say(self, words: str) -> None: ...


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


def take(
    run: RunConfig, folder: Path, data: DataSet, place: Place, audience: Audience, stopping: Callable[[], bool]
) -> dict[str, Any] | None:
    """Trains a run to its end where it is free; its result, or None where another process has it or has ended it.

    Raises what `execute` does.
    """
    group = place.group
    with contextlib.ExitStack() as held:
        free = group.by_main(lambda: held.enter_context(locked(folder)) and not finished(folder))
        if not free:
            return None
        audience.start(run.name)
        report = _to_tensorboard(folder) if place.tensorboard and group.main else None

        def log(line: dict[str, Any]) -> None:
            audience.log(run.name, line)
            if report:
                report(line)

        result = execute(run, folder, data, place.device, Bystanders(log, stopping, audience.say), group)
        audience.end(run.name, result)
        return result


def work_through(study: Study, folder: Path, place: Place, audience: Audience, stopping: Callable[[], bool]) -> None:
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
        trained = [take(run, run_folder(folder, run), data_of(run), place, audience, stopping) for run in found]
        if not any(trained):
            if place.group.any(stopping())[0]:
                raise Interrupted
            time.sleep(WAIT)


def _to_tensorboard(folder: Path) -> Callable[[dict[str, Any]], None]:
    """Writes each line of the log for TensorBoard, in the run's folder."""
    from torch.utils.tensorboard import SummaryWriter

    writers: list[SummaryWriter] = []

    def report(line: dict[str, Any]) -> None:
        if not writers:  # what an earlier session wrote beyond its last checkpoint is hidden
            writers.append(SummaryWriter(str(folder / "tensorboard"), purge_step=line["step"]))
        for name in ("loss", "top1", "learning_rate"):
            writers[0].add_scalar(f"training/{name}", line[name], line["step"])
        writers[0].add_scalar("training/images_per_second", line["images"] / max(line["seconds"], 1e-9), line["step"])
        writers[0].flush()

    return report
