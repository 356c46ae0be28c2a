"""Commands about designs: flags, show, count, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ablations.cli.hints import Command
from ablations.cli.options import TABLE_FORMATS, Location, image_settings, with_options
from ablations.cli.output import print_table, print_words, shown
from ablations.errors import RequestError, writing

if TYPE_CHECKING:
    from ablations.cli.compared import Images
    from modernize.arguments import Size
    from modernize.plan import Cost, Step
    from reports.two_designs import Side


@click.command(cls=Command)
@with_options("plugin", "debug")
def flags() -> None:
    """List the design flags, with their values in two models."""
    from modernize.design import FLAGS, text
    from modernize.models import MODELS

    rows = []
    for flag in FLAGS:
        ends = [text(getattr(MODELS[name], flag.name)) for name in ("resnet50", "convnext_tiny")]
        rows.append((flag.name, flag.accepts, *ends, flag.meaning))
    print_words(("flag", "takes", "ResNet-50", "ConvNeXt-T", "meaning"), rows)


@click.command(cls=Command)
@click.argument("design")
@with_options("diagram", "image_size", "in_channels", "num_classes", "plugin", "debug")
def show(
    design: str,
    diagram: Path | None,
    image_size: int | tuple[int, int] | None,
    in_channels: int | None,
    num_classes: int | None,
) -> None:
    """Show the layers of a design: parameters, MACs, activations."""
    from ablations.studies.variants import counted_at, variant
    from modernize.plan import compile_plan, total_cost, trace

    one = variant(design)
    size, channels, classes = image_settings(design, image_size or counted_at(one.settings), in_channels, num_classes)
    plan = compile_plan(one.design, channels, classes)
    steps = trace(plan, size)
    click.echo(shown(f"{design}, {channels}×{size.height}×{size.width}"))
    rows = [(step.path, str(step.layer), _size(step.out_size), *_amounts(step)) for step in steps]
    cost = total_cost(steps)
    rows.append(("total", f"{cost.gflops:.3g} GFLOPs", "", *_amounts(cost)))
    print_words(("layer", "what", "out", "parameters", "MACs", "activations"), rows, right=2)
    if diagram:
        from reports.diagrams import diagram as draw

        _write_diagram(diagram, draw(plan, design))


def _amounts(cost: Step | Cost) -> tuple[str, str, str]:
    """Format what a layer or a network costs."""
    return f"{cost.params:,}", f"{cost.macs:,}", f"{cost.activations:,}"


def _size(size: Size) -> str:
    """Return a feature map's size for the table: `56²`, `48×80`."""
    return f"{size.height}²" if size.height == size.width else f"{size.height}×{size.width}"


def _write_diagram(path: Path, svg: str) -> None:
    """Write a diagram and print its path; raises RunError if it cannot be written."""
    from reports.write import write_file

    with writing(f"--diagram {path}"):
        click.echo(write_file(path, svg.encode()))


@click.command(cls=Command)
@click.argument("designs", nargs=-1, metavar="[DESIGN]…")
@click.option(
    "--roadmap",
    "roadmap_name",
    metavar="NAME|FILE",
    help="Count all rows of a roadmap: resnet50, resnet200, pocket, or a YAML file.",
)
@click.option("--format", "form", type=click.Choice(TABLE_FORMATS), default="table", show_default=True)
@with_options("image_size", "in_channels", "num_classes", "plugin", "debug")
def count(
    designs: tuple[str, ...],
    roadmap_name: str | None,
    form: str,
    image_size: int | tuple[int, int] | None,
    in_channels: int | None,
    num_classes: int | None,
) -> None:
    """Count parameters, MACs and activations, next to published GFLOPs.

    Give DESIGNs, or --roadmap for all its rows."""
    if bool(designs) == bool(roadmap_name):
        raise RequestError("count: give designs, such as `ablations count convnext_tiny`, or --roadmap NAME")
    from ablations.studies.variants import check_roadmap, counted_at, read_settings, variant
    from modernize.reference import check_reference, is_reference
    from modernize.roadmap import prints_costs, roadmap

    parsed = [(name, check_reference(name) if is_reference(name) else variant(name)) for name in designs]
    steps = roadmap(roadmap_name) if roadmap_name else None
    if steps:
        check_roadmap(steps)

    from modernize.cost import count as count_cost
    from reports.cost_table import THE_PAPER, CostRow, cost_table

    costs = []
    for name, one in parsed:
        design, own = (one, {}) if isinstance(one, str) else (one.design, one.settings)
        images = image_settings(name, image_size or counted_at(own), in_channels, num_classes)
        cost = count_cost(design, *images)
        costs.append(CostRow(name, name, cost.params, cost.macs, cost.activations))
    if steps:
        for row in steps.rows:
            resolution = counted_at(read_settings(row.recipe))
            images = image_settings(steps, image_size or resolution, in_channels, num_classes)
            cost = count_cost(row.design, *images)
            printed = prints_costs(steps, images) or (resolution is not None and image_size is None)
            beside = (row.printed.gflops, row.note) if printed else (None, "")
            costs.append(CostRow(row.name, row.label, cost.params, cost.macs, cost.activations, *beside))
    source = steps.source if steps else THE_PAPER
    table = cost_table(costs, f"Cost of {roadmap_name or 'designs'}", "row" if roadmap_name else "design", source)
    print_table(table, form, widest=100)


@click.command(cls=Command)
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option(
    "--results",
    type=Location(),
    multiple=True,
    metavar="FOLDER",
    help="Also compare their results in the study of this folder, or in folders of runs. Repeatable.",
)
@with_options("diagram", "image_size", "in_channels", "num_classes", "plugin", "debug")
def compare(
    before: str,
    after: str,
    results: tuple[Path, ...],
    diagram: Path | None,
    image_size: int | tuple[int, int] | None,
    in_channels: int | None,
    num_classes: int | None,
) -> None:
    """Compare two designs: flags, costs and accuracy.

    A and B are designs, torchvision:NAME, timm:NAME or FILE.py:FUNCTION(setting=value), or rows of --results. Both are
    counted for the same images: those of A's roadmap or of the row A, unless overridden. The accuracy comes from
    --results.
    """
    from contextlib import ExitStack

    from ablations.cli.compared import Images, Results, side
    from ablations.studies.loose_runs import opened
    from reports.errors import ReportError
    from reports.two_designs import two_designs_table

    with ExitStack() as held:
        found = Results(*held.enter_context(opened(results))) if results else None
        size, channels, classes = found.images(before) if found else (None, None, None)
        shape = image_settings(
            before if size is None else "pocket",
            image_size or size,
            in_channels or channels,
            classes if num_classes is None else num_classes,
        )
        images = Images(*shape)
        sides = side(before, images, found), side(after, images, found)
        try:
            measured = found.difference(sides) if found else None
        except ReportError as error:
            raise RequestError(f"--results {results[0]}: {error}") from None
    print_table(two_designs_table(*sides, str(images), measured))
    if diagram:
        _write_difference(diagram, sides, images)


def _write_difference(path: Path, sides: tuple[Side, Side], images: Images) -> None:
    """Write a diagram of the blocks in which two designs differ."""
    from modernize.plan import compile_plan
    from reports.diagrams import difference

    one, other = (side.design for side in sides)
    if one is None or other is None:
        raise RequestError("--diagram: only of designs, whose layers are known; leave it out")
    before, after = (compile_plan(design, images.channels, images.classes) for design in (one, other))
    _write_diagram(path, difference(before, after, (sides[0].name, sides[1].name)))
