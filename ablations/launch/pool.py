"""Runs a study: worker processes side by side, watched, so that one that dies costs one run."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ablations.errors import RunError
from ablations.launch.session import DisplayCallbacks
from ablations.machine import Machine
from ablations.progress import Display, Screen
from ablations.studies.folder import open_folder, run_folder
from ablations.studies.results import failures, forget_failures, work_of, write_results
from ablations.studies.run import RunConfig, finished, mark_failed, read_state
from ablations.studies.schema import Study

if TYPE_CHECKING:
    from ablations.data.datasets import DataSet


@dataclass
class _Worker:
    process: subprocess.Popen[str]
    callbacks: DisplayCallbacks
    complaints: collections.deque[str] = field(default_factory=lambda: collections.deque(maxlen=20))


class Launcher:
    """Starts the workers of a study, follows them, and puts in order what they leave."""

    def __init__(
        self, study: Study, folder: Path, data_dir: Path, machine: Machine, display: Display, tensorboard: bool = False
    ):
        self.study, self.folder, self.data_dir = study, folder, data_dir
        self.machine, self.display, self.tensorboard = machine, display, tensorboard
        self.runs = {run.name: run for run in study.runs}
        self.events: queue.Queue[tuple[_Worker, dict[str, Any]]] = queue.Queue()
        self.workers: list[_Worker] = []
        self.interrupts = 0

    def launch(self) -> None:
        """Returns when every run has a result. Raises KeyboardInterrupt once workers have stopped, or RunError."""
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            left = [run for run in self.study.runs if not finished(run_folder(self.folder, run))]
            for index in range(min(self.machine.jobs, len(left))):
                self._start(self.machine.devices[index % len(self.machine.devices)])
            self._follow()
        finally:
            for worker in self.workers:
                worker.process.kill()
                worker.process.wait()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _start(self, device: str) -> None:
        # -P: what lies in the current folder must not stand in for a module
        command = [
            sys.executable,
            "-P",
            "-m",
            "ablations.launch.worker",
            f"--data-dir={self.data_dir}",
            f"--device={device}",
        ]
        command += [f"--threads={self.machine.threads}", f"--launcher={os.getpid()}"]
        command += [*(["--tensorboard"] if self.tensorboard else []), "--", str(self.folder)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        worker = _Worker(process, DisplayCallbacks(self.display))
        self.workers.append(worker)
        if self.interrupts:  # asked to stop while it was being started
            process.send_signal(signal.SIGINT)
        assert process.stdout and process.stderr
        listening = threading.Thread(target=self._listen, args=(worker, process.stdout, device), daemon=True)
        listening.start()
        threading.Thread(target=self._overhear, args=(worker, process.stderr), daemon=True).start()

    def _listen(self, worker: _Worker, stream: IO[str], device: str) -> None:
        for line in stream:
            event = _event(line)
            if event is not None:
                self.events.put((worker, event))
            else:  # printed by something before the worker had its channel
                worker.complaints.append(line.rstrip())
        worker.process.wait()
        self.events.put((worker, {"event": "exit", "device": device}))

    def _overhear(self, worker: _Worker, stream: IO[str]) -> None:
        for line in stream:
            worker.complaints.append(line.rstrip())

    def _follow(self) -> None:
        """Handles events until no worker is left."""
        trouble: list[str] = []
        while self.workers:
            try:
                worker, event = self.events.get(timeout=0.2)
            except queue.Empty:
                self.display.tick()
                continue
            match event["event"]:
                case "start":
                    worker.callbacks.start(event["run"])
                case "log":
                    worker.callbacks.log(event["line"])
                case "warn":
                    worker.callbacks.warn(event["message"])
                case "end":
                    worker.callbacks.end(event["result"])
                case "error":
                    trouble.append(event["message"])
                    self._signal(signal.SIGINT)
                case "exit":
                    self.workers.remove(worker)
                    self._ended(worker, event["device"], bool(trouble))
        if self.interrupts:
            raise KeyboardInterrupt
        if trouble:
            raise RunError(trouble[0])

    def _ended(self, worker: _Worker, device: str, stopping: bool) -> None:
        """After a worker that died, its run is marked failed and another worker takes its place."""
        status = worker.process.returncode
        if status in (0, 130) or stopping or self.interrupts:
            return
        if worker.callbacks.run is None:  # it died before or between runs: starting another would repeat that
            raise RunError(
                f"a worker process ended with {_cause(status)}: {' / '.join(worker.complaints) or 'no word'}"
            )
        run = self.runs[worker.callbacks.run]
        reason = f"its process ended with {_cause(status)}"
        if worker.complaints:
            reason += f": {worker.complaints[-1]}"
        folder = run_folder(self.folder, run)
        if mark_failed(run, folder, reason):
            self.display.end(run.name, read_state(folder).result)
        self._start(device)

    def _on_signal(self, *_: object) -> None:
        self.interrupts += 1
        self._signal(signal.SIGINT if self.interrupts == 1 else signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self.workers:
            worker.process.send_signal(number)


def _event(line: str) -> dict[str, Any] | None:
    """What a worker tells in a line, or None where the line is not a worker's."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _cause(status: int) -> str:
    """An exit status in words."""
    if status == -signal.SIGKILL:
        return "SIGKILL, as the system does when memory runs out"
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def run_study(
    study: Study,
    folder: Path,
    data_dir: Path,
    datasets: Mapping[str, DataSet],
    machine: Machine,
    retry_failed: bool = False,
    tensorboard: bool = False,
) -> list[tuple[RunConfig, str]]:
    """Runs what is left of a study in its folder, showing how it goes; returns the runs that failed, and why.

    Raises RequestError where the folder is another study's, RunError where it cannot be written, KeyboardInterrupt.
    """
    open_folder(study, folder)
    if retry_failed:
        forget_failures(study, folder)
    ended = {run.name for run in study.runs if finished(run_folder(folder, run))}
    console = Screen()
    console.print(
        f"{study.name}: {len(study.runs)} runs, {len(ended)} there already; {machine.jobs} side by side, "
        f"{machine.threads} threads each, on {', '.join(machine.devices)}; folder {folder}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    try:
        with Display(console, work_of(study, datasets), ended) as display:
            Launcher(study, folder, data_dir, machine, display, tensorboard).launch()
    finally:
        with contextlib.suppress(OSError):  # derived, and written again by every report
            write_results(study, folder)
    return failures(study, folder)
