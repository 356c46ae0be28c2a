"""The command bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ablations.cli.hints import Command
from ablations.cli.options import TABLE_FORMATS, Integer, Location, image_settings, read_names, read_over, with_options
from ablations.cli.output import print_table
from ablations.errors import RequestError, writing

if TYPE_CHECKING:
    from ablations.bench import Bench
    from ablations.studies.schema import Study
    from modernize.roadmap import Roadmap, Row


@click.command(cls=Command)
@click.argument("designs", nargs=-1, metavar="[DESIGN]…")
@click.option(
    "--roadmap",
    "roadmap_name",
    metavar="NAME|FILE",
    help="Measure all rows of a roadmap: resnet50, resnet200, pocket, or a YAML file.",
)
@click.option("--study", type=Location(), metavar="FOLDER", help="Measure a study's rows, for its report.")
@click.option(
    "--against",
    metavar="NAME,NAME",
    callback=read_names,
    help="Reference implementations with our weights: torchvision, timm.",
)
@click.option("--batch-size", type=Integer(1), default=16, show_default=True, help="Images per batch.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "tf32", "bf16", "fp16"]),
    default="float32",
    show_default=True,
    help="Precision of convolutions and matrix products, in all networks alike. tf32: on NVIDIA GPUs.",
)
@click.option(
    "--memory-format",
    type=click.Choice(["channels_last", "contiguous"]),
    help="Memory format. [default: channels_last; for reference implementations the faster of both]",
)
@click.option("--compile", "compiled", is_flag=True, help="Use torch.compile.")
@click.option("--recompute", is_flag=True, help="Use activation checkpointing.")
@click.option("--jobs", type=Integer(1), default=1, show_default=True, help="Processes per design, in parallel.")
@click.option("--threads", type=Integer(1), help="Threads per process. [default: cores / jobs]")
@click.option(
    "--over",
    multiple=True,
    metavar="NAME=VALUE,…",
    callback=read_over,
    help="Vary batch-size, image-size, jobs, threads, recompute, compile or precision. Repeatable.",
)
@click.option("--repeats", type=Integer(1), default=5, show_default=True, help="Interleaved rounds (A B A B …).")
@click.option("--warmup", type=Integer(0), default=1, show_default=True, help="Warm-up steps before each round.")
@click.option("--format", "form", type=click.Choice(TABLE_FORMATS), default="table", show_default=True)
@click.option("--out", type=Location(), metavar="FILE", help="Write all measurements to FILE, as JSON.")
@with_options("square_image_size", "in_channels", "classifier_classes", "device", "plugin", "debug")
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
    """Benchmark throughput, latency and memory in interleaved rounds.

    Give DESIGNs, --roadmap or --study. Interleaved rounds cancel slow drift of the machine. Rows of a roadmap or study
    are measured one after the other, each interleaved with its reference implementations and settings."""
    from ablations.machine import Machine, refuse_windows

    refuse_windows()
    if (bool(designs), bool(roadmap_name), bool(study)).count(True) != 1:
        raise RequestError("bench: give designs, such as `ablations bench convnext_tiny`, or --roadmap, or --study")
    from ablations.studies.folder import read_study

    if study and over:
        raise RequestError("--over: not with --study, whose report has one setting; give designs or --roadmap")
    ran = read_study(study) if study else None
    named, counted = _benched(designs, roadmap_name, ran)
    size, channels, classes = image_settings(counted, image_size, in_channels, num_classes)
    wrong = [name for name in against or () if name not in ("torchvision", "timm")]
    if wrong:
        raise RequestError(f"--against {wrong[0]}: unknown; choose torchvision or timm")

    from ablations.bench import Setting, benchmarked_models, measure, subtitle, table_rows
    from ablations.training.gpu_arithmetic import check_arithmetic
    from reports.bench_table import speed_table

    device = Machine.plan(options.pop("device")).devices[0]
    setting = Setting(
        device=device,
        threads=options.pop("threads") or 0,
        compile=options.pop("compiled"),
        image_size=size.height,
        in_channels=channels,
        num_classes=classes,
        **options,
    )
    models = benchmarked_models(named, setting, against or (), memory_format, over)
    for model in models:
        check_arithmetic(device, model.setting.precision)
        _check_built(model.design, model.setting.image_size, channels, classes)
    measured = measure(models, repeats, lambda line: click.echo(line, err=True), by_row=not designs)
    print_table(speed_table(table_rows(measured), subtitle(measured, over)), form, widest=100)
    _write(measured, out, study)


def _write(measured: Bench, out: Path | None, study: Path | None) -> None:
    """Write the measurements to a file, and those of a study to its `bench.json`."""
    from ablations.bench import for_study, with_other_settings
    from ablations.store import write_bytes

    with writing(f"bench: {out or study}"):
        if out:
            write_bytes(out, measured.as_json().encode())
        if study:
            entries = with_other_settings(for_study(measured), study / "bench.json")
            write_bytes(study / "bench.json", (json.dumps(entries, indent=1) + "\n").encode())


def _benched(
    designs: tuple[str, ...], roadmap_name: str | None, ran: Study | None
) -> tuple[dict[str, str], str | Roadmap]:
    """Return the designs to measure by name, and the roadmap that sets the images, or the design at its rows."""
    from ablations.studies.own_code import check_code
    from modernize.design import setting
    from modernize.reference import check_reference, is_reference
    from modernize.roadmap import roadmap

    if roadmap_name:
        steps = roadmap(roadmap_name)
        return {row.name: _row_name(steps.base, row) for row in steps.rows}, steps
    if ran:
        for row in ran.rows:
            check_code(row)
        names = {
            row.row: row.reference
            or ",".join(["resnet50", *(setting(flag, value) for flag, value in row.flags.items())])
            for row in ran.rows
        }
        return names, ran.steps
    return {name: check_reference(name) if is_reference(name) else _design_alone(name) for name in designs}, designs[0]


# Settings of a recipe that a benchmark has options for.
_OPTIONS = {
    "batch_size": "--batch-size",
    "image_size": "--image-size",
    "precision": "--precision",
    "compile": "--compile",
    "activation_checkpointing": "--recompute",
    "channels_last": "--memory-format",
}


def _design_alone(name: str) -> str:
    """Leave the recipe's settings out of a design's name; raise RequestError if the benchmark would ignore one."""
    from ablations.studies.variants import variant
    from modernize.design import RECIPE, split_commas

    for key in variant(name).settings:
        if key in _OPTIONS:
            raise RequestError(
                f"bench {name}: {RECIPE}{key} is not taken from a name; leave it out and set {_OPTIONS[key]}"
            )
    return ",".join(part for part in split_commas(name) if not part.strip().startswith(RECIPE))


def _row_name(base: str, row: Row) -> str:
    """Name the design of a roadmap row of any size: pocket@width,width=36."""
    from modernize.design import setting
    from modernize.roadmap import roadmap

    resized = row.design.differences(roadmap(base).row(row.name).design)
    return ",".join([f"{base}@{row.name}", *(setting(flag, value) for flag, value in resized.items())])


def _check_built(design: str, size: int, channels: int, classes: int) -> None:
    """Raise DesignError if a design cannot be built, or not for images of that size."""
    from modernize.cost import count as count_cost

    count_cost(design, size, channels, classes)
