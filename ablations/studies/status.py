"""Describe the state of a study: each run that has begun, with its time and machine, and the time left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ablations.progress import clock
from ablations.studies.folder import run_folder
from ablations.studies.results import study_runs
from ablations.studies.run import read_state
from ablations.studies.run_times import RunTime, makespan, read_times, seconds_left
from ablations.studies.schema import Study
from ablations.studies.stages import describe_stage
from reports.marks import marks_of
from reports.statuses import SHOWN

Run = Mapping[Any, Any]  # a line of a study's frame


def describe(study: Study, folder: Path) -> str:
    """Describe the state of a study, one line per run that has begun."""
    runs = study_runs(study, folder).drop_duplicates("run")
    lines = [f"{study.name}: {_counted(runs['status'])}"]
    states = {run.name: read_state(run_folder(folder, run)) for run in study.runs}
    begun = runs[runs["status"] != "left"].to_dict("records")
    machines = {str(run["machine"]) for run in begun if isinstance(run.get("machine"), str)}
    width = max((len(run["run"]) for run in begun), default=0)
    for run in begun:
        said = [_result(run, states[run["run"]].last)]
        said += [str(run["machine"])] if len(machines) > 1 and isinstance(run.get("machine"), str) else []
        lines.append(f"  {run['run']:<{width}}  {_time(run):>8}  {'; '.join(said)}")
    if len(machines) == 1:
        lines.append(f"  all on {machines.pop()}")
    if (left := _time_left(read_times(study, folder, states))) is not None:
        lines.append(f"  {left}")
    if len(study.stages) > 1:
        lines += [f"  {describe_stage(number, stage)}" for number, stage in enumerate(study.stages, 1)]
    return "\n".join(lines)


def describe_several(name: str, studies: Mapping[str, tuple[Study, Path]]) -> str:
    """Describe the state of a combined study: a line for all of its runs, and one per study."""
    parts, counted, times = [], [], []
    for key, (study, folder) in studies.items():
        runs = study_runs(study, folder).drop_duplicates("run")
        states = {run.name: read_state(run_folder(folder, run)) for run in study.runs}
        parts.append(runs["status"])
        counted.append(f"  {key:<{max(map(len, studies))}}  {_counted(runs['status'])}")
        times += [replace(one, row=f"{key}/{one.row}") for one in read_times(study, folder, states)]  # of its setting
    lines = [f"{name}: {len(studies)} studies, {_counted(pd.concat(parts))}", *counted]
    return "\n".join(lines if (left := _time_left(times)) is None else [*lines, f"  {left}"])


def _counted(statuses: pd.Series) -> str:
    """Count runs by status: `3 runs: 2 finished, 1 running, …`."""
    counts = statuses.value_counts()
    summary = ", ".join(f"{counts.get(status, 0)} {shown}" for status, shown in SHOWN.items())
    return f"{len(statuses)} run{'s' * (len(statuses) != 1)}: {summary}"


def is_running(study: Study, folder: Path) -> bool:
    """Whether any run of a study is being trained."""
    return any(read_state(run_folder(folder, run)).status == "running" for run in study.runs)


def _result(run: Run, last: Mapping[str, Any]) -> str:
    """Say what became of a run: its top-1 with its marks, why it failed, or the images that it has seen."""
    if run["status"] == "done":
        return ", ".join([f"finished: top-1 {run['top1']:.2f}%", *marks_of(run)])
    if run["status"] == "failed":
        return f"failed: {run['reason']}"
    if not last:
        return f"{SHOWN[run['status']]}: no images logged yet"
    seen, whole = last["images"], last["images"] * last["steps"] / last["step"]
    share = f"{seen:,} of {whole:,.0f} images seen ({100 * seen / whole:.0f}%)"
    return f"{SHOWN[run['status']]}: {share}, training loss {last['loss']:.3f}, top-1 {last['top1']:.2f}%"


def _time(run: Run) -> str:
    return "" if pd.isna(run["seconds"]) else clock(run["seconds"])


def _time_left(times: list[RunTime]) -> str | None:
    """Estimate the time until all runs are finished; None if none is left, or nothing is known yet."""
    left = seconds_left(times)
    if not left:
        return None
    running = sum(one.status == "running" for one in times)
    how = f"{running} runs in parallel" if running > 1 else "one run at a time"
    return f"about {clock(makespan(left, running))} left with {how}"
