"""Agreement with a roadmap's source of the mean of several studies, of each alone, and how it grows with their number.

A row's mean is over studies, all with the same weight; the changes of steps then are the means of the studies' changes.
Nothing here has an interval: studies that differ in their setting are no repetitions of one another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from modernize.roadmap import PAPER, Roadmap, Row
from reports.combined import Combined
from reports.paper_agreement import PaperAgreement, RowMeans, compared, distinct_rows, fair_rows, printed
from reports.statistics import MEASURES
from reports.statistics.agreement import change_correlation, pairwise_accuracy
from reports.tables import Cell, Column, Table, number

AGREEMENT, GROWTH = "agreement", "agreement-by-studies"
MOST_SUBSETS = 4096  # subsets of one size; if there are more, this many are sampled


def mean_agreement(studies: Combined, steps: Roadmap, names: Sequence[str] | None = None) -> tuple[PaperAgreement, ...]:
    """Compare the rows' means over studies with each regime of the paper, or with whatever the roadmap's source prints.

    Args:
        studies: The studies.
        steps: Their roadmap.
        names: The studies to average [default: all].

    Returns:
        One agreement for each regime, without intervals, over the rows that all studies have.
    """
    rows = _rows(studies, steps)
    better = MEASURES[studies.measure].sign * studies.means[list(names or studies.runs)].mean(axis=1)
    values = {str(row): float(value) for row, value in better.items()}
    ours = RowMeans(values, dict.fromkeys(values, math.nan))
    return tuple(compared(target, ours, rows, theirs) for target, theirs in printed(steps).items())


def growth(studies: Combined, steps: Roadmap) -> pd.DataFrame:
    """Measure the agreement of the mean over every number of studies.

    Args:
        studies: The studies.
        steps: Their roadmap.

    Returns:
        One line per number of studies and regime: label, studies, subsets (averaged), sampled (whether these are not
        all subsets), with (the regime), mean, min and max of `PaperAgreement.response` over subsets.
    """
    names, rows = studies.studies, _rows(studies, steps)
    values = MEASURES[studies.measure].sign * studies.means.loc[[row.name for row in rows]].to_numpy(float).T
    lines = []
    for many in range(1, len(names) + 1):
        subsets, sampled = _subsets(len(names), many)
        means = np.stack([values[subset].mean(axis=0) for subset in subsets])
        for target, theirs in printed(steps).items():
            found = _responses(means, rows, theirs)
            label = f"{many} {'study' if many == 1 else 'studies'}, {_named(target, steps)}"
            line = {"label": label, "studies": many, "subsets": len(subsets), "sampled": sampled, "with": target}
            lines.append(line | {"mean": found.mean(), "min": found.min(), "max": found.max()})
    return pd.DataFrame(lines)


def _rows(studies: Combined, steps: Roadmap) -> list[Row]:
    """Return the rows that have a result in every study, and runs of their own."""
    distinct = [{row.name for row in distinct_rows(frame, steps)} for frame in studies.runs.values()]
    there = studies.means.notna().all(axis=1)
    return [row for row in steps.rows if all(row.name in own for own in distinct) and there[row.name]]


def _subsets(many: int, size: int) -> tuple[NDArray[np.intp], bool]:
    """Return all subsets of a size, or a sample of them, (subsets, size), and whether it is a sample."""
    if math.comb(many, size) <= MOST_SUBSETS:
        return np.array(list(combinations(range(many), size)), dtype=np.intp), False
    drawn = np.random.default_rng(0).random((MOST_SUBSETS, many)).argsort(axis=1)
    return drawn[:, :size], True


def _responses(means: NDArray[np.float64], rows: Sequence[Row], theirs: RowMeans) -> NDArray[np.float64]:
    """Return `PaperAgreement.response` of many sets of means, (sets, rows)."""
    there = [row for row in rows if row.name in theirs.means]
    places = {row.name: place for place, row in enumerate(rows)}

    def both(chosen: Sequence[Row]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return means[:, [places[row.name] for row in chosen]], np.array(theirs.of(chosen).means, dtype=float)

    pairs = pairwise_accuracy(*both(fair_rows(there)))
    changes = change_correlation(*both([row for row in there if row.adopted]))
    return (pairs + (1 + changes) / 2) / 2


def _named(target: str, steps: Roadmap) -> str:
    return f"{target} regime" if steps.base in PAPER else target


def agreement_tables(studies: Combined, steps: Roadmap, title: str) -> list[Table]:
    """Tabulate the agreement of each study and of the mean, then of means over fewer studies.

    Args:
        studies: The studies.
        steps: Their roadmap.
        title: The title of the report.

    Returns:
        Two tables; none if too few rows have a result in all studies and a printed one.
    """
    if math.isnan(mean_agreement(studies, steps)[0].response):
        return []
    return [_agreement_table(studies, steps, title), _growth_table(studies, steps, title)]


def _agreement_table(studies: Combined, steps: Roadmap, title: str) -> Table:
    many = len(studies.runs)
    lines = [(name, mean_agreement(studies, steps, [name])) for name in studies.runs]
    lines.append((f"mean of the {many} studies", mean_agreement(studies, steps)))
    measured = (("pairs", "pairs in order"), ("correlation", "rank correlation"), ("agreement", "agreement"))
    columns = [
        Column(f"{key}_{place}", words, _named(one.target, steps))
        for place, one in enumerate(lines[-1][1], start=1)
        for key, words in measured
    ]
    values = [[(one.pairs.value, one.changes.value, one.response) for one in found] for _, found in lines]
    names = [f"{key} {one.target}" for one in lines[-1][1] for key, _ in measured]
    flat = [[value for one in line for value in one] for line in values]
    first = lines[-1][1][0]
    return Table(
        name=AGREEMENT,
        title=f"{title}: agreement with {steps.source.short}",
        subtitle=studies.facts,
        legend=" ".join(_legend(studies, steps, first)),
        columns=(Column("study", "study", number=False), *columns),
        rows=tuple(
            (Cell(name), *(Cell(number(value)) for value in line)) for (name, _), line in zip(lines, flat, strict=True)
        ),
        sections=(0, many),
        notes=(),
        frame=pd.DataFrame(flat, columns=names).assign(study=[name for name, _ in lines])[["study", *names]],
    )


def _legend(studies: Combined, steps: Roadmap, found: PaperAgreement) -> Iterator[str]:
    source = steps.source.short
    pairs = f"Pairs in order: share of pairs of {found.pairs.rows} rows that stand in the order of {source}"
    yield f"{pairs}; guesses: 0.50."
    yield f"Rank correlation: Spearman's, of the changes of {found.steps} adopted steps; guesses: 0."
    yield "Agreement: the mean of pairs in order and (1 + rank correlation) / 2; guesses: 0.50."
    yield f"By {MEASURES[studies.measure].name}, over the rows that all studies have; the mean has equal weights."
    yield "No interval: the studies are too few, and too unlike, to bound the agreement of their mean."


def _growth_table(studies: Combined, steps: Roadmap, title: str) -> Table:
    frame = growth(studies, steps)
    targets = list(dict.fromkeys(frame["with"]))
    columns = [
        Column(f"{key}_{place}", words, _named(target, steps))
        for place, target in enumerate(targets, start=1)
        for key, words in (("mean", "mean agreement"), ("min", "lowest"), ("max", "highest"))
    ]
    rows = []
    for many, lines in frame.groupby("studies", sort=True):
        of = f"{lines['subsets'].iloc[0]:,}{' sampled' if lines['sampled'].iloc[0] else ''}"
        cells = [number(line[key]) for line in lines.to_dict("records") for key in ("mean", "min", "max")]
        rows.append((Cell(str(many)), Cell(of), *map(Cell, cells)))
    more = f" Of more than {MOST_SUBSETS:,} subsets, {MOST_SUBSETS:,} are sampled." if frame["sampled"].any() else ""
    return Table(
        name=GROWTH,
        title=f"{title}: agreement with {steps.source.short} by number of studies",
        subtitle=studies.facts,
        legend=f"Agreement of the mean over some of the studies, for all subsets of each size; no intervals. "
        f"Larger subsets share more of their studies, so that lowest and highest draw together.{more}",
        columns=(Column("studies", "studies in the mean"), Column("subsets", "subsets"), *columns),
        rows=tuple(rows),
        sections=(),
        notes=(),
        frame=frame.drop(columns="label"),
    )


def mean_agreement_words(studies: Combined, steps: Roadmap) -> list[str]:
    """Describe the agreement of the mean beside that of single studies; empty if too few rows have results."""
    whole = mean_agreement(studies, steps)
    if math.isnan(whole[0].response):
        return []
    single = [mean_agreement(studies, steps, [name]) for name in studies.runs]
    texts = []
    for place, one in enumerate(whole):
        own = [found[place].response for found in single]
        texts.append(
            f"{number(one.response)}{f' with its {one.target} regime' if len(whole) > 1 else ''} (single studies "
            f"{number(min(own))} to {number(max(own))}, on average {number(float(np.mean(own)))})"
        )
    return [
        f"Agreement with {steps.source.short} of the rows' means over {len(single)} studies: {'; '.join(texts)}. It is "
        "the mean of pairs in order and (1 + rank correlation) / 2; guesses: 0.50; no intervals."
    ]
