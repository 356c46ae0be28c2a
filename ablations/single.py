"""One run by itself, in this process, with its own live bar."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from rich.console import Console

from ablations.data import load
from ablations.errors import RequestError, RunError
from ablations.launch import Machine
from ablations.progress import Display
from ablations.recipes import check, read_yaml
from ablations.runs import RunConfig, execute, finished, locked, read_state
from ablations.studies import differences


def train_one(config: RunConfig, folder: Path, data_dir: Path, device: str, threads: int | None) -> int:
    """Trains a run in its folder, or says what it gave where it is done; returns the exit status.

    Raises RequestError for a folder made for another run or data that does not fit, RunError for a folder that cannot
    be written, KeyboardInterrupt once it has stopped.
    """
    data = load(config.data, data_dir, config.recipe.image_size, config.evaluate)
    config.check(data)
    _, macs = config.cost(data)
    device = Machine.plan(device).devices[0]
    _check_folder(config, folder)

    import torch

    from ablations.trainer import Interrupted

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    asked: list[int] = []

    def on_signal(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with locked(folder) as free, Display(Console(), {config.name: float(macs)}, set()) as display:
            if not free:
                raise RequestError(f"run {folder}: another process is training it")
            if finished(folder):
                state = read_state(folder)
                result = {**state.result, "status": state.status}
                if result.get("data_checksum", data.checksum) != data.checksum:
                    raise RequestError(f"run {folder} was made with other data; choose another --out")
            else:
                display.start(config.name)
                result = execute(
                    config,
                    folder,
                    data,
                    device,
                    lambda line: display.log(config.name, line),
                    lambda: bool(asked),
                    display.say,
                )
            display.end(config.name, result)
    except Interrupted:
        raise KeyboardInterrupt from None
    except OSError as error:
        raise RunError(f"run {folder}: cannot be written ({error.strerror})") from error
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0 if result["status"] == "done" else 1


def _check_folder(config: RunConfig, folder: Path) -> None:
    """Raises RequestError where the folder holds another run, however its design was spelt."""
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file; choose another --out")
    if not (folder / "config.yaml").exists():
        return
    found = check(RunConfig, read_yaml(folder / "config.yaml", "run"), f"run {folder / 'config.yaml'}")
    spelt = {"row", "label"}
    differs = differences(found.model_dump(mode="json", exclude=spelt), config.model_dump(mode="json", exclude=spelt))
    if differs:
        raise RequestError(
            f"run folder {folder} was made with another configuration: {differs[0]}; choose another --out"
        )
