"""Claim runs that no process is training, and train them, alone or with the other processes of a group."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.errors import RequestError
from ablations.launch.loggers import TensorBoard, WeightsAndBiases
from ablations.machine import give_back_memory
from ablations.studies.folder import run_folder
from ablations.studies.run import RunConfig, data_wanted, execute, finished, load_data, locked
from ablations.studies.schema import Study
from ablations.training.callbacks import Callbacks
from ablations.training.distributed import ALONE, Group
from modernize.user_code import is_call

if TYPE_CHECKING:
    from ablations.data.datasets import DataSet

WAIT = 0.5  # seconds between looks at runs that other processes hold


@dataclass(frozen=True)
class Place:
    """Where and how runs are trained: the device, the group of processes, and what is logged."""

    device: str
    group: Group = ALONE
    tensorboard: bool = False
    wandb: bool = False


def data_loader(data_dir: Path) -> Callable[[RunConfig], DataSet]:
    """Return a function that loads a run's dataset; runs that want the same images share one."""
    loaded: dict[tuple, DataSet] = {}

    def load(run: RunConfig) -> DataSet:
        key = (run.data, run.evaluate, *data_wanted(run).values())
        if key not in loaded:
            loaded[key] = load_data(run, data_dir)
        return loaded[key]

    return load


def take(
    run: RunConfig, folder: Path, data: DataSet, place: Place, callbacks: Callbacks, study: str | None = None
) -> dict[str, Any] | None:
    """Train a run to its end and return its result; None if another process holds it, or it is finished.

    `study` is the name of the run's study, if it is of one. Raises what `execute` does.
    """
    group = place.group
    with contextlib.ExitStack() as held:
        free = group.by_main(lambda: held.enter_context(locked(folder)) and not finished(folder))
        if not free:
            return None
        callbacks.start(run.name)
        followed = TensorBoard(callbacks, folder) if place.tensorboard and group.main else callbacks
        if place.wandb and group.main:
            followed = held.enter_context(WeightsAndBiases(followed, run, folder, study))
        result = execute(run, folder, data, place.device, followed, group)
        callbacks.end(result)
        return result


def work_through(
    study: Study, folder: Path, load: Callable[[RunConfig], DataSet], place: Place, callbacks: Callbacks
) -> None:
    """Take free runs until every run of the study has a result. Raises what `execute` does, Interrupted too.

    Raises RequestError if the data is not that of the study, LostDeviceError if this process cannot use its GPU. Once
    asked to stop, it takes no further run, also if the run that was being trained has come to its end.
    """
    from ablations.training.gpu import check_device
    from ablations.training.trainer import Interrupted

    check_device(place.device)

    def unfinished() -> list[RunConfig]:
        return [run for run in study.runs if not finished(run_folder(folder, run))]

    def same_data(run: RunConfig) -> DataSet:
        data = load(run)
        alike = study.data != "folder" or data_wanted(run) == data_wanted(study.runs[0])  # else of another size
        if alike and study.data_checksum not in ("", data.checksum):
            remedy = (
                "; its function must return the same at each call: seed its generators" if is_call(run.data) else ""
            )
            raise RequestError(
                f"dataset {run.data}: not the images with which the study was started (checksum {data.checksum[:12]}, "
                f"at the start {study.data_checksum[:12]}){remedy}"
            )
        return data

    while runs := place.group.by_main(unfinished):
        trained = False
        for run in runs:
            if place.group.any(callbacks.stopping())[0]:
                raise Interrupted
            result = take(run, run_folder(folder, run), same_data(run), place, callbacks, study.name)
            trained |= result is not None
            if result is not None and result["status"] == "failed":
                check_device(place.device, after=f", after the error of {run.name}")
            if result is not None and place.device == "cpu":
                give_back_memory()  # the next run's arrays, of other sizes, may not fit into its gaps
        if not trained:
            time.sleep(WAIT)
