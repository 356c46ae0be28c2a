"""Run a study in parallel worker processes; a worker that dies fails only its own run."""

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
from typing import IO, Any

from ablations.errors import RunError
from ablations.launch.session import DisplayCallbacks, Session
from ablations.launch.signals import handled
from ablations.machine import STOP, Machine, blocked
from ablations.progress import Display
from ablations.studies.folder import run_folder
from ablations.studies.run import finished, mark_failed, read_state


@dataclass
class _Worker:
    process: subprocess.Popen[str]
    callbacks: DisplayCallbacks
    output: collections.deque[str] = field(default_factory=lambda: collections.deque(maxlen=20))


class Pool:
    """Start the workers of a study, follow them, and replace those that die."""

    def __init__(self, session: Session, machine: Machine, display: Display):
        self.session, self.machine, self.display = session, machine, display
        self.runs = {run.name: run for run in session.study.runs}
        self.events: queue.Queue[tuple[_Worker, dict[str, Any]]] = queue.Queue()
        self.workers: list[_Worker] = []
        self.interrupts = 0

    def launch(self) -> None:
        """Return when every run has a result. Raises KeyboardInterrupt once workers have stopped, or RunError."""
        with handled(self._on_signal, *STOP):
            try:
                unfinished = [run for run in self.runs.values() if not finished(run_folder(self.session.folder, run))]
                for index in range(min(self.machine.jobs, len(unfinished))):
                    if self.interrupts:
                        break
                    self._start(self.machine.devices[index % len(self.machine.devices)])
                self._follow()
            finally:
                for worker in self.workers:
                    worker.process.kill()
                    worker.process.wait()

    def _start(self, device: str) -> None:
        # -P: a file in the current folder must not replace a module
        command = [sys.executable, "-P", "-m", "ablations.launch.worker", f"--data-dir={self.session.data_dir}"]
        command += [f"--device={device}", f"--threads={self.machine.threads}", f"--launcher={os.getpid()}"]
        logs = {"--tensorboard": self.session.tensorboard, "--wandb": self.session.wandb}
        command += [*(option for option, wanted in logs.items() if wanted), "--", str(self.session.folder)]
        with blocked(*STOP):  # a signal that comes before the worker listens would be lost in an import, or end it
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        worker = _Worker(process, DisplayCallbacks(self.display))
        self.workers.append(worker)
        if self.interrupts:  # interrupted while it was being started
            process.send_signal(signal.SIGINT)
        assert process.stdout and process.stderr
        listening = threading.Thread(target=self._listen, args=(worker, process.stdout, device), daemon=True)
        listening.start()
        threading.Thread(target=self._keep_stderr, args=(worker, process.stderr), daemon=True).start()

    def _listen(self, worker: _Worker, stream: IO[str], device: str) -> None:
        with stream:
            for line in stream:
                event = _event(line)
                if event is not None:
                    self.events.put((worker, event))
                else:  # printed before the worker redirected its output
                    worker.output.append(line.rstrip())
        worker.process.wait()
        self.events.put((worker, {"event": "exit", "device": device}))

    def _keep_stderr(self, worker: _Worker, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                worker.output.append(line.rstrip())

    def _follow(self) -> None:
        """Handle events until no worker is left."""
        errors: list[str] = []
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
                    errors.append(event["message"])
                    self._signal(signal.SIGINT)
                case "exit":
                    self.workers.remove(worker)
                    self._ended(worker, event["device"], bool(errors))
        if self.interrupts:
            raise KeyboardInterrupt
        if errors:
            raise RunError(errors[0])

    def _ended(self, worker: _Worker, device: str, stopping: bool) -> None:
        """If a worker died, mark its run failed and start another worker in its place."""
        status = worker.process.returncode
        if status in (0, 130) or stopping or self.interrupts:
            return
        if worker.callbacks.run is None:  # it died before or between runs, and another would too
            raise RunError(f"a worker process {_cause(status)}: {' / '.join(worker.output) or 'no output'}")
        run = self.runs[worker.callbacks.run]
        reason = f"its process {_cause(status)}"
        if worker.output:
            reason += f": {worker.output[-1]}"
        folder = run_folder(self.session.folder, run)
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
    """Return the event in a line from a worker; None if something else printed the line."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _cause(status: int) -> str:
    """Describe how a process ended."""
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
    with session.opened() as ended, session.display(ended, how) as display:
        Pool(session, machine, display).launch()
