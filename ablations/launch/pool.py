"""Run a study in parallel worker processes, and replace those that end early, whoever ended them.

A run whose worker is killed resumes once in another; a second time, or if its process ends itself, it is marked failed.
"""

from __future__ import annotations

import collections
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from ablations.errors import RunError
from ablations.launch.forking import ForkedWorker, ForkServer, fork_server
from ablations.launch.session import DisplayCallbacks, Session
from ablations.launch.signals import LOST_DEVICE, STOPPED, end_group, handled
from ablations.machine import STOP, Machine, blocked
from ablations.progress import Display
from ablations.studies.folder import run_folder
from ablations.studies.run import RunConfig, finished, mark_failed, read_state

KILLS = 2  # of a run's workers, after which the run is marked failed
IN_A_ROW = 3  # workers in one place that end without a finished run, after which no other takes it


@dataclass
class _Worker:
    """A worker process; `fruitless` counts the workers before it in its place that ended without a finished run."""

    process: subprocess.Popen[str] | ForkedWorker
    device: str
    callbacks: DisplayCallbacks
    fruitless: int
    began: bool = False  # a run
    output: collections.deque[str] = field(default_factory=lambda: collections.deque(maxlen=20))


class Pool:
    """Start the workers of a study, follow them, and replace those that end early."""

    def __init__(self, session: Session, machine: Machine, display: Display, server: ForkServer | None = None):
        self.session, self.machine, self.display, self.server = session, machine, display, server
        self.runs = {run.name: run for run in session.study.runs}
        self.events: queue.Queue[tuple[_Worker, dict[str, Any]]] = queue.Queue()
        self.workers: list[_Worker] = []
        self.interrupts = 0
        self.errors: list[str] = []
        self.kills: collections.Counter[str] = collections.Counter()  # of the workers of each run

    def launch(self) -> None:
        """Return when every run has a result. Raises KeyboardInterrupt once workers have stopped, or RunError."""
        with handled(self._on_signal, *STOP):
            try:
                for index in range(min(self.machine.jobs, len(self._unfinished()))):
                    if self.interrupts:
                        break
                    self._start(self.machine.devices[index % len(self.machine.devices)])
                self._follow()
            finally:
                for worker in self.workers:
                    worker.process.kill()
                    worker.process.wait()
                    end_group(worker.process.pid)

    def _unfinished(self) -> list[RunConfig]:
        return [run for run in self.runs.values() if not finished(run_folder(self.session.folder, run))]

    def _start(self, device: str, fruitless: int = 0) -> None:
        process = (self.server.start(device) if self.server else None) or self._interpreter(device)
        worker = _Worker(process, device, DisplayCallbacks(self.display), fruitless)
        self.workers.append(worker)
        if self.interrupts:  # interrupted while it was being started
            process.send_signal(signal.SIGINT)
        assert process.stdout and process.stderr
        readers = [
            threading.Thread(target=self._listen, args=(worker, process.stdout), daemon=True),
            threading.Thread(target=self._keep_stderr, args=(worker, process.stderr), daemon=True),
        ]
        for thread in (*readers, threading.Thread(target=self._wait, args=(worker, readers), daemon=True)):
            thread.start()

    def _interpreter(self, device: str) -> subprocess.Popen[str]:
        """Start a worker in a Python of its own, which imports and loads everything anew."""
        # -P: a file in the current folder must not replace a module
        command = [sys.executable, "-P", "-m", "ablations.launch.worker", f"--data-dir={self.session.data_dir}"]
        command += [f"--device={device}", f"--threads={self.machine.threads}", f"--launcher={os.getpid()}"]
        logs = {"--tensorboard": self.session.tensorboard, "--wandb": self.session.wandb}
        command += [*(option for option, wanted in logs.items() if wanted), "--", str(self.session.folder)]
        with blocked(*STOP):  # a signal that comes before the worker listens would be lost in an import, or end it
            return subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )

    def _wait(self, worker: _Worker, readers: list[threading.Thread]) -> None:
        """Wait for the end of a worker, and end what it leaves behind, which may hold its output and its run's lock."""
        worker.process.wait()
        end_group(worker.process.pid)
        for reader in readers:
            reader.join(timeout=5)  # what has left the group may hold the output for ever
        self.events.put((worker, {"event": "exit"}))

    def _listen(self, worker: _Worker, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                event = _event(line)
                if event is not None:
                    self.events.put((worker, event))
                else:  # printed before the worker redirected its output
                    worker.output.append(line.rstrip())

    def _keep_stderr(self, worker: _Worker, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                worker.output.append(line.rstrip())

    def _follow(self) -> None:
        """Handle events until no worker is left."""
        while self.workers:
            try:
                worker, event = self.events.get(timeout=0.2)
            except queue.Empty:
                self.display.tick()
                continue
            match event["event"]:
                case "start":
                    worker.began = True
                    worker.callbacks.start(event["run"])
                case "log":
                    worker.callbacks.log(event["line"])
                case "warn":
                    worker.callbacks.warn(event["message"])
                case "end":
                    worker.callbacks.end(event["result"])
                    worker.fruitless = 0 if event["result"]["status"] == "done" else worker.fruitless
                case "error":
                    self._stop_for(event["message"])
                case "exit":
                    self.workers.remove(worker)
                    if not self.errors and not self.interrupts and self._unfinished():
                        self._ended(worker)
        if self.interrupts:
            raise KeyboardInterrupt
        if self.errors:
            raise RunError(self.errors[0])

    def _stop_for(self, error: str) -> None:
        """Have all workers stop; the error is raised when they have."""
        self.errors.append(error)
        self._signal(signal.SIGINT)

    def _ended(self, worker: _Worker) -> None:
        """Start another worker in the place of one that ended with work left, within bounds."""
        status = worker.process.returncode
        by_itself = status >= 0 and status != STOPPED
        if by_itself and status not in (0, LOST_DEVICE) and not worker.began:  # another would too
            self._stop_for(f"a worker process {_cause(status)}: {' / '.join(worker.output) or 'no output'}")
            return
        run = worker.callbacks.run
        fruitless = worker.fruitless + (run is None or status == STOPPED)
        if run is not None and status != STOPPED:
            self._lost(self.runs[run], worker, by_itself)
        if not (left := len(self._unfinished())):
            return
        if fruitless < IN_A_ROW:
            if status == STOPPED and run is not None:
                self.display.print(f"{run}: its process was stopped by a signal; another resumes it", style="red")
            self._start(worker.device, fruitless)
            return
        why = f"{fruitless} worker processes in a row ended without a finished run; the last {_cause(status)}"
        why += f": {worker.output[-1]}" if worker.output else ""
        if self.workers:
            self.display.print(f"{worker.device}: {why}; the other workers go on", style="red")
        else:
            self._stop_for(f"{worker.device}: {why}; {left} of {len(self.runs)} runs are left: rerun to resume")

    def _lost(self, run: RunConfig, worker: _Worker, by_itself: bool) -> None:
        """Mark the run of a worker that died failed, unless this was the first time that it was killed."""
        reason = f"its process {_cause(worker.process.returncode)}"
        self.kills[run.name] += 1
        if not by_itself and self.kills[run.name] < KILLS:
            self.display.print(f"{run.name}: {reason}; another resumes it", style="red")
            return
        if not by_itself:
            reason += f", {KILLS} times"
        if worker.output:
            reason += f": {worker.output[-1]}"
        folder = run_folder(self.session.folder, run)
        if mark_failed(run, folder, reason):
            self.display.end(run.name, read_state(folder).result)

    def _on_signal(self, *_: object) -> None:
        self.interrupts += 1
        self._signal(signal.SIGINT if self.interrupts == 1 else signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self.workers:
            worker.process.send_signal(number)


def _event(line: str) -> dict[str, Any] | None:
    """Return the event in a line from a worker; None if something else printed the line."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _cause(status: int) -> str:
    """Describe how a process ended."""
    if status == STOPPED:
        return "was stopped by a signal"
    if status == LOST_DEVICE:
        return "could not use its GPU"
    if status >= 0:
        return f"ended with exit status {status}"
    memory = " (possibly out of memory)" if status == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-status).name}{memory}"


def run_study(session: Session, machine: Machine) -> None:
    """Run the unfinished runs of a study in worker processes, showing their progress.

    Raises RequestError if the folder is another study's, RunError if it cannot be written or no worker can start,
    KeyboardInterrupt once the workers have stopped.
    """
    threads = f"{machine.threads} thread{'s' * (machine.threads > 1)} each"
    how = f"{machine.jobs} in parallel, {threads}, on {', '.join(machine.devices)}"
    logs = {"tensorboard": session.tensorboard, "wandb": session.wandb}
    train = partial(_train, session.folder, session.load, machine.threads, os.getpid(), logs)
    with (
        fork_server(session, machine, train) as server,
        session.opened() as ended,
        session.display(ended, how) as display,
    ):
        Pool(session, machine, display, server).launch()


def _train(folder: Path, load: Any, threads: int, launcher: int, logs: dict[str, bool], device: str) -> int:
    """Be a worker in a fork of this process."""
    from ablations.launch.worker import work

    return work(folder, load, device, threads, launcher, **logs)
