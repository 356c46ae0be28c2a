"""Measure benchmarked models in interleaved rounds, and the machine's peak FLOP/s beside them."""

from __future__ import annotations

import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter
from torch.nn import functional as F

from ablations.bench.models import BenchmarkedModel, Setting
from ablations.bench.workers import Prepared, Task, WorkerGroup, synchronize, work_model
from ablations.machine import cores_in_words, usable_cores
from ablations.seeding import generator
from ablations.training.gpu_arithmetic import gpu_arithmetic
from ablations.training.precision import PRECISIONS
from modernize.cost import count

TASK_NAMES: dict[Task, str] = {"train_step": "training", "infer": "inference"}
ROUND_SECONDS = 0.5  # target duration of a round
LATENCY_RUNS = 5  # single-image inferences per latency round
PEAK_SIZE = {"cpu": 2048, "cuda": 8192}  # rows and columns of the matrices whose product measures the peak


@dataclass(frozen=True)
class Measurement:
    """The results of one benchmarked model.

    Attributes:
        model: The benchmarked model.
        peak: The machine's peak with as many threads (GFLOP/s).
        params: Parameters of the network.
        macs: Multiply-accumulate operations per image.
        training: Training throughput of each round, all jobs together (images/s).
        inference: Inference throughput of each round, all jobs together (images/s).
        latency: Latencies of one image (ms).
        training_memory: Peak memory of training, all jobs together (MB).
        inference_memory: Peak memory of inference, all jobs together (MB).
        training_compile_seconds: Time to compile the training step, with an empty cache (s); None if not compiled.
        inference_compile_seconds: Time to compile the inference of a batch (s).
    """

    model: Annotated[BenchmarkedModel, Field(alias="contestant")]  # the key in JSON files
    peak: float
    params: int
    macs: int
    training: tuple[float, ...]
    inference: tuple[float, ...]
    latency: tuple[float, ...]
    training_memory: float
    inference_memory: float
    training_compile_seconds: float | None = None
    inference_compile_seconds: float | None = None

    @property
    def latency_p95(self) -> float:
        """95th percentile of the latencies (ms)."""
        return sorted(self.latency)[min(int(0.95 * len(self.latency)), len(self.latency) - 1)]


@dataclass(frozen=True)
class Bench:
    """The results of one benchmark: a description of the machine, and one measurement per model."""

    machine: str
    measured: tuple[Measurement, ...]

    def as_json(self) -> str:
        """Return all results as JSON text."""
        return json.dumps(TypeAdapter(Bench).dump_python(self, mode="json", by_alias=True), indent=1) + "\n"


def measure(
    models: Sequence[BenchmarkedModel],
    repeats: int,
    report: Callable[[str], None] = lambda line: None,
    by_row: bool = False,
) -> Bench:
    """Measure models in interleaved rounds (A B A B…), so that a change of the machine's speed affects all alike.

    Args:
        models: Models to measure.
        repeats: Rounds per model, of training and of inference each.
        report: Called with one line per round.
        by_row: Measure one design after the other, each interleaved with its reference implementations and settings,
            rather than all at once: a roadmap's networks do not fit into a GPU's memory together.

    Raises:
        RequestError: If a model does not fit into memory.
        RunError: If a model fails.
    """
    rows: dict[str, list[BenchmarkedModel]] = defaultdict(list)
    for model in models:
        rows[model.name if by_row else ""].append(model)
    peaks: dict[tuple[str, str, int], float] = defaultdict(float)
    measured = [one for row in rows.values() for one in _interleaved(row, repeats, report, peaks)]
    measured = [replace(one, peak=peaks[peak_key(one.model.setting)]) for one in measured]
    return Bench(machine_name(models[0].setting), tuple(measured))


def _interleaved(
    models: Sequence[BenchmarkedModel],
    repeats: int,
    report: Callable[[str], None],
    peaks: dict[tuple[str, str, int], float],
) -> list[Measurement]:
    """Measure models in interleaved rounds; before and after, raise the peaks of their settings to what is measured."""
    settings = {peak_key(model.setting): model.setting for model in models}
    with ExitStack() as stack:
        groups: list[WorkerGroup] = []
        for model in models:
            report(f"preparing {model.label}")
            groups.append(WorkerGroup(model, work_model, ROUND_SECONDS))
            stack.callback(groups[-1].close)
        peaks.update({key: max(peaks[key], machine_peak(setting)) for key, setting in settings.items()})
        training, inference = (_throughputs(groups, task, repeats, report) for task in TASK_NAMES)
        latencies: list[list[float]] = [[] for _ in groups]
        for _ in range(4 * repeats):
            for group, column in zip(groups, latencies, strict=True):
                column += [1e3 * seconds for seconds in group.latencies(LATENCY_RUNS)]
        report("latency: measured")
        peaks.update({key: max(peaks[key], machine_peak(setting)) for key, setting in settings.items()})
        return [
            _measurement(model, group.prepared, peaks[peak_key(model.setting)], *columns)
            for model, group, *columns in zip(models, groups, training, inference, latencies, strict=True)
        ]


def _throughputs(
    groups: Sequence[WorkerGroup], task: Task, repeats: int, report: Callable[[str], None]
) -> list[list[float]]:
    """Measure each group's throughput (images/s) in each of the interleaved rounds."""
    throughputs: list[list[float]] = [[] for _ in groups]
    for number in range(repeats):
        for group, rounds in zip(groups, throughputs, strict=True):
            rounds.append(group.throughput(task))
        report(f"{TASK_NAMES[task]}: round {number + 1} of {repeats}")
    return throughputs


def _measurement(
    model: BenchmarkedModel,
    workers: Sequence[Prepared],
    peak: float,
    training: list[float],
    inference: list[float],
    latency: list[float],
) -> Measurement:
    setting = model.setting
    cost = count(model.design, setting.image_size, setting.in_channels, setting.num_classes)
    return Measurement(
        model=model,
        peak=peak,
        params=cost.params,
        macs=cost.macs,
        training=tuple(training),
        inference=tuple(inference),
        latency=tuple(latency),
        training_memory=sum(one.training_memory for one in workers),
        inference_memory=sum(one.inference_memory for one in workers),
        training_compile_seconds=max(one.training_compile for one in workers) if setting.compile else None,
        inference_compile_seconds=max(one.inference_compile for one in workers) if setting.compile else None,
    )


# ---- The machine


@cache
def _peak_matrix(device: str, precision: str) -> torch.Tensor:
    size = PEAK_SIZE["cuda" if device != "cpu" else "cpu"]
    return torch.randn(size, size, generator=generator("peak")).to(device, PRECISIONS[precision])


def peak_key(setting: Setting) -> tuple[str, str, int]:
    """Return what the machine's peak depends on: device, precision, and threads of all jobs together."""
    threads = min(setting.threads * setting.jobs, usable_cores())
    return setting.device, setting.precision, threads


def machine_peak(setting: Setting) -> float:
    """Measure the fastest matrix product with as many threads and this precision, in GFLOP/s.

    The product is also computed as a 1×1 convolution by another library, which is twice as fast on an AMD CPU.
    """
    device, precision, threads = peak_key(setting)
    with gpu_arithmetic(device, precision):
        return _machine_peak(_peak_matrix(device, precision), device, threads)


def _machine_peak(matrix: torch.Tensor, device: str, threads: int) -> float:
    size = len(matrix)
    pixels, kernels = matrix.view(1, 64, size // 64, size).permute(0, 3, 1, 2), matrix.view(size, size, 1, 1)
    torch.set_num_threads(threads)
    with torch.inference_mode():
        seconds = [
            _seconds(product, device)
            for product in (lambda: torch.mm(matrix, matrix), lambda: F.conv2d(pixels, kernels))
            for _ in range(6)
        ]
    return 2 * size**3 / min(seconds) / 1e9


def _seconds(compute: Callable[[], object], device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    compute()
    synchronize(device)
    return time.perf_counter() - start


def machine_name(setting: Setting) -> str:
    """Describe the machine: GPU, or CPU capability, cores and architecture; and torch's version."""
    if setting.device != "cpu":
        return f"{torch.cuda.get_device_name(setting.device)}, torch {torch.__version__}"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"CPU ({capability}), {cores_in_words()}, {platform.machine()}, torch {torch.__version__}"
