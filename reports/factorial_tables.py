"""Tables of a grid's effects and of the interactions in a study of orders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from reports.header import facts
from reports.row_summary import title_of
from reports.statistics import Measure, Verdict
from reports.statistics.compare import verdicts
from reports.statistics.effects_over_looks import Results, over_all_looks
from reports.statistics.factorial import Factorial, Family, effects_frame, effects_of
from reports.statistics.order_interactions import ALL_SETS, MIN_EACH_WAY, pairwise_interactions
from reports.statistics.order_walk import SetMeans
from reports.statistics.sequential import describe_looks
from reports.tables import Cell, Column, Footnotes, Table, effect_cells, effect_columns

_SHOWN_PAIRS = 15

_EFFECTS_LEGEND = (
    "Effect: change in mean {measure} between a flag's first value and another one. Averaged: over the values of the "
    "other flags, with equal weights. interaction with b: y − x: the effect at b=y less the effect at b=x; it is "
    "better if the two changes together {gain} more than the sum of what each {gains} alone."
)
_SYNERGY: dict[Measure, dict[str, str]] = {
    "top1": {"measure": "top-1 (percentage points)", "gain": "gain", "gains": "gains"},
    "loss": {"measure": "test loss (lower is better)", "gain": "lower it", "gains": "lowers it"},
}


def grid_effects_table(
    runs: pd.DataFrame, grid: Factorial, measure: Measure = "top1", resolution: float = 0.0
) -> Table:
    """Show a grid's effects: at each value of each other flag, averaged, and interactions.

    Effects at each combination of the values of two other flags or more are in the raw numbers only, as are those on
    the measure that is not primary.

    Args:
        runs: The study's runs.
        grid: Its flags and cells.
        measure: Its primary measure.
        resolution: The step in which top-1 comes; 0 if unknown.
    """
    effects, steps = effects_of(grid), {"top1": resolution, "loss": 0.0}
    frame = over_all_looks(
        runs, lambda results, each: effects_frame(grid, effects, results, each, steps[each]), measure
    )
    shown = frame[frame["family"] != Family.AT_EACH]
    footnotes = Footnotes()
    rows = []
    for line in shown.to_dict("records"):
        marks = footnotes.marks(_footnotes(line))
        rows.append((Cell(line["change"]), Cell(line["where"]), *_result(line, marks, measure)))
    changes = list(shown["change"])
    return Table(
        name="grid-effects",
        title=f"{title_of(runs)}: effects of {_list(list(grid.flags))}, and their interactions",
        subtitle=facts(runs),
        legend=_legend(runs, frame, measure),
        columns=(
            Column("change", "change", number=False),
            Column("where", "where", number=False),
            *effect_columns(measure),
        ),
        rows=tuple(rows),
        sections=tuple(place for place in range(len(rows)) if not place or changes[place] != changes[place - 1]),
        notes=tuple(footnotes.texts),
        frame=frame,
    )


def _legend(runs: pd.DataFrame, frame: pd.DataFrame, measure: Measure) -> str:
    """Explain effects, and which are corrected together."""
    parts = [_EFFECTS_LEGEND.format(**_SYNERGY[measure])]
    tested = {str(family): int(group["p"].notna().sum()) for family, group in frame.groupby("family", sort=False)}
    families = [f"{number} {family}" for family, number in tested.items() if number]
    if families:
        parts.append(
            f"Verdicts use p-values adjusted for the number of comparisons, by the step-down maximum of |t|, in each "
            f"family on its own: {_list(families)}. CIs are unadjusted. {describe_looks(runs)}"
        )
    if (frame["family"] == Family.AT_EACH).any():
        parts.append("Effects at one value are averaged over the remaining flags; the CSV has each combination.")
    return " ".join(parts)


def order_interactions_table(
    runs: pd.DataFrame,
    flags: Sequence[str],
    orders: Sequence[Sequence[str]],
    row_of: Callable[[frozenset[str]], str],
    measure: Measure = "top1",
    resolution: float = 0.0,
) -> Table:
    """Show the interaction of each two flags over a study's random orders, the most certain first.

    Args:
        runs: The study's runs.
        flags: Its flags, in the order to name them.
        orders: Its random orders.
        row_of: The row of a set of flags.
        measure: The study's primary measure.
        resolution: The step in which top-1 comes; 0 if unknown.
    """
    steps = {"top1": resolution, "loss": 0.0}
    frame = over_all_looks(
        runs, lambda results, each: interactions_frame(results, flags, orders, row_of, each, steps[each]), measure
    )
    certain = (frame["effect"].abs() / frame["se"]).fillna(frame["effect"].abs() * 1e-9).fillna(-1.0)
    frame = frame.loc[certain.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)
    shown = frame if len(frame) <= _SHOWN_PAIRS else frame.head(_SHOWN_PAIRS)
    footnotes = Footnotes()
    rows = []
    for line in shown.to_dict("records"):
        marks = footnotes.marks(_footnotes(line))
        rows.append((Cell(f"{line['flag']} × {line['other']}"), *_result(line, marks, measure)))
    return Table(
        name="worth-interactions",
        title=f"{title_of(runs)}: interactions of two flags",
        subtitle=facts(runs),
        legend=" ".join(_interactions_legend(runs, frame, len(shown), len(orders), measure)),
        columns=(Column("flags", "flags", number=False), *effect_columns(measure)),
        rows=tuple(rows),
        sections=(),
        notes=tuple(footnotes.texts),
        frame=frame,
    )


def interactions_frame(
    results: Results,
    flags: Sequence[str],
    orders: Sequence[Sequence[str]],
    row_of: Callable[[frozenset[str]], str],
    measure: Measure = "top1",
    resolution: float = 0.0,
) -> pd.DataFrame:
    """Estimate the interactions from each row's results: `pairwise_interactions` with verdict and reason."""
    sets = SetMeans.of(results, resolution)
    frame = pairwise_interactions(
        flags, orders, lambda chosen: sets.of_row(row_of(chosen)), sets.noise_df, not_random=[flags]
    )
    frame["verdict"] = verdicts(frame["effect"].to_numpy(), frame["p_adjusted"].to_numpy(), measure)
    unseen = f"fewer than {MIN_EACH_WAY} finished orders have one of the two flags first"
    untested = frame["effect"].isna().map({True: unseen, False: sets.why_untested})
    return frame.assign(reason=untested.where(frame["verdict"] == Verdict.NOT_TESTED, ""), note="")


def _interactions_legend(
    runs: pd.DataFrame, frame: pd.DataFrame, shown: int, orders: int, measure: Measure
) -> list[str]:
    """Explain the index, its error and its correction."""
    used = int(frame["orders"].iloc[0])
    of = f"{used} random orders" if used == orders else f"{used} of {orders} random orders"
    whole = bool((frame["method"] == ALL_SETS).all())
    source, words = ALL_SETS if whole else of, _SYNERGY[measure]
    parts = [
        f"Effect: how much more the one flag adds to {words['measure']} if the other is on than if it is off, "
        f"averaged over sets of the remaining flags (pairwise Faith-Shap index, Tsai et al. 2023), from {source}. "
        f"Better: the two flags together {words['gain']} more than the sum of what each {words['gains']} alone."
    ]
    tested = int(frame["p"].notna().sum())
    if tested:
        error = "seed-to-seed variance" if whole else "seed-to-seed variance and sampled orders"
        parts.append(
            f"CIs cover {error}; they are unadjusted. Verdicts use Holm-adjusted p-values, for {tested} pair"
            f"{'s' if tested > 1 else ''}. {describe_looks(runs)}"
        )
    if shown < len(frame):
        parts.append(f"Shown: the {shown} pairs with the largest |t|; the CSV has all {len(frame)}.")
    return parts


def _untested(line: Mapping[Any, Any]) -> bool:
    """Whether an effect is known and its error is not."""
    return bool(line["reason"]) and not math.isnan(line["effect"])


def _footnotes(line: Mapping[Any, Any]) -> list[str]:
    """The notes of an effect; the reason is one if the effect is unknown, for it may name cells."""
    return list(filter(None, [line["note"], "" if _untested(line) else line["reason"]]))


def _result(line: Mapping[Any, Any], marks: tuple[int, ...], measure: Measure) -> tuple[Cell, ...]:
    """Effect, interval, adjusted p-value and verdict."""
    return (
        *effect_cells(line, measure),
        Cell(f"{line['verdict']}: {line['reason']}" if _untested(line) else line["verdict"], marks),
    )


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
