"""The figures of several studies combined."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from modernize.roadmap import PAPER, Roadmap
from reports.combined import Combined
from reports.combined_agreement import GROWTH, growth
from reports.combined_tables import VALUES
from reports.kind_words import WORDS
from reports.report import Plot
from reports.statistics import MEASURES
from reports.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def combined_plots(
    studies: Combined, table: Table, kind: str, tables: dict[str, Table], steps: Roadmap
) -> Iterator[Plot]:
    """Yield a forest plot of the comparisons and, if agreement is in the tables, its growth with the studies.

    Args:
        studies: The studies.
        table: The main table, with the rows to show.
        kind: The studies' kind.
        tables: The other tables, by name.
        steps: The studies' roadmap.
    """
    words = MEASURES[studies.measure]
    caption = f"Change in {words.change}: mean over {len(studies.runs)} studies, above each study's own change."
    if studies.compared["p"].notna().any():
        caption += (
            " The 95% CI, from a t-test over studies, covers seeds and settings. Verdicts use p-values adjusted by "
            "Holm's method; CIs are unadjusted."
        )
    points = {(str(row), str(base)): list(own) for (row, base), *own in studies.differences.itertuples(name=None)}

    def draw() -> Figure:
        from reports.figures.over_studies import combined_effects

        axis = f"change in {words.change} {WORDS[kind].axis}".strip()
        return combined_effects(table, points, axis, caption, words.digits)

    of = {"sd": "SD between studies", "mean": f"mean {words.value}"}
    frame = table.frame.rename(columns={VALUES[studies.measure]: "mean"})
    yield Plot(table.name, table.title, caption, frame, draw, studies.measure, of)
    if GROWTH in tables:
        yield _growth_plot(studies, tables[GROWTH], steps)


def _growth_plot(studies: Combined, table: Table, steps: Roadmap) -> Plot:
    frame = growth(studies, steps)
    of_paper = steps.base in PAPER
    names = {one: f"{one} regime" if of_paper else one for one in dict.fromkeys(frame["with"])}
    caption = (
        "Agreement: the mean of pairs in order and (1 + rank correlation) / 2, of the rows' means over some of the "
        f"studies. Marks: mean over subsets of the {len(studies.runs)} studies; bars: lowest to highest, no intervals. "
        "Larger subsets share more of their studies."
    )

    def draw() -> Figure:
        from reports.figures.over_studies import agreement_by_studies

        return agreement_by_studies(frame, names, table.title, studies.facts, caption)

    return Plot(GROWTH, table.title, caption, frame, draw, words={"mean": "mean agreement"})
