"""Tables of differences: each row against what it is compared with, and each flag's worth averaged over orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports.statistics import (
    Correct,
    Correlation,
    OrderDistance,
    SeededValue,
    Summary,
    compare,
    distance_from_order,
    legend,
    shapley_over_seeds,
    summarise,
    worths_in_order,
)
from reports.tables import (
    EMA,
    EMA_LEGEND,
    MISSING,
    SPEEDS_LEGEND,
    Cell,
    Column,
    Footnotes,
    ReportError,
    Speed,
    Table,
    account,
    accuracy,
    amount,
    averaged_results,
    facts,
    fairness_notes,
    signed,
    speeds,
    status_of,
    unit,
    with_speeds,
)

Predictions = Callable[[str, int], Correct | None]

_TITLES = {
    "roadmap": "each step against the one before",
    "one-in": "the base, and the base with one flag turned on",
    "one-out": "the end, and the end with one flag turned back",
    "sweep": "one flag over its values, against the first",
    "grid": "flags over their values, against the first",
    "orders": "each set of flags that the orders come through",
    "recipes": "one design under each recipe, against the first",
    "screen": "the combinations of flags that were trained",
}


_TOP1_LEGEND = "top-1: mean over seeds ± standard deviation."
_DIFFERENCES = (
    Column("difference", "difference", short="diff."),
    Column("interval", "95% interval"),
    Column("p_holm", "p (Holm)"),
    Column("verdict", "verdict", number=False),
)


@dataclass(frozen=True)
class _Row:
    """A row of a study: its runs, its comparison (None where there is none) and what is to be noted of it."""

    row: str
    label: str
    recipe: str
    runs: pd.DataFrame
    line: dict[Any, Any] | None
    notes: tuple[str, ...]

    @property
    def top1(self) -> Summary:
        return summarise(self.runs.loc[self.runs["status"] == "done", "top1"])

    @property
    def ema(self) -> Summary:
        return summarise(averaged_results(self.runs))

    @property
    def params(self) -> int | None:
        return _count(self.runs["params"])

    @property
    def macs(self) -> int | None:
        return _count(self.runs["macs"])


def comparison_table(
    runs: pd.DataFrame, predictions: Predictions | None = None, bench: pd.DataFrame | None = None
) -> Table:
    """Every row of a study with its top-1, and its difference from its `base` with interval and verdict.

    `runs` is a study's tidy frame; `predictions(row, seed)` says which test images a run got right, for studies of one
    seed; `bench` is what was measured, see `speeds`. Raises ReportError where there are no rows.
    """
    if runs.empty:
        raise ReportError("no runs to report")
    pairs = _pairs(runs)
    compared = compare(runs, pairs, predictions)
    rows = _rows(runs, compared)
    averaged = any(row.ema.seeds for row in rows)
    measured = speeds(bench, [row.row for row in rows])
    units = unit(runs["params"].dropna()), unit(runs["macs"].dropna())
    footnotes = Footnotes()
    legends = [
        _TOP1_LEGEND,
        EMA_LEGEND if averaged else "",
        SPEEDS_LEGEND if measured else "",
        legend(compared),
    ]
    return Table(
        name=_name(runs),
        title=f"{runs['study'].iloc[0]}: {_TITLES[str(runs['kind'].iloc[0])]}",
        subtitle=facts(runs),
        legend=" ".join(filter(None, legends)),
        columns=_columns("row", units, averaged, measured, bool(pairs)),
        rows=tuple(
            (
                *_cells(row, units, averaged, footnotes.marks(row.notes)),
                *(Cell(speed.shown(row.row)) for speed in measured),
                *(_difference_cells(row.line) if pairs else ()),
            )
            for row in rows
        ),
        sections=(),
        notes=tuple(footnotes.texts),
        frame=with_speeds(_raw(rows, averaged), measured),
    )


def references_table(runs: pd.DataFrame, bench: pd.DataFrame | None = None) -> Table | None:
    """Other people's networks, trained beside a roadmap's rows under the same recipe; None where none were.

    `bench` is what was measured, see `speeds`.
    """
    if runs.empty:
        return None
    rows = _rows(runs, compare(runs, []))
    averaged = any(row.ema.seeds for row in rows)
    measured = speeds(bench, [row.row for row in rows])
    units = unit(runs["params"].dropna()), unit(runs["macs"].dropna())
    footnotes = Footnotes()
    legends = [_TOP1_LEGEND, EMA_LEGEND if averaged else "", SPEEDS_LEGEND if measured else ""]
    return Table(
        name="references",
        title="Other people's networks, under the same recipe",
        subtitle=facts(runs),
        legend=" ".join(filter(None, legends)),
        columns=_columns("network", units, averaged, measured, differences=False),
        rows=tuple(
            (
                *_cells(row, units, averaged, footnotes.marks(row.notes)),
                *(Cell(speed.shown(row.row)) for speed in measured),
            )
            for row in rows
        ),
        sections=(),
        notes=tuple(footnotes.texts),
        frame=with_speeds(_raw(rows, averaged), measured),
    )


def _pairs(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """The rows that are compared, each with its base; not those that share a run with it."""
    rows = runs.drop_duplicates("row")
    trained = dict(zip(rows["row"], rows["run"], strict=True)) if "run" in rows else {}
    return [
        (row, base)
        for row, base in zip(rows["row"], rows["base"], strict=True)
        if isinstance(base, str) and (row not in trained or trained[row] != trained.get(base))
    ]


def _rows(runs: pd.DataFrame, compared: pd.DataFrame) -> list[_Row]:
    """The rows of a study in its order."""
    by_row = {line["row"]: line for line in compared.to_dict("records")}
    by_name = {str(row): group for row, group in runs.groupby("row", sort=False)}
    fairness = fairness_notes(by_name)
    found = []
    for name, mine in by_name.items():
        line = by_row.get(name)
        notes = [note for note in fairness[name] if not line or note != account(mine)]
        notes += [str(line["note"])] if line and line["note"] else []
        first = mine.iloc[0]
        found.append(_Row(name, str(first["label"]), str(first["recipe"]), mine, line, tuple(notes)))
    return found


def _name(runs: pd.DataFrame) -> str:
    """The name of the table's files."""
    kind = str(runs["kind"].iloc[0])
    names = {"roadmap": "steps", "sweep": f"sweep-{str(runs['row'].iloc[0]).partition('=')[0]}"}
    names["screen"] = "screen-runs"
    return names.get(kind, kind)


def _columns(
    subject: str, units: tuple[str, str], averaged: bool, measured: Sequence[Speed], differences: bool
) -> tuple[Column, ...]:
    return (
        Column("label", subject, number=False),
        Column("params", f"params, {units[0]}"),
        Column("macs", f"multiply-adds, {units[1]}", short=f"MACs, {units[1]}"),
        Column("mean", "top-1, %"),
        *([EMA] if averaged else []),
        Column("seeds", "seeds"),
        *(speed.column for speed in measured),
        *(_DIFFERENCES if differences else ()),
    )


def _cells(row: _Row, units: tuple[str, str], averaged: bool, marks: tuple[int, ...]) -> tuple[Cell, ...]:
    """What a row costs and reaches."""
    ema = [Cell(_summary(row.ema) if row.ema.seeds else MISSING)] if averaged else []
    return (
        Cell(row.label, marks),
        Cell(amount(row.params, units[0])),
        Cell(amount(row.macs, units[1])),
        Cell(_summary(row.top1) if row.top1.seeds else status_of(row.runs)),
        *ema,
        Cell(str(row.top1.seeds)),
    )


def _raw(rows: Sequence[_Row], averaged: bool) -> pd.DataFrame:
    """The raw table."""
    lines = []
    for row in rows:
        told: dict[Any, Any] = {"row": row.row, "label": row.label, "recipe": row.recipe}
        told |= {"params": row.params, "macs": row.macs}
        told |= {"mean": row.top1.mean, "sd": row.top1.sd, "seeds": row.top1.seeds}
        told |= {"ema_mean": row.ema.mean, "ema_sd": row.ema.sd} if averaged else {}
        lines.append(told | (row.line or {}) | {"note": "; ".join(row.notes)})
    return pd.DataFrame(lines)


def _summary(top1: Summary) -> str:
    return accuracy(top1.mean, None if np.isnan(top1.sd) else top1.sd)


_WORTHS = (
    Column("flag", "flag", number=False),
    Column("in_paper_order", "in the paper's order"),
    Column("worth", "worth"),
    Column("se", "error"),
    Column("interval", "95% interval"),
    Column("sd", "spread"),
    Column("min", "least"),
    Column("max", "most"),
)


def orders_table(runs: pd.DataFrame, orders: Sequence[Sequence[str]], row_of: Callable[[frozenset[str]], str]) -> Table:
    """Each flag's worth averaged over random orders (its sampled Shapley value), beside its worth in the paper's order.

    The first of `orders` is the paper's; `row_of` names the row of a set of flags.
    """
    seeds = sorted(int(seed) for seed in runs["seed"].unique())
    value = _values_of(runs, row_of)
    paper, random = list(orders[0]), [list(order) for order in orders[1:]]
    worths = shapley_over_seeds(random, value, seeds)
    whole = _seeds_of_order(paper, value, seeds)
    in_paper = worths_in_order(paper, lambda chosen: float(np.mean([value(chosen, seed) for seed in whole or seeds])))
    frame = worths.set_index("flag").loc[paper].reset_index()
    frame.insert(1, "in_paper_order", [in_paper[flag] for flag in paper])
    return Table(
        name="worths",
        title=f"{runs['study'].iloc[0]}: what each flag is worth, averaged over orders",
        subtitle=facts(runs),
        legend=_worths_legend(worths, distance_from_order(in_paper, worths), len(random), (len(whole), len(seeds))),
        columns=_WORTHS,
        rows=tuple(_worth_cells(line) for line in frame.to_dict("records")),
        sections=(),
        notes=(),
        frame=frame,
    )


def _seeds_of_order(order: Sequence[str], value: SeededValue, seeds: Sequence[int]) -> list[int]:
    """The seeds that have a result of every set of flags that an order comes through."""
    return [seed for seed in seeds if not np.isnan(list(worths_in_order(order, _with(value, seed)).values())).any()]


def _with(value: SeededValue, seed: int) -> Callable[[frozenset[str]], float]:
    return lambda chosen: value(chosen, seed)


def _values_of(runs: pd.DataFrame, row_of: Callable[[frozenset[str]], str]) -> SeededValue:
    """What a set of flags reaches with a seed, NaN where that run has no result."""
    done = runs[runs["status"] == "done"]
    top1 = {(row, seed): value for row, seed, value in zip(done["row"], done["seed"], done["top1"], strict=True)}
    return lambda chosen, seed: float(top1.get((row_of(chosen), seed), np.nan))


def _worth_cells(line: dict[Any, Any]) -> tuple[Cell, ...]:
    return (
        Cell(line["flag"]),
        *(Cell(_number(line[name])) for name in ("in_paper_order", "worth")),
        Cell(_size(line["se"])),
        Cell(_interval(line["low"], line["high"])),
        Cell(_size(line["sd"])),
        *(Cell(_number(line[name])) for name in ("min", "max")),
    )


def _worths_legend(worths: pd.DataFrame, distance: OrderDistance, orders: int, in_paper: tuple[int, int]) -> str:
    """How to read the table of worths, and how far the paper's order is from the averages.

    `in_paper` is how many seeds have walked the paper's order whole, and how many there are.
    """
    whole, seeds = in_paper
    of = [(int(worths["orders"].iloc[0]), orders), (int(worths["seeds"].iloc[0]), seeds)]
    used = [str(used) if used == there else f"{used} of {there}" for used, there in of]
    parts = [
        f"worth: change in top-1, in points, when the flag is turned on, averaged over {used[0]} random orders and "
        f"{used[1]} seed{'s' if seeds != 1 else ''} (the sampled Shapley value), with its standard error and "
        "95% interval; spread, least and most: over orders. With one seed the error is that of sampling orders alone."
    ]
    if not whole:
        return f"{parts[0]} No seed has walked the paper's order whole yet."
    if whole < seeds:
        parts.append(f"In the paper's order: over {whole} of {seeds} seeds.")
    if not np.isnan(distance.distance):
        parts.append(
            f"The paper's order is {_size(distance.distance)} points from the averages (root mean square over flags)"
            f"{_typical(distance)}; rank correlation {_correlation(distance.spearman)}."
        )
    return " ".join(parts)


def _correlation(rank: Correlation) -> str:
    """A rank correlation with its interval, where there are flags enough for one."""
    if np.isnan(rank.rho):
        return "not to be had from these"
    sure = "too few flags for an interval" if np.isnan(rank.low) else _interval(rank.low, rank.high)
    return f"{_number(rank.rho)} ({sure})"


def _typical(distance: OrderDistance) -> str:
    """How far one order is from the averages, where there are orders to tell."""
    return "" if np.isnan(distance.typical) else f", and one order is typically {_size(distance.typical)} away"


def _difference_cells(line: dict | None) -> tuple[Cell, ...]:
    """Difference, interval, p and verdict of a comparison; nothing for a row that is compared with none."""
    if line is None:
        return (Cell(MISSING), Cell(MISSING), Cell(MISSING), Cell(""))
    p = line["p_holm"]
    shown = MISSING if np.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"
    return (
        Cell(_number(line["difference"])),
        Cell(_interval(line["low"], line["high"])),
        Cell(shown),
        Cell(line["verdict"]),
    )


def _count(values: pd.Series) -> int | None:
    known = values.dropna()
    return int(known.iloc[0]) if len(known) else None


def _number(value: float) -> str:
    return signed(None if np.isnan(value) else float(value))


def _size(value: float) -> str:
    return MISSING if np.isnan(value) else f"{value:.2f}"


def _interval(low: float, high: float) -> str:
    return MISSING if np.isnan(low) or np.isnan(high) else f"{low:+.2f} to {high:+.2f}"
