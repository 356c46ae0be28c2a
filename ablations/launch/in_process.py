"""Train in this process, with its own progress bars: one run, or a study together with torchrun's other processes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.errors import RequestError, writing
from ablations.launch.claim import Place, take, work_through
from ablations.launch.session import DisplayCallbacks, Session
from ablations.launch.signals import StopFlag
from ablations.machine import Machine, asked_threads, prepare_process, usable_cores
from ablations.progress import Display, progress_console
from ablations.recipe_checks import unused
from ablations.recipes import newer_settings, without_newer
from ablations.studies.fitting_rows import fitted
from ablations.studies.folder import differences
from ablations.studies.older import older_versions, thread_notices
from ablations.studies.own_code import refuse_other_code
from ablations.studies.plugin_files import read_with_plugins, refuse_other_plugins, without_paths
from ablations.studies.run import RunConfig, finished, load_data, read_state
from ablations.studies.starting_weights import WEIGHTS_MAY_CHANGE
from ablations.training.callbacks import NullCallbacks
from ablations.training.distributed import joined, local_processes, local_rank, processes
from ablations.training.gpu_arithmetic import check_arithmetic, prepare_arithmetic
from ablations.training.trainer import Interrupted
from ablations.training_config import MAY_CHANGE

if TYPE_CHECKING:
    from ablations.data.datasets import DataSet


def train_one(
    config: RunConfig, folder: Path, data_dir: Path, *, device: str, threads: int | None, **logs: bool
) -> int:
    """Train a run in its folder, or print the result it has; return the exit status.

    Raises RequestError if the folder was made for another run or the data does not fit, RunError if the folder cannot
    be written, KeyboardInterrupt once the run has stopped.
    """
    data = load_data(config, data_dir)
    config.check(data, processes())
    macs = config.cost(data, training=True).macs
    requested, config = config, _for_folder(_with_weights(config, data, folder), folder)
    device = own_device(device)
    check_arithmetic(device, config.recipe.precision, config.recipe.deterministic)
    threads = share_cores(device, threads)
    stop = StopFlag()
    try:
        with (
            writing(f"run {folder}"),
            stop.listening(),
            joined(device) as group,
            Display(progress_console(quiet=not group.main), {config.name: float(macs)}, set()) as display,
        ):
            callbacks = DisplayCallbacks(display, stop) if group.main else NullCallbacks(stop)
            if older := newer_settings(requested.recipe, config.recipe):
                callbacks.warn(older)
            for older in () if finished(folder) else older_versions([folder]):
                callbacks.warn(older)
            for notice in thread_notices(device, threads, [folder]) if group.size == 1 else ():
                callbacks.warn(notice)
            if config.weights is not None:
                callbacks.warn(f"starts from {config.weights}")
            if data.notice is not None:
                callbacks.warn(data.notice)
            for warning in (*config.doubts(data, group.size), *unused(config.recipe)):
                callbacks.warn(f"warning: {warning}")
            result = take(config, folder, data, Place(device, group, **logs), callbacks)
            if result is None:
                result = _result_there(folder, data)
                display.end(config.name, result)
    except Interrupted:
        raise KeyboardInterrupt from None
    return 0 if result["status"] == "done" else 1


def run_together(session: Session, device: str, threads: int | None) -> None:
    """Run the unfinished runs of a study one by one, each on all processes that torchrun started.

    Raises what `pool.run_study` does.
    """
    device = own_device(device)
    prepare_arithmetic(device, *(recipe.deterministic for recipe in session.study.recipes.values()))
    share_cores(device, threads)
    stop = StopFlag()
    folder = session.folder
    try:
        with writing(f"study {folder}"), stop.listening(), joined(device) as group, contextlib.ExitStack() as held:
            ended = group.by_main(lambda: held.enter_context(session.opened()))
            how = f"{group.size} processes per run, on {device.partition(':')[0]}"
            with session.display(ended, how, quiet=not group.main) as display:
                callbacks = DisplayCallbacks(display, stop) if group.main else NullCallbacks(stop)
                place = Place(device, group, session.tensorboard, session.wandb)
                work_through(session.study, folder, session.load, place, callbacks)
    except Interrupted:
        raise KeyboardInterrupt from None


def _result_there(folder: Path, data: DataSet) -> dict[str, Any]:
    """Return the result of a finished run; raise RequestError if it is being trained, or was made with other data."""
    if not finished(folder):
        raise RequestError(f"run {folder}: another process is training it")
    state = read_state(folder)
    if state.result.get("data_checksum", data.checksum) != data.checksum:
        raise RequestError(f"run {folder} was made with other data; choose another --out")
    return {**state.result, "status": state.status}


def own_device(device: str) -> str:
    """Return the device of this process among those of its run on this machine; raises RequestError."""
    devices = Machine.plan(device).devices
    if devices == ("cpu",):
        return "cpu"
    if local_processes() > len(devices):
        raise RequestError(
            f"{local_processes()} processes on this machine, but {len(devices)} GPUs ({', '.join(devices)}): "
            f"start one per GPU, as in torchrun --nproc-per-node {len(devices)}"
        )
    return devices[local_rank()]


def share_cores(device: str, threads: int | None) -> int:
    """Use that many threads and return their number, by default OMP_NUM_THREADS or this process's share of the cores.

    torchrun sets OMP_NUM_THREADS=1 itself, and on a GPU the threads read images: there it is not used.
    """
    if device == "cpu" and local_processes() == 1:
        threads = threads or asked_threads()
    threads = threads or max(usable_cores() // local_processes(), 1)
    prepare_process(threads)
    return threads


def _stored(path: Path) -> RunConfig:
    return read_with_plugins(RunConfig, path, "run")


def _with_weights(config: RunConfig, data: DataSet, folder: Path) -> RunConfig:
    """Return the run with the weights that it starts from, checked; raises RequestError if they do not fit."""
    if config.weights is None:
        return config
    before = _stored(folder / "config.yaml").weights if (folder / "config.yaml").is_file() else None
    return config.model_copy(update={"weights": fitted(config.weights, before, {folder: (config, data)})})


def _for_folder(config: RunConfig, folder: Path) -> RunConfig:
    """Return the run, without settings that are newer than its folder.

    Raises RequestError if the folder holds another run, however its design was spelled.
    """
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file; choose another --out")
    path = folder / "config.yaml"
    if not path.exists():
        return config
    stored = _stored(path)
    config = config.model_copy(update={"recipe": without_newer(config.recipe, [stored.recipe])})
    refuse_other_code([stored], [config], f"run folder {folder}")
    refuse_other_plugins(stored.plugins, config.plugins, f"run folder {folder}")
    changed = differences(_fixed(stored), _fixed(config))
    if changed:
        raise RequestError(
            f"run folder {folder} was made with another configuration: {changed[0]}; choose another --out"
        )
    return config


def _fixed(config: RunConfig) -> dict[str, Any]:
    """Return what may not change between sessions of a run, as plain values."""
    may_change = {"recipe": set(MAY_CHANGE), "weights": WEIGHTS_MAY_CHANGE}
    return without_paths(config.model_dump(mode="json", exclude={"row": True, "label": True, **may_change}))
