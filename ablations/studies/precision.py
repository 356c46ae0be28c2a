"""State which differences a plan detects, and size the second stage of a study that asks for a precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ablations.errors import RunError
from ablations.studies.folder import read_study, run_folder, write_study
from ablations.studies.run import finished
from ablations.studies.schema import Study
from ablations.studies.stages import START, last_planned, sized, stage_numbers, unsized


def add_needed_seeds(folder: Path) -> Study:
    """Add the seeds that the precision needs, once all runs are finished; return the study that the folder then holds.

    Raises RunError if no comparison's variance is known.
    """
    from filelock import FileLock

    study = read_study(folder)
    if not unsized(study):
        return study
    with FileLock(folder / ".study.yaml.lock"):  # of two commands at the same time, the second finds the first's seeds
        study = read_study(folder)
        if not unsized(study) or not all(finished(run_folder(folder, run)) for run in study.runs):
            return study
        from ablations.studies.results import study_runs
        from reports.predictions import on_compared_images
        from reports.statistics.precision import seeds_needed

        assert study.precision is not None
        runs = on_compared_images(study_runs(study, folder))
        needed = seeds_needed(runs, study.precision.half_width, study.measure)
        if needed is None:
            known = "no comparison has a known variance: it takes two finished runs of one row with different results"
            raise RunError(f"study folder {folder}: {known}")
        study = sized(study, needed)
        write_study(study, folder)
    return study


def describe_precision(study: Study) -> str | None:
    """Describe the seeds that the last stage needs; None if they were not computed."""
    last = last_planned(study)
    if last is None or last.precision is None or last.needed is None:
        return None
    precision, seeds = last.precision, len(study.seeds)
    text = f"±{precision.half_width:g} needs {last.needed} seeds per row"
    if last.needed > precision.max_seeds:
        return f"{text}; max_seeds={precision.max_seeds} stops at {seeds}"
    added = len(last.seeds) if len(study.stages) > 1 else 0
    return f"{text}; {added} were added to {seeds - added}" if added else f"{text}; the present {seeds} are enough"


def describe_added(before: Study, now: Study) -> Iterator[str]:
    """Describe the rows and seeds that a study's folder does not have yet, and what they cost in error rate."""
    rows = [row.row for row in now.rows if row.row not in {row.row for row in before.rows}]
    seeds = [seed for seed in now.seeds if seed not in before.seeds]
    parts = [f"row{'s' if rows[1:] else ''} {', '.join(rows)}"] if rows else []
    parts += [f"seed{'s' if seeds[1:] else ''} {', '.join(map(str, seeds))}"] if seeds else []
    if parts:
        yield " and ".join(parts) + (f": {text}" if (text := further_look(before, now)) else "")
    if now.precision != before.precision and now.precision is not None:
        yield f"seeds until {now.precision} is reached"


def further_look(before: Study, now: Study) -> str | None:
    """Say which share of the error rate an extension's look has, and why; None if it is part of the last stage."""
    if len(now.stages) <= max(len(before.stages), 1):
        return None
    *earlier, last = _look_shares(now)
    kept = ", ".join(f"{100 * share:.2g}%" for share in earlier)
    return (
        f"look {len(earlier) + 1}, with {100 * last:.2g}% of the error rate, because runs have finished; "
        f"{'the look before keeps' if len(earlier) == 1 else 'those before keep'} {kept} (see docs/precision.md)"
    )


def _look_shares(study: Study, seeds: int | None = None) -> list[float]:
    """Return the share of the error rate of each look at a study, when all its runs have finished.

    With `seeds`, the last stage brings every row to that number.
    """
    import pandas as pd

    from reports.statistics.sequential import FIRST_SHARE, looks

    stage_of = stage_numbers(study)
    numbers = [stage_of(row.row, seed) for row in study.rows for seed in study.seeds]
    numbers += [max(numbers)] * (len(study.rows) * ((seeds or len(study.seeds)) - len(study.seeds)))
    added = [study.stages[number - 1].why if study.stages else START for number in numbers]
    shares = [look.share for look in looks(pd.DataFrame({"stage": numbers, "added": added, "status": "done"}))]
    return shares or [FIRST_SHARE]  # of a pilot, whose second stage is to come


def _shown(size: float) -> str:
    """Write a number of standard deviations; no true difference is nearly as large as 100."""
    return f"{size:.1f}" if size < 100 else "over 100"


def _seeds_to_detect(largest: float, seeds: int, detectable: Callable[[int], float]) -> str:
    """Say how many seeds per row detect a difference of at most `largest` standard deviations."""
    for more in range(seeds + 1, seeds + 4):
        if (size := detectable(more)) <= largest:
            return f"{more} seeds per row would detect {size:.1f}"
    return f"add seeds; {more} per row would detect {size:.1f}"


def describe_power(study: Study) -> str | None:
    """Describe, before any training, which difference the plan detects; None if it compares no rows."""
    rows = {row.row: row for row in study.rows}
    distinct = {row.row: place for place, row in enumerate(row for row in study.rows if row.same_as is None)}
    pairs = [
        (distinct[row.same_as or row.row], distinct[rows[base].same_as or base])
        for row in study.rows
        for base in row.baselines
    ]
    pairs = [pair for pair in pairs if pair[0] != pair[1]]
    if not pairs:
        return None
    seeds = len(study.seeds)
    if seeds == 1:
        return "one seed per row: no comparison will be tested; --seeds 0,1,2 or --precision gives verdicts"
    import numpy as np

    from reports.statistics.power import HOPELESS, detectable_difference
    from reports.statistics.sequential import FIRST_SHARE

    recipes = list(dict.fromkeys(row.recipe for row in study.rows))
    groups = [recipes.index(rows[name].recipe) for name in distinct]

    def detectable(seeds: int, first: bool = False) -> float:
        share = FIRST_SHARE if first else _look_shares(study, seeds)[-1]
        return detectable_difference(seeds, np.array(pairs), groups, share=share)

    size, looks = detectable(seeds), len(_look_shares(study))
    alone = f" by look {looks} alone" if looks > 1 else ""
    many = f"{len(pairs)} comparisons" if len(pairs) > 1 else "1 comparison"
    lines = [
        f"{many} with {seeds} seeds per row: a true difference of {_shown(size)} standard deviations between seeds is "
        f"detected with 80% power{alone}"
    ]
    if looks > 1:
        lines.append(
            f"with {seeds} seeds from the start, in another folder, one of {detectable(seeds, first=True):.1f}"
        )
    if study.precision:
        most = study.precision.max_seeds
        lines.append(f"{study.precision}: then as many more seeds as the spread of these needs, {most} per row at most")
    elif size > HOPELESS:
        wanted = _seeds_to_detect(HOPELESS, seeds, detectable)
        lines.append(f"effects are rarely so large: {wanted}, or let --precision add them")
    return "; ".join(lines)
