"""Record the stages of a study: what it started with, and what was added, when and why.

The statistics need it (see `reports.statistics.sequential`): a stage that was added after runs had finished may have
been added because of their results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain

from ablations.studies.schema import Stage, Study

START, PILOT, EXTENDED = "start", "pilot", "extended"  # as `reports.statistics.sequential` reads them
RETRIED = "retried"
PILOT_SEEDS = 3  # of a study that asks for precision and has one seed


def begun(study: Study) -> Study:
    """Return the study with its first stage, which holds all its rows and seeds."""
    why = PILOT if study.precision else START
    stage = Stage(why=why, date=_now(), seeds=study.seeds, rows=[row.row for row in study.rows])
    return study.model_copy(update={"stages": [stage]})


def extended(before: Study, requested: Study, looked: bool) -> Study:
    """Return the study of a folder with what is asked for added and recorded.

    Args:
        before: The study as stored in its folder.
        requested: A study with all rows of `before`, unchanged, and all its seeds or those of its first stage.
        looked: Whether a run of the last stage is finished, so that additions may depend on results.
    """
    seeds = [seed for seed in requested.seeds if seed not in before.seeds]
    names = {row.row for row in before.rows}
    rows = [row.row for row in requested.rows if row.row not in names]
    precision = requested.precision or (None if seeds or rows else before.precision)
    if not (seeds or rows) and precision == before.precision:
        same = {"seeds": before.seeds, "stages": before.stages, "precision": precision, "asked": before.asked}
        return requested.model_copy(update=same)
    stages = list(before.stages) or [Stage(why=START, seeds=before.seeds, rows=[row.row for row in before.rows])]
    if (seeds or rows) and looked:
        stages.append(Stage(why=EXTENDED, date=_now(), seeds=seeds, rows=rows))
    elif seeds or rows:
        last = stages[-1]
        why = EXTENDED if last.why == RETRIED else last.why
        stages[-1] = last.model_copy(update={"why": why, "seeds": [*last.seeds, *seeds], "rows": [*last.rows, *rows]})
    if len(stages) == 1 and not looked:
        stages[0] = stages[0].model_copy(update={"why": PILOT if precision else START})
    return requested.model_copy(update={"seeds": [*before.seeds, *seeds], "stages": stages, "precision": precision})


def retried(study: Study, failed: Sequence[str]) -> Study:
    """Return the study with a stage of runs that failed, were missing at a look at the results, and are tried again."""
    stage = Stage(why=RETRIED, date=_now(), seeds=[], rows=[], runs=list(failed))
    first = Stage(why=START, seeds=study.seeds, rows=[row.row for row in study.rows])
    return study.model_copy(update={"stages": [*(study.stages or [first]), stage]})


def last_planned(study: Study) -> Stage | None:
    """Return the last stage that added seeds or rows, or was sized; None in folders older than stages."""
    return next((stage for stage in reversed(study.stages) if stage.why != RETRIED), None)


def unsized(study: Study) -> bool:
    """Whether the study asks for a precision whose number of seeds has not been computed yet."""
    last = last_planned(study)
    return study.precision is not None and (last is None or last.precision != study.precision)


def sized(study: Study, needed: int) -> Study:
    """Return a finished study with the stage that gives every row `needed` seeds, or max_seeds."""
    assert study.precision is not None
    stages, wanted = list(study.stages), min(needed, study.precision.max_seeds)
    last = max(study.seeds)  # smaller ones may have been left out because another study has used them
    unused = (seed for seed in chain(range(last + 1, 2**31), range(last)) if seed not in study.seeds)
    seeds = [next(unused) for _ in range(wanted - len(study.seeds))]
    planned = len(stages) == 1 and stages[0].why == PILOT
    why = str(study.precision) if planned else f"{EXTENDED} to {study.precision}"
    if planned and not seeds:
        stages[0] = stages[0].model_copy(update={"why": why, "precision": study.precision, "needed": needed})
    else:
        stages.append(Stage(why=why, date=_now(), seeds=seeds, rows=[], precision=study.precision, needed=needed))
    return study.model_copy(update={"seeds": [*study.seeds, *seeds], "stages": stages})


def stage_numbers(study: Study) -> Callable[[str, int], int]:
    """Return a function from row and seed to the stage (from 1) that added the run."""
    rows = {row: number for number, stage in enumerate(study.stages, 1) for row in stage.rows}
    seeds = {seed: number for number, stage in enumerate(study.stages, 1) for seed in stage.seeds}
    retries = {run: number for number, stage in enumerate(study.stages, 1) for run in stage.runs}
    runs_of = {row.row: row.same_as or row.row for row in study.rows}

    def number(row: str, seed: int) -> int:
        again = retries.get(f"{runs_of.get(row, row)}-s{seed}", 1) if retries else 1
        return max(rows.get(row, 1), seeds.get(seed, 1), again)

    return number


def describe_stage(number: int, stage: Stage) -> str:
    """Say what a stage added, when and why."""
    word = "seed" if len(stage.seeds) == 1 else "seeds"
    seeds = [f"{word} {', '.join(map(str, stage.seeds))}"] if stage.seeds else []
    rows = [f"{len(stage.rows)} row{'s' if len(stage.rows) != 1 else ''}"] if stage.rows else []
    again = [f"{len(stage.runs)} failed run{'s' if len(stage.runs) != 1 else ''} tried again"] if stage.runs else []
    what = " and ".join([*rows, *seeds, *again]) or "nothing to add"
    return f"stage {number} ({', '.join(filter(None, [stage.why, stage.date]))}): {what}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
