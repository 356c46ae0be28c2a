"""Describe what a study will train, and estimate its time from a few timed training steps on this machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from operator import add

from ablations.data.datasets import DataSet
from ablations.launch.session import Session
from ablations.machine import Machine, prepare_process
from ablations.progress import clock
from ablations.studies.folder import planned, read_study, run_folder
from ablations.studies.networks import build_network
from ablations.studies.precision import describe_power
from ablations.studies.recipe_words import recipe_of_each_row, rows_of_the_same_weights
from ablations.studies.run import RunConfig, State, read_state
from ablations.studies.schema import Study
from ablations.studies.screen import describe_screen
from reports.statuses import SHOWN, shown

SAMPLE, SAMPLE_MACS = 32, 10**10  # max images and MACs of a timed training step on a CPU
GPU_SAMPLE, GPU_SAMPLE_MACS = 128, 10**12  # and on a GPU, which fewer images leave idle
STEPS, SECONDS = 4, 3.0  # timed training steps, and the time after which no further one starts


def describe_runs(session: Session) -> list[str]:
    """Describe the runs, their cost, and what became of those that have begun, one line per run.

    Raises RequestError if the study cannot be run in its folder.
    """
    before = read_study(session.folder) if (session.folder / "study.yaml").exists() else None
    study = planned(session.study, session.folder)
    states = _states(session, study)
    lines = [f"{study.name}: {len(study.runs)} runs of {len(study.rows)} rows on {study.data}{_counts(states)}"]
    if before is not None:
        lines += [f"  folder {session.folder}", *(f"  adds {added}" for added in _added(before, study))]
    if study.weights is not None:
        lines.append(f"  all start from {study.weights}")
    width = max(len(run.name) for run in study.runs)
    recipes = recipe_of_each_row(study)
    for run in study.runs:
        data = session.load(run)
        params, macs = run.cost(data)
        begun = "" if states[run.name].status == "left" else f"  {shown(states[run.name].status)}"
        lines.append(
            f"  {run.name:<{width}}  {params / 1e6:9.3f} M parameters  {macs / 1e6:10.2f} M MACs  "
            f"{run.images(data):>11,} images  recipe {recipes[run.row]}{begun}"
        )
    for row in study.rows:
        if row.same_as:
            lines.append(f"  {row.row}: the same design as {row.same_as} under one recipe, trained once")
    lines += [f"  {one}" for one in rows_of_the_same_weights(study)]
    if study.screen:
        lines += describe_screen(study)
    if (text := describe_power(study)) is not None:
        lines.append(text)
    return lines


def _states(session: Session, study: Study) -> dict[str, State]:
    """Return the state of each run; a failed run that is going to be tried again is pending."""
    states = {run.name: read_state(run_folder(session.folder, run)) for run in study.runs}
    again = State("left", {}, {})
    return {
        name: again if session.retry_failed and state.status == "failed" else state for name, state in states.items()
    }


def _counts(states: Mapping[str, State]) -> str:
    """Count the runs of a study of which any has begun by status: `: 3 finished, 1 pending`."""
    counts = Counter(state.status for state in states.values())
    if set(counts) == {"left"}:
        return ""
    return ": " + ", ".join(f"{counts[status]} {words}" for status, words in SHOWN.items() if counts[status])


def _added(before: Study, now: Study) -> Iterator[str]:
    """Describe the rows and seeds that a study's folder does not have yet."""
    rows = [row.row for row in now.rows if row.row not in {row.row for row in before.rows}]
    seeds = [seed for seed in now.seeds if seed not in before.seeds]
    parts = [f"row{'s' if rows[1:] else ''} {', '.join(rows)}"] if rows else []
    parts += [f"seed{'s' if seeds[1:] else ''} {', '.join(map(str, seeds))}"] if seeds else []
    looked = len(now.stages) > max(len(before.stages), 1)
    if parts:
        yield " and ".join(parts) + (" (another look at the results, see docs/precision.md)" if looked else "")
    if now.precision != before.precision and now.precision is not None:
        yield f"seeds until {now.precision} is reached"


def describe_plan(session: Session, machine: Machine, processes: int = 1) -> str:
    """Describe the runs, their cost, and the time that those left need with so many processes per run."""
    from ablations.training.gpu_arithmetic import prepare_arithmetic

    lines = describe_runs(session)
    study, load = planned(session.study, session.folder), session.load
    shares = {name: _left(state) for name, state in _states(session, study).items()}
    left = [run for run in study.runs if shares[run.name]]
    if not left:
        return "\n".join([*lines, "nothing is left to train"])
    first = left[0]
    prepare_arithmetic(machine.devices[0], *(run.recipe.deterministic for run in left))
    timed = {_how(run): run for run in reversed(left)}  # the first of each precision, memory format, …
    per_mac = {
        how: 1 / (images_per_second(run, load(run), machine) * run.cost(load(run), training=True)[1])
        for how, run in timed.items()
    }
    run_of = {run.recipe: run for run in reversed(left)}  # the first of each recipe: all its runs read alike
    prepare = {recipe: seconds_to_prepare(run, load(run), machine) for recipe, run in run_of.items()}
    total = 0.0
    for run in left:
        data = load(run)
        each = run.cost(data, training=True)[1] * per_mac[_how(run)]
        both = add if machine.devices[0] == "cpu" else max  # a GPU computes while workers prepare
        total += shares[run.name] * run.images(data) * both(each, prepare[run.recipe])
    from_images = ", and of transforms of single images" if any(prepare.values()) else ""
    how = f"{processes} processes per run" if processes > 1 else f"{machine.jobs} runs in parallel"
    some = f" for the {len(left)} run{'s' if left[1:] else ''} left" if len(left) < len(study.runs) else ""
    lines.append(
        f"about {clock(total / max(min(machine.jobs, len(left)), processes))}{some} with {how} on "
        f"{', '.join(machine.devices)} (from timed training steps of {first.row}{_in_words(left)}, in proportion to "
        f"MACs{from_images})"
    )
    return "\n".join(lines)


def _how(run: RunConfig) -> tuple[str, bool, bool, bool]:
    """Return the settings of a run that a timed training step has, too."""
    recipe = run.recipe
    return recipe.precision, recipe.channels_last, recipe.activation_checkpointing, recipe.deterministic


def _in_words(runs: list[RunConfig]) -> str:
    """Describe the precision of timed training steps, unless it is float32, and that they are not compiled."""
    precisions = dict.fromkeys(run.recipe.precision for run in runs)
    words = f" in {' and '.join(precisions)}" if set(precisions) != {"float32"} else ""
    return words + (", not compiled" if any(run.recipe.compile for run in runs) else "")


def _left(state: State) -> float:
    """Return the share of a run that is still to be trained, as its log says."""
    if state.status in ("done", "failed"):
        return 0.0
    return 1.0 - state.last.get("step", 0) / state.last["steps"] if "steps" in state.last else 1.0


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
    # the first loads what is imported late
    batches = [MicroBatch(0, position, 0, indices) for position in range(1 + STEPS)]
    read = feed.training(batches, run.recipe, seed=0)
    next(read)
    times: list[float] = []
    while len(times) < STEPS and sum(times) < SECONDS:
        started = time.perf_counter()
        next(read)
        times.append(time.perf_counter() - started)
    each = min(times) / len(indices)
    workers = machine.threads if run.recipe.workers is None else run.recipe.workers
    return each if machine.devices[0] == "cpu" else each / max(workers, 1)


def images_per_second(run: RunConfig, data: DataSet, machine: Machine) -> float:
    """Measure a run's training throughput (images/s) with the threads of one run, over a few small steps."""
    import torch
    from torch.nn import functional as F

    from ablations.training.activation_checkpointing import recompute_blocks
    from ablations.training.gpu_arithmetic import gpu_arithmetic
    from ablations.training.precision import autocast
    from modernize.acceleration import accelerated

    prepare_process(machine.threads)
    device = machine.devices[0]
    most, most_macs = (SAMPLE, SAMPLE_MACS) if device == "cpu" else (GPU_SAMPLE, GPU_SAMPLE_MACS)
    batch = max(min(run.recipe.batch_size, most, most_macs // run.cost(data, training=True)[1]), 2)
    form = torch.channels_last if run.recipe.channels_last else torch.contiguous_format
    network = build_network(run, data).to(device).to(memory_format=form)
    if run.recipe.activation_checkpointing:
        recompute_blocks(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    images = torch.zeros(batch, data.channels, data.image_size, data.image_size, device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    times: list[float] = []
    with accelerated(network), gpu_arithmetic(device, run.recipe.precision, run.recipe.deterministic):
        while len(times) < STEPS and sum(times) < SECONDS:
            started = time.perf_counter()
            optimizer.zero_grad()
            with autocast(device, run.recipe.precision):
                loss = F.cross_entropy(network(images.contiguous(memory_format=form)), labels)
            loss.backward()
            optimizer.step()
            if device != "cpu":
                torch.get_device_module(torch.device(device)).synchronize()
            times.append(time.perf_counter() - started)
    return batch / min(times)
