"""Tables of differences: each row of a study against the row it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reports.errors import ReportError
from reports.header import facts
from reports.kind_words import WORDS
from reports.predictions import images_of
from reports.row_summary import (
    CostColumn,
    RowSummary,
    account,
    cost_columns,
    describe_costs,
    raw_costs,
    summarise_rows,
    title_of,
)
from reports.statistics import Measure, Verdict, compare, legend
from reports.statistics.measures import OTHER
from reports.statistics.power import describe_power
from reports.statistics.precision import describe_precision
from reports.statistics.row_results import baselines, resolution
from reports.statistics.sequential import compare_over_looks, describe_looks
from reports.statuses import shown
from reports.tables import (
    EMA,
    EMA_LEGEND,
    LOSS,
    MISSING,
    SPEEDS_LEGEND,
    TOP1_LEGEND,
    Cell,
    Column,
    Footnotes,
    Speed,
    Table,
    difference_columns,
    effect_cells,
    mean_sd,
    speeds,
    with_speeds,
)

Line = Mapping[Any, Any]  # of `statistics.compare`


def comparison_table(runs: pd.DataFrame, bench: pd.DataFrame | None = None, measure: Measure = "top1") -> Table:
    """Tabulate every row of a study: its cost, results, and difference from its baseline.

    Args:
        runs: The study's tidy frame, see `Report`.
        bench: The study's measurements, see `speeds`.
        measure: The study's primary measure, which the verdicts are about. The other one is shown without verdicts.

    Raises:
        ReportError: If there are no rows.
    """
    if runs.empty:
        raise ReportError("no runs to report")
    words = WORDS[str(runs["kind"].iloc[0])]
    what = words.alone if words.alone and runs["row"].nunique() == 1 else words.title
    title = f"{title_of(runs)}: {what}"
    return _table(_name(runs), title, words.subject, runs, compared_rows(runs, measure), bench, measure)


def compared_rows(runs: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Compare each row with its baselines; of the other measure there are differences without verdicts."""
    compared, other = (
        compare_over_looks(runs, pairs(runs), each, resolution=resolution(runs, each))
        for each in (measure, OTHER[measure])
    )
    return compared.assign(**{f"{OTHER[measure]}_{name}": other[name] for name in ("difference", "low", "high")})


def references_table(runs: pd.DataFrame, bench: pd.DataFrame | None = None) -> Table | None:
    """Tabulate reference models trained beside a roadmap's rows under the same recipe; None if there are none."""
    if runs.empty:
        return None
    title = "Reference models, trained with the same recipe"
    return _table("references", title, "model", runs, compare(runs, []), bench)


def designs_table(runs: pd.DataFrame, bench: pd.DataFrame | None = None, measure: Measure = "top1") -> Table:
    """Tabulate cost and results of designs whose differences are in a table of pairs."""
    title = f"{title_of(runs)}: cost and results"
    return _table("designs", title, "design", runs, compare(runs, []), bench, measure)


def _table(
    name: str,
    title: str,
    subject: str,
    runs: pd.DataFrame,
    compared: pd.DataFrame,
    bench: pd.DataFrame | None,
    measure: Measure = "top1",
) -> Table:
    by_name = {line["row"]: line for line in compared.to_dict("records")}
    rows = [(row, by_name.get(row.row)) for row in summarise_rows(runs)]
    by_row = {str(row): group for row, group in runs.groupby("row", sort=False)}
    notes = {row.row: _notes(row, line, by_row[row.row]) for row, line in rows}
    averaged = any(row.ema.seeds for row, _ in rows)
    measured = speeds(bench, [row.row for row, _ in rows])
    costs = cost_columns([row for row, _ in rows])
    marks = _all_marks(rows)
    footnotes = Footnotes()
    legends = [
        TOP1_LEGEND,
        EMA_LEGEND if averaged else "",
        SPEEDS_LEGEND if measured else "",
        describe_costs(runs),
        legend(compared, measure),
        *about_looks(runs, compared, measure),
    ]
    return Table(
        name=name,
        title=title,
        subtitle=facts(runs),
        legend=" ".join(filter(None, legends)),
        columns=_columns(subject, costs, averaged, measured, measure if by_name else None),
        rows=tuple(
            (
                *_cells(row, costs, averaged, measure, footnotes.marks(notes[row.row])),
                *(Cell(speed.shown(row.row)) for speed in measured),
                *(_difference_cells(line, measure, footnotes.marks(_of_baseline(marks[row.row]))) if by_name else ()),
            )
            for row, line in rows
        ),
        sections=(),
        notes=tuple(footnotes.texts),
        frame=with_speeds(_raw(rows, notes, marks, costs, averaged, images_of(runs)), measured),
    )


def about_looks(runs: pd.DataFrame, compared: pd.DataFrame, measure: Measure) -> list[str]:
    """Say what the verdicts' error rate covers, which precision was reached, and what the study can detect."""
    if compared["p"].isna().all():
        return []
    precision = describe_precision(runs, compared, measure)
    return [describe_looks(runs), precision, describe_power(runs, pairs(runs), measure)]


def pairs(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Pair the rows with their baselines; not the rows that share their runs with it."""
    rows = runs.drop_duplicates("row")
    trained = dict(zip(rows["row"], rows["run"], strict=True)) if "run" in rows else {}
    return [
        (row, base)
        for row, bases in zip(rows["row"], rows["base"], strict=True)
        for base in baselines(bases)
        if row not in trained or trained[row] != trained.get(base)
    ]


def _notes(row: RowSummary, line: Line | None, runs: pd.DataFrame) -> tuple[str, ...]:
    """The notes of a row and of its comparison; the comparison describes runs without a result."""
    if not line or not line["note"]:
        return row.notes
    return (*(note for note in row.notes if note != account(runs)), str(line["note"]))


def verdict_words(line: Line) -> str:
    """The verdict on a comparison, with the reason if it was not tested."""
    return f"{line['verdict']}: {line['reason']}" if line["verdict"] == Verdict.NOT_TESTED else str(line["verdict"])


def _name(runs: pd.DataFrame) -> str:
    """The name of the table's files."""
    kind = str(runs["kind"].iloc[0])
    return f"sweep-{str(runs['row'].iloc[0]).partition('=')[0]}" if kind == "sweep" else WORDS[kind].table or kind


def _columns(
    subject: str, costs: Sequence[CostColumn], averaged: bool, measured: Sequence[Speed], measure: Measure | None
) -> tuple[Column, ...]:
    return (
        Column("label", subject, number=False),
        *(cost.column for cost in costs),
        Column("mean", "top-1 (%)"),
        *([EMA] if averaged else []),
        LOSS,
        Column("seeds", "seeds"),
        *(speed.column for speed in measured),
        *(difference_columns(measure) if measure else ()),
    )


def _cells(
    row: RowSummary, costs: Sequence[CostColumn], averaged: bool, measure: Measure, marks: tuple[int, ...]
) -> tuple[Cell, ...]:
    """The cost and results of a row; the primary measure with its standard deviation."""
    top1_sd, loss_sd = (row.top1.sd, None) if measure == "top1" else (None, row.loss.sd)
    return (
        Cell(row.label, marks),
        *(cost.cell(row) for cost in costs),
        Cell(mean_sd(row.top1.mean, top1_sd) if row.top1.seeds else shown(row.status)),
        *([Cell(mean_sd(row.ema.mean, row.ema.sd))] if averaged else []),
        Cell(mean_sd(row.loss.mean, loss_sd, 3)),
        Cell(str(row.top1.seeds)),
    )


def _raw(
    rows: Sequence[tuple[RowSummary, Line | None]],
    notes: Mapping[str, Sequence[str]],
    marks: Mapping[str, Sequence[str]],
    costs: Sequence[CostColumn],
    averaged: bool,
    images: int | None,
) -> pd.DataFrame:
    """The raw table."""
    lines = []
    for row, line in rows:
        raw: dict[Any, Any] = {"row": row.row, "label": row.label, "recipe": row.recipe}
        raw |= raw_costs(row, costs)
        raw |= {"mean": row.top1.mean, "sd": row.top1.sd, "seeds": row.top1.seeds}
        raw |= {"ema_mean": row.ema.mean, "ema_sd": row.ema.sd} if averaged else {}
        raw |= {"loss_mean": row.loss.mean, "loss_sd": row.loss.sd}
        compared = {name: value for name, value in (line or {}).items() if name not in ("mean", "sd", "seeds")}
        lines.append(raw | compared | {"note": "; ".join(notes[row.row])})
    return pd.DataFrame(lines).assign(
        marks=["; ".join(marks[row.row]) for row, _ in rows],
        train_top1_mean=[row.train.mean for row, _ in rows],
        compared_images=pd.array([images] * len(rows), dtype="Int64"),
    )


def _all_marks(rows: Sequence[tuple[RowSummary, Line | None]]) -> dict[str, list[str]]:
    """The marks of each row and of its baseline, `baseline at chance`."""
    own = {row.row: row.marks for row, _ in rows}
    bases = {row.row: own.get(str(line["base"]), ()) if line else () for row, line in rows}
    return {row: [*marks, *(f"{_BASELINE}{mark}" for mark in bases[row])] for row, marks in own.items()}


def _of_baseline(marks: Sequence[str]) -> list[str]:
    """The marks of a row's baseline, which stand beside the verdict."""
    return [mark for mark in marks if mark.startswith(_BASELINE) and "EMA" not in mark]


_BASELINE = "baseline "


def _difference_cells(line: Line | None, measure: Measure, marks: tuple[int, ...]) -> tuple[Cell, ...]:
    """Difference, CI, p-value and marked verdict of a comparison; nothing for a row without a baseline."""
    if line is None:
        return (Cell(MISSING), Cell(MISSING), Cell(MISSING), Cell(""))
    return (*effect_cells(line, measure, "difference"), Cell(verdict_words(line), marks))
