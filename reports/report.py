"""A report: everything shown of a study, gathered once for the terminal, the files and the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from modernize.roadmap import Roadmap
from reports.agreement_table import agreement_table
from reports.errors import drawing
from reports.factorial_tables import grid_effects_table, order_interactions_table
from reports.layout import NATURAL, Layout, laid_out
from reports.orders_table import orders_table
from reports.pair_tables import compares_pairs, pairs_table
from reports.per_class import ClassResults
from reports.roadmap_table import roadmap_table
from reports.screen_tables import Factors, interactions_table, screen_table, screening_of
from reports.statistics import Measure
from reports.statistics.factorial import Factorial
from reports.statistics.row_results import resolution
from reports.study_tables import comparison_table, designs_table, references_table
from reports.summary import StudySummary
from reports.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Orders:
    """The orders of a study of orders, the row of a set of flags, and how to name the first order."""

    orders: Sequence[Sequence[str]]
    row_of: Callable[[frozenset[str]], str]
    first: str = "the paper's order"


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure of a report: its file's name, title, caption, and the numbers it is drawn from.

    `title` and `caption` are plain text and may hold words of the study: escape them. `frame` has raw numbers, a line a
    mark, NaN where there is none; its means, differences and effects are those of `measure`. `details` say what was
    done, in the metadata of files. The figure is drawn when it is first asked for, in its layout.
    """

    name: str
    title: str
    caption: str
    frame: pd.DataFrame
    draw: Callable[[], Figure]
    measure: Measure = "top1"
    words: Mapping[str, str] = field(default_factory=dict)
    layout: Layout = NATURAL
    details: str = ""

    @cached_property
    def figure(self) -> Figure:
        """The figure, drawn."""
        with drawing(self.name), laid_out(self.layout):
            return self.draw()

    def encoded(self, suffix: str) -> bytes:
        """The bytes of a `png`, `svg` or `pdf` file."""
        if suffix == "svg":
            return self.svg
        with drawing(self.name):
            from reports.figures.style import FINE, encode

            return encode(self.figure, suffix, FINE if self.layout.width else None, self.title, self.details)

    @cached_property
    def svg(self) -> bytes:
        """The bytes of an SVG file, for a folder and a page."""
        with drawing(self.name):
            from reports.figures.style import encode

            return encode(self.figure, "svg", title=self.title, details=self.details)


@dataclass(frozen=True, eq=False)
class Report:
    """What a report shows of a study.

    title       the study's name; it, labels, reasons and notes came from outside: escape them
    kind        its kind, as `ablations run` names it
    base        the design the study starts from, as the command line names it
    steps       the roadmap of that design, or that of ResNet-50 if it is on none
    runs        a line a row and seed, in the study's order, whatever became of its run: study, kind, roadmap (None
                unless a roadmap), row, label, base (the row it is compared with, or None;
                of several, names with "; " between them), run, seed, recipe, dataset,
                evaluate, status (done, failed, running, stopped, left, or not compared), reason, top1 (percent, as
                loss on the test images that all runs read), ema_top1, note, loss, params, macs, activations,
                image_size, in_channels, num_classes, images_seen, images_per_second, seconds, train_top1, chance_top1,
                test_images, evaluated_images, unread (names), data_checksum, compared_images, weights (that runs
                start from; None: newly initialized), processor_seconds, machine, software, data_folder (None: not
                recorded), settings (of the recipe, as in its name)
    designs     for each row all its design flags, as `Design.flags()` gives them; not for reference models
    summary     what helped, what hurt, what is inconclusive and what would settle it
    tables      in the order to show them, the main one first; `frame` of each has the raw numbers
    plots       in the order to show them
    curves      a line a line of a run's log: row, label, seed, images, loss, top1; empty where nothing has been logged
    orders      what a study of orders walked; None for another kind
    bench       a line a measurement of the study's bench.json: row, batch_size, train_images_per_second,
                inference_images_per_second, latency_ms, peak_memory_mb, device, precision; empty where there is none
    unfinished  the lines of `runs` that are not done: row, label, seed, status, reason
    classes     the results per class; None where no run's predictions are there
    per_class   the tables of these results
    layout      how tables are laid out; the plots have their own
    """

    title: str
    kind: str
    base: str
    steps: Roadmap
    runs: pd.DataFrame
    designs: Mapping[str, Mapping[str, Any]]
    summary: StudySummary
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]
    curves: pd.DataFrame
    orders: Orders | None
    bench: pd.DataFrame
    unfinished: pd.DataFrame
    classes: ClassResults | None = None
    per_class: tuple[Table, ...] = ()
    layout: Layout = NATURAL

    @property
    def every_table(self) -> tuple[Table, ...]:
        """The tables in the order to show them."""
        return (*self.tables, *self.per_class)


def report_tables(
    runs: pd.DataFrame,
    title: str,
    orders: Orders | None = None,
    bench: pd.DataFrame | None = None,
    grid: Factorial | None = None,
    factors: Factors | None = None,
    measure: Measure = "top1",
    steps: Roadmap | None = None,
) -> list[Table]:
    """Build the tables of a study, the main one first and that of differences last.

    Args:
        runs: The study's tidy frame, see `Report`.
        title: The title of a roadmap's table.
        orders: The orders of a study of orders, whose main table has the flags' effects averaged over them.
        bench: The study's measurements; a roadmap shows them in its own table, other studies in the last.
        grid: The design of a grid, whose main table has the flags' effects.
        factors: The flags of a screening study, whose main tables have main effects and interactions.
        measure: The study's primary measure.
        steps: The roadmap that the study ran, if it ran one.

    Raises:
        ReportError: If the runs cannot be reported together.
    """
    step = resolution(runs)
    if orders is not None:
        worths = orders_table(runs, orders.orders, orders.row_of, measure, step, orders.first)
        flags, *random = orders.orders
        pairs = [order_interactions_table(runs, flags, random, orders.row_of, measure, step)] if len(flags) > 1 else []
        return [worths, *pairs, comparison_table(runs, bench, measure)]
    if grid is not None and len(grid.flags) > 1:
        return [grid_effects_table(runs, grid, measure, step), comparison_table(runs, bench, measure)]
    if factors is not None:
        found = screening_of(runs, factors, measure)
        effects = screen_table(runs, factors, found, measure)
        interactions = interactions_table(runs, found, measure)
        return [effects, interactions, comparison_table(runs, bench, measure)]
    if steps is not None:
        compared = comparison_table(runs, None, measure)
        others = references_table(runs[runs["roadmap"].isna()], bench)
        table, agreement = roadmap_table(runs, steps, bench), agreement_table(runs, steps)
        return [replace(table, title=title), *filter(None, [others, agreement]), compared]
    if compares_pairs(runs):
        return [designs_table(runs, bench, measure), pairs_table(runs, measure)]
    return [comparison_table(runs, bench, measure)]
