"""A worker process of a study: claim free runs, train them, and report to the launcher in lines of JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

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

    prepare_streams()
    stop = StopFlag(arguments.launcher)
    channel = Channel(stop, os.fdopen(os.dup(1), "w", buffering=1))
    os.dup2(2, 1)  # anything else that is printed goes to stderr

    prepare_process(arguments.threads)
    try:
        study = read_study(arguments.folder)
        prepare_arithmetic(arguments.device, *(recipe.deterministic for recipe in study.recipes.values()))
        with writing(f"study {arguments.folder}"), stop.listening(), joined(arguments.device) as group:
            place = Place(arguments.device, group, arguments.tensorboard, arguments.wandb)
            load = data_loader(arguments.data_dir)
            work_through(study, arguments.folder, load, place, channel)
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
