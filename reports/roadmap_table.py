"""The table of a roadmap: each row's cost, results and change, beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from modernize.roadmap import Roadmap, Row, roadmap
from reports.errors import ReportError
from reports.predictions import images_of
from reports.row_summary import RowSummary, facts, shared_with, summarise_rows
from reports.statistics import Summary, summarise
from reports.statuses import shown
from reports.tables import (
    EMA,
    EMA_LEGEND,
    LOSS,
    OURS,
    PAPERS,
    SPEEDS_LEGEND,
    TOP1_LEGEND,
    Cell,
    Column,
    Footnotes,
    Speed,
    Table,
    amount,
    mean_sd,
    number,
    signed,
    speeds,
    unit,
    with_speeds,
)

_PAPER_TABLES = {"resnet50": "ResNet-50 regime, Table 10", "resnet200": "ResNet-200 regime, Table 11"}


@dataclass(frozen=True)
class _Step:
    """A row, our runs of it, and its change from the previous adopted row here and in the paper (NaN: none)."""

    row: Row
    ours: RowSummary
    before: str | None
    change: float
    paper_change: float


def roadmap_table(runs: pd.DataFrame, roadmap_name: str, bench: pd.DataFrame | None = None) -> Table:
    """Tabulate a roadmap: the cost, results and change of each row, beside the paper's numbers.

    Args:
        runs: The study's tidy frame, see `Report`.
        roadmap_name: The roadmap whose rows are shown, all of them whether run or not.
        bench: The study's measurements, see `speeds`.

    Raises:
        ReportError: If the runs used several datasets or hold a row and seed twice.
        DesignError: If a row is unknown.
    """
    steps = roadmap(roadmap_name)
    runs = runs[runs["roadmap"] == roadmap_name]
    _check(runs, steps)
    shown = _steps(runs, steps)
    measured = speeds(bench, [step.row.name for step in shown])
    units = unit(step.ours.params for step in shown), unit(step.ours.macs for step in shown)
    averaged = any(step.ours.ema.seeds for step in shown)
    footnotes = Footnotes()
    rows = [
        (
            *_our_cells(step, units, averaged, footnotes.marks(step.ours.notes)),
            *(Cell(speed.shown(step.row.name)) for speed in measured),
            Cell(number(step.row.paper.gflops), footnotes.marks([step.row.paper.note] if step.row.paper.note else [])),
            Cell(number(step.row.paper.top1)),
            Cell(signed(step.paper_change)),
        )
        for step in shown
    ]
    groups = [step.row.group for step in shown]
    return Table(
        name="roadmap",
        title=f"The {roadmap_name} roadmap",
        subtitle=facts(runs),
        legend=" ".join(_legend(steps, averaged, bool(measured))),
        columns=_columns(units, averaged, measured),
        rows=tuple(rows),
        sections=tuple(i for i, group in enumerate(groups) if i == 0 or groups[i - 1] != group),
        notes=tuple(footnotes.texts),
        frame=with_speeds(_frame(shown, averaged, images_of(runs)), measured),
    )


def _steps(runs: pd.DataFrame, steps: Roadmap) -> list[_Step]:
    """Set our runs of each row beside the row; extra rows only if they were run."""
    ours = {summary.row: summary for summary in summarise_rows(runs)}
    by_row = {str(name): mine for name, mine in runs.groupby("row", sort=False)}
    shown = []
    for row in (*steps.rows, *(extra for extra in steps.extras if extra.name in ours)):
        before = steps.before(row)
        mine = ours.get(row.name) or _not_run(row)
        change = paper_change = float("nan")
        if before is not None and before.name in ours and not shared_with(by_row.get(row.name, runs.head(0)), by_row):
            change = mine.top1.mean - ours[before.name].top1.mean
        if before is not None and row not in steps.extras:
            paper_change = round(row.paper.top1 - before.paper.top1, 2)  # the paper prints two decimals
        shown.append(_Step(row, mine, before.name if before else None, change, paper_change))
    return shown


def _not_run(row: Row) -> RowSummary:
    none: Summary = summarise(())
    return RowSummary(row.name, row.label, "", "not run", "", 0, None, None, none, none, none, none, ())


def _our_cells(step: _Step, units: tuple[str, str], averaged: bool, marks: tuple[int, ...]) -> tuple[Cell, ...]:
    """A row's label, cost and results."""
    row, ours = step.row, step.ours
    ema = [Cell(mean_sd(ours.ema.mean, ours.ema.sd))] if averaged else []
    return (
        Cell(row.label if row.adopted else f"{row.label} (side branch)", marks),
        Cell(amount(ours.params, units[0])),
        Cell(amount(ours.macs, units[1])),
        Cell(mean_sd(ours.top1.mean, ours.top1.sd) if ours.top1.seeds else shown(ours.status)),
        *ema,
        Cell(mean_sd(ours.loss.mean, None, 3)),
        Cell(str(ours.top1.seeds)),
        Cell(signed(step.change)),
    )


def _columns(units: tuple[str, str], averaged: bool, measured: Sequence[Speed]) -> tuple[Column, ...]:
    """Our columns, those that a bench measured, and the paper's."""
    return (
        Column("label", "row", number=False),
        Column("params", f"params ({units[0]})", OURS),
        Column("macs", f"MACs ({units[1]})", OURS),
        Column("top1_mean", "top-1 (%)", OURS),
        *([replace(EMA, group=OURS)] if averaged else []),
        replace(LOSS, group=OURS),
        Column("seeds", "seeds", OURS),
        Column("change", "change (pp)", OURS),
        *(speed.column for speed in measured),
        Column("paper_gflops", "GFLOPs", PAPERS),
        Column("paper_top1", "top-1 (%)", PAPERS),
        Column("paper_change", "change (pp)", PAPERS),
    )


def _legend(steps: Roadmap, averaged: bool, measured: bool) -> Iterator[str]:
    """How to read the table."""
    yield TOP1_LEGEND
    if averaged:
        yield EMA_LEGEND
    yield "Change: from the previous adopted row. Side branches are measured, not adopted."
    if measured:
        yield SPEEDS_LEGEND
    yield f"The paper: Liu et al. 2022, ImageNet at 224 px, {_PAPER_TABLES[steps.regime]}; its GFLOPs are G MACs."


def _check(runs: pd.DataFrame, steps: Roadmap) -> None:
    """Refuse runs that one table would compare unfairly or count twice."""
    for name in runs["row"].unique():
        steps.row(name)
    datasets = sorted(runs["dataset"].dropna().unique())
    if len(datasets) > 1:
        raise ReportError(
            f"roadmap {steps.name}: runs on {len(datasets)} datasets ({', '.join(datasets)}); report one dataset"
        )
    twice = runs[runs.duplicated(["row", "seed"])]
    if len(twice):
        row, seed = twice.iloc[0][["row", "seed"]]
        raise ReportError(f"roadmap {steps.name}: row {row} has two runs of seed {seed}")


def _frame(shown: Sequence[_Step], averaged: bool, images: int | None) -> pd.DataFrame:
    """The raw table."""
    lines = []
    for step in shown:
        row, ours = step.row, step.ours
        line: dict[str, Any] = {"row": row.name, "label": row.label, "group": row.group, "adopted": row.adopted}
        line |= {"recipe": ours.recipe, "status": ours.status, "reason": ours.reason, "runs": ours.runs}
        line |= {"seeds": ours.top1.seeds, "params": ours.params, "macs": ours.macs}
        line |= {"top1_mean": ours.top1.mean, "top1_sd": ours.top1.sd}
        line |= {"ema_mean": ours.ema.mean, "ema_sd": ours.ema.sd} if averaged else {}
        line |= {"loss_mean": ours.loss.mean, "loss_sd": ours.loss.sd, "before": step.before, "change": step.change}
        line |= {"paper_gflops": row.paper.gflops, "paper_top1": row.paper.top1}
        line |= {"paper_top1_sd": row.paper.top1_std, "paper_change": step.paper_change}
        line |= {"note": "; ".join([*ours.notes, *([row.paper.note] if row.paper.note else [])])}
        line |= {"marks": "; ".join(ours.marks), "train_top1_mean": ours.train.mean, "compared_images": images}
        lines.append(line)
    return pd.DataFrame(lines).astype(
        {"params": "Int64", "macs": "Int64", "paper_top1_sd": "float64", "compared_images": "Int64"}
    )
