"""How long a study will take, from a few timed steps of it on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch.nn import functional as F

from ablations.data.datasets import DataSet
from ablations.machine import Machine, prepare_process
from ablations.progress import clock
from ablations.studies.run import RunConfig, build_network
from ablations.studies.schema import Study
from ablations.studies.screen import describe_screen

SAMPLE, SAMPLE_MACS = 32, 10**10  # images and multiply-adds in a timed step, at most
STEPS, SECONDS = 4, 3.0  # timed steps; no further one once so much time is spent


def describe_runs(study: Study, datasets: Mapping[str, DataSet]) -> list[str]:
    """The runs and what each costs, a line each."""
    lines = [f"{study.name}: {len(study.runs)} runs of {len(study.rows)} rows on {study.data}"]
    width = max(len(run.name) for run in study.runs)
    for run in study.runs:
        data = datasets[run.name]
        params, macs = run.cost(data)
        lines.append(
            f"  {run.name:<{width}}  {params / 1e6:9.3f} M parameters  {macs / 1e6:10.2f} M multiply-adds  "
            f"{run.images(data):>11,} images  recipe {run.recipe_name}"
        )
    for row in study.rows:
        if row.same_as:
            lines.append(f"  {row.row}: the same design as {row.same_as}, trained once")
    if study.screen:
        lines += describe_screen(study)
    return lines


def describe_plan(study: Study, datasets: Mapping[str, DataSet], machine: Machine, processes: int = 1) -> str:
    """The runs, what each costs, and about how long all will take, `processes` at each."""
    lines = describe_runs(study, datasets)
    first = study.runs[0]
    speed = images_per_second(first, datasets[first.name], machine)
    first_macs = first.cost(datasets[first.name])[1]
    total = 0.0
    for run in study.runs:
        data = datasets[run.name]
        total += run.images(data) * run.cost(data)[1] / first_macs / speed
    how = f"{processes} processes at each run" if processes > 1 else f"{machine.jobs} side by side"
    lines.append(
        f"about {clock(total / max(machine.jobs, processes))} with {how} on {', '.join(machine.devices)} "
        f"(from timed steps of {first.row}, in proportion to multiply-adds)"
    )
    return "\n".join(lines)


def images_per_second(run: RunConfig, data: DataSet, machine: Machine) -> float:
    """The training speed of a run with one job's threads, timed over a few small steps."""
    prepare_process(machine.threads)
    device = machine.devices[0]
    batch = max(min(run.recipe.batch_size, SAMPLE, SAMPLE_MACS // run.cost(data)[1]), 2)
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
