"""The command loops."""

from __future__ import annotations

from pathlib import Path

import click

from ablations.cli.hints import Command
from ablations.cli.options import TABLE_FORMATS, Integer, Location, read_names, with_options
from ablations.cli.output import print_table
from ablations.errors import writing


@click.command(cls=Command)
@click.argument("designs", nargs=-1, metavar="[DESIGN]…")
@click.option(
    "--against",
    metavar="NAME,NAME",
    callback=read_names,
    default="tensor,dataloader",
    show_default=True,
    help="Plain loops: tensor (the dataset as one tensor, augmented batch by batch), dataloader (torch's DataLoader "
    "with torchvision's transforms), or FILE.py:FUNCTION.",
)
@click.option("--jobs", type=Integer(1), default=1, show_default=True, help="Processes per loop, in parallel.")
@click.option("--threads", type=Integer(1), help="Threads per process. [default: cores / jobs]")
@click.option("--repeats", type=Integer(1), default=5, show_default=True, help="Interleaved rounds (A B A B …).")
@click.option("--format", "form", type=click.Choice(TABLE_FORMATS), default="table", show_default=True)
@click.option("--out", type=Location(), metavar="FILE", help="Write all measurements to FILE, as JSON.")
@with_options("data", "data_dir", "recipe", "device", "plugin", "debug")
def loops(
    designs: tuple[str, ...],
    against: list[str],
    jobs: int,
    threads: int | None,
    repeats: int,
    form: str,
    out: Path | None,
    data: str | None,
    data_dir: Path,
    recipe: str | None,
    device: str,
) -> None:
    """Compare the Trainer's speed with that of plain training loops.

    All train the same network on the same images, loaded and augmented as the recipe asks. DESIGN defaults to pocket,
    --data to fashion_mnist and --recipe to quick."""
    from ablations.machine import Machine, refuse_windows

    refuse_windows()
    from ablations.recipes import load_recipe
    from modernize.models import design
    from modernize.reference import check_reference, is_reference

    names = designs or ("pocket",)
    for name in names:
        check_reference(name) if is_reference(name) else design(name)
    loaded = load_recipe(recipe or "quick")

    from ablations.bench import Setting
    from ablations.bench.loops import loop_rows, loop_subtitle, loops_json, measure_loops, timed_loops
    from ablations.data.datasets import loader_of
    from ablations.training.gpu_arithmetic import check_arithmetic
    from reports.loop_table import loop_table

    loader_of(data or "fashion_mnist")
    setting = Setting(device=Machine.plan(device).devices[0], jobs=jobs, threads=threads or 0)
    check_arithmetic(setting.device, loaded.precision, loaded.deterministic)
    timed = timed_loops(names, against, data or "fashion_mnist", data_dir, loaded, setting)
    measured = measure_loops(timed, repeats, lambda line: click.echo(line, err=True))
    print_table(loop_table(loop_rows(measured), loop_subtitle(measured, recipe or "quick")), form, widest=100)
    if out:
        from ablations.store import write_bytes

        with writing(f"loops: {out}"):
            write_bytes(out, loops_json(measured).encode())
