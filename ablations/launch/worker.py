"""A worker process of a study: claim free runs, train them, and report to the launcher in lines of JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ablations.errors import RequestError, RunError, writing
from ablations.launch.claim import Place, data_loader, work_through
from ablations.launch.signals import LOST_DEVICE, STOPPED, StopFlag
from ablations.machine import prepare_process
from ablations.streams import prepare_streams
from ablations.studies.folder import read_study
from ablations.training.callbacks import Callbacks
from ablations.training.distributed import joined
from ablations.training.gpu import LostDeviceError
from ablations.training.gpu_arithmetic import prepare_arithmetic
from ablations.training.trainer import Interrupted

if TYPE_CHECKING:
    from ablations.data.datasets import DataSet
    from ablations.studies.run import RunConfig


def main() -> int:
    """Train runs of the study in a folder until each has a result.

    The exit status is 130 if a signal asked it to stop, and 75 if it can no longer use its GPU.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--launcher", type=int, required=True)
    parser.add_argument("--tensorboard", action="store_true")
    parser.add_argument("--wandb", action="store_true")
    arguments = parser.parse_args()
    logs = {"tensorboard": arguments.tensorboard, "wandb": arguments.wandb}
    load = data_loader(arguments.data_dir)
    return work(arguments.folder, load, arguments.device, arguments.threads, arguments.launcher, **logs)


def work(
    folder: Path, load: Callable[[RunConfig], DataSet], device: str, threads: int, launcher: int, **logs: bool
) -> int:
    """Train runs of a study until each has a result; return the exit status of this process, a child of the launcher.

    `load` returns the dataset of a run.
    """
    prepare_streams()
    stop = StopFlag(launcher)
    channel = Channel(stop, os.fdopen(os.dup(1), "w", buffering=1))
    os.dup2(2, 1)  # anything else that is printed goes to stderr

    prepare_process(threads)
    try:
        study = read_study(folder)
        prepare_arithmetic(device, *(recipe.deterministic for recipe in study.recipes.values()))
        with writing(f"study {folder}"), stop.listening(), joined(device) as group:
            work_through(study, folder, load, Place(device, group, **logs), channel)
        return 0
    except Interrupted:
        return STOPPED
    except LostDeviceError as error:  # another process may be able to
        channel.warn(str(error))
        return LOST_DEVICE
    except (RequestError, RunError) as error:
        channel.send(event="error", message=str(error))
    return 1


class Channel(Callbacks):
    """Send what happens to the launcher, one JSON object per line."""

    def __init__(self, stopping: Callable[[], bool], stream: IO[str]):
        super().__init__(stopping)
        self.stream = stream

    def start(self, run: str) -> None:
        self.send(event="start", run=run)

    def log(self, line: dict[str, Any]) -> None:
        self.send(event="log", line=line)

    def end(self, result: dict[str, Any]) -> None:
        self.send(event="end", result=result)

    def warn(self, message: str) -> None:
        self.send(event="warn", message=message)

    def send(self, **event: Any) -> None:
        """Send an event; StopFlag notices a launcher that has died."""
        with contextlib.suppress(BrokenPipeError):
            self.stream.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    sys.exit(main())
