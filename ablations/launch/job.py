"""One run of a study as a job: what each of its tasks does, on a Slurm cluster or on this machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.launch.signals import handled
from ablations.streams import prepare_streams
from ablations.studies.folder import run_folder
from ablations.studies.run import finished
from ablations.training.callbacks import Callbacks, NullCallbacks

if TYPE_CHECKING:
    import submitit

PATIENCE = 600  # seconds that an ending job waits to be killed or requeued


@dataclass(frozen=True)
class Job:
    """One run of a study; each task of its job calls this object."""

    study: Path
    run: str
    data_dir: Path
    on_gpu: bool
    threads: int
    tensorboard: bool
    wandb: bool = False

    def __call__(self) -> str:
        """Train the run to its end and return its status; if preempted, write a checkpoint and have it requeued."""
        from ablations.launch.claim import WAIT, Place, take
        from ablations.launch.in_process import own_device
        from ablations.machine import prepare_process
        from ablations.studies.folder import read_study
        from ablations.studies.run import load_data, read_state
        from ablations.training.distributed import joined
        from ablations.training.gpu_arithmetic import prepare_arithmetic
        from ablations.training.trainer import Interrupted

        prepare_streams()
        _tell_torch_of_tasks()
        prepare_process(self.threads)
        device = own_device("cuda" if self.on_gpu else "cpu")
        study = read_study(self.study)
        run = {run.name: run for run in study.runs}[self.run]
        prepare_arithmetic(device, run.recipe.deterministic)
        folder = run_folder(self.study, run)
        signals = JobSignals()
        with signals.listening():
            try:
                with joined(device) as group:
                    place = Place(device, group, self.tensorboard, self.wandb)
                    data = load_data(run, self.data_dir)
                    callbacks = Log(signals) if group.main else NullCallbacks(signals)
                    while take(run, folder, data, place, callbacks, study.name) is None:
                        if group.by_main(lambda: finished(folder)):
                            break
                        if group.any(signals())[0]:
                            raise Interrupted
                        time.sleep(WAIT)  # an earlier start of this job may still be ending
            except Interrupted:
                signals.leave()
        return read_state(folder).status

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what submitit requeues: the same job, which resumes from the run's folder."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class JobSignals:
    """The signals a job gets: SIGUSR2 when preempted or out of time, SIGTERM before it is killed."""

    def __init__(self) -> None:
        self.leaving = self.ending = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record signals within the block; the handler of SIGUSR2 before it is submitit's, which requeues the job."""
        with handled(self._on_signal, signal.SIGUSR2, signal.SIGTERM) as previous:
            self.requeue = previous[signal.SIGUSR2]
            yield

    def _on_signal(self, number: int, _: object) -> None:
        if number == signal.SIGUSR2:
            self.leaving = True
        else:
            self.ending = True

    def __call__(self) -> bool:
        return self.leaving or self.ending

    def leave(self) -> None:
        """Have the job requeued if preempted; on Slurm wait to be killed, since a job that exits is not requeued."""
        if self.leaving:
            self.requeue(signal.SIGUSR2, None)
        if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":  # SLURM_JOB_ID may be this machine's own
            time.sleep(PATIENCE)


class Log(Callbacks):
    """Print a job's progress to its output, which submitit keeps."""

    def start(self, run: str) -> None:
        self.run = run
        self.warn("started")

    def log(self, line: dict[str, Any]) -> None:
        self.warn(f"step {line['step']} of {line['steps']}, loss {line['loss']:.4f}")

    def end(self, result: dict[str, Any]) -> None:
        self.warn(f"{result['status']} {result.get('top1', result.get('reason'))}")

    def warn(self, message: str) -> None:
        print(f"{self.run}: {message}", flush=True)


def _tell_torch_of_tasks() -> None:
    """Set the variables that torchrun would set, in a job of several tasks."""
    import submitit

    if submitit.JobEnvironment().num_tasks > 1:
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
