"""The table of a roadmap's agreement with its source: pairs in order and rank correlation, by each measure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from modernize.roadmap import PAPER, Roadmap
from reports.header import facts
from reports.paper_agreement import PaperAgreement, Scored, between_regimes, distinct_rows, paper_agreement, printed
from reports.row_summary import title_of
from reports.tables import MISSING, Cell, Column, Table, number

AGREEMENT = "agreement"
_MEASURES: dict[Scored, str] = {"top1": "top-1", "loss": "test loss", "ema_top1": "EMA top-1"}
_COLUMNS = (
    Column("measure", "measure", number=False),
    Column("with", "compared with", number=False),
    Column("pairs", "pairs in order"),
    Column("pairs_interval", "95% CI"),
    Column("rows", "rows"),
    Column("correlation", "rank correlation"),
    Column("correlation_interval", "95% CI"),
    Column("sampled_interval", "95% CI, steps sampled"),
    Column("steps", "steps"),
)


def agreement_table(runs: pd.DataFrame, steps: Roadmap) -> Table | None:
    """Tabulate a roadmap study's agreement with its source; None if too few rows have a result and a printed one.

    Args:
        runs: The study's tidy frame, see `Report`.
        steps: The study's roadmap.
    """
    ran = runs[runs["roadmap"] == steps.name]
    lines = list(_lines(ran, steps))
    if math.isnan(lines[0]["pairs"]):
        return None
    frame = pd.DataFrame(lines)
    return Table(
        name=AGREEMENT,
        title=f"{title_of(runs)}: agreement with {steps.source.short}",
        subtitle=facts(ran),
        legend=_legend(steps),
        columns=_COLUMNS,
        rows=tuple(_cells(line) for line in lines),
        sections=(),
        notes=(),
        frame=frame,
    )


def _lines(runs: pd.DataFrame, steps: Roadmap) -> Iterator[dict[str, Any]]:
    """Raw lines: each measure with each regime, then the two regimes with each other."""
    of_paper = steps.base in PAPER
    for measure, name in _MEASURES.items():
        if measure == "top1" or (measure in runs and runs[measure].notna().any()):
            for found in paper_agreement(runs, steps, measure):
                yield _line(name, f"{found.target} regime" if of_paper else found.target, found)
    if of_paper:
        rows = {row.name for row in distinct_rows(runs, steps)}
        yield _line("top-1 of the ResNet-200 regime", "ResNet-50 regime", between_regimes(steps, rows))


def _line(measure: str, target: str, found: PaperAgreement) -> dict[str, Any]:
    return {
        "measure": measure,
        "with": target,
        **{"pairs": found.pairs.value, "pairs_low": found.pairs.low, "pairs_high": found.pairs.high},
        "rows": found.pairs.rows,
        "correlation": found.changes.value,
        **{"correlation_low": found.changes.low, "correlation_high": found.changes.high},
        **{"sampled_low": found.sampled[0], "sampled_high": found.sampled[1]},
        "steps": found.steps,
    }


def _cells(line: dict[str, Any]) -> tuple[Cell, ...]:
    def interval(of: str) -> str:
        low, high = line[f"{of}_low"], line[f"{of}_high"]
        return MISSING if math.isnan(low) else f"{number(low)} to {number(high)}"

    texts = (
        *(line["measure"], line["with"], number(line["pairs"]), interval("pairs"), str(line["rows"])),
        *(number(line["correlation"]), interval("correlation"), interval("sampled"), str(line["steps"])),
    )
    return tuple(map(Cell, texts))


def _legend(steps: Roadmap) -> str:
    source = steps.source.short
    rows = "rows" if any(row.recipe_changes for row in steps.rows) else "rows under one recipe"
    parts = [
        f"Pairs in order: share of pairs of {rows} that stand in the order of {source}; guesses: 0.50.",
        "Rank correlation: Spearman's, of the changes of adopted steps; guesses: 0.",
    ]
    if all(theirs.noisy for theirs in printed(steps).values()):
        parts.append("95% CI: from the noise of both sides, over these rows; none with one seed per row.")
    else:
        parts.append(f"95% CI: from the noise of this study alone, over these rows; {source} prints none.")
    parts.append("Steps sampled: if these steps are a sample of steps (Bonett and Wright 2000).")
    if steps.base in PAPER:
        parts.append(
            "The last line compares the two regimes with each other. The paper prints no standard deviations for the "
            "ResNet-200 regime: its values are taken as single runs that vary as much as those of the ResNet-50 regime."
        )
    return " ".join(parts)
