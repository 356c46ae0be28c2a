"""Commands that train: train, run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ablations.cli.combined import find_combined, refuse_another_folder, run_combined
from ablations.cli.hints import Command
from ablations.cli.launching import as_jobs, check_launcher, here, run_study
from ablations.cli.options import (
    TRAINING,
    Integer,
    Location,
    Positive,
    checked_logs,
    read_designs,
    read_flags,
    read_names,
    read_recipes,
    read_references,
    read_seeds,
    with_options,
)
from ablations.errors import RequestError
from ablations.streams import say
from ablations.training.distributed import is_main, processes

if TYPE_CHECKING:
    from ablations.data.datasets import DataSet
    from ablations.launch.session import Session
    from ablations.studies.run import RunConfig
    from ablations.studies.schema import Study


@click.command(cls=Command)
@click.argument("design")
@click.option("--seed", type=Integer(0), default=0, show_default=True, help="Random seed.")
@click.option("--out", type=Location(), metavar="FOLDER", help="Run folder. [default: runs/DESIGN-sSEED]")
@click.option("--threads", type=Integer(1), help="Threads. [default: OMP_NUM_THREADS, or all cores]")
@with_options(*TRAINING)
def train(
    design: str,
    seed: int,
    out: Path | None,
    threads: int | None,
    data: str | None,
    data_dir: Path,
    recipe: str | None,
    settings: dict[str, str],
    evaluate: str | None,
    weights: str | None,
    device: str,
    tensorboard: bool,
    wandb: bool,
) -> int:
    """Train one design; rerun the command to resume.

    DESIGN may also be torchvision:NAME, timm:NAME, or FILE.py:FUNCTION(setting=value) of your own. Under torchrun, all
    processes train the run together.
    """
    from ablations.machine import refuse_windows
    from ablations.recipe_checks import refuse_contradictions
    from ablations.studies.folder import slug
    from ablations.studies.own_code import code_sha256
    from ablations.studies.plugin_files import used_plugins
    from ablations.studies.reference_rows import reference_row
    from ablations.studies.run import RunConfig
    from ablations.studies.starting_weights import locate
    from ablations.studies.variants import Recipes, variant
    from modernize.reference import check_reference, is_reference, shown_reference

    refuse_windows()
    recipe = "quick" if recipe is None else recipe
    reference = check_reference(design) if is_reference(design) else None
    one, recipes = None if reference else variant(design), Recipes(recipe, settings)
    recipe = recipes.name(one.settings) if one else recipe
    config = RunConfig(
        row=reference_row(reference) if reference else slug(design),
        label=shown_reference(reference) if reference else design,
        plugins=used_plugins([one.design]) if one else [],
        flags=one.design.flags() if one else {},
        reference=reference,
        code_sha256=code_sha256(reference),
        recipe_name=recipe,
        recipe=recipes.made.get(recipe) or recipes.load(recipe),
        data=data or "fashion_mnist",
        evaluate="validation" if evaluate == "validation" else "test",
        seed=seed,
        weights=None if weights is None else locate(weights),
    )
    from ablations.launch.in_process import train_one

    refuse_contradictions(config.recipe, f"recipe {recipe}")
    logs = checked_logs(tensorboard, wandb)
    return train_one(config, out or Path("runs") / config.name, data_dir, device=device, threads=threads, **logs)


# The Slurm resources that options of `run` set.
_RESOURCES = ("partition", "time", "nodes", "gpus", "processes", "cpus", "memory", "constraint")


def _resource(name: str, kind: Any, text: str) -> Callable:
    """Return an option that sets a Slurm resource; it overrides the study's `cluster` block."""
    return click.option(f"--{name}", type=kind, help=f"{text} With --cluster only.")


@click.command(cls=Command)
@click.argument("study")
@click.option("--base", metavar="DESIGN", help="Starting design.")
@click.option(
    "--end",
    metavar="DESIGN",
    help="Final design of one-in, one-out, orders and screen. [default: the last row of base's roadmap]",
)
@click.option(
    "--flags",
    metavar="FLAG[=VALUE:…],…",
    callback=read_flags,
    help="Flags or recipe.KEY settings to study. [default: all that differ between base and final design]",
)
@click.option(
    "--designs", metavar="DESIGN,DESIGN,…", callback=read_designs, help="Designs to compare, in a study of designs."
)
@click.option(
    "--compared-with",
    metavar="DESIGN|all",
    help="Design that the other designs are compared with; all compares every pair. [default: the first]",
)
@click.option("--orders", type=Integer(1), help="Number of random orders. [default: 10]")
@click.option(
    "--resolution", type=click.Choice(["III", "IV", "V"]), help="Resolution of a screen's design. [default: IV]"
)
@click.option(
    "--runs",
    type=Integer(2),
    help="Combinations that a screen trains, or that --resolve adds. [default: the minimum; half the study's]",
)
@click.option(
    "--max-cost", type=Positive(), help="Max. MACs of a screen's combinations, relative to the base. [default: 5]"
)
@click.option(
    "--resolve", metavar="FLAG:FLAG", help="Add runs to --out that separate this interaction from its aliases."
)
@click.option(
    "--extras", metavar="ROW,ROW", callback=read_names, help="Rows of a roadmap that the paper lacks, such as grn."
)
@click.option(
    "--original-recipe",
    metavar="NAME|FILE[,KEY=VALUE]…",
    help="Recipe of a roadmap's first row, if not the main one. [default: the study's]",
)
@click.option("--recipes", metavar="RECIPE,RECIPE", callback=read_recipes, help="Recipes to compare, or for --designs.")
@click.option("--seeds", metavar="0,1,2", callback=read_seeds, help="Seeds of every row; override the study's.")
@click.option(
    "--precision",
    type=Positive(),
    metavar="P",
    help="Add seeds until the 95% CI of every comparison is at most ±P (pp, or loss if --measure loss).",
)
@click.option("--max-seeds", type=Integer(2), help="Max. seeds per row, for --precision. [default: 20]")
@click.option("--measure", type=click.Choice(["top1", "loss"]), help="Measure to compare. [default: top1]")
@click.option(
    "--budget", metavar="5epochs|200000images", help="Training budget; overrides the recipe and rescales its schedule."
)
@click.option("--dry-run", is_flag=True, help="Only print the runs, their cost and an estimate of their time.")
@click.option("--out", type=Location(), metavar="FOLDER", help="Study folder. [default: runs/STUDY]")
@click.option(
    "--jobs",
    type=Integer(1),
    help="Runs in parallel. [default: cores / threads, or one per GPU; 256 on Slurm; 1 with --cluster local]",
)
@click.option("--threads", type=Integer(1), help="Threads per run. [default: OMP_NUM_THREADS, or cores / jobs]")
@click.option("--per-gpu", type=Integer(1), help="Runs in parallel per GPU. [default: 1]")
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Resume failed runs from their last checkpoints; a run that diverged will diverge again.",
)
@click.option(
    "--references",
    metavar="NAME,NAME",
    callback=read_references,
    help="Models to train too: torchvision:NAME, timm:NAME, or FILE.py:FUNCTION(setting=value) of your own.",
)
@click.option(
    "--cluster", "kind", type=click.Choice(["slurm", "local"]), help="Train each run as a job, on Slurm or locally."
)
@_resource("partition", str, "Partition.")
@_resource("time", str, "Time limit per job: minutes or 2-00:00:00. A job out of time is requeued. [default: 60]")
@_resource("nodes", Integer(1), "Nodes per run. [default: 1]")
@_resource("gpus", Integer(0), "GPUs per node. [default: 0]")
@_resource("processes", Integer(1), "Processes per node. [default: one per GPU, or one]")
@_resource("cpus", Integer(1), "CPU cores per process. [default: 1]")
@_resource("memory", Positive(), "Memory per node (GB).")
@_resource("constraint", str, "Node constraint.")
@with_options(*TRAINING)
def run(
    study: str,
    dry_run: bool,
    out: Path | None,
    jobs: int | None,
    threads: int | None,
    per_gpu: int | None,
    retry_failed: bool,
    data_dir: Path,
    settings: dict[str, str],
    device: str,
    tensorboard: bool,
    wandb: bool,
    kind: str | None,
    resolve: str | None,
    **changes: Any,
) -> int:
    """Run a study: skip finished runs, resume interrupted ones.

    STUDY is a study's folder, to resume it. --seeds, --flags, --recipes, --extras and --references then add to it.
    Otherwise it is the name of a shipped study, a YAML file (of kind combined: of several studies), the study.yaml of a
    folder, to begin its study anew in --out, or a kind:

    \b
    roadmap  every row of the roadmap
    one-in   base, and base with each flag enabled alone
    one-out  the final design, and the final design with each flag reverted alone
    sweep    one flag over several values
    grid     all combinations of several flags' values
    orders   the roadmap's steps in random orders
    screen   a fractional factorial over all flags
    recipes  one design under each recipe
    designs  a list of designs, each compared with the first or with all

    On the CPU, runs are trained in parallel, one per core with one thread each. Under torchrun, all processes train
    each run together. With --cluster, each run is a job.
    """
    from ablations.machine import refuse_windows
    from ablations.studies.combined import is_combined

    if not dry_run:
        refuse_windows()
    changes = {key: value for key, value in changes.items() if value is not None}
    resources = {key: changes.pop(key) for key in _RESOURCES if key in changes}
    options = {"device": device if device != "auto" else None, "threads": threads, "per-gpu": per_gpu}
    check_launcher(kind, jobs, [option for option, value in options.items() if value is not None], resources)
    logs = checked_logs(tensorboard, wandb and not dry_run)
    if resources:
        changes["cluster"] = resources
    checked = partial(_session, jobs=kind is not None, data_dir=data_dir, retry_failed=retry_failed, logs=logs)
    here_with = {"jobs": jobs, "threads": threads, "per_gpu": per_gpu}
    launcher = partial(here, device, **here_with) if kind is None else partial(as_jobs, kind, jobs)
    if resolve is None and is_combined(study):
        return run_combined(*find_combined(study, out, changes, settings), checked, launcher(), dry_run)
    return run_study(checked(*_find_study(study, out, resolve, changes, settings)), launcher(), dry_run)


def _session(
    study: Study, folder: Path, *, jobs: bool, data_dir: Path, retry_failed: bool, logs: dict[str, bool]
) -> Session:
    """Return the session of a study that fits its data; raises what `_checked` does."""
    from ablations.launch.claim import data_loader
    from ablations.launch.session import Session
    from ablations.studies.folder import refuse_before_data

    refuse_before_data(study, folder)
    load = data_loader(data_dir)
    study = _checked(study, folder, load, _tasks(study) if jobs else processes())
    return Session(study, folder, data_dir, load, retry_failed, **logs)


def _checked(study: Study, folder: Path, load: Callable[[RunConfig], DataSet], tasks: int) -> Study:
    """Return the study on its dataset and with the checksum of its weights; print what is doubtful.

    Raises RequestError, before anything starts, if a run does not fit the data, the weights or its `tasks` processes.
    """
    from ablations.studies.fitting_rows import with_weights

    datasets = {one.name: load(one) for one in study.runs}
    for notice in dict.fromkeys(one.notice for one in datasets.values()):
        if notice is not None and is_main():
            say(notice)
    study = study.on(next(iter(datasets.values())))
    for one in study.runs:
        one.check(datasets[one.name], tasks)
    study = with_weights(study, folder, datasets)
    for warning in _warnings(study, datasets, tasks) if is_main() else ():
        say(f"{study.name}: warning: {warning}")
    return study


def _find_study(
    name: str, out: Path | None, resolve: str | None, changes: dict[str, Any], settings: dict[str, str]
) -> tuple[Study, Path]:
    """Load a study, extended by follow-up runs if it has any; return it and its folder."""
    from ablations.studies.folder import refuse_published
    from ablations.studies.load import is_folder, is_resolved, load_study, refuse_two_meanings
    from ablations.studies.screen import with_follow_ups

    if out is None:
        refuse_two_meanings(name)
    stored = Path(name)
    if stored.name == "study.yaml" and out in (None, stored.parent) and is_resolved(stored):
        name = str(stored.parent)
    if resolve is not None:
        study = _follow_up(name, out, resolve, {**changes, **settings})
    else:
        study = load_study(name, _with_base(name, changes), settings)
    if is_folder(name):
        refuse_another_folder(name, out, "study.yaml")
    folder = Path(name) if is_folder(name) else out or Path("runs") / study.name
    refuse_published(folder)
    return with_follow_ups(study, folder), folder


def _with_base(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the changes, with a starting design for a kind of study that is given none; print it and the others."""
    from ablations.studies.load import first_design
    from modernize.roadmap import NAMES

    base = first_design(name, changes.get("data"))
    if base is None or "base" in changes:
        return changes
    if is_main():
        say(f"{name}: starts from {base}; set another with --base: a roadmap ({', '.join(NAMES)}) or any design")
    return {**changes, "base": base}


def _follow_up(study: str, out: Path | None, pair: str, changes: dict[str, Any]) -> Study:
    """Add to the screening study of a folder the rows that separate an interaction from its aliases."""
    from ablations.studies.folder import read_study
    from ablations.studies.screen import resolved

    if study != "screen":
        raise RequestError(f"--resolve {pair}: only for the kind screen, as in `ablations run screen --resolve {pair}`")
    runs = changes.pop("runs", None)
    if changes:
        key = next(iter(changes)).replace("_", "-")
        raise RequestError(f"--{key}: follow-up runs are trained like the study's other runs; remove it")
    return resolved(read_study(out or Path("runs") / study), pair, runs)


def _warnings(study: Study, datasets: dict[str, DataSet], tasks: int) -> list[str]:
    """Return each warning about the recipes of a study once, with the recipe's name if there are several."""
    from ablations.recipe_checks import unused
    from ablations.studies.recipe_words import recipe_label

    warnings: dict[str, None] = {}
    for run in study.runs:
        name = f"recipe {recipe_label(study, run.recipe_name)}: " if len(study.recipes) > 1 else ""
        for warning in (*run.doubts(datasets[run.name], tasks), *unused(run.recipe)):
            warnings[f"{name}{warning}"] = None
    return list(warnings)


def _tasks(study: Study) -> int:
    """Return the number of processes that a job has for a run."""
    return study.cluster.nodes * study.cluster.processes_each if study.cluster else 1
