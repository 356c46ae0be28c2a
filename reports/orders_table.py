"""The table of a study of orders: each flag's effect averaged over random orders of the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from reports.row_summary import facts
from reports.statistics import (
    Correlation,
    OrderDistance,
    SeededValue,
    distance_from_order,
    shapley_over_seeds,
    worths_in_order,
)
from reports.tables import Cell, Column, Table, interval, number, signed

_WORTHS = (
    Column("flag", "flag", number=False),
    Column("in_paper_order", "in the paper's order (pp)"),
    Column("worth", "effect (pp)"),
    Column("se", "standard error", short="SE"),
    Column("interval", "95% CI"),
    Column("sd", "SD over orders", short="SD"),
    Column("min", "min"),
    Column("max", "max"),
)


def orders_table(runs: pd.DataFrame, orders: Sequence[Sequence[str]], row_of: Callable[[frozenset[str]], str]) -> Table:
    """Tabulate each flag's effect averaged over random orders (its sampled Shapley value), and in the paper's order.

    The first of `orders` is the paper's; `row_of` names the row of a set of flags.
    """
    seeds = sorted(int(seed) for seed in runs["seed"].unique())
    value = _values_of(runs, row_of)
    paper, random = list(orders[0]), [list(order) for order in orders[1:]]
    worths = shapley_over_seeds(random, value, seeds)
    if int(worths["seeds"].iloc[0]) < 2:  # the error over orders alone leaves out seed-to-seed variance
        worths = worths.assign(se=np.nan, low=np.nan, high=np.nan)
    whole = _seeds_of_order(paper, value, seeds)
    in_paper = worths_in_order(paper, lambda chosen: float(np.mean([value(chosen, seed) for seed in whole or seeds])))
    frame = worths.set_index("flag").loc[paper].reset_index()
    frame.insert(1, "in_paper_order", [in_paper[flag] for flag in paper])
    return Table(
        name="worths",
        title=f"{runs['study'].iloc[0]}: each flag's effect averaged over orders",
        subtitle=facts(runs),
        legend=_worths_legend(worths, distance_from_order(in_paper, worths), len(random), (len(whole), len(seeds))),
        columns=_WORTHS,
        rows=tuple(_worth_cells(line) for line in frame.to_dict("records")),
        sections=(),
        notes=(),
        frame=frame,
    )


def _seeds_of_order(order: Sequence[str], value: SeededValue, seeds: Sequence[int]) -> list[int]:
    """The seeds with a result for every set of flags along an order."""
    return [seed for seed in seeds if not np.isnan(list(worths_in_order(order, _with(value, seed)).values())).any()]


def _with(value: SeededValue, seed: int) -> Callable[[frozenset[str]], float]:
    return lambda chosen: value(chosen, seed)


def _values_of(runs: pd.DataFrame, row_of: Callable[[frozenset[str]], str]) -> SeededValue:
    """Top-1 of a set of flags with a seed; NaN if that run has no result."""
    done = runs[runs["status"] == "done"]
    top1 = {(row, seed): value for row, seed, value in zip(done["row"], done["seed"], done["top1"], strict=True)}
    return lambda chosen, seed: float(top1.get((row_of(chosen), seed), np.nan))


def _worth_cells(line: dict[Any, Any]) -> tuple[Cell, ...]:
    return (
        Cell(line["flag"]),
        *(Cell(signed(line[name])) for name in ("in_paper_order", "worth")),
        Cell(number(line["se"])),
        Cell(interval(line["low"], line["high"])),
        Cell(number(line["sd"])),
        *(Cell(signed(line[name])) for name in ("min", "max")),
    )


def _worths_legend(worths: pd.DataFrame, distance: OrderDistance, orders: int, in_paper: tuple[int, int]) -> str:
    """How to read the table, and how far the paper's order is from the averages.

    `in_paper` is the number of seeds that have finished the paper's order, and the number of seeds.
    """
    whole, seeds = in_paper
    of = [(int(worths["orders"].iloc[0]), orders), (int(worths["seeds"].iloc[0]), seeds)]
    used = [str(used) if used == there else f"{used} of {there}" for used, there in of]
    if worths["se"].notna().any():
        error = "with standard error and 95% CI. CIs are unadjusted, and there are no verdicts."
    else:
        error = "without standard error or CI: one seed does not show seed-to-seed variance."
    parts = [
        f"Effect: change in top-1 (pp) on enabling the flag, averaged over {used[0]} random orders and "
        f"{used[1]} seed{'s' if seeds != 1 else ''} (the sampled Shapley value), {error} SD, min and max: over orders."
    ]
    if not whole:
        return f"{parts[0]} No seed has finished the paper's order yet."
    if whole < seeds:
        parts.append(f"In the paper's order: over {whole} of {seeds} seeds.")
    if not np.isnan(distance.distance):
        parts.append(
            f"The paper's order is {number(distance.distance)} pp from the averages (root mean square over flags)"
            f"{_typical(distance)}; rank correlation {_correlation(distance.spearman)}."
        )
    return " ".join(parts)


def _correlation(rank: Correlation) -> str:
    """A rank correlation with its CI, if there are enough flags for one."""
    if np.isnan(rank.rho):
        return "not defined"
    sure = "too few flags for a CI" if np.isnan(rank.low) else interval(rank.low, rank.high)
    return f"{signed(rank.rho)} ({sure})"


def _typical(distance: OrderDistance) -> str:
    """How far one order is from the averages, where there are orders to tell."""
    return "" if np.isnan(distance.typical) else f", and one order is typically {number(distance.typical)} away"
