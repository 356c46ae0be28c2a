"""A worker process of a study: takes whatever run is free, trains it, and tells its launcher in lines of JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import IO, Any

from ablations.errors import RequestError, RunError
from ablations.launch.claim import Place, StopFlag, work_through
from ablations.machine import prepare_process
from ablations.studies.folder import read_study
from ablations.training.distributed import joined
from ablations.training.trainer import Interrupted


def main() -> int:
    """Works through the study in a folder until every run of it has a result; 130 when asked to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--launcher", type=int, required=True)
    parser.add_argument("--tensorboard", action="store_true")
    arguments = parser.parse_args()

    launcher = Launcher(os.fdopen(os.dup(1), "w", buffering=1))
    os.dup2(2, 1)  # whatever else is printed goes where complaints go

    prepare_process(arguments.threads)
    stop = StopFlag(arguments.launcher)
    try:
        with stop.listening(), joined(arguments.device) as group:
            place = Place(arguments.data_dir, arguments.device, group, arguments.tensorboard)
            work_through(read_study(arguments.folder), arguments.folder, place, launcher, stop)
        return 0
    except Interrupted:
        return 130
    except (RequestError, RunError) as error:
        launcher.tell(event="error", message=str(error))
    except OSError as error:
        launcher.tell(event="error", message=f"study {arguments.folder}: cannot be written ({error.strerror or error})")
    return 1


class Launcher:
    """The audience of a worker, at the other end of a channel."""

    def __init__(self, channel: IO[str]):
        self.channel = channel

    def start(self, run: str) -> None:
        self.tell(event="start", run=run)

    def log(self, run: str, line: dict[str, Any]) -> None:
        self.tell(event="log", **line)

    def end(self, run: str, result: dict[str, Any]) -> None:
        self.tell(event="end", run=run, **result)

    def say(self, words: str) -> None:
        self.tell(event="say", words=words)

    def tell(self, **event: Any) -> None:
        """Sends an event; a launcher that is gone is noticed by StopFlag."""
        with contextlib.suppress(BrokenPipeError):
            self.channel.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    sys.exit(main())
