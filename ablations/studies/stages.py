"""The record of a study's stages: what it began with, and what was added to it when and why.

The statistics need it (see `reports.statistics.sequential`): a stage that was added after runs had finished may have
been added because of what they showed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from ablations.studies.schema import Study

START, PILOT, EXTENDED = "start", "pilot", "extended"  # as `reports.statistics.sequential` reads them
PILOT_SEEDS = 3  # of a study that asks for precision and has one seed
MAX_SEEDS = 20  # unless the study says otherwise

Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]


class Precision(BaseModel):
    """The precision asked for: seeds are added until every comparison's 95% CI is at most ± half_width."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    half_width: float = Field(gt=0)
    max_seeds: int = Field(default=MAX_SEEDS, ge=2)

    def __str__(self) -> str:
        return f"precision {self.half_width:g}"


class Stage(BaseModel):
    """Seeds and rows that were added together. Each added row has all seeds, and each added seed all rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    why: str
    date: str | None = Field(default=None, description="UTC; none in folders made before stages were recorded")
    seeds: list[Seed]
    rows: list[str]
    precision: Precision | None = Field(default=None, description="the request that this stage fulfils")
    needed: int | None = Field(default=None, description="seeds that the request needs, where max_seeds allows fewer")


def begun(study: Study) -> Study:
    """The study with its first stage: all that it has."""
    why = PILOT if study.precision else START
    stage = Stage(why=why, date=_now(), seeds=study.seeds, rows=[row.row for row in study.rows])
    return study.model_copy(update={"stages": [stage]})


def extended(before: Study, asked: Study, looked: bool) -> Study:
    """The study of a folder with what is asked for beside it, on record.

    Args:
        before: The study as its folder has it.
        asked: A study that has all rows of `before`, as they are, and all of its seeds or those that it began with.
        looked: Whether a run of the last stage has ended: what is added then may follow from results.
    """
    seeds = [seed for seed in asked.seeds if seed not in before.seeds]
    names = {row.row for row in before.rows}
    rows = [row.row for row in asked.rows if row.row not in names]
    precision = asked.precision or (None if seeds or rows else before.precision)
    if not (seeds or rows) and precision == before.precision:
        return asked.model_copy(update={"seeds": before.seeds, "stages": before.stages, "precision": precision})
    stages = list(before.stages) or [Stage(why=START, seeds=before.seeds, rows=[row.row for row in before.rows])]
    if (seeds or rows) and looked:
        stages.append(Stage(why=EXTENDED, date=_now(), seeds=seeds, rows=rows))
    elif seeds or rows:
        last = stages[-1]
        stages[-1] = last.model_copy(update={"seeds": [*last.seeds, *seeds], "rows": [*last.rows, *rows]})
    if len(stages) == 1 and not looked:
        stages[0] = stages[0].model_copy(update={"why": PILOT if precision else START})
    return asked.model_copy(update={"seeds": [*before.seeds, *seeds], "stages": stages, "precision": precision})


def unsized(study: Study) -> bool:
    """Whether the study asks for a precision whose number of seeds has not been computed yet."""
    return study.precision is not None and (not study.stages or study.stages[-1].precision != study.precision)


def sized(study: Study, needed: int) -> Study:
    """The study, all of whose runs have ended, with the stage that gives every row `needed` seeds or max_seeds."""
    assert study.precision is not None
    stages, wanted = list(study.stages), min(needed, study.precision.max_seeds)
    unused = (seed for seed in range(2**31) if seed not in study.seeds)
    seeds = [next(unused) for _ in range(wanted - len(study.seeds))]
    planned = len(stages) == 1 and stages[0].why == PILOT
    why = str(study.precision) if planned else f"{EXTENDED} to {study.precision}"
    if planned and not seeds:
        stages[0] = stages[0].model_copy(update={"why": why, "precision": study.precision, "needed": needed})
    else:
        stages.append(Stage(why=why, date=_now(), seeds=seeds, rows=[], precision=study.precision, needed=needed))
    return study.model_copy(update={"seeds": [*study.seeds, *seeds], "stages": stages})


def stage_numbers(study: Study) -> Callable[[str, int], int]:
    """For a row and a seed, the stage (from 1) in which its run was added."""
    rows = {row: number for number, stage in enumerate(study.stages, 1) for row in stage.rows}
    seeds = {seed: number for number, stage in enumerate(study.stages, 1) for seed in stage.seeds}
    return lambda row, seed: max(rows.get(row, 1), seeds.get(seed, 1))


def describe_stage(number: int, stage: Stage) -> str:
    """Say what a stage added, when and why."""
    seeds = [f"seeds {', '.join(map(str, stage.seeds))}"] if stage.seeds else []
    rows = [f"{len(stage.rows)} row{'s' if len(stage.rows) != 1 else ''}"] if stage.rows else []
    what = " and ".join([*rows, *seeds]) or "nothing to add"
    return f"stage {number} ({', '.join(filter(None, [stage.why, stage.date]))}): {what}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
