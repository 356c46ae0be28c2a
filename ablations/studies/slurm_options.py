"""The Slurm resources of each run of a study."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from ablations.training_config import Number, Whole

Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_YEAR = 366 * 24 * 60  # minutes; clusters allow less
# sbatch options that have a key here, and options that every job sets or that would hide its number.
_OURS = {
    **{key: key for key in ("partition", "time", "nodes", "constraint", "gpus")},
    **{"gpus-per-node": "gpus", "gpus-per-task": "gpus", "ntasks-per-node": "processes", "cpus-per-task": "cpus"},
    **{"ntasks": "processes", "mem": "memory"},
}
_TAKEN = (
    *("array", "signal", "output", "error", "job-name", "requeue", "no-requeue", "open-mode"),
    *("parsable", "quiet", "test-only", "wait", "wrap"),
)


_WORDS = ("yes", "no", "on", "off")  # switches in YAML 1.1 and text in 1.2, while sbatch's switches have no value
_YES_OR_NO = ("kill-on-invalid-dep",)


class Cluster(BaseModel):
    """The Slurm resources of each run; `options` are further options of sbatch, such as {qos: long}."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    partition: Word | None = None
    time: str | int = Field(default=60, description="minutes, or Slurm's format: 2-00:00:00")
    nodes: Whole = Field(default=1, ge=1)
    gpus: Whole = Field(default=0, ge=0, description="per node")
    processes: Whole | None = Field(default=None, ge=1, description="per node; none: one per GPU, or one")
    cpus: Whole = Field(default=1, ge=1, description="per process")
    memory: Number | None = Field(default=None, ge=0.001, le=1e6, description="GB per node")
    constraint: Word | None = None
    options: dict[str, str | int | bool] = {}
    setup: list[str] = Field(default=[], description="shell lines before the run, such as `module load cuda`")

    @model_validator(mode="after")
    def _fits_together(self) -> Cluster:
        """Refuse processes without a GPU: each job would wait in the queue, then fail."""
        if self.gpus and self.processes_each > self.gpus:
            raise ValueError(f"processes={self.processes}: each needs a GPU, but gpus={self.gpus}")
        return self

    @property
    def processes_each(self) -> int:
        """Return the number of a run's processes per node."""
        return self.processes or max(self.gpus, 1)

    @field_validator("time", mode="before")
    @classmethod
    def _check_time(cls, time: Any) -> Any:
        """Refuse an invalid time, or one longer than a year."""
        limit = minutes(time)
        if limit < 1:
            raise ValueError(f"{time!r} is not a time; write minutes, or days-hours:minutes:seconds such as 2-00:00:00")
        if limit > _YEAR:
            raise ValueError(f"{time!r} is longer than a year; a run that is out of time is requeued and resumes")
        return time

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        """Refuse options that have a key here, or that every job sets."""
        for key in options:
            name = key.replace("_", "-")
            if name in _OURS:
                raise ValueError(f"{key}: write it as cluster.{_OURS[name]}")
            if name in _TAKEN:
                raise ValueError(f"{key}: every job sets it already; remove it")
            if str(options[key]).lower() in _WORDS and name not in _YES_OR_NO:
                raise ValueError(f"{key}={options[key]}: write true for an option without a value, or leave it out")
        return options


def minutes(time: str | int) -> int:
    """Convert a time limit to minutes, as Slurm does: MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS; 0 if invalid."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(time), re.ASCII)
    if not match:
        return 0
    days, first, second, third = (int(part) if part else 0 for part in match.groups())
    if match[1] or match[4]:  # the first part is hours
        return days * 24 * 60 + first * 60 + second + (third > 0)
    return first + (second > 0)
