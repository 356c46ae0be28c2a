"""The figures of a study: each with its title, caption, and the numbers it is drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from modernize.roadmap import PAPER, Roadmap, Source
from reports.agreement_words import agreement_words
from reports.factorial_figures import grid_plots, interaction_matrix_plot
from reports.header import facts
from reports.kind_words import WORDS
from reports.marks import row_marks
from reports.pair_plots import pair_matrix_plot
from reports.pair_tables import PAIRS
from reports.paper_agreement import REGIMES
from reports.report import Plot
from reports.row_summary import status_of
from reports.statistics import MEASURES, Measure
from reports.statistics.factorial import Factorial
from reports.tables import Speed, Table, speeds, unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reports.figures.tradeoff import Cost


def study_plots(
    title: str,
    runs: pd.DataFrame,
    tables: Sequence[Table],
    curves: pd.DataFrame,
    bench: pd.DataFrame,
    grid: Factorial | None = None,
    measure: Measure = "top1",
    steps: Roadmap | None = None,
    rows: Sequence[str] | None = None,
    as_listed: bool = False,
) -> tuple[Plot, ...]:
    """Return the figures of a study in the order to show them, without those that would hold no number.

    `steps` is the roadmap that the study ran, if it ran one. The tables have the rows to show; `rows` are those of
    learning curves, in order (None: all). `as_listed` keeps the table's order where the largest effect would be first.
    """
    by_name = {table.name: table for table in tables}
    plots = _plots(title, runs, by_name, tables[-1], curves, bench, grid, measure, steps, rows, as_listed)
    return tuple(plots)


def _plots(
    title: str,
    runs: pd.DataFrame,
    tables: dict[str, Table],
    compared: Table,
    curves: pd.DataFrame,
    bench: pd.DataFrame,
    grid: Factorial | None,
    measure: Measure,
    steps: Roadmap | None,
    rows: Sequence[str] | None,
    as_listed: bool,
) -> Iterator[Plot]:
    if steps is not None:
        yield trajectory_plot(tables["roadmap"], steps.source)
    if "screen" in tables:
        from reports.screen_plots import screen_plots

        yield from screen_plots(title, runs, tables, measure)
    if "worths" in tables:
        yield worths_plot(tables["worths"], measure)
    if "worth-interactions" in tables:
        yield from interaction_matrix_plot(tables["worth-interactions"], measure)
    if grid is not None:
        yield from heatmap_plot(title, runs, grid, measure)
        yield from grid_plots(title, runs, grid, tables, measure)
    if any(column.name == "difference" for column in compared.columns):
        yield effects_plot(compared, runs, measure, as_listed)
    if PAIRS in tables:
        yield pair_matrix_plot(runs, compared, measure, rows)
    if steps is not None:
        yield from against_paper_plot(title, runs, tables["roadmap"], compared, measure, steps)
    yield from tradeoff_plot(title, runs, tables.get("designs", compared), bench)
    yield from curves_plots(title, runs, curves, rows)


def trajectory_plot(table: Table, source: Source) -> Plot:
    """The roadmap after Figure 2 of the paper, beside what its source prints."""

    def draw() -> Figure:
        from reports.figures.trajectory import trajectory

        return trajectory(table)

    printed = any(column.name == "paper_top1" for column in table.columns)
    on = f" on {source.dataset}" if source.dataset else ""
    beside = f" and, on a separate axis, of {source.whose}{on}" if printed else ""
    after = ", after Figure 2 of the paper" if source.short == "the paper" else ""
    caption = (
        f"The roadmap from top to bottom{after}: top-1 of our runs{beside}. Whiskers: one standard deviation over "
        "seeds. Side branches are measured, not adopted."
    )
    return Plot(table.name, table.title, caption, table.frame, draw, words=_printed_words(source))


def _printed_words(source: Source) -> dict[str, str]:
    """How the labels of marks name the columns of what a source prints."""
    return {"paper_top1": f"{source.whose} top-1 (%)", "paper_change": f"{source.whose} change"}


def effects_plot(table: Table, runs: pd.DataFrame, measure: Measure = "top1", as_listed: bool = False) -> Plot:
    """The differences of a table of comparisons with CIs and verdicts, the largest first unless `as_listed`."""
    kind, words = str(runs["kind"].iloc[0]), MEASURES[measure]
    caption = (
        f"Change in {words.change} with 95% CI. Verdicts and marks use p-values adjusted for all comparisons of the "
        "table; CIs are unadjusted. Rows without a verdict have gray marks."
    )
    if not WORDS[kind].ordered and not as_listed:
        table = _sorted(table, -words.sign)  # best first

    def draw() -> Figure:
        from reports.figures.effects import effects

        compared = (
            f"difference in {words.change}" if table.name == PAIRS else f"change in {words.change} {WORDS[kind].axis}"
        )
        return effects(table, runs, compared, caption, words.digits)

    return Plot(table.name, table.title, caption, table.frame, draw, measure)


def _sorted(table: Table, sign: int) -> Table:
    """The table with its rows by effect, those without an effect last; the mark of a row has its new place."""
    places = (sign * table.frame["difference"].astype(float)).sort_values(kind="stable", na_position="last").index
    rows = tuple(table.rows[place] for place in places)
    return replace(table, rows=rows, frame=table.frame.loc[places].reset_index(drop=True))


def worths_heading(table: Table) -> str:
    """Return how a table of effects over orders heads those in the first order: `in the paper's order`."""
    return next(column.title for column in table.columns if column.name == "in_paper_order").partition(" (")[0]


def worths_plot(table: Table, measure: Measure = "top1") -> Plot:
    """The effect of each flag averaged over orders."""
    first = worths_heading(table)
    caption = (
        f"The effect of enabling each flag on {MEASURES[measure].name}, averaged over random orders (its sampled "
        f"Shapley value), with 95% CI, its min and max over orders, and its effect {first}."
    )

    def draw() -> Figure:
        from reports.figures.effects import worths

        return worths(table, measure, caption, first)

    return Plot(table.name, table.title, caption, table.frame, draw, measure)


def heatmap_plot(title: str, runs: pd.DataFrame, flags: Factorial, measure: Measure = "top1") -> Iterator[Plot]:
    """A grid of two flags; none for a grid of more."""
    from reports.figures.grid import two_flags

    grid = two_flags(flags, runs, measure)
    if grid is None:
        return
    heading = f"{title}: {grid.down} by {grid.across}"
    what = MEASURES[measure].value
    caption = f"{what[0].upper()}{what[1:]}, mean over seeds ± standard deviation. A hatched cell has no result."

    def draw() -> Figure:
        from reports.figures.heatmap import heatmap

        return heatmap(grid, heading, facts(runs), caption)

    yield Plot("heatmap", heading, caption, grid.frame, draw, measure)


def against_paper_plot(
    title: str, runs: pd.DataFrame, table: Table, compared: Table, measure: Measure, steps: Roadmap
) -> Iterator[Plot]:
    """Our changes in top-1 against the source's, step by step; none if no step with a printed one has been run."""
    changes, source = _steps(table, compared, measure), steps.source
    if changes["change"].isna().all():
        return
    notes = agreement_words(runs[runs["roadmap"].notna()], steps)
    heading = f"{title}: each step here against the same step in {source.short}"
    whose = f"{source.whose} changes" if source.short.startswith("the ") else f"Changes in {source.short}"
    regime = f"those of its {REGIMES.get(steps.base, REGIMES['resnet50'])} regime, " if steps.base in PAPER else ""
    on = [f"{whose[:1].upper()}{whose[1:]} are {regime}on {source.dataset}."] if source.dataset else []
    reading = " ".join([*on, "On the dashed line a change is equal in both."])
    across = f"change in top-1 in {', '.join(filter(None, [source.short, source.dataset]))} (pp)"

    def draw() -> Figure:
        from reports.figures.against_paper import against_paper

        return against_paper(changes, heading, facts(runs), [*notes, reading], across)

    yield Plot("against-paper", heading, " ".join([*notes, reading]), changes, draw, words=_printed_words(source))


def _steps(table: Table, compared: Table, measure: Measure) -> pd.DataFrame:
    """Each step with its change in top-1 here and in the paper; the index is its place in the roadmap."""
    columns = ["row", "label", "adopted", "status", "paper_change"]
    top1 = {f"top1_{name}": name for name in ("difference", "low", "high")} if measure != "top1" else {}
    frame = compared.frame.set_index("row")
    frame = frame.drop(columns=list(top1.values())).rename(columns=top1)
    differences = frame.reindex(columns=["difference", "low", "high", "verdict", "reason"])
    steps = table.frame[columns].join(differences, on="row").rename(columns={"difference": "change"})
    steps = steps[steps["paper_change"].notna()]
    steps = steps.astype({"change": float, "low": float, "high": float})
    reasons = steps.pop("reason").fillna("")
    steps["verdict"] = steps["verdict"].where(reasons == "", steps["verdict"] + ": " + reasons)
    return steps.fillna({"verdict": "the same run as its baseline"})


_COUNTS = {"macs": "MACs", "params": "parameters", "activations": "activations"}


def tradeoff_plot(title: str, runs: pd.DataFrame, compared: Table, bench: pd.DataFrame) -> Iterator[Plot]:
    """Top-1 against MACs, parameters, activations and measured latency; none if no row has a result."""
    counts = [name for name in _COUNTS if name in compared.frame]
    points = compared.frame[["row", "label", *counts, "mean", "sd"]].copy()
    if points["mean"].isna().all():
        return
    by_row = {str(row): group for row, group in runs.groupby("row", sort=False)}
    points.insert(2, "status", [status_of(by_row[row]) for row in points["row"]])
    marked = {row: ", ".join(row_marks(mine)) for row, mine in by_row.items()}
    points["label"] = [
        f"{label} [{marked[row]}]" if marked[row] else label
        for row, label in zip(points["row"], points["label"], strict=True)
    ]
    latencies = [speed for speed in speeds(bench, list(points["row"])) if speed.column.title.startswith("latency")]
    for speed in latencies:
        points[speed.column.name] = points["row"].map(speed.values)
    points = points.astype(dict.fromkeys([name for name in points if name not in ("row", "label", "status")], float))
    heading = f"{title}: accuracy against cost"
    caption = (
        "Mean top-1 over seeds. No other row has as high a mean at as low a cost as a row on the Pareto front; means "
        "that differ by less than seed-to-seed variance may swap places with other seeds."
    )
    if len(points) < len(by_row):
        caption += f" Only the {len(points)} rows shown are considered."

    def draw() -> Figure:
        from reports.figures.tradeoff import Cost, tradeoff

        sizes = {"k": 1e3, "M": 1e6, "G": 1e9}
        units = {name: unit(points[name].dropna()) for name in counts}
        costs = [
            *(Cost(name, f"{_COUNTS[name]} ({units[name]})", sizes[units[name]]) for name in counts),
            *(_latency(speed, points) for speed in latencies),
        ]
        return tradeoff(points, costs, heading, facts(runs), caption)

    yield Plot("tradeoff", heading, caption, points, draw)


def _latency(speed: Speed, points: pd.DataFrame) -> Cost:
    """A measured latency as a cost; it names the number of measured rows if some were not measured."""
    from reports.figures.tradeoff import Cost

    measured = int(points[speed.column.name].notna().sum())
    note = f"{measured} of {len(points)} rows measured" if measured < len(points) else ""
    return Cost(speed.column.name, f"latency of one image (ms)\n{speed.device}", note=note)


def curves_plots(
    title: str, runs: pd.DataFrame, curves: pd.DataFrame, rows: Sequence[str] | None = None
) -> Iterator[Plot]:
    """Training loss and top-1 on the training images over training; none if nothing has been logged.

    `rows` are the rows to show, in order; None: all.
    """
    words, panels = facts(runs), runs
    if rows is not None:
        panels = runs[runs["row"].isin(rows)].sort_values("row", key=lambda names: names.map(rows.index), kind="stable")
        curves = curves[curves["row"].isin(rows)].reset_index(drop=True)
    if curves.empty:
        return
    for name, what in (("loss", "training loss"), ("top1", "top-1 on training images")):
        heading = f"{title}: {what}"
        caption = f"The {what} since the previous line of the log, with the recipe's augmentation, against images seen."

        def draw(name: str = name, heading: str = heading, caption: str = caption) -> Figure:
            from reports.figures.curves import LOSS, TOP1, learning_curves

            quantity = {"loss": LOSS, "top1": TOP1}[name]
            return learning_curves(curves, panels, quantity, heading, words, caption)

        yield Plot(f"curves-{name}", heading, caption, curves, draw)
