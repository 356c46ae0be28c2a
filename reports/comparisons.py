"""Tables of differences: each row against what it is compared with, and each flag's worth averaged over orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from reports.statistics import (
    Correct,
    compare,
    distance_from_order,
    legend,
    shapley_over_seeds,
    summarise,
    worths_in_order,
)
from reports.tables import (
    MISSING,
    Cell,
    Column,
    ReportError,
    Table,
    account,
    accuracy,
    amount,
    facts,
    fairness_notes,
    signed,
    status_of,
    unit,
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
}


def comparison_table(runs: pd.DataFrame, predictions: Predictions | None = None) -> Table:
    """Every row of a study with its top-1, and its difference from its `base` with interval and verdict.

    `runs` is a study's tidy frame; `predictions(row, seed)` says which test images a run got right, for studies of one
    seed. Raises ReportError where there are no rows.
    """
    if runs.empty:
        raise ReportError("no runs to report")
    rows = runs.drop_duplicates("row")
    trained = dict(zip(rows["row"], rows["run"], strict=True)) if "run" in rows else {}
    pairs = [
        (row, base)
        for row, base in zip(rows["row"], rows["base"], strict=True)
        if isinstance(base, str) and (row not in trained or trained[row] != trained.get(base))
    ]
    compared = compare(runs, pairs, predictions)
    by_row = {line["row"]: line for line in compared.to_dict("records")}
    params_unit, macs_unit = unit(runs["params"].dropna()), unit(runs["macs"].dropna())
    by_name = {str(row): runs[runs["row"] == row] for row in rows["row"]}
    fairness = fairness_notes(by_name)
    notes: list[str] = []
    cells, raw = [], []
    for row, label, recipe in zip(rows["row"], rows["label"], rows["recipe"], strict=True):
        mine = by_name[row]
        line = by_row.get(row)
        top1 = summarise(mine.loc[mine["status"] == "done", "top1"])
        said = [note for note in fairness[row] if not line or note != account(mine)]
        said += [str(line["note"])] if line and line["note"] else []
        notes += [note for note in said if note not in notes]
        marks = tuple(sorted(notes.index(note) + 1 for note in said))
        cells.append(
            (
                Cell(str(label), marks),
                Cell(amount(_count(mine["params"]), params_unit)),
                Cell(amount(_count(mine["macs"]), macs_unit)),
                Cell(accuracy(top1.mean, None if np.isnan(top1.sd) else top1.sd) if top1.seeds else status_of(mine)),
                Cell(str(top1.seeds)),
                *(_difference_cells(line) if pairs else ()),
            )
        )
        told: dict[str, object] = {"row": row, "label": label, "recipe": recipe}
        told |= {"params": _count(mine["params"]), "macs": _count(mine["macs"])}
        told |= {"mean": top1.mean, "sd": top1.sd, "seeds": top1.seeds}
        raw.append(told | (line or {}) | {"note": "; ".join(said)})
    kind = str(runs["kind"].iloc[0])
    names = {"roadmap": "steps", "sweep": f"sweep-{rows['row'].iloc[0].partition('=')[0]}"}
    differences = (
        Column("difference", "difference", short="diff."),
        Column("interval", "95% interval"),
        Column("p_holm", "p (Holm)"),
        Column("verdict", "verdict", number=False),
    )
    return Table(
        name=names.get(kind, kind),
        title=f"{runs['study'].iloc[0]}: {_TITLES[kind]}",
        subtitle=facts(runs),
        legend=" ".join(["top-1: mean over seeds ± standard deviation.", legend(compared)]).strip(),
        columns=(
            Column("label", "row", number=False),
            Column("params", f"params, {params_unit}"),
            Column("macs", f"multiply-adds, {macs_unit}", short=f"MACs, {macs_unit}"),
            Column("mean", "top-1, %"),
            Column("seeds", "seeds"),
            *(differences if pairs else ()),
        ),
        rows=tuple(cells),
        sections=(),
        notes=tuple(notes),
        frame=pd.DataFrame(raw),
    )


def orders_table(runs: pd.DataFrame, orders: Sequence[Sequence[str]], row_of: Callable[[frozenset[str]], str]) -> Table:
    """Each flag's worth averaged over random orders (its sampled Shapley value), beside its worth in the paper's order.

    The first of `orders` is the paper's; `row_of` names the row of a set of flags.
    """
    done = runs[runs["status"] == "done"]
    top1 = {(row, seed): value for row, seed, value in zip(done["row"], done["seed"], done["top1"], strict=True)}
    seeds = sorted(int(seed) for seed in runs["seed"].unique())

    def value(chosen: frozenset[str], seed: int) -> float:
        return float(top1.get((row_of(chosen), seed), np.nan))

    def mean(chosen: frozenset[str]) -> float:
        return float(np.mean([value(chosen, seed) for seed in seeds]))

    paper, random = list(orders[0]), [list(order) for order in orders[1:]]
    worths = shapley_over_seeds(random, value, seeds)
    in_paper = worths_in_order(paper, mean)
    distance = distance_from_order(in_paper, worths)
    frame = worths.set_index("flag").loc[paper].reset_index()
    frame.insert(1, "in_paper_order", [in_paper[flag] for flag in paper])
    cells = [
        (
            Cell(line["flag"]),
            *(Cell(_number(line[name])) for name in ("in_paper_order", "worth")),
            Cell(_size(line["se"])),
            Cell(_interval(line["low"], line["high"])),
            Cell(_size(line["sd"])),
            *(Cell(_number(line[name])) for name in ("min", "max")),
        )
        for line in frame.to_dict("records")
    ]
    rank = distance.spearman
    of = [(int(worths["orders"].iloc[0]), len(random)), (int(worths["seeds"].iloc[0]), len(seeds))]
    used = [str(used) if used == there else f"{used} of {there}" for used, there in of]
    return Table(
        name="worths",
        title=f"{runs['study'].iloc[0]}: what each flag is worth, averaged over orders",
        subtitle=facts(runs),
        legend=(
            f"worth: change in top-1, in points, when the flag is turned on, averaged over {used[0]} random orders and "
            f"{used[1]} seed{'s' if len(seeds) != 1 else ''} (the sampled Shapley value), with its standard error and "
            "95% interval; spread, least and most: over orders. With one seed the error is that of sampling orders "
            f"alone. The paper's order is {_size(distance.distance)} points from the averages (root mean square over "
            f"flags), and one order is typically {_size(distance.typical)} away; rank correlation {_number(rank.rho)} "
            f"({_interval(rank.low, rank.high)})."
        ),
        columns=(
            Column("flag", "flag", number=False),
            Column("in_paper_order", "in the paper's order"),
            Column("worth", "worth"),
            Column("se", "error"),
            Column("interval", "95% interval"),
            Column("sd", "spread"),
            Column("min", "least"),
            Column("max", "most"),
        ),
        rows=tuple(cells),
        sections=(),
        notes=(),
        frame=frame,
    )


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
