"""Estimate how long a study's runs take: from what has been timed, else in proportion to their work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.store import DamagedError, read_json
from ablations.studies.folder import run_folder
from ablations.studies.networks import count_design
from ablations.studies.run import RunConfig, State
from ablations.studies.schema import Study
from modernize.design import DesignError

# Time per image after training, of a training step's time per image. Measured with `quick` on two cores: 0.23 per test
# image, and as long as training per image on which BatchNorm's statistics are recomputed.
_EVALUATED, _STATISTICS = 0.25, 1.0


def after_training(run: RunConfig, train: int, test: int) -> float:
    """Return the time that a run's evaluation takes, in training steps' time per image."""
    normalized = run.reference is None and run.design.norm == "bn"
    statistics_of = min(run.recipe.precise_bn or 0, train) if normalized else 0
    weights = 2 if run.recipe.ema_decay is not None else 1
    return weights * (_EVALUATED * test + _STATISTICS * statistics_of)


def makespan(seconds: Iterable[float], at_once: int) -> float:
    """Return the time until all runs have ended, if the next run starts on the first free worker."""
    workers = [0.0] * max(at_once, 1)
    for one in seconds:
        first = workers.index(min(workers))
        workers[first] += one
    return max(workers)


@dataclass(frozen=True)
class RunTime:
    """What is known of a run's time (s).

    `work` is of its training, in images times MACs, and `evaluation` that of its evaluation, in the same unit; both are
    None if they cannot be counted. `trained` is the time of the trained `share`. `wall` is the time from the start of
    the run's only session to its result. `running` is how long its present session has been running, or `since` how
    long ago its log was written if it resumed.
    """

    row: str
    status: str
    work: float | None
    evaluation: float | None
    trained: float | None
    share: float
    wall: float | None = None
    running: float | None = None
    since: float = 0.0

    @property
    def training(self) -> float | None:
        """The whole training's time, at its own pace so far."""
        return self.trained / self.share if self.trained and self.share else None

    @property
    def rest(self) -> float | None:
        """The time that a finished run took beside training: its start, evaluation and files."""
        return self.wall - self.trained if self.wall and self.trained and self.wall > self.trained else None


def read_times(study: Study, folder: Path, states: Mapping[str, State]) -> list[RunTime]:
    """Read what is known of the time of each run of a study."""
    sessions = {run.name: _sessions(run_folder(folder, run)) for run in study.runs}
    begun = next((found[-1] for found in sessions.values() if found and "images" in found[-1]), None)
    return [_read(run, run_folder(folder, run), states[run.name], sessions[run.name], begun) for run in study.runs]


def seconds_left(times: list[RunTime]) -> list[float] | None:
    """Estimate the time that each unfinished run needs, running ones first; None if nothing is known."""
    expect = _Expected(times)
    if expect.mean is None:
        return None
    unfinished = [one for one in times if one.status not in ("done", "failed")]
    runs = sorted(unfinished, key=lambda one: one.status != "running")
    return [expect.left(one) for one in runs]


class _Expected:
    """The expected times of runs, given what is known of all."""

    def __init__(self, times: list[RunTime]):
        self.times = times
        known = [one for one in times if one.training]
        self.mean = statistics.fmean(one.training or 0 for one in known) if known else None
        counted = [one for one in known if one.work]
        work = sum(one.work or 0 for one in counted)
        self.pace = sum(one.training or 0 for one in counted) / work if work else None
        self.by_row: dict[str, list[float]] = {}
        self.rests: dict[str, list[float]] = {}
        for one in times:
            self.by_row.setdefault(one.row, []).extend([one.training] if one.training else [])
            self.rests.setdefault(one.row, []).extend([one.rest] if one.rest else [])
        self.all_rests = [rest for rests in self.rests.values() for rest in rests]

    def training(self, run: RunTime) -> float:
        """Expect a run's training time from itself, its row, its work, or all runs."""
        if run.training:
            return run.training
        if self.by_row[run.row]:
            return statistics.fmean(self.by_row[run.row])
        return run.work * self.pace if run.work and self.pace else self.mean or 0.0

    def rest(self, run: RunTime) -> float:
        """Expect the time of a run's start and evaluation, from its row, all runs, or its work."""
        if self.rests[run.row]:
            return statistics.fmean(self.rests[run.row])
        if self.all_rests:
            return statistics.median(self.all_rests)
        return self.training(run) * run.evaluation / run.work if run.work and run.evaluation else 0.0

    def left(self, run: RunTime) -> float:
        whole, rest = self.training(run), self.rest(run)
        if run.status == "running" and run.running is not None:
            return max(whole + rest - run.running, 0.0)
        return max(whole * (1 - run.share) + rest - run.since, 0.0)


def _read(
    run: RunConfig, folder: Path, state: State, sessions: list[dict[str, Any]], begun: dict[str, Any] | None
) -> RunTime:
    """Read what is known of a run's time from its files, whose times are all of one clock."""
    work, evaluation = _work(run, begun)
    last, now = state.last, time.time()
    once = len(sessions) == 1
    started = _modified(folder / "environment.json") if once else None
    if state.status in ("done", "failed"):
        ended = _modified(folder / "result.json")
        wall = ended - started if started and ended and state.status == "done" else None
        return RunTime(run.row, state.status, work, evaluation, state.result.get("seconds"), 1.0, wall)
    share = last["step"] / last["steps"] if last else 0.0
    logged = _modified(folder / "log.jsonl") if last else None
    running = state.status == "running"
    return RunTime(
        run.row,
        state.status,
        work,
        evaluation,
        last.get("seconds"),
        share,
        running=max(now - started, 0.0) if running and started else None,
        since=max(now - logged, 0.0) if running and logged else 0.0,
    )


def _work(run: RunConfig, begun: dict[str, Any] | None) -> tuple[float | None, float | None]:
    """Count the work of a run's training and evaluation, by the dataset of a session; None if it cannot be counted."""
    if begun is None or run.reference is not None:
        return None, None
    train, test = begun["data"]["train"], begun["data"]["test"]
    shape = begun["images"]
    try:
        size = run.recipe.image_size or shape["size"]
        macs = count_design(run.design, size, shape["channels"], shape["classes"]).macs
    except DesignError:
        return None, None
    return float(macs * run.images_of(train)), float(macs * after_training(run, train, test))


def _sessions(folder: Path) -> list[dict[str, Any]]:
    try:
        return list(read_json(folder / "environment.json")["sessions"])
    except (FileNotFoundError, DamagedError, KeyError):
        return []


def _modified(path: Path) -> float | None:
    """Return when a file was written; None if it does not exist."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
