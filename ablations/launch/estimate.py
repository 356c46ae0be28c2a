"""Describe what a study will train, and estimate its time from a few timed training steps on this machine."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import add

from ablations.data.datasets import DataSet
from ablations.launch.session import Session
from ablations.machine import Machine, prepare_process
from ablations.progress import clock
from ablations.studies.folder import planned, read_study, run_folder
from ablations.studies.networks import build_network
from ablations.studies.precision import describe_added, describe_power
from ablations.studies.recipe_words import recipe_names, recipe_of_each_row, rows_of_the_same_weights
from ablations.studies.run import RunConfig, State, read_state
from ablations.studies.run_times import after_training, makespan
from ablations.studies.schema import Study, read_budget
from ablations.studies.screen import describe_screen
from reports.statuses import SHOWN

SAMPLE, SAMPLE_MACS = 32, 10**10  # max images and MACs of a timed training step on a CPU
GPU_SAMPLE, GPU_SAMPLE_MACS = 128, 10**12  # and on a GPU, which fewer images leave idle
STEPS, SECONDS = 4, 3.0  # timed training steps, and the time after which no further one starts
STEADY = 1.0  # s: few short steps may fall into a moment in which the machine does something else


def describe_runs(session: Session) -> list[str]:
    """Describe the runs, their cost, and what became of those that have begun, one line per row.

    Raises RequestError if the study cannot be run in its folder.
    """
    before = read_study(session.folder) if (session.folder / "study.yaml").exists() else None
    study = planned(session.study, session.folder)
    states = _states(session, study)
    lines = [_runs_of(study, states)]
    if before is not None:
        lines += [f"  folder {session.folder}", *(f"  adds {added}" for added in describe_added(before, study))]
    if study.weights is not None:
        lines.append(f"  all start from {study.weights}")
    lines += [f"  {_seeds_and_budget(study)}", *_rows(session, study, states)]
    for row in study.rows:
        if row.same_as:
            lines.append(f"  {row.row}: the same design as {row.same_as} under one recipe, trained once")
    lines += [f"  {one}" for one in rows_of_the_same_weights(study)]
    if study.screen:
        lines += describe_screen(study)
    if (text := describe_power(study)) is not None:
        lines.append(text)
    return lines


def describe_briefly(session: Session) -> list[str]:
    """Describe the runs of a study among several; raises what `describe_runs` does."""
    before = read_study(session.folder) if (session.folder / "study.yaml").exists() else None
    study = planned(session.study, session.folder)
    recipes = recipe_names(study)
    named = f"recipe{'s' if recipes[1:] else ''} {'; '.join(recipes)}"
    lines = [_runs_of(study, _states(session, study)), f"  {_seeds_and_budget(study)}; {named}"]
    return lines if before is None else [*lines, *(f"  adds {added}" for added in describe_added(before, study))]


def _runs_of(study: Study, states: Mapping[str, State]) -> str:
    return f"{study.name}: {len(study.runs)} runs of {len(study.rows)} rows on {study.data}{_counts(states)}"


def _seeds_and_budget(study: Study) -> str:
    """Describe the seeds of each row, and the budget as it was asked for and in epochs."""
    seeds = f"seed{'s' if study.seeds[1:] else ''} {', '.join(map(str, study.seeds))} of each row"
    if study.budget is None:
        return seeds
    amount, unit = read_budget(study.budget)
    epochs = dict.fromkeys(f"{recipe.max_epochs:.4g}" for recipe in study.recipes.values())
    return f"{seeds}; budget {amount:,.10g} {unit} (max_epochs={', '.join(epochs)})"


def _rows(session: Session, study: Study, states: Mapping[str, State]) -> Iterator[str]:
    """Describe the network, images and recipe of each row, and the states of its runs that have begun."""
    runs: dict[str, list[RunConfig]] = {}
    for run in study.runs:
        runs.setdefault(run.row, []).append(run)
    width, recipes = max(map(len, runs)), recipe_of_each_row(study)
    for row, (first, *others) in runs.items():
        data = session.load(first)
        cost = first.cost(data)
        counts = Counter(states[run.name].status for run in (first, *others))
        parts = [f"{counts[one]} of {len(others) + 1} {words}" for one, words in SHOWN.items() if one in counts]
        begun = f"  {', '.join(parts)}" if set(counts) != {"left"} else ""
        yield (
            f"  {row:<{width}}  {cost.params / 1e6:9.3f} M parameters  {cost.macs / 1e6:10.2f} M MACs  "
            f"{cost.activations / 1e6:8.3f} M activations  {first.images(data):>11,} images  "
            f"recipe {recipes[row]}{begun}"
        )


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


def describe_plan(session: Session, machine: Machine, processes: int = 1, start: float = 0.0) -> str:
    """Describe the runs, their cost, and the time that the remaining ones need with `processes` per run.

    `start` is the time (s) that a worker needs to start.
    """
    lines = describe_runs(session)
    estimate = estimate_time(session, machine, processes)
    if not estimate.left:
        wanted = session.study.precision
        unless = "" if wanted is None else f" unless precision {wanted.half_width:g} needs more seeds"
        return "\n".join([*lines, f"nothing is left to train{unless}"])
    left, count = estimate.left, len(planned(session.study, session.folder).runs)
    some = f" for the {len(left)} run{'s' if left[1:] else ''} left" if len(left) < count else ""
    lines.append(
        f"about {clock(start + estimate.seconds)}{some} with {_in_parallel(machine, processes)} on "
        f"{', '.join(machine.devices)}, with evaluation (from timed training steps of {left[0].row}{_in_words(left)}, "
        f"in proportion to MACs{', and of transforms of single images' if estimate.transforms else ''})"
    )
    return "\n".join(lines)


def describe_time(estimates: Sequence[Estimate], machine: Machine, processes: int = 1, start: float = 0.0) -> str:
    """Describe the time of several studies, one after the other; a worker needs `start` (s) to start."""
    seconds = [one.seconds for one in estimates if one.left]
    if not seconds:
        return "nothing is left to train"
    how = f"with {_in_parallel(machine, processes)} on {', '.join(machine.devices)}"
    return (
        f"about {clock(start + sum(seconds))} {how}, with evaluation (from timed training steps of a row of each study)"
    )


def _in_parallel(machine: Machine, processes: int) -> str:
    return f"{processes} processes per run" if processes > 1 else f"{machine.jobs} runs in parallel"


@dataclass(frozen=True)
class Estimate:
    """The runs of a study that are left, the time (s) they need, and whether that has transforms of single images."""

    left: Sequence[RunConfig]
    seconds: float = 0.0
    transforms: bool = False


def estimate_time(session: Session, machine: Machine, processes: int = 1) -> Estimate:
    """Time a few training steps, and expect from them the time of the runs that are left."""
    from ablations.training.gpu_arithmetic import prepare_arithmetic

    study, load = planned(session.study, session.folder), session.load
    shares = {name: _left(state) for name, state in _states(session, study).items()}
    left = [run for run in study.runs if shares[run.name]]
    if not left:
        return Estimate(left)
    prepare_arithmetic(machine.devices[0], *(run.recipe.deterministic for run in left))
    timed = {_how(run): run for run in reversed(left)}  # the first of each precision, memory format, …
    per_mac = {
        how: 1 / (images_per_second(run, load(run), machine) * run.cost(load(run), training=True).macs)
        for how, run in timed.items()
    }
    run_of = {run.recipe: run for run in reversed(left)}  # the first of each recipe: all its runs read alike
    prepare = {recipe: seconds_to_prepare(run, load(run), machine) for recipe, run in run_of.items()}
    both = add if machine.devices[0] == "cpu" else max  # a GPU computes while workers prepare
    seconds = []
    for run in left:
        data = load(run)
        each, read = run.cost(data, training=True).macs * per_mac[_how(run)], prepare[run.recipe]
        train, test = len(data.train), len(data.test)
        evaluation = both(each * after_training(run, train, test), read * test)
        seconds.append((shares[run.name] * run.images(data) * both(each, read) + evaluation) / processes)
    at_once = machine.jobs if processes == 1 else 1
    return Estimate(left, makespan(seconds, at_once), any(prepare.values()))


def _how(run: RunConfig) -> tuple[str, bool, bool, bool]:
    """Return the settings of a run that a timed training step has, too."""
    recipe = run.recipe
    return recipe.precision, recipe.channels_last, recipe.activation_checkpointing, recipe.deterministic


def _in_words(runs: Sequence[RunConfig]) -> str:
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
    batch = max(min(run.recipe.batch_size, most, most_macs // run.cost(data, training=True).macs), 2)
    form = torch.channels_last if run.recipe.channels_last else torch.contiguous_format
    network = build_network(run, data).to(device).to(memory_format=form)
    if run.recipe.activation_checkpointing:
        recompute_blocks(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    images = torch.zeros(batch, data.channels, data.image_size, data.image_size, device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    times: list[float] = []
    with accelerated(network), gpu_arithmetic(device, run.recipe.precision, run.recipe.deterministic):
        while (len(times) < STEPS or sum(times) < STEADY) and sum(times) < SECONDS:
            started = time.perf_counter()
            optimizer.zero_grad()
            with autocast(device, run.recipe.precision):
                loss = F.cross_entropy(network(images.contiguous(memory_format=form)), labels)
            loss.backward()
            optimizer.step()
            if device != "cpu":
                torch.get_device_module(torch.device(device)).synchronize()
            times.append(time.perf_counter() - started)
    return batch / statistics.median(times[1:] or times)  # the first step loads what is loaded late
