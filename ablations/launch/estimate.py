"""Describe what a study will train, and estimate its time from a few timed training steps on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import add

from ablations.data.datasets import DataSet
from ablations.machine import Machine, prepare_process
from ablations.progress import clock
from ablations.studies.how_made import full_name
from ablations.studies.networks import build_network
from ablations.studies.precision import describe_power
from ablations.studies.run import RunConfig
from ablations.studies.schema import Study
from ablations.studies.screen import describe_screen

SAMPLE, SAMPLE_MACS = 32, 10**10  # max images and MACs of a timed training step
STEPS, SECONDS = 4, 3.0  # timed training steps, and the time after which no further one starts


Load = Callable[[RunConfig], DataSet]


def describe_runs(study: Study, load: Load) -> list[str]:
    """Describe the runs and their cost, one line per run."""
    lines = [f"{study.name}: {len(study.runs)} runs of {len(study.rows)} rows on {study.data}"]
    if study.weights is not None:
        lines.append(f"  all start from {study.weights}")
    width = max(len(run.name) for run in study.runs)
    for run in study.runs:
        data = load(run)
        params, macs = run.cost(data)
        lines.append(
            f"  {run.name:<{width}}  {params / 1e6:9.3f} M parameters  {macs / 1e6:10.2f} M MACs  "
            f"{run.images(data):>11,} images  recipe {full_name(run.recipe_name, run.recipe)}"
        )
    for row in study.rows:
        if row.same_as:
            lines.append(f"  {row.row}: the same design as {row.same_as}, trained once")
    if study.screen:
        lines += describe_screen(study)
    if (text := describe_power(study)) is not None:
        lines.append(text)
    return lines


def describe_plan(study: Study, load: Load, machine: Machine, processes: int = 1) -> str:
    """Describe the runs, their cost, and the time that all need with so many processes per run."""
    lines = describe_runs(study, load)
    first = study.runs[0]
    speed = images_per_second(first, load(first), machine)
    first_macs = first.cost(load(first), training=True)[1]
    prepare = {run.recipe: seconds_to_prepare(run, load(run), machine) for run in study.runs}
    total = 0.0
    for run in study.runs:
        data = load(run)
        each = run.cost(data, training=True)[1] / first_macs / speed
        both = add if machine.devices[0] == "cpu" else max  # a GPU computes while workers prepare
        total += run.images(data) * both(each, prepare[run.recipe])
    from_images = ", and of transforms of single images" if any(prepare.values()) else ""
    how = f"{processes} processes per run" if processes > 1 else f"{machine.jobs} runs in parallel"
    lines.append(
        f"about {clock(total / max(machine.jobs, processes))} with {how} on {', '.join(machine.devices)} "
        f"(from timed training steps of {first.row}, in proportion to MACs{from_images})"
    )
    return "\n".join(lines)


def seconds_to_prepare(run: RunConfig, data: DataSet, machine: Machine) -> float:
    """Measure the time to read and transform an image (s), divided by the workers of a GPU; 0 for whole batches."""
    import torch

    from ablations.data.batches import MicroBatch
    from ablations.data.datasets import Split
    from ablations.data.loader import Items, feeds

    if isinstance(data.train, Split) and not run.recipe.image_by_image:
        return 0.0
    feed = feeds(data.train, data.test, run.recipe.model_copy(update={"workers": 0}), torch.device("cpu")).train
    assert isinstance(feed, Items)
    indices = torch.arange(0, len(feed), max(len(feed) // SAMPLE, 1))[:SAMPLE]
    batches = [MicroBatch(0, position, 0, indices) for position in range(2)]  # the first loads what is imported late
    read = feed.training(batches, run.recipe, seed=0)
    next(read)
    started = time.perf_counter()
    next(read)
    each = (time.perf_counter() - started) / len(indices)
    workers = machine.threads if run.recipe.workers is None else run.recipe.workers
    return each if machine.devices[0] == "cpu" else each / max(workers, 1)


def images_per_second(run: RunConfig, data: DataSet, machine: Machine) -> float:
    """Measure a run's training throughput (images/s) with the threads of one run, over a few small steps."""
    import torch
    from torch.nn import functional as F

    prepare_process(machine.threads)
    device = machine.devices[0]
    batch = max(min(run.recipe.batch_size, SAMPLE, SAMPLE_MACS // run.cost(data, training=True)[1]), 2)
    network = build_network(run, data).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    images = torch.zeros(batch, data.channels, data.image_size, data.image_size, device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    times: list[float] = []
    while len(times) < STEPS and sum(times) < SECONDS:
        started = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(network(images.to(memory_format=torch.channels_last)), labels).backward()
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return batch / min(times)
