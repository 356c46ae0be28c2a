"""The table of a study of orders: each flag's effect averaged over random orders of the steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from reports.header import facts
from reports.row_summary import title_of
from reports.statistics import (
    MEASURES,
    Correlation,
    Measure,
    OrderDistance,
    distance_from_order,
    sampled_shapley,
    worths_in_order,
)
from reports.statistics.effects_over_looks import results_of
from reports.statistics.measures import OTHER
from reports.statistics.order_walk import SetMeans
from reports.tables import Cell, Column, Table, interval, number, signed

Orders = Sequence[Sequence[str]]
RowOf = Callable[[frozenset[str]], str]


def orders_table(
    runs: pd.DataFrame,
    orders: Orders,
    row_of: RowOf,
    measure: Measure = "top1",
    resolution: float = 0.0,
    first: str = "the paper's order",
) -> Table:
    """Tabulate each flag's effect averaged over random orders (its sampled Shapley value), and in the first order.

    Args:
        runs: The study's runs.
        orders: Its orders, that of the roadmap or of the request first.
        row_of: The row of a set of flags.
        measure: Its primary measure; effects on the other one are in the raw numbers.
        resolution: The step in which top-1 comes; 0 if unknown.
        first: How to name the first order.
    """
    paper, random = list(orders[0]), [list(order) for order in orders[1:]]
    steps = {"top1": resolution, "loss": 0.0}
    found = {each: SetMeans.of(results_of(runs, each), steps[each]) for each in (measure, OTHER[measure])}

    def averaged(sets: SetMeans) -> pd.DataFrame:
        return sampled_shapley(random, lambda chosen: sets.of_row(row_of(chosen)), sets.noise_df)

    worths, beside = map(averaged, found.values())
    in_paper = worths_in_order(paper, lambda chosen: found[measure].of_row(row_of(chosen)).mean)
    frame = worths.set_index("flag").loc[paper].reset_index()
    frame.insert(1, "in_paper_order", [in_paper[flag] for flag in paper])
    beside = beside.set_index("flag").loc[paper].reset_index()
    frame = frame.assign(**{f"{OTHER[measure]}_{name}": beside[name] for name in ("worth", "low", "high")})
    seeds = _seeds(runs, [order for order in random if _has_results(order, found[measure], row_of)], row_of, measure)
    return Table(
        name="worths",
        title=f"{title_of(runs)}: each flag's effect averaged over orders",
        subtitle=facts(runs),
        legend=_legend(worths, distance_from_order(in_paper, worths), (len(random), seeds), measure, first),
        columns=_columns(measure, first),
        rows=tuple(_cells(line, measure) for line in frame.to_dict("records")),
        sections=(),
        notes=(),
        frame=frame,
    )


def _has_results(order: Sequence[str], sets: SetMeans, row_of: RowOf) -> bool:
    return bool(
        np.isfinite(list(worths_in_order(order, lambda chosen: sets.of_row(row_of(chosen)).mean).values())).all()
    )


def _seeds(runs: pd.DataFrame, orders: Orders, row_of: RowOf, measure: Measure) -> str:
    """Say over how many seeds the sets of flags along some orders are averaged: `3 seeds`, or `2 to 3 seeds`."""
    rows = {row_of(frozenset(order[:end])) for order in orders for end in range(len(order) + 1)}
    done = runs[(runs["status"] == "done") & runs[measure].notna() & runs["row"].isin(rows)]
    counts = done.groupby("row")["seed"].nunique()
    if counts.empty:
        return "no seeds"
    low, high = int(counts.min()), int(counts.max())
    return f"{low} seed{'s' if low > 1 else ''}" if low == high else f"{low} to {high} seeds"


def _columns(measure: Measure, first: str) -> tuple[Column, ...]:
    unit = {"top1": "pp", "loss": "loss"}[measure]
    return (
        Column("flag", "flag", number=False),
        Column("in_paper_order", f"in {first} ({unit})"),
        Column("worth", f"effect ({unit})"),
        Column("se", "standard error", short="SE"),
        Column("interval", "95% CI"),
        Column("sd", "SD over orders", short="SD"),
        Column("min", "min"),
        Column("max", "max"),
    )


def _cells(line: Mapping[Any, Any], measure: Measure) -> tuple[Cell, ...]:
    digits = MEASURES[measure].digits
    return (
        Cell(line["flag"]),
        *(Cell(signed(line[name], digits)) for name in ("in_paper_order", "worth")),
        Cell(number(line["se"], digits)),
        Cell(interval(line["low"], line["high"], digits)),
        Cell(number(line["sd"], digits)),
        *(Cell(signed(line[name], digits)) for name in ("min", "max")),
    )


def _legend(
    worths: pd.DataFrame, distance: OrderDistance, planned: tuple[int, str], measure: Measure, first: str
) -> str:
    """Explain the table, and how far the first order is from the averages.

    `planned` is the number of random orders, and the seeds that the sets of flags have, in words.
    """
    words, (orders, seeds) = MEASURES[measure], planned
    used = int(worths["orders"].iloc[0])
    of = f"{used} random orders" if used == orders else f"{used} of {orders} random orders"
    what = {"top1": "top-1 (pp)", "loss": "test loss (lower is better)"}[measure]
    over = f"{of} and {seeds}" if used else of
    parts = [f"Effect: change in {what} on enabling the flag, averaged over {over} (the sampled Shapley value)"]
    if worths["se"].notna().any():
        parts[0] += (
            ", with standard error and 95% CI. The CI covers seed-to-seed variance (one noise model for all sets of "
            "flags) and the sampling of orders. CIs are unadjusted, and there are no verdicts."
        )
    else:
        parts[0] += f", without standard error or CI: {why_no_error(worths, seeds == '1 seed')}."
    parts.append("SD, min and max: over orders.")
    if np.isnan(list(distance.frame["in_order"])).any():
        parts.append(f"{first[:1].upper()}{first[1:]} is not finished yet.")
    elif not np.isnan(distance.distance):
        away = f"{number(distance.distance, words.digits)} {words.unit} from the averages"
        parts.append(
            f"{first[:1].upper()}{first[1:]} is {away} (root mean square over flags)"
            f"{_typical(distance, words.digits)}; rank correlation {_correlation(distance.spearman)}."
        )
    return " ".join(parts)


def why_no_error(worths: pd.DataFrame, one_seed: bool) -> str:
    """Say why averaged effects have no standard error, given a frame of `sampled_shapley`."""
    used = int(worths["orders"].iloc[0])
    if used < 2:
        one = "one order does not show how effects vary over orders"
        return one if used else "no random order has a result for every set of flags along it"
    return "one seed does not show seed-to-seed variance" if one_seed else "no set of flags has a spread between seeds"


def _correlation(rank: Correlation) -> str:
    """A rank correlation with its CI, if there are enough flags for one."""
    if np.isnan(rank.rho):
        return "not defined"
    sure = "too few flags for a CI" if np.isnan(rank.low) else interval(rank.low, rank.high)
    return f"{signed(rank.rho)} ({sure})"


def _typical(distance: OrderDistance, digits: int) -> str:
    """How far one order is from the averages, where there are orders to tell."""
    return "" if np.isnan(distance.typical) else f", and one order is typically {number(distance.typical, digits)} away"
