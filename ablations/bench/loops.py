"""Measure the Trainer's training beside plain training loops: images loaded, augmented and trained on, in rounds."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import torch
from torch import nn

from ablations.bench.measure import machine_name
from ablations.bench.models import Setting
from ablations.bench.plain_loops import LOOPS, PLAIN, loader_workers
from ablations.bench.results import speedups
from ablations.bench.workers import WorkerGroup, failure_sent, load_plugins, synchronize
from ablations.data.batches import mean_and_std
from ablations.data.datasets import DataSet, load
from ablations.data.splits import Split
from ablations.errors import RequestError, RunError
from ablations.machine import prepare_process
from ablations.seeding import seed_of
from ablations.training.callbacks import NullCallbacks
from ablations.training.gpu_arithmetic import gpu_arithmetic
from ablations.training.trainer import Trainer
from ablations.training_config import TrainingConfig
from modernize.acceleration import accelerate
from modernize.models import build
from modernize.reference import build_reference, is_reference
from modernize.user_code import UserCodeError, call_function, failures_of, function_of, is_call, read_call
from reports.loop_table import LoopRow

TRAINER = "trainer"
WARMUP = 12  # least steps before a round
ROUND_SECONDS, PROBE = 2.0, 4  # target duration of a round; steps whose time tells how many steps that takes
ENDLESS = 1e6  # epochs


@dataclass(frozen=True)
class TimedLoop:
    """A training loop to measure.

    Attributes:
        name: The design as the user typed it.
        design: Design string, or a reference model such as `torchvision:resnet18`.
        loop: `trainer`, `tensor`, `dataloader` or FILE.py:FUNCTION.
        accelerated: Whether a plain loop trains the network with the faster modules of `modernize.accelerate`.
        data: Name of the dataset.
        data_dir: Folder that contains the datasets.
        recipe: Recipe; a plain loop has what it can of it.
        setting: Processes, threads, device and precision.
    """

    name: str
    design: str
    loop: str
    accelerated: bool
    data: str
    data_dir: Path
    recipe: TrainingConfig
    setting: Setting

    @property
    def words(self) -> str:
        """Describe the loop."""
        own = {TRAINER: "Trainer", "tensor": "tensor loop", "dataloader": "DataLoader loop"}.get(self.loop, self.loop)
        return f"{own}, accelerated network" if self.accelerated else own

    @property
    def label(self) -> str:
        return f"{self.name} ({self.words})"

    @property
    def place(self) -> str:
        return f"loops {self.label}"

    @property
    def smaller(self) -> str:
        return f"reduce the recipe's batch_size, as in --recipe quick,batch_size={max(self.setting.batch_size // 2, 2)}"


@dataclass(frozen=True)
class LoopMeasurement:
    """The results of one loop.

    Attributes:
        loop: The loop.
        training: Throughput of each round, all jobs together (images/s).
        processor: Processor time of each round, over all processes and worker processes (s per 1,000 images); none
            where the system does not tell.
        start_seconds: Time until the end of the first step: loading the dataset, building the network and starting
            worker processes, but no imports (s).
    """

    loop: TimedLoop
    training: tuple[float, ...]
    processor: tuple[float, ...]
    start_seconds: float


def timed_loops(
    designs: Sequence[str], against: Sequence[str], data: str, data_dir: Path, recipe: TrainingConfig, setting: Setting
) -> list[TimedLoop]:
    """List the loops to measure: for each design the Trainer, then each plain loop.

    The tensor loop is measured with the network as `build` returns it, and accelerated, which tells what the Trainer
    costs from what the faster modules save.

    Raises:
        RequestError: If a loop is unknown, or the plain loops lack what the recipe asks for.
    """
    for name in against:
        _check(name, recipe)
    prepared = 2 * loader_workers(recipe, setting.jobs)  # batches, while other loops take their turns
    warmup = max(WARMUP, prepared + prepared // 2)
    setting = replace(setting, warmup=warmup, batch_size=recipe.batch_size, precision=recipe.precision).with_threads()
    common = (data, data_dir, recipe.model_copy(update={"max_epochs": ENDLESS}), setting)
    loops = []
    for design in designs:
        loops.append(TimedLoop(design, design, TRAINER, False, *common))
        for name in against:
            faster = (True, False) if name == "tensor" and not is_reference(design) else (False,)
            loops += [TimedLoop(design, design, name, accelerated, *common) for accelerated in faster]
    return loops


def _check(name: str, recipe: TrainingConfig) -> None:
    """Raise RequestError if a loop does not exist, or lacks a setting of the recipe."""
    if is_call(name):
        try:
            function_of(read_call(name))
        except UserCodeError as error:
            raise RequestError(f"--against {error}") from None
        return
    if name not in LOOPS:
        raise RequestError(f"--against {name}: unknown; choose {', '.join(LOOPS)} or FILE.py:FUNCTION")
    fields = TrainingConfig.model_fields
    lacking = [key for key in fields if key not in PLAIN and getattr(recipe, key) != fields[key].default]
    if lacking or recipe.precision == "fp16":
        key = lacking[0] if lacking else "precision"
        default = "null" if fields[key].default is None else fields[key].default
        raise RequestError(
            f"--against {name}: the loop lacks {key}={getattr(recipe, key)} of the recipe; set {key}={default} in "
            "--recipe, or compare a loop of your own"
        )


def measure_loops(
    loops: Sequence[TimedLoop], repeats: int, report: Callable[[str], None] = lambda line: None
) -> list[LoopMeasurement]:
    """Measure the loops of each design in interleaved rounds, one design after the other.

    Args:
        loops: Loops to measure.
        repeats: Rounds per loop.
        report: Called with one line per round.

    Raises:
        RequestError: If a network or a dataset does not fit into memory.
        RunError: If a loop fails.
    """
    by_design: dict[str, list[TimedLoop]] = defaultdict(list)
    for loop in loops:
        by_design[loop.name].append(loop)
    return list(chain.from_iterable(_interleaved(row, repeats, report) for row in by_design.values()))


def _interleaved(loops: Sequence[TimedLoop], repeats: int, report: Callable[[str], None]) -> Iterator[LoopMeasurement]:
    with ExitStack() as stack:
        groups = []
        for loop in loops:
            report(f"preparing {loop.label}")
            groups.append(WorkerGroup(loop, work_loop, ROUND_SECONDS, PROBE, daemon=False))  # a DataLoader has workers
            stack.callback(groups[-1].close)
        rounds: list[list[tuple[float, float | None]]] = [[] for _ in groups]
        for number in range(repeats):
            for group, found in zip(groups, rounds, strict=True):
                found.append(group.round("train_step"))
            report(f"{loops[0].name}: round {number + 1} of {repeats}")
        for loop, group, found in zip(loops, groups, rounds, strict=True):
            used = tuple(1000 * seconds for _, seconds in found if seconds is not None)
            yield LoopMeasurement(loop, tuple(speed for speed, _ in found), used, max(group.prepared))


# ---- In a worker process


class Clock:
    """Times a loop's training steps as the parent process asks for: `tick` is called after each step."""

    def __init__(self, pipe: Connection, setting: Setting):
        self.pipe, self.setting = pipe, setting
        self.ticks = self._ticks()
        next(self.ticks)

    def tick(self) -> None:
        """Note that a step has ended; raise EOFError if no more are wanted."""
        next(self.ticks)

    def _ticks(self) -> Iterator[None]:
        """Send the seconds of the first step; then, on each request, those of its steps after a warm-up."""
        began = self._now()
        yield
        self.pipe.send(self._now() - began)
        while True:
            _task, steps, _count = self.pipe.recv()
            for _ in range(self.setting.warmup):
                yield
            used, began = processor_seconds(), self._now()
            for _ in range(steps):
                yield
            seconds = self._now() - began
            self.pipe.send([seconds] if used is None else [seconds, (processor_seconds() or used) - used])

    def _now(self) -> float:
        synchronize(self.setting.device)
        return time.perf_counter()


def processor_seconds() -> float | None:
    """Return the processor time of this process and of its workers, which are alive; None where that is not known."""
    used = time.process_time()
    for child in multiprocessing.active_children():
        try:
            fields = Path(f"/proc/{child.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            return None
        used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def work_loop(loop: TimedLoop, pipe: Connection, needed: tuple[str, ...]) -> None:
    """Send the seconds until the end of the first step, then time steps on request until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # a DataLoader's workers start as in a script: this process has another default, since a server has made it
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    load_plugins(needed)
    arithmetic = gpu_arithmetic(loop.setting.device, loop.recipe.precision)
    with suppress(EOFError, BrokenPipeError), failure_sent(pipe), arithmetic:
        if loop.loop == TRAINER:
            prepare_process(loop.setting.threads)
        else:  # as torch starts
            torch.set_num_threads(loop.setting.threads)
        run_loop(loop, Clock(pipe, loop.setting).tick)
        raise RunError("the loop has ended; it must go on until it is closed")


def run_loop(loop: TimedLoop, tick: Callable[[], None]) -> nn.Module:
    """Train with a loop and call `tick` after each step; return the network at the end of the recipe's epochs."""
    torch.manual_seed(seed_of("loops"))
    recipe, device = loop.recipe, loop.setting.device
    data = load(loop.data, loop.data_dir, recipe.image_size)
    if not isinstance(data.train, Split):
        raise RequestError(f"dataset {data.name}: loops are compared on images in memory; these stay in their files")
    network = _network(loop, data)
    if loop.loop == TRAINER:
        unsaved = recipe.model_copy(update={"checkpoint_seconds": ENDLESS})  # time goes by while others take turns
        with tempfile.TemporaryDirectory(prefix="loops-") as folder:
            Trainer(
                network, data.train, data.test, unsaved, folder=folder, device=device, callbacks=_Ticking(tick)
            ).train()
        return network
    network = network.to(device)
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if loop.accelerated:
        accelerate(network)
    if recipe.compile:
        network.compile()
    with closing(_steps(loop, network, data.train)) as steps:
        for _ in steps:
            tick()
    return network


class _Ticking(NullCallbacks):
    """Call a function after each training step, and never stop."""

    def __init__(self, tick: Callable[[], None]):
        super().__init__(self.tick)
        self.note = tick

    def tick(self) -> bool:
        self.note()
        return False


def _network(loop: TimedLoop, data: DataSet) -> nn.Module:
    """Build the network as a run with this recipe does."""
    recipe, images = loop.recipe, (len(data.classes), data.channels, loop.recipe.drop_path_rate)
    scale, zeroed = recipe.head_init_scale, recipe.zero_init_residual
    if is_reference(loop.design):
        return build_reference(loop.design, *images, data.image_size, scale, zeroed)
    return build(loop.design, *images, scale, recipe.init, zeroed)


def _steps(loop: TimedLoop, network: nn.Module, train: Split) -> Generator[None]:
    """Yield after each training step of a plain loop."""
    if not is_call(loop.loop):
        recipe = loop.recipe
        if loop.loop == "dataloader":  # which resizes image by image, and normalizes as others do
            train = replace(cast(Split, load(loop.data, loop.data_dir).train), normalization=mean_and_std(train))
            recipe = recipe.model_copy(update={"workers": loader_workers(recipe, loop.setting.jobs)})
        yield from LOOPS[loop.loop](network, train, recipe)
        return
    call = read_call(loop.loop)
    steps = iter(call_function(call, network, train, loop.recipe))
    while True:
        with failures_of(call.file):
            ended = next(steps, steps) is steps
        if ended:
            return
        yield


# ---- Results


def loop_rows(measured: Sequence[LoopMeasurement]) -> list[LoopRow]:
    """Return the table's rows; those of plain loops have the Trainer's speedup over them."""
    trainers = {one.loop.name: one for one in measured if one.loop.loop == TRAINER}
    rows = []
    for one in measured:
        trainer = trainers[one.loop.name]
        known = bool(one.processor and trainer.processor)
        saved = _words(speedups(one.processor, trainer.processor)) if known and one is not trainer else ""
        rows.append(
            LoopRow(
                label=one.loop.label,
                train_images_per_second=statistics.median(one.training),
                low=min(one.training),
                high=max(one.training),
                processor_seconds=statistics.median(one.processor) if known else None,
                start_seconds=one.start_seconds,
                ratio="" if one is trainer else _words(speedups(trainer.training, one.training)),
                processor_ratio=saved,
            )
        )
    return rows


def _words(ratio: tuple[float, float, float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*ratio)


def loop_subtitle(measured: Sequence[LoopMeasurement], recipe_name: str) -> str:
    """Describe the machine, the processes and what is trained."""
    loop = measured[0].loop
    setting = loop.setting
    processes = f"{setting.jobs} process{'es' if setting.jobs > 1 else ''} of {setting.threads} thread"
    threads = processes + ("s" if setting.threads > 1 else "")
    return f"{machine_name(setting)}, {threads}, {loop.data}, recipe {recipe_name}, batch {setting.batch_size}"


def loops_json(measured: Sequence[LoopMeasurement]) -> str:
    """Return all results as JSON text."""
    lines = [
        {
            "design": one.loop.name,
            "loop": one.loop.loop,
            "accelerated": one.loop.accelerated,
            "data": one.loop.data,
            "recipe": one.loop.recipe.model_dump(mode="json", exclude={"max_epochs"}),
            "setting": asdict(one.loop.setting),
            "training": one.training,
            "processor": one.processor,
            "start_seconds": one.start_seconds,
        }
        for one in measured
    ]
    return json.dumps({"machine": machine_name(measured[0].loop.setting), "measured": lines}, indent=1) + "\n"
