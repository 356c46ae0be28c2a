"""Tables of a grid's effects and of the interactions in a study of orders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from reports.row_summary import facts
from reports.statistics import Verdict
from reports.statistics.factorial import Factorial, Family, effects_frame, effects_of
from reports.statistics.order_interactions import ALL_SETS, MIN_EACH_WAY, SetMean, pairwise_interactions
from reports.statistics.sequential import describe_looks, gives_variance, looks, over_looks, stage_of
from reports.statistics.weighted_contrasts import RowMeans, RowValues, verdicts
from reports.tables import MISSING, Cell, Column, Footnotes, Table, signed

_RESULT = (
    Column("effect", "effect"),
    Column("interval", "95% CI"),
    Column("p_adjusted", "adjusted p", short="adj. p"),
    Column("verdict", "verdict", number=False),
)
_SHOWN_PAIRS = 15

_EFFECTS_LEGEND = (
    "Effect: change in mean top-1 (percentage points) between a flag's first value and another one. Averaged: over the "
    "values of the other flags, with equal weights. interaction with b: y − x: the effect at b=y less the effect at "
    "b=x; it is better if the two changes together gain more than the sum of what each gains alone."
)


def results_of(runs: pd.DataFrame) -> dict[str, RowValues]:
    """Collect the top-1 (%) of each row's finished runs."""
    done = runs.assign(used=gives_variance(runs))[(runs["status"] == "done") & runs["top1"].notna()]
    return {
        str(row): RowValues(tuple(group["top1"].astype(float)), tuple(group.loc[group["used"], "top1"].astype(float)))
        for row, group in done.groupby("row", sort=False)
    }


def over_all_looks(runs: pd.DataFrame, analyse: Callable[[Mapping[str, RowValues]], pd.DataFrame]) -> pd.DataFrame:
    """Analyse all runs, with adjusted p-values and verdicts that hold over the looks that the study has had.

    `analyse` makes a frame of effects from each row's results; its lines are the same at each look.
    """
    stage, seen = stage_of(runs), looks(runs)
    found = [analyse(results_of(runs[stage <= look.stage])) for look in seen]
    now = found[-1]
    p = over_looks(
        [frame["p_adjusted"].to_numpy(dtype=float) for frame in found],
        [look.share for look in seen],
        [np.sign(frame["effect"].to_numpy(dtype=float)) for frame in found],
        now["p"].to_numpy(dtype=float),
    )
    return now.assign(p_adjusted=p, verdict=verdicts(now["effect"].to_numpy(dtype=float), p))


def grid_effects_table(runs: pd.DataFrame, grid: Factorial) -> Table:
    """Show a grid's effects: at each value of each other flag, averaged, and interactions.

    Effects at each combination of the values of two other flags or more are in the raw numbers only.
    """
    frame = over_all_looks(runs, lambda results: effects_frame(grid, effects_of(grid), results))
    shown = frame[frame["family"] != Family.AT_EACH]
    footnotes = Footnotes()
    rows = []
    for line in shown.to_dict("records"):
        marks = footnotes.marks(_footnotes(line))
        rows.append((Cell(line["change"]), Cell(line["where"]), *_result(line, marks)))
    changes = list(shown["change"])
    return Table(
        name="grid-effects",
        title=f"{runs['study'].iloc[0]}: effects of {_list(list(grid.flags))}, and their interactions",
        subtitle=facts(runs),
        legend=_legend(runs, frame),
        columns=(Column("change", "change", number=False), Column("where", "where", number=False), *_RESULT),
        rows=tuple(rows),
        sections=tuple(place for place in range(len(rows)) if not place or changes[place] != changes[place - 1]),
        notes=tuple(footnotes.texts),
        frame=frame,
    )


def _legend(runs: pd.DataFrame, frame: pd.DataFrame) -> str:
    """Explain effects, and which are corrected together."""
    parts = [_EFFECTS_LEGEND]
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
    runs: pd.DataFrame, flags: Sequence[str], orders: Sequence[Sequence[str]], row_of: Callable[[frozenset[str]], str]
) -> Table:
    """Show the interaction of each two flags over a study's random orders, the most certain first.

    Args:
        runs: The study's runs.
        flags: Its flags, in the order to name them.
        orders: Its random orders.
        row_of: The row of a set of flags.
    """
    frame = over_all_looks(runs, lambda results: interactions_frame(results, flags, orders, row_of))
    certain = (frame["effect"].abs() / frame["se"]).fillna(frame["effect"].abs() * 1e-9).fillna(-1.0)
    frame = frame.loc[certain.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)
    shown = frame if len(frame) <= _SHOWN_PAIRS else frame.head(_SHOWN_PAIRS)
    footnotes = Footnotes()
    rows = []
    for line in shown.to_dict("records"):
        marks = footnotes.marks(_footnotes(line))
        rows.append((Cell(f"{line['flag']} × {line['other']}"), *_result(line, marks)))
    return Table(
        name="worth-interactions",
        title=f"{runs['study'].iloc[0]}: interactions of two flags",
        subtitle=facts(runs),
        legend=" ".join(_interactions_legend(runs, frame, len(shown), len(orders))),
        columns=(Column("flags", "flags", number=False), *_RESULT),
        rows=tuple(rows),
        sections=(),
        notes=tuple(footnotes.texts),
        frame=frame,
    )


def interactions_frame(
    results: Mapping[str, RowValues],
    flags: Sequence[str],
    orders: Sequence[Sequence[str]],
    row_of: Callable[[frozenset[str]], str],
) -> pd.DataFrame:
    """Estimate the interactions from each row's results: `pairwise_interactions` with verdict and reason."""
    if not results:
        means, noise_df, reason = {}, 0.0, "no result"
    else:
        rows = RowMeans.of(list(results.values()))
        known = zip(results, rows.mean.tolist(), rows.error_variances.tolist(), strict=True)
        means = {row: SetMean(mean, variance) for row, mean, variance in known}
        noise_df, reason = float(rows.noise.pooled_df.max()), rows.why_untested
    nothing = SetMean(math.nan, math.nan)
    frame = pairwise_interactions(
        flags, orders, lambda chosen: means.get(row_of(chosen), nothing), noise_df, not_random=[flags]
    )
    frame["verdict"] = verdicts(frame["effect"].to_numpy(), frame["p_adjusted"].to_numpy())
    unseen = f"fewer than {MIN_EACH_WAY} finished orders have one of the two flags first"
    untested = frame["effect"].isna().map({True: unseen, False: reason})
    return frame.assign(reason=untested.where(frame["verdict"] == Verdict.NOT_TESTED, ""), note="")


def _interactions_legend(runs: pd.DataFrame, frame: pd.DataFrame, shown: int, orders: int) -> list[str]:
    """Explain the index, its error and its correction."""
    used = int(frame["orders"].iloc[0])
    of = f"{used} random orders" if used == orders else f"{used} of {orders} random orders"
    whole = bool((frame["method"] == ALL_SETS).all())
    source = ALL_SETS if whole else of
    parts = [
        "Effect: how much more the one flag adds to top-1 (percentage points) if the other is on than if it is off, "
        f"averaged over sets of the remaining flags (pairwise Faith-Shap index, Tsai et al. 2023), from {source}. "
        "Better: the two flags together gain more than the sum of what each gains alone."
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


def _result(line: Mapping[Any, Any], marks: tuple[int, ...]) -> tuple[Cell, ...]:
    """Effect, interval, adjusted p-value and verdict."""
    effect, low, high, p = (line[name] for name in ("effect", "low", "high", "p_adjusted"))
    return (
        Cell(signed(None if math.isnan(effect) else float(effect))),
        Cell(MISSING if math.isnan(low) else f"{low:+.2f} to {high:+.2f}"),
        Cell(MISSING if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"),
        Cell(f"{line['verdict']}: {line['reason']}" if _untested(line) else line["verdict"], marks),
    )


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
