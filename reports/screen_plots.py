"""The figures of a screening study: effects in order of size, a half-normal plot, and interaction plots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from reports.header import facts
from reports.report import Plot
from reports.screen_tables import EFFECTS, INTERACTIONS
from reports.statistics.measures import MEASURES, Measure
from reports.statistics.values import known
from reports.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEWEST, _MOST = 4, 8  # interaction plots


def screen_plots(
    title: str, runs: pd.DataFrame, tables: Mapping[str, Table], measure: Measure = "top1"
) -> Iterator[Plot]:
    """The figures of a study whose tables are those of a screening study."""
    effects, interactions = tables[EFFECTS], tables[INTERACTIONS]
    if effects.frame["effect"].notna().any():
        yield pareto_plot(effects, measure)
    yield from half_normal_plot(title, runs, effects.frame, interactions.frame, measure)
    yield from interaction_plot(title, runs, effects.frame, interactions.frame, measure)


def pareto_plot(table: Table, measure: Measure) -> Plot:
    """The main effects."""
    caption = (
        f"Each flag's average effect on {MEASURES[measure].change}, the largest first, with its unadjusted 95% CI. "
        "Colors and verdicts use p-values adjusted for all flags."
    )

    def draw() -> Figure:
        from reports.figures.screening import pareto

        return pareto(table, f"average effect on {MEASURES[measure].change}", caption, MEASURES[measure].digits)

    return Plot(EFFECTS, table.title, caption, table.frame, draw, measure)


def half_normal_plot(
    title: str, runs: pd.DataFrame, effects: pd.DataFrame, interactions: pd.DataFrame, measure: Measure
) -> Iterator[Plot]:
    """All effects against half-normal quantiles; none where there is no error."""
    from reports.figures.screening import half_normal, half_normal_frame

    frame = half_normal_frame(effects, interactions)
    if frame.empty:
        return
    heading = f"{title}: half-normal plot of all effects"
    caption = (
        "Main effects and interactions in standard errors, against half-normal quantiles. Effects of "
        "noise alone lie near the dashed line; numbered ones are significant after adjustment."
    )

    def draw() -> Figure:
        return half_normal(frame, heading, facts(runs), caption)

    yield Plot("screen-half-normal", heading, caption, frame, draw, measure)


def interaction_plot(
    title: str, runs: pd.DataFrame, effects: pd.DataFrame, interactions: pd.DataFrame, measure: Measure
) -> Iterator[Plot]:
    """The largest interactions; none where none can be estimated."""
    frame = interaction_means(runs, effects, interactions, measure)
    if frame.empty:
        return
    heading = f"{title}: the largest interactions"
    caption = (
        f"The {MEASURES[measure].value} at both values of two flags, averaged over the other flags, ± its standard "
        "error. Parallel lines mean no interaction. The aliases in the table fit the runs as well."
    )

    def draw() -> Figure:
        from reports.figures.screening import interaction_plots

        words = MEASURES[measure]
        return interaction_plots(frame, words.value, heading, facts(runs), caption, words.digits)

    yield Plot("screen-interactions", heading, caption, frame, draw, measure)


def interaction_means(
    runs: pd.DataFrame, effects: pd.DataFrame, interactions: pd.DataFrame, measure: Measure = "top1"
) -> pd.DataFrame:
    """Estimate the mean response at the four combinations of two flags, for each of the largest interactions.

    Columns: flags, aliases, effect, verdict, flag, value, other, other_value, mean, se.
    """
    mains = effects.set_index("flag")
    done = runs.loc[(runs["status"] == "done") & runs[measure].map(known), measure]
    mean = done.astype(float).mean()
    tested = interactions[interactions["se"].notna()]
    shown = min(max(int(tested["verdict"].isin(["better", "worse"]).sum()), _FEWEST), _MOST)
    lines = []
    for line in tested.head(shown).to_dict("records"):
        first, second = line["flags"].split(":")
        a, b = mains.loc[first], mains.loc[second]
        if np.isnan(a["effect"]) or np.isnan(b["effect"]):
            continue
        se = (
            np.sqrt(float(a["se"]) ** 2 + float(b["se"]) ** 2 + line["se"] ** 2 + (a["se"] ** 2 + b["se"] ** 2) / 2) / 2
        )
        for there, here in product((-1, 1), (-1, 1)):
            cell = mean + (here * a["effect"] + there * b["effect"] + here * there * line["effect"]) / 2
            lines.append(
                {
                    **{key: line[key] for key in ("flags", "aliases", "effect", "verdict")},
                    "flag": first,
                    "value": a["base"] if here < 0 else a["final"],
                    "other": second,
                    "other_value": b["base"] if there < 0 else b["final"],
                    "mean": float(cell),
                    "se": float(se),
                }
            )
    columns = ["flags", "aliases", "effect", "verdict", "flag", "value", "other", "other_value", "mean", "se"]
    return pd.DataFrame(lines, columns=columns)
