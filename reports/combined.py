"""Several studies of the same rows: each row's mean and each comparison's difference, study by study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from reports.predictions import describe_images
from reports.row_summary import distinct, seed_words
from reports.statistics import Measure
from reports.statistics.across_studies import across_studies
from reports.statistics.row_results import RowResults, baselines, gather
from reports.statuses import PENDING

_NAMED = 8  # studies that a line of facts names
SAME_RUNS = "the same runs as its baseline"


@dataclass(frozen=True, eq=False)
class Combined:
    """Several studies of the same rows with the same comparisons.

    Attributes:
        runs: Tidy frame of each study, see `Report`, by the study's name.
        measure: What is compared.
        labels: Label of each row, in the order of the first study.
        means: Each row's mean over seeds of the measure, (rows, studies); NaN if a study has none.
        differences: Row minus baseline, one line per comparison (index: row, base), (comparisons, studies).
        compared: What `across_studies` gives, with the index of `differences`.
        notes: By comparison, or by (row, None) for a row, which studies lack a result or a seed, and why.
    """

    runs: Mapping[str, pd.DataFrame]
    measure: Measure
    labels: Mapping[str, str]
    means: pd.DataFrame
    differences: pd.DataFrame
    compared: pd.DataFrame
    notes: Mapping[tuple[str, str | None], str]

    @property
    def studies(self) -> list[str]:
        """Return the names of the studies, in order."""
        return list(self.runs)

    @property
    def alike(self) -> list[tuple[str, str]]:
        """Return pairs of studies with the same mean of every row, such as a study and its copy."""
        means = {name: own.dropna() for name, own in self.means.items()}
        return [
            (str(one), str(other))
            for (one, ours), (other, theirs) in combinations(means.items(), 2)
            if len(ours) > 1 and ours.equals(theirs)
        ]

    @property
    def facts(self) -> str:
        """Describe what was done in one line."""
        runs = pd.concat(self.runs.values(), ignore_index=True)
        seeds = sorted({int(seed) for seed in runs["seed"].dropna()})
        done = int((runs["status"] == "done").sum())
        parts = [
            f"{len(self.runs)} studies: {listed(self.studies)}",
            f"data {', '.join(distinct(runs, 'dataset'))}",
            *dict.fromkeys(filter(None, map(describe_images, self.runs.values()))),
            "on the validation split" if distinct(runs, "evaluate") == ["validation"] else "",
            f"{seed_words(seeds)} in all" if len(seeds) > 1 else seed_words(seeds),
            f"{done} of {len(runs)} results",
        ]
        return " · ".join(filter(None, parts))


def uncorrected_looks(runs: Mapping[str, pd.DataFrame]) -> list[str]:
    """Say which looks at the results the verdicts over studies, unlike those of one study, are not corrected for."""
    whole, notes = pd.concat(runs.values(), ignore_index=True), []
    if waiting := int(whole["status"].isin(PENDING).sum()):
        notes.append(f"{waiting} of {len(whole)} results are pending; verdicts are not corrected for early looks.")
    if "stage" in whole and (pd.to_numeric(whole["stage"]) > 1).any():
        notes.append(
            "Runs were added after a study had begun. Verdicts over studies are not corrected for several looks: if "
            "results suggested the new runs, there are more false verdicts than 5%."
        )
    return notes


def listed(names: Sequence[str]) -> str:
    """List the names of studies, of many the first."""
    more = len(names) - _NAMED
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:_NAMED])} and {more} more"


def combine(runs: Mapping[str, pd.DataFrame], measure: Measure = "top1") -> Combined:
    """Average the rows and comparisons of several studies.

    Args:
        runs: Tidy frame of each study, see `Report`, by its name. All have the same rows and comparisons.
        measure: What is compared.
    """
    results = {name: gather(frame, measure) for name, frame in runs.items()}
    rows = next(iter(runs.values())).drop_duplicates("row")
    labels = dict(zip(rows["row"].map(str), rows["label"].map(str), strict=True))
    pairs = [
        (str(row), base) for row, bases in zip(rows["row"], rows["base"], strict=True) for base in baselines(bases)
    ]
    pairs = [pair for pair in pairs if any(not _shared(one, pair) for one in results.values())]
    means = pd.DataFrame({name: {row: _mean(one, row) for row in labels} for name, one in results.items()})
    index = pd.MultiIndex.from_tuples(pairs, names=["row", "base"])
    differences = pd.DataFrame(
        {name: [_difference(one, pair) for pair in pairs] for name, one in results.items()}, index=index, dtype=float
    )
    notes: dict[tuple[str, str | None], str] = {}
    compared_rows = {row for row, _ in pairs}
    for row, bases in zip(labels, rows["base"], strict=True):
        same = SAME_RUNS if baselines(bases) and row not in compared_rows else ""
        notes[row, None] = same or _note(
            {name: _why(one, row) for name, one in results.items()},
            {name: _result(one, row).note for name, one in results.items()},
        )
    for pair in pairs:
        notes[pair] = _note(
            {name: _why_not(one, pair) for name, one in results.items()},
            {name: _unequal(one, pair) for name, one in results.items()},
        )
    compared = across_studies(differences, measure)
    return Combined(runs, measure, labels, means, differences, compared, notes)


def _result(results: Mapping[str, RowResults], row: str) -> RowResults:
    return results.get(row, RowResults(row, source=row))


def _mean(results: Mapping[str, RowResults], row: str) -> float:
    """A row's mean over seeds; none of runs under several recipes or budgets."""
    found = _result(results, row)
    return math.nan if found.reason else float(np.mean(found.values))


def _shared(results: Mapping[str, RowResults], pair: tuple[str, str]) -> bool:
    """Whether both rows of a comparison are the same runs."""
    row, base = (_result(results, name) for name in pair)
    return bool(row.values) and row.source == base.source


def _difference(results: Mapping[str, RowResults], pair: tuple[str, str]) -> float:
    row, base = (_mean(results, name) for name in pair)
    return math.nan if _shared(results, pair) else row - base


def _why(results: Mapping[str, RowResults], row: str) -> str:
    return _result(results, row).reason


def _why_not(results: Mapping[str, RowResults], pair: tuple[str, str]) -> str:
    """Say why a study lacks a comparison."""
    row, base = (_why(results, name) for name in pair)
    return row or (f"baseline {base}" if base else "") or (SAME_RUNS if _shared(results, pair) else "")


def _unequal(results: Mapping[str, RowResults], pair: tuple[str, str]) -> str:
    """Say which seeds the rows of a comparison lack in a study, unless both lack the same."""
    row, base = (_result(results, name).note for name in pair)
    if row == base:
        return ""
    return "; ".join(filter(None, [row, f"baseline: {base}" if base else ""]))


def _note(reasons: Mapping[str, str], seeds: Mapping[str, str]) -> str:
    """Name the studies that lack a result, then those that lack seeds of it: `fewer seeds in 03 (seed 2 failed)`."""
    fewer = {name: "" if reasons[name] else text for name, text in seeds.items()}
    return "; ".join(filter(None, [_lacking(reasons), _lacking(fewer, "fewer seeds in")]))


def _lacking(reasons: Mapping[str, str], what: str = "without") -> str:
    """Name the studies that lack something, those with one reason together: `without 03, 08 (failed)`."""
    studies: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if reason:
            studies.setdefault(reason, []).append(name)
    texts = [f"{listed(names)} ({reason})" for reason, names in studies.items()]
    return f"{what} {'; '.join(texts)}" if texts else ""
