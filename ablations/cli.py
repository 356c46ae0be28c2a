"""The command line. Heavy imports happen inside the command that needs them, so that --help answers at once."""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ablations.distributed import is_main, local_rank, processes
from ablations.errors import RequestError, RunError

if TYPE_CHECKING:
    from ablations.data import DataSet
    from ablations.runs import RunConfig
    from ablations.studies import Study
    from modernize.roadmap import Row
    from reports.versus import Measured, Side

INTERRUPTED = 130
FORMATS = ("table", "json", "csv", "markdown", "latex")
REPORTS = ("table", "markdown", "csv", "latex", "png", "svg", "pdf", "html")


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
        # of the processes that torchrun started: what all have met is told by one a machine, a surprise by any
        if local_rank() == 0 or _is_surprise(error):
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


def _is_surprise(error: BaseException) -> bool:
    """Whether it is no error that the program foresees."""
    from modernize.design import DesignError

    foreseen = (KeyboardInterrupt, click.Abort, click.ClickException, RequestError, DesignError, RunError)
    return not isinstance(error, foreseen)


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


def _svg(_: click.Context, option: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix != ".svg":
        raise RequestError(f"--diagram {value}: a diagram is an SVG file; name it {value.with_suffix('.svg').name}")
    return value


_OPTIONS: dict[str, Callable] = {
    "data": click.option(
        "--data", metavar="NAME", help="fashion_mnist, cifar10, cifar100, digits, folder or imagenet."
    ),
    "data_dir": click.option(
        "--data-dir",
        metavar="FOLDER",
        type=click.Path(path_type=Path),
        default=Path("data"),
        show_default=True,
        help="Where data sets lie or are put.",
    ),
    "recipe": click.option(
        "--recipe", metavar="NAME|FILE[,KEY=VALUE]…", help="How to train: a recipe's name or YAML file, changed or not."
    ),
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
    "tensorboard": click.option("--tensorboard", is_flag=True, help="Log for TensorBoard too, in each run's folder."),
    "debug": click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback with an error."),
    "diagram": click.option(
        "--diagram",
        metavar="FILE.svg",
        type=click.Path(path_type=Path),
        callback=_svg,
        help="Draw it too, as an SVG file.",
    ),
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


def _names(_: click.Context, option: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else value.split(",")


def _recipes(_: click.Context, option: click.Parameter, value: str | None) -> list[str] | None:
    """--recipes quick,quick,learning_rate=2e-3: a key=value belongs to the recipe before it."""
    found: list[str] = []
    for part in value.split(",") if value is not None else ():
        if found and "=" in part:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found or None


def _over(_: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, list[Any]]:
    """The fields of a bench's setting that are varied, with their values."""
    if not values:
        return {}
    from ablations.bench import OVER

    found: dict[str, list[Any]] = {}
    for value in values:
        name, _sign, given = value.partition("=")
        if name not in OVER:
            raise RequestError(f"--over {value}: {name!r} is unknown; it varies {', '.join(OVER)}")
        try:
            found[name.replace("-", "_")] = [OVER[name](one) for one in given.split(",")]
        except ValueError as error:
            raise RequestError(f"--over {value}: each value of {name} must be {error}") from None
    return found


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
    from rich.table import Table

    from ablations.progress import Screen
    from modernize.design import FLAGS, text
    from modernize.models import MODELS

    table = Table(box=None, pad_edge=False)
    for heading in ("flag", "takes", "ResNet-50", "ConvNeXt-T", "meaning"):
        table.add_column(heading, no_wrap=heading != "meaning")
    for flag in FLAGS:
        ends = [text(getattr(MODELS[name], flag.name)) for name in ("resnet50", "convnext_tiny")]
        table.add_row(flag.name, flag.accepts, *ends, flag.meaning)
    Screen().print(table, highlight=False)


@cli.command()
@click.argument("design")
@_with("diagram", "image_size", "in_channels", "num_classes", "debug")
def show(
    design: str, diagram: Path | None, image_size: int | None, in_channels: int | None, num_classes: int | None
) -> None:
    """Show the layers of DESIGN, with their parameters and multiply-adds."""
    from rich.table import Table

    from ablations.progress import Screen
    from modernize.models import design as named
    from modernize.plan import compile_plan, trace

    size, channels, classes = _images(design, image_size, in_channels, num_classes)
    plan = compile_plan(named(design), channels, classes)
    steps = trace(plan, size)
    table = Table(title=f"{design}, {channels}×{size}×{size}", box=None, pad_edge=False, title_justify="left")
    for heading in ("layer", "what", "out", "parameters", "multiply-adds"):
        table.add_column(heading, justify="left" if heading in ("layer", "what") else "right", no_wrap=True)
    for step in steps:
        table.add_row(step.path, str(step.layer), f"{step.out_size}²", f"{step.params:,}", f"{step.macs:,}")
    params, macs = sum(step.params for step in steps), sum(step.macs for step in steps)
    table.add_section()
    table.add_row("total", f"{macs / 1e9:.3g} GFLOPs", "", f"{params:,}", f"{macs:,}")
    Screen(width=None if sys.stdout.isatty() else 120).print(table, highlight=False)
    if diagram:
        from reports.diagrams import diagram as draw

        _write_diagram(diagram, draw(plan, design))


def _write_diagram(path: Path, svg: str) -> None:
    """Write a diagram and say where it is; raises RunError where it cannot be written."""
    from reports.files import write_file

    try:
        click.echo(write_file(path, svg.encode()))
    except OSError as error:
        raise RunError(f"--diagram {path}: cannot be written ({error.strerror})") from error


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
    from modernize.reference import check_reference, is_reference
    from modernize.roadmap import roadmap

    parsed = [(name, check_reference(name) if is_reference(name) else named(name)) for name in designs]
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
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="A study's folder: how the two did in it, if it has both.",
)
@_with("diagram", "image_size", "in_channels", "num_classes", "debug")
def compare(
    before: str,
    after: str,
    results: Path | None,
    diagram: Path | None,
    image_size: int | None,
    in_channels: int | None,
    num_classes: int | None,
) -> None:
    """Show what differs between designs A and B: flags, parameters, multiply-adds, and accuracy where a study has both.

    Both are counted for the same images: those of A's roadmap, unless told.
    """
    from modernize.models import design as named
    from modernize.plan import Plan, compile_plan, trace

    size, channels, classes = _images(before, image_size, in_channels, num_classes)
    plans = [compile_plan(named(name), channels, classes) for name in (before, after)]

    from reports.versus import Side, versus_table

    def side(name: str, plan: Plan) -> Side:
        steps = trace(plan, size)
        return Side(name, plan.design, sum(step.params for step in steps), sum(step.macs for step in steps))

    sides = side(before, plans[0]), side(after, plans[1])
    measured = _measured(results, sides) if results else None
    images = f"{channels}×{size}×{size} images and {classes} classes"

    from reports.render import terminal

    width = max(shutil.get_terminal_size((120, 24)).columns, 100)
    click.echo(terminal(versus_table(*sides, images, measured), width), nl=False)
    if diagram:
        from reports.diagrams import difference

        _write_diagram(diagram, difference(plans[0], plans[1], (before, after)))


def _measured(folder: Path, sides: tuple[Side, Side]) -> Measured:
    """How two designs did in the study of a folder; raises RequestError where it does not have both."""
    from ablations.frames import predictions, runs_frame
    from ablations.studies import read_study
    from reports.tables import ReportError
    from reports.versus import measure

    study = read_study(folder)
    designs = {row.row: row.flags for row in study.rows if row.reference is None}
    try:
        return measure(runs_frame(study, folder), designs, sides, predictions(study, folder))
    except ReportError as error:
        raise RequestError(f"--results {folder}: {error}") from None


@cli.command()
@click.argument("designs", nargs=-1, metavar="[DESIGN]…")
@click.option("--roadmap", "roadmap_name", metavar="NAME", help="All rows of resnet50, resnet200 or pocket.")
@click.option("--study", type=click.Path(path_type=Path), metavar="FOLDER", help="A study's rows, for its report.")
@click.option("--against", metavar="NAME,NAME", callback=_names, help="torchvision, timm: their network, our weights.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True)
@click.option("--precision", type=click.Choice(["float32", "bf16", "fp16"]), default="float32", show_default=True)
@click.option(
    "--memory-format",
    type=click.Choice(["channels_last", "contiguous"]),
    help="[channels_last; a peer in both, the better counts]",
)
@click.option("--compile", "compiled", is_flag=True, help="By torch.compile.")
@click.option("--recompute", is_flag=True, help="With activation checkpointing.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes of each, side by side.")
@click.option("--threads", type=click.IntRange(1), help="Of each process [the cores shared out].")
@click.option(
    "--over",
    multiple=True,
    metavar="NAME=VALUE,…",
    callback=_over,
    help="Vary batch-size, image-size, jobs, threads, recompute, compile or precision; may be given again.",
)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Turns of each, A B A B….")
@click.option("--warmup", type=click.IntRange(0), default=1, show_default=True, help="Steps before each turn.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="All that was measured, as JSON.")
@_with("image_size", "in_channels", "num_classes", "device", "debug")
def bench(
    designs: tuple[str, ...],
    roadmap_name: str | None,
    study: Path | None,
    against: list[str] | None,
    memory_format: str | None,
    image_size: int | None,
    in_channels: int | None,
    num_classes: int | None,
    over: dict[str, list[Any]],
    repeats: int,
    form: str,
    out: Path | None,
    **options: Any,
) -> None:
    """Measure how fast DESIGNs train and answer and what memory they need, in turns so that drift cancels."""
    if (bool(designs), bool(roadmap_name), bool(study)).count(True) != 1:
        raise RequestError("bench: give designs, such as `ablations bench convnext_tiny`, or --roadmap, or --study")
    from ablations.studies import read_study

    if study and over:
        raise RequestError("--over: a study's report has one setting; give designs or --roadmap")
    ran = read_study(study) if study else None
    named, counted = _benched(designs, roadmap_name, ran)
    size, channels, classes = _images(counted, image_size, in_channels, num_classes)
    wrong = [name for name in against or () if name not in ("torchvision", "timm")]
    if wrong:
        raise RequestError(f"--against {wrong[0]}: unknown; the right values are torchvision and timm")

    from ablations.bench import Setting, contestants, for_study, measure, subtitle, table_rows
    from ablations.launch import Machine
    from ablations.store import write_bytes
    from reports.render import FORMATS
    from reports.speed import speed_table

    device = Machine.plan(options.pop("device")).devices[0]
    setting = Setting(
        device=device,
        threads=options.pop("threads") or 0,
        compile=options.pop("compiled"),
        image_size=size,
        in_channels=channels,
        num_classes=classes,
        **options,
    )
    entered = contestants(named, setting, against or (), memory_format, over)
    for one in entered:
        _check_built(one.design, one.setting.image_size, channels, classes)
    measured = measure(entered, repeats, lambda words: click.echo(words, err=True))
    click.echo(FORMATS[form](speed_table(table_rows(measured), subtitle(measured, over))), nl=False)
    try:
        if out:
            write_bytes(out, measured.as_json().encode())
        if study:
            write_bytes(study / "bench.json", (json.dumps(for_study(measured), indent=1) + "\n").encode())
    except OSError as error:
        raise RunError(f"bench: {out or study} cannot be written ({error.strerror})") from error


def _benched(designs: tuple[str, ...], roadmap_name: str | None, ran: Study | None) -> tuple[dict[str, str], str]:
    """What to measure, by the names it goes by, and the design whose roadmap says for which images."""
    from modernize.design import BY_NAME, text
    from modernize.roadmap import roadmap

    if roadmap_name:
        steps = roadmap(roadmap_name)
        return {row.name: _spelt(steps.base, row) for row in steps.rows}, roadmap_name
    if ran:
        spelt = {
            row.row: row.reference
            or "resnet50," + ",".join(f"{name}={text(BY_NAME[name].read(value))}" for name, value in row.flags.items())
            for row in ran.rows
        }
        return spelt, ran.base
    return {name: name for name in designs}, designs[0]


def _spelt(base: str, row: Row) -> str:
    """A row of a roadmap of any size as a design is named: pocket@width,width=36."""
    from modernize.design import BY_NAME, text
    from modernize.roadmap import roadmap

    resized = row.design.differences(roadmap(base).row(row.name).design)
    return ",".join([f"{base}@{row.name}", *(f"{name}={text(BY_NAME[name].read(v))}" for name, v in resized.items())])


def _check_built(design: str, size: int, channels: int, classes: int) -> None:
    """Raises DesignError for a design that cannot be built or takes no images of that size."""
    from modernize.cost import count as count_cost

    count_cost(design, size, channels, classes)


@cli.command()
@click.argument("name")
@_with("data_dir", "debug")
def data(name: str, data_dir: Path) -> None:
    """Fetch data set NAME if need be, check it, and say where it lies."""
    from ablations.data import load

    found = load(name, data_dir, 224 if name in ("folder", "imagenet") else None)
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
@_with("data", "data_dir", "recipe", "settings", "evaluate", "device", "tensorboard", "debug")
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
    tensorboard: bool,
) -> int:
    """Train DESIGN once: one run, in a folder of its own; the same command again goes on where it stopped.

    DESIGN may be torchvision:NAME, too. Under torchrun all its processes train the run together.
    """
    from ablations.recipes import load_recipe
    from ablations.runs import RunConfig
    from ablations.studies import slug
    from modernize.models import design as named
    from modernize.reference import check_reference, is_reference

    recipe = recipe or "quick"
    reference = check_reference(design) if is_reference(design) else None
    _check_tensorboard(tensorboard)
    config = RunConfig(
        row=slug(design),
        label=design,
        flags={} if reference else named(design).flags(),
        reference=reference,
        recipe_name=recipe,
        recipe=load_recipe(recipe, settings),
        data=data or "fashion_mnist",
        evaluate="validation" if evaluate == "validation" else "test",
        seed=seed,
    )
    from ablations.single import train_one

    return train_one(config, out or Path("runs") / config.name, data_dir, device, threads, tensorboard)


def _check_tensorboard(wanted: bool) -> None:
    """Raises RequestError where TensorBoard is wanted and not installed."""
    from importlib.util import find_spec

    if wanted and find_spec("tensorboard") is None:
        raise RequestError("--tensorboard: it is not installed; type pip install 'modernize-convnets[tensorboard]'")


# What `run` asks a cluster for.
_ASKED = ("partition", "time", "nodes", "gpus", "processes", "cpus", "memory", "constraint")


def _asks(name: str, kind: Any, text: str) -> Callable:
    """An option saying what each job asks for; over the study's `cluster` block."""
    return click.option(f"--{name}", type=kind, help=f"{text} With --cluster.")


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
@click.option("--extras", metavar="ROW,ROW", callback=_names, help="Rows of a roadmap beyond the paper's, such as grn.")
@click.option("--recipes", metavar="RECIPE,RECIPE", callback=_recipes, help="What a study of recipes compares.")
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
@click.option("--references", metavar="NAME,NAME", callback=_names, help="torchvision:NAME networks beside the rows.")
@click.option("--cluster", "kind", type=click.Choice(["slurm", "local"]), help="Submit each run as a job.")
@_asks("partition", str, "Of the cluster.")
@_asks("time", str, "Of each job, in minutes or as Slurm writes it: 2-00:00:00 [60]; it is requeued after.")
@_asks("nodes", click.IntRange(1), "For each run [1].")
@_asks("gpus", click.IntRange(0), "On each node [0].")
@_asks("processes", click.IntRange(1), "On each node [one for each GPU, or one].")
@_asks("cpus", click.IntRange(1), "For each process [1].")
@_asks("memory", click.FloatRange(0, min_open=True), "GB on each node.")
@_asks("constraint", str, "On the nodes.")
@_with("data", "data_dir", "recipe", "settings", "evaluate", "device", "tensorboard", "debug")
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
    kind: str | None,
    **changes: Any,
) -> int:
    """Run all that is left of STUDY; what is done is kept.

    STUDY is a shipped study's name, a YAML file, or a kind: roadmap, one-in (base, and base with each flag alone),
    one-out (end, and end without each flag), sweep (one flag over values), grid (several), orders (random orders of
    the steps) or recipes (one design under each recipe). Without --jobs there are as many runs side by side as cores,
    one thread each: measured faster than one run of two threads on two cores (see the README). Under torchrun all its
    processes train each run together; with --cluster each run is a job.
    """
    from ablations.studies import load_study

    changes = {key: value for key, value in changes.items() if value is not None}
    asked = {key: changes.pop(key) for key in _ASKED if key in changes}
    if asked and kind is None:
        raise RequestError(f"--{next(iter(asked))}: only with --cluster slurm or --cluster local")
    if kind is not None:
        own = {"device": None if device == "auto" else device, "threads": threads, "per-gpu": per_gpu}
        _check_for_cluster(kind, [*(option for option, value in own.items() if value is not None), *asked])
    _check_tensorboard(tensorboard)
    loaded = load_study(study, {**changes, **({"cluster": asked} if asked else {})}, settings)
    datasets = _load_data(loaded, data_dir)  # what is missing, damaged or does not fit is said before anything starts
    loaded = loaded.on(next(iter(datasets.values())))
    at_each = processes() if kind is None else _tasks(loaded)
    for one in loaded.runs:
        one.check(datasets[one.name], at_each)
    folder = out or Path("runs") / loaded.name
    if kind is not None:
        return _submit(loaded, datasets, folder, data_dir, kind, jobs, retry_failed, tensorboard, dry_run)

    from ablations.launch import Machine, run_study

    if processes() > 1 and (jobs or per_gpu):
        raise RequestError("--jobs and --per-gpu: under torchrun all processes are at one run; leave them out")
    machine = Machine.plan(device, jobs, threads, per_gpu)
    if dry_run:
        from ablations.estimate import describe_plan

        if is_main():
            click.echo(describe_plan(loaded, datasets, machine, processes()))
        return 0
    if processes() > 1:
        from ablations.single import run_together

        failed = run_together(loaded, folder, data_dir, datasets, device, threads, retry_failed, tensorboard)
    else:
        failed = run_study(loaded, folder, data_dir, datasets, machine, retry_failed, tensorboard)
    return _say_failed(failed)


def _check_for_cluster(kind: str, options: list[str]) -> None:
    """Raises RequestError under torchrun, and for options of which a cluster's jobs make nothing."""
    if processes() > 1:
        raise RequestError("--cluster: not under torchrun; each job starts its own processes")
    for option in options:
        if option in ("device", "threads", "per-gpu"):
            raise RequestError(f"--{option}: not with --cluster; --gpus and --cpus say what each job has")
        if kind == "local" and option in ("partition", "constraint", "memory"):
            raise RequestError(f"--{option}: only with --cluster slurm")


def _say_failed(failed: list[tuple[RunConfig, str]]) -> int:
    """Says which runs failed, and returns the exit status."""
    for config, reason in failed:
        if is_main():
            click.echo(f"ablations: run {config.name} failed: {reason}", err=True)
    return 1 if failed else 0


def _submit(
    study: Study,
    datasets: dict[str, DataSet],
    folder: Path,
    data_dir: Path,
    kind: str,
    jobs: int | None,
    retry_failed: bool,
    tensorboard: bool,
    dry_run: bool,
) -> int:
    """Submits what is left of a study to a cluster; of `local`, waits for it."""
    from ablations.cluster import check_here, check_slurm, describe_jobs, submit
    from ablations.estimate import describe_runs
    from ablations.frames import write_results
    from ablations.launch import failures, forget_failures
    from ablations.studies import Cluster, open_folder

    asked = study.cluster or Cluster()
    at_once = jobs or (256 if kind == "slurm" else 1)
    if kind == "local":
        check_here(asked, at_once)
    if dry_run:
        click.echo("\n".join([*describe_runs(study, datasets), describe_jobs(asked, kind, at_once)]))
        return 0
    if kind == "slurm":
        check_slurm()
    open_folder(study, folder)
    if retry_failed:
        forget_failures(study, folder)
    try:
        submitted = submit(study, folder, data_dir, kind, at_once, tensorboard)
    finally:
        write_results(study, folder)
    click.echo(f"{study.name}: {len(submitted)} of {len(study.runs)} runs submitted; ablations status {folder}")
    return _say_failed(failures(study, folder)) if kind == "local" else 0


def _tasks(study: Study) -> int:
    """The processes that a cluster's job has for a run."""
    return study.cluster.nodes * study.cluster.processes_each if study.cluster else 1


def _load_data(study: Study, data_dir: Path) -> dict[str, DataSet]:
    """The data set of each run, by the run's name."""
    from ablations.runs import load_data, wanted_of_data

    loaded: dict[tuple, DataSet] = {}
    found = {}
    for run in study.runs:
        key = tuple(wanted_of_data(run).values())
        if key not in loaded:
            loaded[key] = load_data(run, data_dir)
        found[run.name] = loaded[key]
    return found


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@_with("debug")
def status(folder: Path) -> None:
    """Show what of the study in FOLDER is done, running, failed and left, and how long it will take."""
    from ablations.cluster import describe_queue
    from ablations.frames import describe
    from ablations.studies import read_study

    click.echo(describe(read_study(folder), folder))
    if (queue := describe_queue(folder)) is not None:
        click.echo(f"  {queue}")


def _formats(_: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """--format markdown,png or --format markdown --format png; none is all."""
    from modernize.design import nearest

    chosen = [name.strip() for value in values for name in value.split(",")]
    for name in chosen:
        if name not in REPORTS:
            raise RequestError(f"--format {name}: unknown format: {nearest(name, REPORTS)}")
    return chosen or list(REPORTS)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), metavar="DIR", help="Where the report goes [FOLDER/report].")
@click.option(
    "--format",
    "formats",
    metavar="NAME,…",
    multiple=True,
    callback=_formats,
    help=f"Of {', '.join(REPORTS)} [all]; repeatable. table prints the tables.",
)
@_with("debug")
def report(folder: Path, to: Path | None, formats: list[str]) -> None:
    """Print the tables of the study in FOLDER, and write its tables, figures and page, as it is now."""
    from ablations.frames import read_report
    from ablations.studies import read_study
    from reports.render import terminal
    from reports.tables import ReportError
    from reports.write import write_report

    study = read_study(folder)
    try:
        gathered = read_report(study, folder)
    except ReportError as error:
        raise RequestError(f"report {folder}: {error}") from None
    except OSError as error:
        raise RunError(f"report {folder}: {error.filename} cannot be read ({error.strerror})") from error
    try:
        written = write_report(gathered, to or folder / "report", formats)
    except OSError as error:
        raise RunError(f"report {to or folder / 'report'}: cannot be written ({error.strerror})") from error
    if "table" in formats:
        width = max(shutil.get_terminal_size((120, 24)).columns, 100)
        for table in gathered.tables:
            click.echo(terminal(table, width))
    for path in written:
        click.echo(path)
