"""Which figures a study has: each with its title, how to read it, and the numbers it is drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isnan
from typing import TYPE_CHECKING

import pandas as pd

from reports.factorial_figures import grid_plots, interaction_matrix_plot
from reports.report import Plot
from reports.row_summary import facts, status_of
from reports.statistics import rank_correlation
from reports.statistics.factorial import Factorial
from reports.tables import Speed, Table, signed, speeds, unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reports.figures.tradeoff import Cost

_AXES = {
    "roadmap": "change in top-1 from the last adopted row before, points",
    "one-in": "change in top-1 from the base, points",
    "one-out": "change in top-1 from the end, points",
    "sweep": "change in top-1 from the first value, points",
    "grid": "change in top-1 from the first values, points",
    "recipes": "change in top-1 from the first recipe, points",
}


def study_plots(
    title: str,
    runs: pd.DataFrame,
    tables: Sequence[Table],
    curves: pd.DataFrame,
    bench: pd.DataFrame,
    grid: Factorial | None = None,
) -> tuple[Plot, ...]:
    """The figures of a study, in the order to show them; one that would hold no number of the study is not there."""
    return tuple(_plots(title, runs, {table.name: table for table in tables}, tables[-1], curves, bench, grid))


def _plots(
    title: str,
    runs: pd.DataFrame,
    tables: dict[str, Table],
    compared: Table,
    curves: pd.DataFrame,
    bench: pd.DataFrame,
    grid: Factorial | None,
) -> Iterator[Plot]:
    if "roadmap" in tables:
        yield trajectory_plot(tables["roadmap"])
    if "screen" in tables:
        from reports.screen_plots import screen_plots

        yield from screen_plots(title, runs, tables)
    if "worths" in tables:
        yield worths_plot(tables["worths"])
    if "worth-interactions" in tables:
        yield from interaction_matrix_plot(tables["worth-interactions"])
    if grid is not None:
        yield from heatmap_plot(title, runs, grid)
        yield from grid_plots(title, runs, grid, tables)
    if any(column.name == "difference" for column in compared.columns):
        yield effects_plot(compared, runs)
    if "roadmap" in tables:
        yield from against_paper_plot(title, runs, tables["roadmap"], compared)
    yield from tradeoff_plot(title, runs, compared, bench)
    yield from curves_plots(title, runs, curves)


def trajectory_plot(table: Table) -> Plot:
    """The roadmap after Figure 2 of the paper."""

    def draw() -> Figure:
        from reports.figures.trajectory import trajectory

        return trajectory(table)

    caption = (
        "The roadmap from top to bottom, after Figure 2 of the paper: top-1 of our runs and, on an axis of its own, of "
        "the paper's on ImageNet. Whiskers: one standard deviation over seeds. Side branches are measured, not adopted."
    )
    return Plot(table.name, table.title, caption, table.frame, draw)


def effects_plot(table: Table, runs: pd.DataFrame) -> Plot:
    """The differences of a table of comparisons, with intervals and verdicts."""
    caption = (
        "Each row's change in top-1 with its 95% interval. Words and marks go by p after Holm's correction for all "
        "comparisons of the table; each interval is for its comparison alone, without correction."
    )

    def draw() -> Figure:
        from reports.figures.effects import effects

        return effects(table, runs, _AXES[str(runs["kind"].iloc[0])], caption)

    return Plot(table.name, table.title, caption, table.frame, draw)


def worths_plot(table: Table) -> Plot:
    """What each flag is worth over orders."""
    caption = (
        "The worth of each flag averaged over random orders (its sampled Shapley value) with its 95% interval, its "
        "least and most over orders, and its worth in the paper's order of steps."
    )

    def draw() -> Figure:
        from reports.figures.effects import worths

        return worths(table, caption)

    return Plot(table.name, table.title, caption, table.frame, draw)


def heatmap_plot(title: str, runs: pd.DataFrame, flags: Factorial) -> Iterator[Plot]:
    """A grid of two flags; none for a grid of more."""
    from reports.figures.grid import two_flags

    grid = two_flags(flags, runs)
    if grid is None:
        return
    heading = f"{title}: {grid.down} by {grid.across}"
    caption = "Top-1 in percent, mean over seeds ± standard deviation. A hatched cell has no result."

    def draw() -> Figure:
        from reports.figures.heatmap import heatmap

        return heatmap(grid, heading, facts(runs), caption)

    yield Plot("heatmap", heading, caption, grid.frame, draw)


def against_paper_plot(title: str, runs: pd.DataFrame, table: Table, compared: Table) -> Iterator[Plot]:
    """Our changes against the paper's, step by step; none where no step has been run."""
    steps = _steps(table, compared)
    if steps["change"].isna().all():
        return
    words = _agreement(steps[steps["adopted"]])
    heading = f"{title}: each step here against the same step in the paper"
    reading = "The paper's changes are on ImageNet; on the dashed line a step is worth the same in both."

    def draw() -> Figure:
        from reports.figures.against_paper import against_paper

        return against_paper(steps, words, heading, facts(runs), reading)

    yield Plot("against-paper", heading, f"{words} {reading}", steps, draw)


def _agreement(steps: pd.DataFrame) -> str:
    """How alike the order of our changes and of the paper's is."""
    found = rank_correlation(steps["change"], steps["paper_change"])
    if isnan(found.rho):
        return f"Spearman's rank correlation cannot be had from {found.n} adopted step{'s' if found.n != 1 else ''}."
    rho, low, high = (signed(value).replace("-", "−") for value in (found.rho, found.low, found.high))
    sure = "too few for an interval" if isnan(found.low) else f"95% interval {low} to {high}"
    return f"Spearman's rank correlation over {found.n} adopted steps: {rho} ({sure})."


def _steps(table: Table, compared: Table) -> pd.DataFrame:
    """Each step of the roadmap with its change here and in the paper; the index is its place in the roadmap."""
    columns = ["row", "label", "adopted", "status", "paper_change"]
    found = compared.frame.set_index("row").reindex(columns=["difference", "low", "high", "verdict"])
    steps = table.frame[columns].join(found, on="row").rename(columns={"difference": "change"})
    steps = steps[steps["paper_change"].notna()]
    steps = steps.astype({"change": float, "low": float, "high": float})
    return steps.fillna({"verdict": "the same run as the row before"})


def tradeoff_plot(title: str, runs: pd.DataFrame, compared: Table, bench: pd.DataFrame) -> Iterator[Plot]:
    """Accuracy against multiply-adds, parameters and measured latency; none where no row has a result."""
    points = compared.frame[["row", "label", "params", "macs", "mean", "sd"]].copy()
    if points["mean"].isna().all():
        return
    by_row = {str(row): group for row, group in runs.groupby("row", sort=False)}
    points.insert(2, "status", [status_of(by_row[row]) for row in points["row"]])
    latencies = [speed for speed in speeds(bench, list(points["row"])) if speed.column.title.startswith("latency")]
    for speed in latencies:
        points[speed.column.name] = points["row"].map(speed.values)
    points = points.astype(dict.fromkeys([name for name in points if name not in ("row", "label", "status")], float))
    heading = f"{title}: accuracy against cost"
    caption = (
        "Top-1, mean over seeds. No other row has as high a mean at as little cost as a row of the Pareto front; means "
        "whose spreads overlap may change places with other seeds."
    )

    def draw() -> Figure:
        from reports.figures.tradeoff import Cost, tradeoff

        sizes = {"k": 1e3, "M": 1e6, "G": 1e9}
        macs, params = (unit(points[name].dropna()) for name in ("macs", "params"))
        costs = [
            Cost("macs", f"multiply-adds, {macs}", sizes[macs]),
            Cost("params", f"parameters, {params}", sizes[params]),
            *(_latency(speed, points) for speed in latencies),
        ]
        return tradeoff(points, costs, heading, facts(runs), caption)

    yield Plot("tradeoff", heading, caption, points, draw)


def _latency(speed: Speed, points: pd.DataFrame) -> Cost:
    """A measured latency as a cost, which says how many of the rows were measured where not all were."""
    from reports.figures.tradeoff import Cost

    measured = int(points[speed.column.name].notna().sum())
    told = f"{measured} of {len(points)} rows measured" if measured < len(points) else ""
    return Cost(speed.column.name, f"latency of one image, ms\n({speed.device})", told=told)


def curves_plots(title: str, runs: pd.DataFrame, curves: pd.DataFrame) -> Iterator[Plot]:
    """Training loss and top-1 on the training images as runs went on; none where nothing has been logged."""
    if curves.empty:
        return
    for name, what in (("loss", "training loss"), ("top1", "top-1 on training images")):
        heading = f"{title}: {what}"
        caption = f"The {what} since the line of the log before, with the recipe's augmentation, against images seen."

        def draw(name: str = name, heading: str = heading, caption: str = caption) -> Figure:
            from reports.figures.curves import LOSS, TOP1, learning_curves

            quantity = {"loss": LOSS, "top1": TOP1}[name]
            return learning_curves(curves, runs, quantity, heading, facts(runs), caption)

        yield Plot(f"curves-{name}", heading, caption, curves, draw)
