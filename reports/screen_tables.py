"""Tables of a screening study: every flag's average effect, and the interactions of two flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from reports.header import facts
from reports.row_summary import title_of
from reports.statistics.measures import MEASURES, OTHER, Measure
from reports.statistics.screening import Pair, Screening, screen_effects
from reports.statistics.screening_looks import interaction_share, over_screenings
from reports.statistics.sequential import describe_looks, looks, stage_of
from reports.tables import Cell, Column, Table, effect_cells, effect_columns

EFFECTS, INTERACTIONS = "screen", "screen-interactions"


@dataclass(frozen=True)
class Factors:
    """What a screening study varies.

    values  each flag with its base value and its final value, as the command line writes them
    signs   for each row -1 or +1 per flag: whether the flag has its final value in it
    design  the design in words, such as "regular fraction, 32 runs"
    apart   the interactions that follow-up runs were made to tell apart, as places of two flags
    """

    values: Mapping[str, tuple[str, str]]
    signs: Mapping[str, tuple[int, ...]]
    design: str
    apart: tuple[Pair, ...] = ()


def screening_of(runs: pd.DataFrame, factors: Factors, measure: Measure = "top1") -> Screening:
    """The effects, from the runs that have a result, adjusted for the looks that the study has had.

    Effects on the measure that is not primary are beside them, with intervals and without verdicts.
    """
    rows = runs[runs["row"].isin(list(factors.signs))]
    done, beside = (
        rows[each].where(rows["status"] == "done").to_numpy(dtype=float, na_value=np.nan)
        for each in (measure, OTHER[measure])
    )
    signs = np.array([factors.signs[row] for row in rows["row"]], dtype=np.int8).reshape(len(rows), len(factors.values))
    stage, had = stage_of(rows), looks(rows)
    found = []
    for look in had:
        until = (stage <= look.stage).to_numpy()
        apart = factors.apart if look is had[-1] else ()
        found.append(screen_effects(done[until], signs[until], list(factors.values), apart, measure=measure))
    whole = over_screenings(found, had, measure)
    other = screen_effects(beside, signs, list(factors.values), factors.apart, measure=OTHER[measure])
    return replace(
        whole,
        effects=_with_other(whole.effects, other.effects, "flag", OTHER[measure]),
        interactions=_with_other(whole.interactions, other.interactions, "flags", OTHER[measure]),
    )


def _with_other(frame: pd.DataFrame, other: pd.DataFrame, key: str, measure: Measure) -> pd.DataFrame:
    """Add the effects on another measure as columns such as `loss_effect`, `loss_low` and `loss_high`."""
    known = other.set_index(key)
    return frame.assign(**{f"{measure}_{name}": frame[key].map(known[name]) for name in ("effect", "low", "high")})


def screen_table(runs: pd.DataFrame, factors: Factors, found: Screening, measure: Measure = "top1") -> Table:
    """Each flag's average effect, the largest first."""
    frame = found.effects.copy()
    frame.insert(1, "base", [factors.values[flag][0] for flag in frame["flag"]])
    frame.insert(2, "final", [factors.values[flag][1] for flag in frame["flag"]])
    frame = frame.loc[frame["effect"].abs().sort_values(ascending=False, kind="stable").index].reset_index(drop=True)
    aliased = bool((frame["aliases"] != "").any())
    columns = (
        Column("flag", "flag", number=False),
        *effect_columns(measure),
        *((Column("aliases", "aliases", number=False),) if aliased else ()),
    )
    rows = tuple(
        (
            Cell(f"{line['flag']}: {line['base']} → {line['final']}"),
            *_numbers(line, measure),
            *((Cell(_brief(line["aliases"])),) if aliased else ()),
        )
        for line in frame.to_dict("records")
    )
    title = f"{title_of(runs)}: each flag's average effect"
    legend = _legend(factors, found, describe_looks(runs), measure)
    return Table(EFFECTS, title, facts(runs), legend, columns, rows, (), (), frame)


def interactions_table(runs: pd.DataFrame, found: Screening, measure: Measure = "top1") -> Table:
    """The interactions of two flags, the largest first."""
    frame = found.interactions
    columns = (
        Column("flags", "flags", number=False),
        *effect_columns(measure),
        Column("aliases", "aliases", number=False),
    )
    rows = tuple(
        (Cell(line["flags"]), *_numbers(line, measure), Cell(_brief(line["aliases"])))
        for line in frame.to_dict("records")
    )
    legend = (
        f"Effect: how much more one flag changes {MEASURES[measure].change} when the other has its final value than "
        "when it has its base value, halved. The design cannot tell an interaction from its aliases: the effect is the "
        "sum of all those named, with their signs. A coefficient stands before an alias that is confounded in part. "
        f"{_ERROR} {_interactions_share(runs)} "
        "`ablations run screen --resolve FLAG:FLAG --out FOLDER` adds runs that tell aliases apart."
    )
    title = f"{title_of(runs)}: interactions of two flags"
    return Table(INTERACTIONS, title, facts(runs), legend, columns, rows, (), (), frame)


def _interactions_share(runs: pd.DataFrame) -> str:
    """Say which share of their error rate the verdicts on interactions use."""
    now = looks(runs)[-1]
    if not now.finished:
        return describe_looks(runs)
    share = interaction_share(now)
    return f"Verdicts use {100 * share:.2g}% of this table's error rate (p / {share:.2g}); follow-up runs use the rest."


_ERROR = (
    "Verdicts use p-values adjusted for all effects of the table (step-down, simulated). Confidence intervals (CI) are "
    "unadjusted."
)


def _legend(factors: Factors, found: Screening, share: str, measure: Measure) -> str:
    """How the effects were estimated, and how they relate to those of other kinds of studies."""
    how = (
        f"Effect: mean {MEASURES[measure].change} at a flag's final value minus at its base value, averaged over the "
        f"other flags' values in the design ({factors.design})."
    )
    if not found.dimensions:
        return f"{how} The error cannot be estimated: every run is used by an effect."
    error = "contrasts that hold neither main effects nor interactions of two flags"
    if not found.clean:
        error = "contrasts beside the main effects, which assumes that most interactions are 0"
        error += f" (kept out as real: {', '.join(found.kept_out)})" if found.kept_out else ""
    sd = f"{found.sd:.{MEASURES[measure].digits}f} {MEASURES[measure].unit}"
    return (
        f"{how} Standard deviation of one run: {sd}, from {found.dimensions} {error}. {_ERROR} {share} "
        "Interactions of three or more flags are assumed to be 0, and the standard deviation equal in all rows. one-in "
        "measures an effect with all other flags at their base values, one-out with all at their final values; with "
        "interactions of two flags only, the average effect lies midway between the two and equals the Shapley value "
        "that orders estimates."
    )


def _numbers(line: dict[Any, Any], measure: Measure) -> tuple[Cell, ...]:
    return (
        *effect_cells(line, measure),
        Cell(": ".join(filter(None, [line["verdict"], line["reason"]]))),
    )


def _brief(aliases: str) -> str:
    """Aliases as a table shows them: of very many the first; the raw table has all."""
    names = aliases.split(", ")
    return aliases if len(names) <= 6 else f"{', '.join(names[:6])} and {len(names) - 6} more"
