"""Claim runs that no process is training, and train them, alone or with the other processes of a group."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.studies.folder import run_folder
from ablations.studies.run import RunConfig, data_wanted, execute, finished, load_data, locked
from ablations.studies.schema import Study
from ablations.training.callbacks import Callbacks
from ablations.training.distributed import ALONE, Group

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from ablations.data.datasets import DataSet

WAIT = 0.5  # seconds between looks at runs that other processes hold


@dataclass(frozen=True)
class Place:
    """Where and how runs are trained: the device, the group of processes, and what is logged."""

    device: str
    group: Group = ALONE
    tensorboard: bool = False


def data_loader(data_dir: Path) -> Callable[[RunConfig], DataSet]:
    """Return a function that loads a run's dataset; runs that want the same images share one."""
    loaded: dict[tuple, DataSet] = {}

    def load(run: RunConfig) -> DataSet:
        key = (run.data, run.evaluate, *data_wanted(run).values())
        if key not in loaded:
            loaded[key] = load_data(run, data_dir)
        return loaded[key]

    return load


def take(run: RunConfig, folder: Path, data: DataSet, place: Place, callbacks: Callbacks) -> dict[str, Any] | None:
    """Train a run to its end and return its result; None if another process holds it, or it is finished.

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


def work_through(
    study: Study, folder: Path, load: Callable[[RunConfig], DataSet], place: Place, callbacks: Callbacks
) -> None:
    """Take free runs until every run of the study has a result. Raises what `execute` does, Interrupted too."""
    from ablations.training.trainer import Interrupted

    def unfinished() -> list[RunConfig]:
        return [run for run in study.runs if not finished(run_folder(folder, run))]

    while runs := place.group.by_main(unfinished):
        trained = [take(run, run_folder(folder, run), load(run), place, callbacks) for run in runs]
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
        # purge_step hides what an earlier session wrote after its last checkpoint.
        self.writer = self.writer or SummaryWriter(str(self.folder / "tensorboard"), purge_step=line["step"])
        for name in ("loss", "top1", "learning_rate"):
            self.writer.add_scalar(f"training/{name}", line[name], line["step"])
        self.writer.add_scalar("training/images_per_second", line["images"] / max(line["seconds"], 1e-9), line["step"])
        self.writer.flush()
