"""Runs carried out in this process, with their own live bars: one run by itself, or a study by a group of processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.errors import RequestError, RunError
from ablations.launch.claim import Place, StopFlag, take, work_through
from ablations.launch.session import DisplayCallbacks
from ablations.machine import Machine, prepare_process
from ablations.progress import Display, Screen
from ablations.recipes import MAY_CHANGE, check, read_yaml
from ablations.studies.folder import differences, open_folder, run_folder
from ablations.studies.results import failures, forget_failures, work_of, write_results
from ablations.studies.run import RunConfig, finished, load_data, read_state
from ablations.studies.schema import Study
from ablations.training.callbacks import NullCallbacks
from ablations.training.distributed import Group, joined, local_processes, local_rank, processes
from ablations.training.trainer import Interrupted

if TYPE_CHECKING:
    from ablations.data.datasets import DataSet


def train_one(
    config: RunConfig, folder: Path, data_dir: Path, device: str, threads: int | None, tensorboard: bool = False
) -> int:
    """Trains a run in its folder, or says what it gave where it is done; returns the exit status.

    Raises RequestError for a folder made for another run or data that does not fit, RunError for a folder that cannot
    be written, KeyboardInterrupt once it has stopped.
    """
    data = load_data(config, data_dir)
    config.check(data, processes())
    _, macs = config.cost(data)
    _check_folder(config, folder)
    device = own_device(device)
    share_cores(threads)
    stop = StopFlag()
    try:
        with stop.listening(), joined(device) as group, _display({config.name: float(macs)}, set(), group) as display:
            callbacks = DisplayCallbacks(display, stop) if group.main else NullCallbacks(stop)
            result = take(config, folder, data, Place(data_dir, device, group, tensorboard), callbacks)
            if result is None:
                result = _result_there(folder, data)
                display.end(config.name, result)
    except Interrupted:
        raise KeyboardInterrupt from None
    except OSError as error:
        raise RunError(f"run {folder}: cannot be written ({error.strerror})") from error
    return 0 if result["status"] == "done" else 1


def run_together(
    study: Study,
    folder: Path,
    data_dir: Path,
    datasets: Mapping[str, DataSet],
    device: str,
    threads: int | None,
    retry_failed: bool,
    tensorboard: bool,
) -> list[tuple[RunConfig, str]]:
    """Runs what is left of a study, all processes that torchrun started at one run after the other.

    Returns the runs that failed, and why; raises what `launch.run_study` does.
    """
    device = own_device(device)
    share_cores(threads)
    stop = StopFlag()

    def prepare() -> set[str]:
        open_folder(study, folder)
        if retry_failed:
            forget_failures(study, folder)
        return {run.name for run in study.runs if finished(run_folder(folder, run))}

    try:
        with stop.listening(), joined(device) as group:
            ended = group.by_main(prepare)
            with _display(work_of(study, datasets), ended, group) as display:
                display.say(
                    f"{study.name}: {len(study.runs)} runs, {len(ended)} there already; {group.size} processes at each "
                    f"run, on {device.partition(':')[0]}; folder {folder}"
                )
                place = Place(data_dir, device, group, tensorboard)
                callbacks = DisplayCallbacks(display, stop) if group.main else NullCallbacks(stop)
                try:
                    work_through(study, folder, place, callbacks)
                finally:
                    if group.main:
                        with contextlib.suppress(OSError):  # derived, and written again by every report
                            write_results(study, folder)
    except Interrupted:
        raise KeyboardInterrupt from None
    except OSError as error:
        raise RunError(f"study {folder}: cannot be written ({error.strerror or error})") from error
    return failures(study, folder)


def _result_there(folder: Path, data: DataSet) -> dict[str, Any]:
    """The result of a run that is done or failed; raises RequestError where it is not, or was on other data."""
    if not finished(folder):
        raise RequestError(f"run {folder}: another process is training it")
    state = read_state(folder)
    if state.result.get("data_checksum", data.checksum) != data.checksum:
        raise RequestError(f"run {folder} was made with other data; choose another --out")
    return {**state.result, "status": state.status}


def _display(work: Mapping[str, float], ended: set[str], group: Group) -> Display:
    return Display(Screen(quiet=not group.main), work, ended)


def own_device(device: str) -> str:
    """The device of this process among those of its run on this machine; raises RequestError."""
    devices = Machine.plan(device).devices
    if devices == ("cpu",):
        return "cpu"
    if local_processes() > len(devices):
        raise RequestError(
            f"{local_processes()} processes on this machine and {len(devices)} GPUs ({', '.join(devices)}): "
            f"start one for each, as in torchrun --nproc-per-node {len(devices)}"
        )
    return devices[local_rank()]


def share_cores(threads: int | None) -> None:
    """Takes so many threads, or this process's share of the cores."""
    prepare_process(threads or max(len(os.sched_getaffinity(0)) // local_processes(), 1))


def _check_folder(config: RunConfig, folder: Path) -> None:
    """Raises RequestError where the folder holds another run, however its design was spelt."""
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file; choose another --out")
    if not (folder / "config.yaml").exists():
        return
    found = check(RunConfig, read_yaml(folder / "config.yaml", "run"), f"run {folder / 'config.yaml'}")
    differs = differences(_what_counts(found), _what_counts(config))
    if differs:
        raise RequestError(
            f"run folder {folder} was made with another configuration: {differs[0]}; choose another --out"
        )


def _what_counts(config: RunConfig) -> dict[str, Any]:
    """What may not change of a run, as plain values."""
    return config.model_dump(mode="json", exclude={"row": True, "label": True, "recipe": set(MAY_CHANGE)})
