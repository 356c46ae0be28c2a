"""The table of every pair of designs: their difference, and the ratio of their costs."""

from __future__ import annotations

import pandas as pd

from reports.header import facts
from reports.numbers import fixed
from reports.row_summary import recipe_note, settings_of, summarise_rows, title_of
from reports.statistics import Measure, legend
from reports.statistics.row_results import baselines
from reports.study_tables import about_looks, compared_rows, verdict_words
from reports.tables import MISSING, Cell, Column, Footnotes, Table, difference_columns, effect_cells

PAIRS = "pairs"
_ADDED = ("label", "params_ratio", "macs_ratio", "activations_ratio", "note", "marks")


def compares_pairs(runs: pd.DataFrame) -> bool:
    """Whether a row of a study is compared with several others."""
    return any(len(baselines(base)) > 1 for base in runs["base"].unique())


def pairs_table(runs: pd.DataFrame, measure: Measure = "top1") -> Table:
    """Tabulate every comparison of two rows, with the ratio of their costs."""
    compared = compared_rows(runs, measure)
    rows = {row.row: row for row in summarise_rows(runs)}
    footnotes, cells, frame, settings = Footnotes(), [], [], settings_of(runs)
    for line in compared.to_dict("records"):
        one, other = rows[line["row"]], rows[line["base"]]
        costs = [_ratio(getattr(one, name), getattr(other, name)) for name in ("params", "macs", "activations")]
        notes = recipe_note([one.recipe], [other.recipe], (), "the second design's", settings)
        notes += [line["note"]] if line["note"] else []
        marks = [*(f"{one.label} {mark}" for mark in one.marks), *(f"{other.label} {mark}" for mark in other.marks)]
        label = f"{one.label} vs. {other.label}"
        cells.append(
            (
                Cell(label, footnotes.marks(notes)),
                *(Cell(fixed(ratio, 2) if ratio else MISSING) for ratio in costs),
                *effect_cells(line, measure, "difference"),
                Cell(verdict_words(line), footnotes.marks(marks)),
            )
        )
        frame.append([label, *costs, "; ".join(notes), "; ".join(marks)])
    words = [
        "Each line is the first design minus the second; costs are those of the first over the second's.",
        legend(compared, measure),
        *about_looks(runs, compared, measure),
    ]
    return Table(
        name=PAIRS,
        title=f"{title_of(runs)}: every pair of designs",
        subtitle=facts(runs),
        legend=" ".join(filter(None, words)),
        columns=(
            Column("label", "designs", number=False),
            Column("params_ratio", "params (ratio)"),
            Column("macs_ratio", "MACs (ratio)"),
            Column("activations_ratio", "activations (ratio)"),
            *difference_columns(measure),
        ),
        rows=tuple(cells),
        sections=(),
        notes=tuple(footnotes.texts),
        frame=compared.assign(**pd.DataFrame(frame, compared.index, _ADDED)),
    )


def _ratio(one: int | None, other: int | None) -> float | None:
    return one / other if one and other else None
