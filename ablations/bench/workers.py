"""Run a benchmarked model in processes of its own, and time its training steps and inference there."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, Literal, Protocol

import torch
from torch.nn import functional as F

from ablations.bench.memory import peak_memory, reset_peak_memory
from ablations.bench.models import MEMORY_FORMATS, BenchmarkedModel, Setting, build_benchmarked
from ablations.errors import RequestError, RunError, one_line
from ablations.machine import give_back_memory, prepare_process
from ablations.seeding import generator
from ablations.training.gpu import is_out_of_memory
from ablations.training.gpu_arithmetic import gpu_arithmetic
from ablations.training.precision import autocast
from modernize.plugins import load_installed_plugin, load_plugin, plugins

LONGEST = 500  # characters of an error

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
class Prepared:
    """What a worker measures before the rounds: memory that each task needs (MB), and time to compile it (s)."""

    inference_memory: float
    training_memory: float
    training_compile: float = 0.0
    inference_compile: float = 0.0


@dataclass(frozen=True)
class _Failure:
    """Why a worker ended."""

    reason: str
    out_of_memory: bool


class Subject(Protocol):
    """What a group of workers measures."""

    @property
    def place(self) -> str: ...  # as errors begin

    @property
    def smaller(self) -> str: ...  # how to reduce the batch size

    @property
    def setting(self) -> Setting: ...


class WorkerGroup:
    """The worker processes of a benchmarked model or training loop, one per job.

    Args:
        subject: What to measure.
        work: Called in each worker with the subject, a pipe and the plugins to load. It sends what it has measured
            beforehand, then the seconds of each requested round.
        seconds: Target duration of a round; it has at least one step.
        probe: Steps whose time tells how many steps that takes.
        daemon: Whether a worker may have no processes of its own, and ends with this one.

    Attributes:
        prepared: What the workers have measured beforehand.
    """

    def __init__(
        self,
        subject: Subject,
        work: Callable[[Any, Connection, tuple[str, ...]], None],
        seconds: float,
        probe: int = 1,
        daemon: bool = True,
    ):
        self.subject, self.seconds, self.probe = subject, seconds, probe
        self.steps: dict[Task, int] = {}  # per round
        context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        context.set_forkserver_preload([work.__module__])  # on macOS a process that has loaded torch must not fork
        self.processes, self.pipes = [], []
        needed = tuple(one.name for one in plugins())
        for _ in range(subject.setting.jobs):
            pipe, workers_pipe = context.Pipe()
            process = context.Process(target=work, args=(subject, workers_pipe, needed), daemon=daemon)
            process.start()
            workers_pipe.close()
            self.processes.append(process)
            self.pipes.append(pipe)
        self.prepared: list[Any] = [self._receive(pipe) for pipe in self.pipes]

    def latencies(self, count: int) -> list[float]:
        """Return the latencies of one image in seconds: `count` per worker, all workers at once."""
        return [seconds for latencies in self._request("infer_one", 1, count) for seconds in latencies]

    def throughput(self, task: Task) -> float:
        """Run one round; return the images/s of all workers together."""
        return self.round(task)[0]

    def round(self, task: Task) -> tuple[float, float | None]:
        """Run one round; return the images/s of all workers together, and their processor time per image (s) if known.

        A worker whose processor time counts sends it behind the round's seconds.
        """
        if task not in self.steps:
            probed = max(seconds for seconds, *_ in self._request(task, self.probe, 1))
            self.steps[task] = max(int(self.seconds * self.probe / probed), 1)
        setting, steps = self.subject.setting, self.steps[task]
        images, replies = setting.jobs * setting.batch_size * steps, self._request(task, steps, 1)
        used = [seconds for _, *more in replies for seconds in more]
        return images / max(seconds for seconds, *_ in replies), sum(used) / images if used else None

    def close(self) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.close()
            process.join()

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
            raise RunError(f"{self.subject.place}: {received.reason}")
        size = self.subject.setting.batch_size
        raise RequestError(
            f"{self.subject.place}: not enough memory for a batch of {size} images; {self.subject.smaller}"
        )


def work_model(model: BenchmarkedModel, pipe: Connection, needed: tuple[str, ...]) -> None:
    """Send what `prepared` measures, then time tasks on request until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    device = model.setting.device
    load_plugins(needed)
    arithmetic = gpu_arithmetic(device, model.setting.precision)  # alike for ours and for reference implementations
    with suppress(EOFError, BrokenPipeError), failure_sent(pipe), arithmetic:
        prepare_process(model.setting.threads)
        if model.setting.compile:
            torch.compile(torch.nn.Identity())  # compiles nothing yet, but loads libraries, whose memory is not counted
        before = _memory_of_libraries(model)
        runner = ModelRunner(model)
        pipe.send(prepared(runner, before))
        while True:
            give_back_memory()  # the other models' workers need it until the next round
            task, steps, count = pipe.recv()
            runner.time(task, model.setting.warmup)
            pipe.send([runner.time(task, steps) for _ in range(count)])


def load_plugins(names: tuple[str, ...]) -> None:
    """Load the plugins of the parent process."""
    for name in names:
        load_plugin(name) if name.endswith(".py") else load_installed_plugin(name)


def prepared(runner: ModelRunner, before: float) -> Prepared:
    """Compile if asked to, then measure the memory that the tasks need beyond `before` (MB), the libraries' own."""
    device = runner.setting.device
    give_back_memory()
    compile_seconds: dict[Task, float] = {}
    if runner.setting.compile:
        without = reset_peak_memory(device)
        compile_seconds = _compile_seconds(runner)
        runner.optimizer.zero_grad()
        runner.optimizer.state.clear()
        give_back_memory()
        before += reset_peak_memory(device) - without  # the compiler is another library
    reset_peak_memory(device)
    runner.infer()
    inference = peak_memory(device) - before
    reset_peak_memory(device)
    runner.time("train_step", 2)
    seconds = (compile_seconds.get(task, 0.0) for task in ("train_step", "infer"))
    return Prepared(inference, peak_memory(device) - before, *seconds)


def _compile_seconds(runner: ModelRunner) -> dict[Task, float]:
    """Run each task for the first time, with an empty cache of the compiler; return the seconds that this added."""
    # one image comes last: by another batch size than before, torch would compile the other tasks for any batch size
    tasks: tuple[Task, ...] = ("infer", "train_step", "infer_one")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, _environment("TORCHINDUCTOR_CACHE_DIR", folder):
        return {task: max(runner.time(task, 1) - runner.time(task, 1), 0.0) for task in tasks}


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def failure_sent(pipe: Connection) -> Iterator[None]:
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
