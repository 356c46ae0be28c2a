"""The command line. Heavy imports happen inside the command that needs them, so that --help answers at once."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ablations.errors import RequestError, RunError

if TYPE_CHECKING:
    from ablations.data import DataSet
    from ablations.studies import Study

INTERRUPTED = 130
FORMATS = ("table", "json", "csv", "markdown", "latex")


def main() -> None:
    """Runs the command; exit status 0 done, 1 a run failed, 2 the request was wrong, 130 interrupted."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """The exit status of a command, its troubles said in one line each."""
    try:
        with cli.make_context("ablations", arguments) as context:
            return int(cli.invoke(context) or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        status, message = _trouble(error)
        click.echo(" ".join(f"ablations: {message}".split()), err=True)
        return status


def _trouble(error: BaseException) -> tuple[int, str]:
    """The exit status and the words for what went wrong."""
    from modernize.design import DesignError

    match error:
        case KeyboardInterrupt() | click.Abort():
            return INTERRUPTED, "interrupted; the same command goes on from here"
        case click.ClickException():
            return 2, error.format_message()
        case RequestError() | DesignError():
            return 2, str(error)
        case RunError():
            return 1, str(error)
    return 1, f"{type(error).__name__}: {error} (--debug shows where)"


def _settings(_: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """--set key=value, as often as it is given."""
    pairs = [value.partition("=") for value in values]
    for key, equals, value in pairs:
        if not key or not equals or not value:
            raise RequestError(f"--set {key}: write key=value, such as --set max_epochs=5")
    return {key: value for key, _, value in pairs}


def _seeds(_: click.Context, option: click.Parameter, value: str | None) -> list[int] | None:
    try:
        return None if value is None else [int(seed) for seed in value.split(",")]
    except ValueError:
        raise RequestError(f"--seeds {value}: write whole numbers, such as --seeds 0,1,2") from None


_OPTIONS: dict[str, Callable] = {
    "data": click.option("--data", metavar="NAME", help="fashion_mnist, cifar10, cifar100, digits or folder."),
    "data_dir": click.option(
        "--data-dir",
        metavar="FOLDER",
        type=click.Path(path_type=Path),
        default=Path("data"),
        show_default=True,
        help="Where data sets lie or are put.",
    ),
    "recipe": click.option("--recipe", metavar="NAME|FILE", help="How to train: a recipe's name or YAML file."),
    "settings": click.option(
        "--set",
        "settings",
        metavar="KEY=VALUE",
        multiple=True,
        callback=_settings,
        help="Over the recipe; repeatable. A study's original recipe takes only budget, data and checkpoints from it.",
    ),
    "evaluate": click.option(
        "--evaluate",
        type=click.Choice(["test", "validation"]),
        help="On the test split, or on a tenth held out of the training split, to choose settings by.",
    ),
    "device": click.option("--device", default="auto", metavar="NAME", show_default=True, help="cpu, cuda, cuda:1 …"),
    "debug": click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback with an error."),
    "image_size": click.option("--image-size", type=click.IntRange(1), help="Pixels a side [224; pocket: 32]."),
    "in_channels": click.option("--in-channels", type=click.IntRange(1), help="Channels of the images [3; pocket: 1]."),
    "num_classes": click.option("--num-classes", type=click.IntRange(1), help="Classes [1000; pocket: 10]."),
}


def _with(*names: str) -> Callable:
    """A decorator that gives a command these options, which mean the same everywhere."""

    def decorate(command: Callable) -> Callable:
        for name in reversed(names):
            command = _OPTIONS[name](command)
        return command

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="modernize-convnets", message="%(version)s")
def cli() -> None:
    """Train ResNet's road to ConvNeXt one design flag at a time, and see what each was worth.

    A DESIGN is BASE[@ROW][,flag=value]…, such as resnet50, resnet50@depthwise, convnext_tiny,norm=bn or
    pocket@kernel-7,layer_scale=1e-6; BASE may be a YAML file of flags.
    """


@cli.command()
@_with("debug")
def flags() -> None:
    """Show the design flags, their values in ResNet-50 and ConvNeXt-T, and what each means."""
    from rich.console import Console
    from rich.table import Table

    from modernize.design import FLAGS, text
    from modernize.models import MODELS

    table = Table(box=None, pad_edge=False)
    for heading in ("flag", "takes", "ResNet-50", "ConvNeXt-T", "meaning"):
        table.add_column(heading, no_wrap=heading != "meaning")
    for flag in FLAGS:
        ends = [text(getattr(MODELS[name], flag.name)) for name in ("resnet50", "convnext_tiny")]
        table.add_row(flag.name, flag.accepts, *ends, flag.meaning)
    Console().print(table, highlight=False)


@cli.command()
@click.argument("design")
@_with("image_size", "in_channels", "num_classes", "debug")
def show(design: str, image_size: int | None, in_channels: int | None, num_classes: int | None) -> None:
    """Show the layers of DESIGN, with their parameters and multiply-adds."""
    from rich.console import Console
    from rich.table import Table

    from modernize.models import design as named
    from modernize.plan import compile_plan, trace

    size, channels, classes = _images(design, image_size, in_channels, num_classes)
    steps = trace(compile_plan(named(design), channels, classes), size)
    table = Table(title=f"{design}, {channels}×{size}×{size}", box=None, pad_edge=False, title_justify="left")
    for heading in ("layer", "what", "out", "parameters", "multiply-adds"):
        table.add_column(heading, justify="left" if heading in ("layer", "what") else "right", no_wrap=True)
    for step in steps:
        table.add_row(step.path, str(step.layer), f"{step.out_size}²", f"{step.params:,}", f"{step.macs:,}")
    params, macs = sum(step.params for step in steps), sum(step.macs for step in steps)
    table.add_section()
    table.add_row("total", f"{macs / 1e9:.3g} GFLOPs", "", f"{params:,}", f"{macs:,}")
    Console(width=None if sys.stdout.isatty() else 120).print(table, highlight=False)


def _images(design: str, size: int | None, channels: int | None, classes: int | None) -> tuple[int, int, int]:
    """Image size, channels and classes to count for: what is given, else those of the design's roadmap."""
    from modernize.roadmap import NAMES, roadmap

    base = design.partition(",")[0].partition("@")[0]
    of = roadmap(base if base in NAMES else "resnet50")
    return size or of.image_size, channels or of.in_channels, classes or of.num_classes


@cli.command()
@click.argument("designs", nargs=-1, metavar="[DESIGN]…")
@click.option("--roadmap", "roadmap_name", metavar="NAME", help="All rows of resnet50, resnet200 or pocket.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@_with("image_size", "in_channels", "num_classes", "debug")
def count(
    designs: tuple[str, ...],
    roadmap_name: str | None,
    form: str,
    image_size: int | None,
    in_channels: int | None,
    num_classes: int | None,
) -> None:
    """Count parameters and multiply-adds of DESIGNs or of a roadmap's rows, beside the paper's GFLOPs."""
    if bool(designs) == bool(roadmap_name):
        raise RequestError("count: give designs, such as `ablations count convnext_tiny`, or --roadmap NAME")
    from modernize.models import design as named
    from modernize.roadmap import roadmap

    parsed = [(name, named(name)) for name in designs]
    rows = roadmap(roadmap_name).rows if roadmap_name else ()

    from modernize.cost import count as count_cost
    from reports.costs import CostRow, cost_table
    from reports.render import FORMATS

    found = []
    for name, design in parsed:
        cost = count_cost(design, *_images(name, image_size, in_channels, num_classes))
        found.append(CostRow(name, name, cost.params, cost.macs))
    for row in rows:
        size, channels, classes = _images(str(roadmap_name), image_size, in_channels, num_classes)
        cost = count_cost(row.design, size, channels, classes)
        printed = roadmap_name in ("resnet50", "resnet200") and (size, channels, classes) == (224, 3, 1000)
        paper = (row.paper.gflops, row.paper.note) if printed else (None, "")
        found.append(CostRow(row.name, row.label, cost.params, cost.macs, *paper))
    table = cost_table(found, f"The cost of {roadmap_name or 'designs'}", "row" if roadmap_name else "design")
    click.echo(FORMATS[form](table), nl=False)


@cli.command()
@click.argument("name")
@_with("data_dir", "debug")
def data(name: str, data_dir: Path) -> None:
    """Fetch data set NAME if need be, check it, and say where it lies."""
    from ablations.data import load

    found = load(name, data_dir, 224 if name == "folder" else None)
    images = f"{found.channels}×{found.image_size}×{found.image_size}"
    click.echo(
        f"{name}: {len(found.train)} training and {len(found.test)} test images of {images} in "
        f"{len(found.classes)} classes, checksum {found.checksum[:12]}, in {found.place}"
    )


@cli.command()
@click.argument("design")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="The run's folder [runs/DESIGN-sSEED].")
@click.option("--threads", type=click.IntRange(1), help="[all cores]")
@_with("data", "data_dir", "recipe", "settings", "evaluate", "device", "debug")
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
    device: str,
) -> int:
    """Train DESIGN once: one run, in a folder of its own; the same command again goes on where it stopped."""
    from ablations.recipes import load_recipe
    from ablations.runs import RunConfig
    from ablations.studies import slug
    from modernize.models import design as named

    recipe = recipe or "quick"
    config = RunConfig(
        row=slug(design),
        label=design,
        flags=named(design).flags(),
        recipe_name=recipe,
        recipe=load_recipe(recipe, settings),
        data=data or "fashion_mnist",
        evaluate="validation" if evaluate == "validation" else "test",
        seed=seed,
    )
    from ablations.single import train_one

    return train_one(config, out or Path("runs") / config.name, data_dir, device, threads)


def _names(_: click.Context, option: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else value.split(",")


def _flags(_: click.Context, option: click.Parameter, value: str | None) -> list[str] | dict[str, list[str]] | None:
    """--flags depthwise,norm or --flags kernel_size=3:5:7,norm=bn:ln."""
    if value is None:
        return None
    pairs = [part.partition("=") for part in value.split(",")]
    if any(not flag.strip() for flag, _, _ in pairs) or len({bool(equals) for _, equals, _ in pairs}) > 1:
        raise RequestError(
            f"--flags {value}: write names, such as depthwise,norm, or values, such as kernel_size=3:5:7"
        )
    if not pairs[0][1]:
        return [flag for flag, _, _ in pairs]
    return {flag: values.split(":") for flag, _, values in pairs}


@cli.command()
@click.argument("study")
@click.option("--base", metavar="DESIGN", help="Where the study starts.")
@click.option("--end", metavar="DESIGN", help="Where one-in, one-out and orders lead [the end of base's roadmap].")
@click.option("--flags", metavar="FLAG[=VALUE:…],…", callback=_flags, help="The flags to study [all that differ].")
@click.option("--orders", type=click.IntRange(1), help="Random orders to walk [10].")
@click.option("--recipes", metavar="NAME,NAME", callback=_names, help="What a study of recipes compares.")
@click.option("--seeds", metavar="0,1,2", callback=_seeds, help="Over the study's.")
@click.option("--budget", metavar="5epochs|200000images", help="Over the recipe's; its schedule is stretched to fit.")
@click.option("--dry-run", is_flag=True, help="Only show the runs, what they cost and about how long they take.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="The study's folder [runs/STUDY].")
@click.option("--jobs", type=click.IntRange(1), help="Runs side by side [a core each on the CPU, one a GPU].")
@click.option("--threads", type=click.IntRange(1), help="Of each run [the cores shared out].")
@click.option("--per-gpu", type=click.IntRange(1), help="Runs side by side on each GPU [1].")
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Try failed runs again, from their last checkpoints; one that diverged will diverge again.",
)
@_with("data", "data_dir", "recipe", "settings", "evaluate", "device", "debug")
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
    **changes: Any,
) -> int:
    """Run all that is left of STUDY; what is done is kept.

    STUDY is a shipped study's name, a YAML file, or a kind: roadmap, one-in (base, and base with each flag alone),
    one-out (end, and end without each flag), sweep (one flag over values), grid (several), orders (random orders of
    the steps) or recipes (one design under each recipe). Without --jobs there are as many runs side by side as cores,
    one thread each: measured faster than one run of two threads on two cores (see the README).
    """
    from ablations.studies import load_study

    loaded = load_study(study, {key: value for key, value in changes.items() if value is not None}, settings)
    datasets = _load_data(loaded, data_dir)  # what is missing, damaged or does not fit is said before anything starts
    loaded = loaded.on(next(iter(datasets.values())))
    for one in loaded.runs:
        one.check(datasets[one.name])

    from ablations.launch import Machine, run_study

    machine = Machine.plan(device, jobs, threads, per_gpu)
    if dry_run:
        from ablations.estimate import describe_plan

        click.echo(describe_plan(loaded, datasets, machine))
        return 0
    failed = run_study(loaded, out or Path("runs") / loaded.name, data_dir, datasets, machine, retry_failed)
    for config, reason in failed:
        click.echo(f"ablations: run {config.name} failed: {reason}", err=True)
    return 1 if failed else 0


def _load_data(study: Study, data_dir: Path) -> dict[str, DataSet]:
    """The data set of each run, by the run's name."""
    from ablations.data import load

    by_size = {
        size: load(study.data, data_dir, size, study.evaluate)
        for size in {recipe.image_size for recipe in study.recipes.values()}
    }
    return {run.name: by_size[run.recipe.image_size] for run in study.runs}


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@_with("debug")
def status(folder: Path) -> None:
    """Show what of the study in FOLDER is done, running, failed and left, and how long it will take."""
    from ablations.frames import describe
    from ablations.studies import read_study

    click.echo(describe(read_study(folder), folder))


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), metavar="DIR", help="Where the report goes [FOLDER/report].")
@_with("debug")
def report(folder: Path, to: Path | None) -> None:
    """Write tables and figures of the study in FOLDER, and print the tables."""
    from ablations.frames import predictions, walked, write_results
    from ablations.studies import read_study

    study = read_study(folder)
    runs = write_results(study, folder)

    from reports.render import terminal
    from reports.tables import ReportError
    from reports.write import report_tables, write_report

    try:
        tables = report_tables(runs, study.name, predictions(study, folder), walked(study))
        written = write_report(tables, to or folder / "report")
    except ReportError as error:
        raise RequestError(f"report {folder}: {error}") from None
    except OSError as error:
        raise RunError(f"report {to or folder / 'report'}: cannot be written ({error.strerror})") from error
    width = max(shutil.get_terminal_size((120, 24)).columns, 100)
    for table in tables:
        click.echo(terminal(table, width))
    for path in written:
        click.echo(path)
