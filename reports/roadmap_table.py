"""The table of a roadmap: each row's cost, results and change, beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from modernize.roadmap import Roadmap, Row
from reports.errors import ReportError
from reports.header import facts
from reports.predictions import images_of
from reports.row_summary import CostColumn, RowSummary, cost_columns, raw_costs, shared_with, summarise_rows
from reports.statistics import Summary, summarise
from reports.statistics.values import known
from reports.statuses import shown
from reports.tables import (
    EMA,
    EMA_LEGEND,
    LOSS,
    OURS,
    SPEEDS_LEGEND,
    TOP1_LEGEND,
    Cell,
    Column,
    Footnotes,
    Speed,
    Table,
    mean_sd,
    number,
    signed,
    speeds,
    with_speeds,
)

CHANGE_LEGEND = "Change: from the previous adopted row."


@dataclass(frozen=True)
class _Step:
    """A row, our runs of it, and its change from the previous adopted row here and as printed (NaN: none)."""

    row: Row
    ours: RowSummary
    before: str | None
    change: float
    printed_change: float


def roadmap_table(runs: pd.DataFrame, steps: Roadmap, bench: pd.DataFrame | None = None) -> Table:
    """Tabulate a roadmap: the cost, results and change of each row, beside the numbers that its source prints.

    Args:
        runs: The study's tidy frame, see `Report`.
        steps: The roadmap whose rows are shown, all of them whether run or not.
        bench: The study's measurements, see `speeds`.

    Raises:
        ReportError: If the runs used several datasets or hold a row and seed twice.
        DesignError: If a row is unknown.
    """
    runs = runs[runs["roadmap"] == steps.name]
    _check(runs, steps)
    shown = _steps(runs, steps)
    measured = speeds(bench, [step.row.name for step in shown])
    costs = cost_columns([step.ours for step in shown], OURS)
    averaged = any(step.ours.ema.seeds for step in shown)
    printed = _printed_columns(steps)
    footnotes = Footnotes()
    rows = [
        (
            *_our_cells(step, costs, averaged, footnotes.marks(_our_notes(step))),
            *(Cell(speed.shown(step.row.name)) for speed in measured),
            *_printed_cells(step, printed, footnotes),
        )
        for step in shown
    ]
    groups = [step.row.group for step in shown]
    return Table(
        name="roadmap",
        title=f"The {steps.name} roadmap",
        subtitle=facts(runs),
        legend=" ".join(_legend(steps, averaged, bool(measured), printed)),
        columns=(*_columns(costs, averaged, measured), *printed),
        rows=tuple(rows),
        sections=tuple(i for i, group in enumerate(groups) if i == 0 or groups[i - 1] != group),
        notes=tuple(footnotes.texts),
        frame=with_speeds(_frame(shown, costs, averaged, images_of(runs)), measured),
    )


def _steps(runs: pd.DataFrame, steps: Roadmap) -> list[_Step]:
    """Set our runs of each row beside the row; extra rows only if they were run."""
    ours = {summary.row: summary for summary in summarise_rows(runs)}
    by_row = {str(name): mine for name, mine in runs.groupby("row", sort=False)}
    shown = []
    for row in (*steps.rows, *(extra for extra in steps.extras if extra.name in ours)):
        before = steps.before(row)
        mine = ours.get(row.name) or _not_run(row)
        change = printed_change = float("nan")
        if before is not None and before.name in ours and not shared_with(by_row.get(row.name, runs.head(0)), by_row):
            change = mine.top1.mean - ours[before.name].top1.mean
        if before is not None and row not in steps.extras:
            printed_change = round(row.printed.top1 - before.printed.top1, 3)  # sources print two or three decimals
        shown.append(_Step(row, mine, before.name if before else None, change, printed_change))
    return shown


def _not_run(row: Row) -> RowSummary:
    none: Summary = summarise(())
    return RowSummary(row.name, row.label, "", "not run", "", 0, None, None, None, none, none, none, none, ())


def _our_cells(step: _Step, costs: Sequence[CostColumn], averaged: bool, marks: tuple[int, ...]) -> tuple[Cell, ...]:
    """A row's label, cost and results."""
    row, ours = step.row, step.ours
    ema = [Cell(mean_sd(ours.ema.mean, ours.ema.sd))] if averaged else []
    return (
        Cell(row.label if row.adopted else f"{row.label} (side branch)", marks),
        *(cost.cell(ours) for cost in costs),
        Cell(mean_sd(ours.top1.mean, ours.top1.sd) if ours.top1.seeds else shown(ours.status)),
        *ema,
        Cell(mean_sd(ours.loss.mean, None, 3)),
        Cell(str(ours.top1.seeds)),
        Cell(signed(step.change)),
    )


def _columns(costs: Sequence[CostColumn], averaged: bool, measured: Sequence[Speed]) -> tuple[Column, ...]:
    """Our columns, and those that a bench measured."""
    return (
        Column("label", "row", number=False),
        *(cost.column for cost in costs),
        Column("top1_mean", "top-1 (%)", OURS),
        *([replace(EMA, group=OURS)] if averaged else []),
        replace(LOSS, group=OURS),
        Column("seeds", "seeds", OURS),
        Column("change", "change (pp)", OURS),
        *(speed.column for speed in measured),
    )


def _printed_columns(steps: Roadmap) -> list[Column]:
    """The columns of what the source prints."""
    group = steps.source.heading
    rows = [row.printed for row in steps.rows]
    columns = [Column("paper_gflops", "GFLOPs", group)] if any(known(row.gflops) for row in rows) else []
    if any(known(row.top1) for row in rows):
        columns += [Column("paper_top1", "top-1 (%)", group), Column("paper_change", "change (pp)", group)]
    return columns


def _our_notes(step: _Step) -> list[str]:
    """The notes on a row's label: on its runs, and the roadmap's unless it stands beside printed GFLOPs."""
    return [*step.ours.notes, *([step.row.note] if step.row.note and not known(step.row.printed.gflops) else [])]


def _printed_cells(step: _Step, columns: Sequence[Column], footnotes: Footnotes) -> Iterator[Cell]:
    """The cells of what the source prints of a row."""
    row = step.row
    for column in columns:
        if column.name == "paper_gflops":
            noted = [row.note] if row.note and known(row.printed.gflops) else []
            yield Cell(number(row.printed.gflops), footnotes.marks(noted))
        else:
            change = column.name == "paper_change"
            yield Cell(signed(step.printed_change) if change else number(row.printed.top1))


def _legend(steps: Roadmap, averaged: bool, measured: bool, printed: Sequence[Column]) -> Iterator[str]:
    """How to read the table."""
    yield TOP1_LEGEND
    if averaged:
        yield EMA_LEGEND
    yield CHANGE_LEGEND
    yield "Side branches are measured, not adopted."
    if measured:
        yield SPEEDS_LEGEND
    if printed:
        gflops = "; its GFLOPs are G MACs" if printed[0].name == "paper_gflops" else ""
        yield f"{steps.source.sentence}{gflops}."


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


def _frame(shown: Sequence[_Step], costs: Sequence[CostColumn], averaged: bool, images: int | None) -> pd.DataFrame:
    """The raw table."""
    lines = []
    for step in shown:
        row, ours = step.row, step.ours
        line: dict[str, Any] = {"row": row.name, "label": row.label, "group": row.group, "adopted": row.adopted}
        line |= {"recipe": ours.recipe, "status": ours.status, "reason": ours.reason, "runs": ours.runs}
        line |= {"seeds": ours.top1.seeds, **raw_costs(ours, costs)}
        line |= {"top1_mean": ours.top1.mean, "top1_sd": ours.top1.sd}
        line |= {"ema_mean": ours.ema.mean, "ema_sd": ours.ema.sd} if averaged else {}
        line |= {"loss_mean": ours.loss.mean, "loss_sd": ours.loss.sd, "before": step.before, "change": step.change}
        line |= {"paper_gflops": row.printed.gflops, "paper_top1": row.printed.top1}
        line |= {"paper_top1_sd": row.printed.top1_std, "paper_change": step.printed_change}
        line |= {"note": "; ".join([*ours.notes, *([row.note] if row.note else [])])}
        line |= {"marks": "; ".join(ours.marks), "train_top1_mean": ours.train.mean, "compared_images": images}
        lines.append(line)
    return pd.DataFrame(lines).astype(
        {
            **{cost.column.name: "Int64" for cost in costs},
            "paper_top1_sd": "float64",
            "compared_images": "Int64",
        }
    )
