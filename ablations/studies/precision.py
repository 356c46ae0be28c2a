"""Size a study's second stage from the variance of its first, so that its CIs have the requested width."""

from __future__ import annotations

from pathlib import Path

from ablations.errors import RunError
from ablations.studies.folder import read_study, run_folder, write_study
from ablations.studies.run import finished
from ablations.studies.schema import Study
from ablations.studies.stages import sized, unsized


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
        from reports.statistics.precision import seeds_needed

        assert study.precision is not None
        needed = seeds_needed(study_runs(study, folder), study.precision.half_width)
        if needed is None:
            raise RunError(f"study folder {folder}: no comparison has two finished runs, so the variance is unknown")
        study = sized(study, needed)
        write_study(study, folder)
    return study


def describe_precision(study: Study) -> str | None:
    """Describe the seeds that the last stage needs; None if they were not computed."""
    if not study.stages or (last := study.stages[-1]).precision is None or last.needed is None:
        return None
    precision, seeds = last.precision, len(study.seeds)
    text = f"±{precision.half_width:g} needs {last.needed} seeds per row"
    if last.needed > precision.max_seeds:
        return f"{text}; max_seeds={precision.max_seeds} stops at {seeds}"
    return f"{text}; there are {seeds}, {len(last.seeds)} of them added for it"
