"""The results of each row, from the tidy frame of a study's runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from reports.errors import ReportError, shortened
from reports.predictions import images_of
from reports.statistics.measures import MEASURES, Measure
from reports.statistics.values import known
from reports.statuses import BETWEEN, NOT_COMPARED, shown


def baselines(base: object) -> list[str]:
    """The rows that a row is compared with, from the column `base` of a study's frame."""
    return base.split(BETWEEN) if isinstance(base, str) else []


@dataclass(frozen=True)
class RowResults:
    """A row's results: one value per finished seed, and those that its variance is estimated from.

    `group` names the rows that it shares a noise model with. `source` is the row whose runs these are: itself, or the
    first row with the same runs. `reason` says why the row cannot be tested; `note` what became of its other runs.
    """

    name: str
    values: tuple[float, ...] = ()
    variance_values: tuple[float, ...] = ()
    group: tuple[object, ...] = ()
    source: str = ""
    reason: str = "not run"
    note: str = "not run"


@dataclass
class _Lines:
    """The lines of a row."""

    values: dict[int, float] = field(default_factory=dict)
    statuses: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    for_variance: set[int] = field(default_factory=set)
    recipes: set[object] = field(default_factory=set)
    images: set[object] = field(default_factory=set)
    runs: set[object] = field(default_factory=set)


def gather(runs: pd.DataFrame, measure: Measure, variance_from: pd.Series | None = None) -> dict[str, RowResults]:
    """The results of every row of a study, in its order (arguments as `compare`)."""
    frame = pd.DataFrame(
        {name: runs.get(name) for name in ("reason", "recipe", "images_seen", "run")}, index=runs.index
    )
    frame = frame.assign(row=runs["row"], seed=runs["seed"], status=runs["status"], value=runs.get(measure))
    frame["used"] = True if variance_from is None else variance_from.astype(bool)
    rows: dict[str, _Lines] = {}
    line: Any
    for line in frame.itertuples(index=False):
        row, seed = rows.setdefault(str(line.row), _Lines()), int(line.seed)
        row.statuses[seed] = str(line.status)
        if isinstance(line.reason, str) and line.reason:
            row.reasons[seed] = shortened(line.reason)
        if line.status == "done" and known(line.value):
            row.values[seed] = float(line.value)
            row.recipes |= {line.recipe} if isinstance(line.recipe, str) else set()
            row.images |= {line.images_seen} if known(line.images_seen) else set()
            row.runs |= {line.run} if isinstance(line.run, str) else set()
            if line.used:
                row.for_variance.add(seed)
    sources: dict[frozenset[object], str] = {}
    return {
        name: _results(name, row, sources.setdefault(frozenset(row.runs), name) if row.runs else name, measure)
        for name, row in rows.items()
    }


def _results(name: str, row: _Lines, source: str, measure: Measure) -> RowResults:
    reason = ""
    if not row.values:
        statuses = set(row.statuses.values())
        ended = next((status for status in ("failed", NOT_COMPARED) if status in statuses), "not run")
        reason = f"no {MEASURES[measure].name}" if ended != "failed" and "done" in statuses else ended
    elif len(row.recipes) > 1:
        reason = "several recipes"
    elif len(row.images) > 1:
        reason = "several budgets"
    group = (next(iter(row.recipes), None), next(iter(row.images), None))
    values = tuple(value for _, value in sorted(row.values.items()))
    used = tuple(value for seed, value in sorted(row.values.items()) if seed in row.for_variance)
    note = account(row.statuses, row.values, row.reasons, measure)
    return RowResults(name, values, used, group, source, reason, note)


def resolution(runs: pd.DataFrame, measure: Measure = "top1") -> float:
    """The step in which top-1 comes, 100 / test images; 0 if unknown, and for the loss."""
    images = images_of(runs) if measure == "top1" else None
    return 100 / images if images else 0.0


def account(
    statuses: Mapping[int, str], values: Collection[int], reasons: Mapping[int, str], measure: Measure = "top1"
) -> str:
    """Describe the runs of a row that have no result, like ones together: `seeds 0, 2 failed (loss is nan)`.

    Args:
        statuses: Status of each seed's run.
        values: The seeds that have a result.
        reasons: Why runs failed, by seed.
        measure: The result that is missing.
    """
    fates: dict[str, list[str]] = {}
    for seed, status in sorted(statuses.items()):
        if seed not in values:
            fate = f"finished without {MEASURES[measure].name}" if status == "done" else shown(status)
            fates.setdefault(f"{fate} ({reasons[seed]})" if seed in reasons else fate, []).append(str(seed))
    return ", ".join(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)} {fate}" for fate, seeds in fates.items())


def refuse_duplicates(runs: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse what would be counted twice."""
    twice = runs[runs.duplicated(["row", "seed"])]
    if len(twice):
        row, seed = twice.iloc[0][["row", "seed"]]
        raise ReportError(f"row {row} has two runs of seed {seed}")
    for place, (row, base) in enumerate(pairs):
        if row == base:
            raise ReportError(f"row {row} is compared with itself")
        if (row, base) in pairs[:place]:
            raise ReportError(f"row {row} is compared with {base} twice")
