"""Agreement of a roadmap study with its source in words, beside what agreement to expect."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from modernize.roadmap import PAPER, Roadmap, Row
from reports.numbers import fixed
from reports.paper_agreement import (
    PaperAgreement,
    between_regimes,
    distinct_rows,
    fair_rows,
    paper_agreement,
    printed,
)
from reports.statistics.agreement import Agreement, rerun_agreement


def agreement_words(runs: pd.DataFrame, steps: Roadmap) -> list[str]:
    """Describe a study's agreement with its roadmap's source, beside yardsticks; empty if too few rows are finished."""
    found = paper_agreement(runs, steps)
    if math.isnan(found[0].pairs.value):
        return []
    short, first = steps.source.short, found[0]
    of = "" if any(row.recipe_changes for row in steps.rows) else " of one recipe"
    rows = distinct_rows(runs, steps)
    regimes = between_regimes(steps, {row.name for row in rows}) if len(found) > 1 else None
    changes = [_shown(one.changes, one.sampled) for one in (*found, regimes) if one]
    pairs = [_shown(one.pairs) for one in (*found, regimes) if one]
    noise = "With one seed per row, the noise of this study is unknown."
    if not math.isnan(first.pairs.low):
        both = all(theirs.noisy for theirs in printed(steps).values())
        noise = "The intervals carry the noise of both sides."
        if not both:
            noise = f"The intervals carry the noise of this study alone: {short} prints no standard deviations."
    lines = [
        f"Agreement with {short}: Spearman's rank correlation of the changes over {first.steps} adopted steps is "
        f"{_each(changes, found)}.",
        f"Pairwise decision accuracy, the share of pairs among {first.pairs.rows} rows{of} ordered as in {short}, is "
        f"{_each(pairs, found)}.{_yardsticks(steps, rows)} {noise}",
    ]
    return lines if first.steps > 1 else lines[1:]


def _each(shown: Sequence[str], found: Sequence[PaperAgreement]) -> str:
    """Name the regime behind each of the paper's two values; the last value is that between the regimes."""
    if len(found) == 1:
        return shown[0]
    own = [f"{text} for its {one.target} regime" for text, one in zip(shown, found, strict=False)]
    return f"{', '.join(own)} and {shown[-1]} between the two regimes"


def _yardsticks(steps: Roadmap, rows: Sequence[Row]) -> str:
    """Describe what pairwise decision accuracy to expect, of re-runs of the source and of guesses."""
    name, theirs = next(iter(printed(steps).items()))
    if not theirs.noisy:
        return " Random guesses score 0.50."
    again = rerun_agreement(theirs.of([row for row in fair_rows(rows) if row.name in theirs.means]))
    of = f"its {name} regime" if steps.base in PAPER else steps.source.short
    return f" Simulated re-runs of {of} score {fixed(again, 2)}, random guesses 0.50."


def _shown(estimate: Agreement, sampled: tuple[float, float] = (math.nan, math.nan)) -> str:
    """A statistic with its intervals; `sampled` is the one that takes the steps as a sample."""
    if math.isnan(estimate.value):
        return "not defined for these runs"
    intervals = [((estimate.low, estimate.high), ""), (sampled, " if the steps are a sample of steps")]
    shown = [f"{fixed(low, 2)} to {fixed(high, 2)}{what}" for (low, high), what in intervals if not math.isnan(low)]
    return fixed(estimate.value, 2) + (f" (95% CI: {'; '.join(shown)})" if shown else "")
