"""A worker process of a study: takes whatever run is free, trains it, and tells its launcher in lines of JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ablations.data import DataSet, load
from ablations.errors import RequestError, RunError
from ablations.runs import RunConfig, execute, finished, locked
from ablations.studies import read_study, run_folder
from ablations.trainer import Interrupted

events = sys.stdout  # where the launcher listens; main makes it a channel of its own
WAIT = 0.5  # seconds between looks at runs that other processes hold


def main() -> int:
    """Works through the study in a folder until every run of it has a result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--launcher", type=int, required=True)
    arguments = parser.parse_args()

    global events
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed goes where complaints go

    import torch

    torch.set_num_threads(arguments.threads)
    stop = StopFlag(arguments.launcher)
    try:
        return work(arguments, stop)
    except (RequestError, RunError) as error:
        tell(event="error", message=str(error))
    except OSError as error:
        tell(event="error", message=f"study {arguments.folder}: cannot be written ({error.strerror or error})")
    return 1


def work(arguments: argparse.Namespace, stop: StopFlag) -> int:
    """Trains what is free until every run has a result; 130 when asked to stop."""
    study = read_study(arguments.folder)
    loaded: dict[tuple[str, int | None, str], DataSet] = {}

    def dataset(run: RunConfig) -> DataSet:
        key = (run.data, run.recipe.image_size, run.evaluate)
        if key not in loaded:
            loaded[key] = load(run.data, arguments.data_dir, run.recipe.image_size, run.evaluate)
        return loaded[key]

    while left := [run for run in study.runs if not finished(run_folder(arguments.folder, run))]:
        trained = False
        for run in left:
            folder = run_folder(arguments.folder, run)
            with locked(folder) as ours:
                if not ours or finished(folder):
                    continue
                tell(event="start", run=run.name)
                if stop.asked():
                    return 130
                try:
                    result = execute(run, folder, dataset(run), arguments.device, log, stop.asked, say)
                except Interrupted:
                    return 130
                tell(event="end", run=run.name, **result)
                trained = True
        if not trained:
            if stop.asked():
                return 130
            time.sleep(WAIT)
    return 0


class StopFlag:
    """Set by SIGINT and SIGTERM; a worker whose launcher is gone is asked to stop, too."""

    def __init__(self, launcher: int) -> None:
        self.set = False
        self.launcher = launcher
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self.set = True

    def asked(self) -> bool:
        return self.set or os.getppid() != self.launcher


def log(line: dict[str, Any]) -> None:
    tell(event="log", **line)


def say(words: str) -> None:
    tell(event="say", words=words)


def tell(**event: Any) -> None:
    """Sends the launcher an event; a launcher that is gone is noticed by StopFlag."""
    with contextlib.suppress(BrokenPipeError):
        events.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    sys.exit(main())
