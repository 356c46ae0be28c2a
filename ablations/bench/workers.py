"""Run a benchmarked model in processes of its own, and time its training steps and inference there."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, Literal

import torch
from torch.nn import functional as F

from ablations.bench.memory import peak_memory, reset_peak_memory
from ablations.bench.models import MEMORY_FORMATS, BenchmarkedModel, build_benchmarked
from ablations.errors import RequestError, RunError, one_line
from ablations.machine import give_back_memory, prepare_process
from ablations.seeding import generator
from ablations.training.gpu import is_out_of_memory
from ablations.training.gpu_arithmetic import gpu_arithmetic
from ablations.training.precision import autocast
from modernize.plugins import load_installed_plugin, load_plugin, plugins

LONGEST = 500  # characters of an error
ROUND_SECONDS = 0.5  # target duration of a round; it has at least one step

Task = Literal["train_step", "infer", "infer_one"]  # methods of `ModelRunner`


class ModelRunner:
    """A benchmarked model ready to run: its network, optimizer, images and labels."""

    def __init__(self, model: BenchmarkedModel):
        self.setting = setting = model.setting
        self.network = build_benchmarked(model)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=True)
        random = generator("bench")
        shape = (setting.batch_size, setting.in_channels, setting.image_size, setting.image_size)
        images = torch.randn(shape, generator=random).to(setting.device)
        self.images = images.to(memory_format=MEMORY_FORMATS[model.memory_format])
        self.labels = torch.randint(setting.num_classes, shape[:1], generator=random).to(setting.device)

    def train_step(self) -> None:
        """Run one training step: forward pass, loss, backward pass and optimizer."""
        self.network.train()
        self.optimizer.zero_grad()
        with autocast(self.setting.device, self.setting.precision):
            loss = F.cross_entropy(self.network(self.images), self.labels)
        loss.backward()
        self.optimizer.step()

    def infer(self) -> None:
        """Compute the logits of the batch."""
        self._infer(self.images)

    def infer_one(self) -> None:
        """Compute the logits of one image."""
        self._infer(self.images[:1])

    @torch.inference_mode()
    def _infer(self, images: torch.Tensor) -> None:
        self.network.eval()
        with autocast(self.setting.device, self.setting.precision):
            self.network(images)

    def time(self, task: Task, repeats: int) -> float:
        """Return the seconds that `repeats` runs of a task take."""
        run: Callable[[], None] = getattr(self, task)
        synchronize(self.setting.device)
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        synchronize(self.setting.device)
        return time.perf_counter() - start


def synchronize(device: str) -> None:
    """Wait until a GPU has finished its work."""
    if device != "cpu":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class _Failure:
    """Why a worker ended."""

    reason: str
    out_of_memory: bool


class WorkerGroup:
    """The worker processes of a benchmarked model, one per job. Memory is in MB, summed over the workers."""

    def __init__(self, model: BenchmarkedModel):
        self.model = model
        self.steps: dict[Task, int] = {}  # per round
        context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        context.set_forkserver_preload([__name__])  # on macOS a process that has loaded torch must not fork
        self.processes, self.pipes = [], []
        needed = tuple(one.name for one in plugins())
        for _ in range(model.setting.jobs):
            pipe, workers_pipe = context.Pipe()
            process = context.Process(target=_work, args=(model, workers_pipe, needed), daemon=True)
            process.start()
            workers_pipe.close()
            self.processes.append(process)
            self.pipes.append(pipe)
        memories = [self._receive(pipe) for pipe in self.pipes]
        self.inference_memory, self.training_memory = (sum(column) for column in zip(*memories, strict=True))

    def latencies(self, count: int) -> list[float]:
        """Return the latencies of one image in seconds: `count` per worker, all workers at once."""
        return [seconds for latencies in self._request("infer_one", 1, count) for seconds in latencies]

    def throughput(self, task: Task) -> float:
        """Run one round; return the images/s of all workers together."""
        if task not in self.steps:
            self.steps[task] = max(int(ROUND_SECONDS / self._slowest(task, 1)), 1)
        setting, steps = self.model.setting, self.steps[task]
        return setting.jobs * setting.batch_size * steps / self._slowest(task, steps)

    def close(self) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.close()
            process.join()

    def _slowest(self, task: Task, steps: int) -> float:
        """Return the seconds that the slowest worker takes for `steps` steps."""
        return max(seconds for (seconds,) in self._request(task, steps, 1))

    def _request(self, task: Task, steps: int, count: int) -> list[list[float]]:
        """Let all workers time `steps` steps `count` times, after their warm-up; return each worker's seconds."""
        for pipe in self.pipes:
            pipe.send((task, steps, count))
        return [self._receive(pipe) for pipe in self.pipes]

    def _receive(self, pipe: Connection) -> Any:
        try:
            received = pipe.recv()
        except (EOFError, ConnectionResetError):
            process = self.processes[self.pipes.index(pipe)]
            process.join()
            by_system = process.exitcode == -signal.SIGKILL  # as Linux does if memory runs out
            received = _Failure(f"its process ended with exit status {process.exitcode}", by_system)
        if not isinstance(received, _Failure):
            return received
        if not received.out_of_memory:
            raise RunError(f"bench {self.model.label}: {received.reason}")
        size = self.model.setting.batch_size
        raise RequestError(
            f"bench {self.model.label}: not enough memory for a batch of {size} images; reduce --batch-size"
        )


def _work(model: BenchmarkedModel, pipe: Connection, needed: tuple[str, ...]) -> None:
    """Send the memory that inference and training need, then time tasks on request until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    device = model.setting.device
    for name in needed:
        load_plugin(name) if name.endswith(".py") else load_installed_plugin(name)
    arithmetic = gpu_arithmetic(device, model.setting.precision)  # alike for ours and for reference implementations
    with suppress(EOFError, BrokenPipeError), _failure_sent(pipe), arithmetic:
        prepare_process(model.setting.threads)
        before = _memory_of_libraries(model)
        runner = ModelRunner(model)
        give_back_memory()
        reset_peak_memory(device)
        runner.infer()
        inference = peak_memory(device) - before
        reset_peak_memory(device)
        runner.time("train_step", 2)
        pipe.send((inference, peak_memory(device) - before))
        while True:
            give_back_memory()  # the other models' workers need it until the next round
            task, steps, count = pipe.recv()
            runner.time(task, model.setting.warmup)
            pipe.send([runner.time(task, steps) for _ in range(count)])


@contextmanager
def _failure_sent(pipe: Connection) -> Iterator[None]:
    """Send an error to the parent process, which raises it, rather than print a traceback."""
    try:
        yield
    except (EOFError, BrokenPipeError):
        raise
    except Exception as error:
        pipe.send(_Failure(f"{type(error).__name__}: {one_line(error)}"[:LONGEST], is_out_of_memory(error)))


def _memory_of_libraries(model: BenchmarkedModel) -> float:
    """Train a small network, which loads the libraries, and return the MB in use without it."""
    setting = replace(model.setting, batch_size=2, image_size=64, recompute=False, compile=False)
    runner = ModelRunner(replace(model, design="pocket", source="ours", setting=setting))
    runner.train_step()
    runner.infer()
    del runner
    give_back_memory()
    return reset_peak_memory(model.setting.device)
